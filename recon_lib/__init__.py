"""Read a picture back from the brain signal that it evoked: the code behind the course."""

__version__ = "0.1.0"
