"""The version of the package, which every export carries."""

__version__ = "0.2.0"
