"""Export to LiteRT (TF Lite) with builtin ops only: phones, browsers, microcontrollers."""

import os
import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.export.agreement import check_generated, check_outputs
from keras_transformer.export.files import replacing
from keras_transformer.export.signatures import (
    ids_signature,
    model_signature,
    require_tensorflow,
    sample_inputs,
)


def litert(
    generator_or_model: Generator | keras.Model,
    path: str | os.PathLike,
    *,
    source_length: int | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
    verify: bool = True,
) -> None:
    """Write a .tflite file of builtin ops only, with static shapes.

    Of a generator, the signature `generate` holds the whole loop: ids in (the sources by name, or the prompts of a
    decoder-only model under its input's name, padded on the right with 0), `tokens`, `lengths` and `scores` out. A
    plain model has the signature `serving_default`.

    Args:
        generator_or_model: What to export.
        path: File to write.
        source_length: Length that every input of unknown length gets.
        batch_size: Number of rows.
        overwrite: Whether a file that is there may be replaced. It is, only once the new one is complete.
        verify: Whether to run what was written with the `ai-edge-litert` package and compare it with Python.

    Raises:
        ValueError: If the backend is not TensorFlow, the path exists or cannot be written, `source_length` is
            missing, or the model needs an op that LiteRT does not have.
        ExportMismatchError: If the file does not give what Python gives; nothing is written then.
    """
    require_tensorflow("A LiteRT file")
    if isinstance(generator_or_model, Generator):
        model, signature, name = generator_or_model.model, ids_signature(generator_or_model), "generate"
    else:
        model, signature, name = generator_or_model, model_signature(generator_or_model), "serving_default"
    if source_length is None and any(dim is None for x in signature.inputs for dim in x.shape[1:]):
        raise ValueError(
            f"A LiteRT file has static shapes: give source_length, the length of the inputs "
            f"{[x.name for x in signature.inputs]}; shorter ones are padded on the right with 0."
        )
    if isinstance(generator_or_model, Generator) and len(model.inputs) == 1:
        if source_length > generator_or_model.max_length:
            raise ValueError(
                f"source_length is the length of the prompts here, {source_length}; the generator's max_length, "
                f"{generator_or_model.max_length}, counts them, too."
            )
    inputs = [
        x._replace(shape=(batch_size, *(source_length if dim is None else dim for dim in x.shape[1:])))
        for x in signature.inputs
    ]
    with replacing(path, overwrite=overwrite) as new:
        new.write_bytes(_convert(model, signature.function, inputs, name))
        if verify:
            values = sample_inputs(generator_or_model, signature, source_length or 1, batch_size)
            exported = _run(new, name, {x.name: value for x, value in zip(inputs, values, strict=True)})
            if isinstance(generator_or_model, Generator):
                check_generated(generator_or_model, values, exported, "LiteRT file")
            else:
                check_outputs(model, signature.function(*values), exported, "LiteRT file")


def _convert(model, function, inputs, name: str) -> bytes:
    """The flatbuffer of one signature. By way of a SavedModel: from concrete functions, a Keras 3 model would lose
    its weights (tensorflow 2.21)."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as folder:
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint(name, function, [tf.TensorSpec(shape, dtype, name=key) for key, shape, dtype in inputs])
        archive.write_out(folder, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[name])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return converter.convert()
        except Exception as error:  # the converter's own error type is not public
            raise ValueError(
                f"The model '{model.name}' needs ops that LiteRT has no builtin for, or types it cannot compute in "
                f"(export under float32): {_first_lines(error)}"
            ) from error


def _first_lines(error: Exception, count: int = 6) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "\n".join(lines[:count])


def _run(path: Path, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise ImportError(
            "To verify a LiteRT file, install ai-edge-litert (pip install keras-transformer[litert]), or export with "
            "verify=False."
        ) from error
    return Interpreter(model_path=str(path)).get_signature_runner(name)(**inputs)
