"""The version, where everything may read it without the package's other names."""

__version__ = "0.1.0"
