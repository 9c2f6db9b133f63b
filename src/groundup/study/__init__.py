"""From runs to an answer: arms compared, with an interval and a verdict in plain words."""
