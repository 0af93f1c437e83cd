"""The version of the runtime, that of `keras_transformer`, too."""

__version__ = "0.2.0"
