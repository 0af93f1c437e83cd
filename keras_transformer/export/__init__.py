"""Export to SavedModel, LiteRT, LiteRT-LM and ONNX, each proven equal to Python when written. Needs TensorFlow."""

from keras_transformer.export.agreement import ExportMismatchError
from keras_transformer.export.litert import litert
from keras_transformer.export.litertlm import litertlm
from keras_transformer.export.onnx import onnx
from keras_transformer.export.report import ExportReport
from keras_transformer.export.saved_model import saved_model
from keras_transformer_runtime import load

__all__ = ["ExportMismatchError", "ExportReport", "litert", "litertlm", "load", "onnx", "saved_model"]
