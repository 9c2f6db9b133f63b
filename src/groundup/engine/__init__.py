"""One training, in time."""
