"""Smaller weights in a LiteRT file: what the converter can do, and what takes a package of its own."""

import contextlib
import io
import tempfile
from pathlib import Path

QUANTIZATIONS = (None, "float16", "int8", "int4")


def check_quantize(quantize: str | None) -> None:
    """Raise ValueError unless `quantize` is one of those known, and ImportError if it needs a package."""
    if quantize not in QUANTIZATIONS:
        raise ValueError(f"litert takes quantize as one of {QUANTIZATIONS}, got {quantize!r}.")
    if quantize == "int4":
        _quantizer()


def set_converter(converter, quantize: str | None) -> None:
    """Make the converter store weights as float16, or as int8 with a scale for each channel (dynamic range: products
    are computed in int8, their inputs quantized on the way)."""
    import tensorflow as tf

    if quantize in ("float16", "int8"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]


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
    try:
        from ai_edge_quantizer import quantizer, recipe
    except ImportError as error:
        raise ImportError("quantize='int4' takes ai-edge-quantizer: pip install keras-transformer[int4].") from error
    return quantizer, recipe
