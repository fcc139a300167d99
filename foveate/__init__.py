"""foveate fits a vision transformer to the device that has to run it."""

__version__ = "0.1.0"
