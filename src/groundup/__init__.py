"""Train object detectors from the ground up and from pre-trained weights, and say which it should be."""

__version__ = "0.1.0"
