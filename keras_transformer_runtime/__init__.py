"""Runs what `kt.export` wrote, with NumPy in and out and without Keras: a SavedModel needs TensorFlow, a .tflite or
.litertlm file the `ai-edge-litert` package only, ONNX `onnxruntime`."""

from keras_transformer_runtime.distribution import check_place
from keras_transformer_runtime.runner import Runner, load

__all__ = ["Runner", "load"]

check_place()
