"""Smaller weights in a LiteRT file: what the converter can do, and what takes a package of its own."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_transformer._keras import layers_within
from keras_transformer.layers import TokenEmbedding
from keras_transformer.layers.checks import describe
from keras_transformer_runtime.packages import needed

QUANTIZATIONS = (None, "float16", "int8", "int4")


def check_quantize(quantize: str | None) -> None:
    """Raise ValueError unless `quantize` is one of those known, and ImportError if it needs a package."""
    if quantize not in QUANTIZATIONS:
        raise ValueError(f"litert takes quantize as one of {QUANTIZATIONS}, got {quantize!r}.")
    if quantize == "int4":
        _quantizer()


def check_convertible(model: keras.Model) -> None:
    """Raise ValueError if layers are quantized in a way that the converter has no operations for."""
    layers = [x for x in layers_within(model) if x.quantization_mode in ("int8", "float8")]
    if layers:
        raise ValueError(
            f"LiteRT has no products as Keras' quantize('{layers[0].quantization_mode}') makes them, and "
            f"{len(layers)} layers of the model '{model.name}' are so quantized, {describe(layers[0])} for one. Export "
            "the model as it was before, with litert(..., quantize='int8'); a SavedModel takes it as it is."
        )


def set_converter(converter, quantize: str | None) -> None:
    """Make the converter store weights as float16, or as int8 with a scale for each channel (dynamic range: products
    are computed in int8, their inputs quantized on the way)."""
    import tensorflow as tf

    if quantize in ("float16", "int8"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]


@contextlib.contextmanager
def int8_tables(model: keras.Model, quantize: str | None) -> Iterator[None]:
    """While a model is traced for an int8 file, look its embeddings up in int8 tables with a scale for each row.

    That is how the converter stores a table that is also the weights of the output projection, so that the file can
    hold it once; the converter's own look-ups take a second copy, with one scale for all rows.
    """
    tables = [x for x in layers_within(model) if isinstance(x, TokenEmbedding) and x.quantization_mode is None]
    layers = tables if quantize == "int8" else []
    for layer in layers:
        look_up = _int8_look_up(ops.convert_to_numpy(layer.embeddings))
        layer.look_up = look_up  # type: ignore[method-assign]  # until it is deleted below
    try:
        yield
    finally:
        for layer in layers:
            del layer.look_up


def _int8_look_up(table: np.ndarray):
    largest = np.abs(table.astype("float64")).max(axis=1, keepdims=True)
    scales = np.where(largest > 0, largest, 1.0) / 127  # (V, 1)
    rows = np.rint(table / scales).astype("int8")  # (V, D), to the last bit what the converter computes

    def look_up(ids):
        return ops.cast(ops.take(rows, ids, axis=0), "float32") * ops.take(scales.astype("float32"), ids, axis=0)

    return look_up


def share_equal_buffers(content: bytes) -> bytes:
    """The flatbuffer with one copy of buffers that are equal: the converter does not look for what it quantized."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    first, place = {}, {}
    for index, buffer in enumerate(model.buffers):
        data = None if buffer.data is None or index == 0 else bytes(buffer.data)
        place[index] = index if not data else first.setdefault(data, index)
        if place[index] != index:
            buffer.data = None
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.buffer = place[tensor.buffer]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def to_int4(content: bytes) -> bytes:
    """The flatbuffer with its weights as int4, a scale for each channel, products computed in int8."""
    quantizer, recipe = _quantizer()
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float32.tflite", Path(folder) / "int4.tflite"
        before.write_bytes(content)
        worker = quantizer.Quantizer(str(before))
        worker.load_quantization_recipe(recipe.dynamic_wi4_afp32())
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # bars and tables
            worker.quantize().export_model(str(after))
        return after.read_bytes()


def _quantizer():
    return tuple(needed(f"ai_edge_quantizer.{name}", "quantize='int4'") for name in ("quantizer", "recipe"))
