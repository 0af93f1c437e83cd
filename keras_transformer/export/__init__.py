"""Export to SavedModel and LiteRT, each proven equal to Python when it is written. Needs TensorFlow."""

from keras_transformer.export.agreement import ExportMismatchError
from keras_transformer.export.litert import litert
from keras_transformer.export.saved_model import saved_model

__all__ = ["ExportMismatchError", "litert", "saved_model"]
