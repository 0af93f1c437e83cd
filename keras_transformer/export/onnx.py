"""Export to ONNX, as far as Keras' own exporter goes: plain models, and the steps of a generation loop."""

import contextlib
import io
import json
import os
from pathlib import Path

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.export.agreement import check_generated, check_outputs, python_answers
from keras_transformer.export.files import replacing
from keras_transformer.export.metadata import NAME, metadata_files
from keras_transformer.export.signatures import (
    Signature,
    generate_signature,
    model_signature,
    own_seed,
    require_tensorflow,
    sample_inputs,
    with_static_shapes,
)
from keras_transformer.export.steps import prefill_lengths, step_signatures
from keras_transformer_runtime.litert import Program
from keras_transformer_runtime.packages import needed

OPSET = 18  # the first with exclusive or, which sampling takes


def onnx(
    generator_or_model: Generator | keras.Model,
    path: str | os.PathLike,
    *,
    source_length: int | None = None,
    batch_size: int = 1,
    overwrite: bool = False,
    verify: bool = True,
) -> None:
    """Write ONNX files with Keras' exporter, which needs the `tf2onnx` package.

    A plain model, an encoder say, becomes one file, whose inputs keep their names and unknown dimensions. A generator
    becomes a folder with one file, of static shapes, for each step of the loop, which the caller runs: `encode`,
    `prefill_N`, `decode` and `finish`, as of `kt.export.litert(..., layout="step")`. An output that has the name of an
    input is called `next_...`. Each file holds the weights that it needs.

    Args:
        generator_or_model: What to export.
        path: File (of a plain model) or folder (of a generator) to write.
        source_length: Length of the sources, or of the prompts of a decoder-only model.
        batch_size: Number of rows, of a generator.
        overwrite: Whether what is there may be replaced.
        verify: Whether to run what was written with the `onnxruntime` package and compare it with Python.

    Raises:
        ValueError: If the backend is not TensorFlow, the path exists or cannot be written, `source_length` is
            missing, or Keras' exporter cannot convert an operation of the model.
        ExportMismatchError: If the files do not give what Python gives; nothing is written then.
    """
    require_tensorflow("An ONNX file")
    with replacing(path, overwrite=overwrite) as new:
        if isinstance(generator_or_model, Generator):
            _write_steps(generator_or_model, new, source_length, batch_size, verify)
        else:
            signature = model_signature(generator_or_model)
            _convert(generator_or_model, signature, new)
            if verify:
                values = sample_inputs(generator_or_model, signature, source_length or 5, 2)
                exported = _runner(generator_or_model, new)(
                    **dict(zip((x.name for x in signature.inputs), values, strict=True))
                )
                exported = dict(zip(generator_or_model.output_names, exported.values(), strict=True))
                check_outputs(generator_or_model, signature.function(*values), exported, "ONNX file")


def _write_steps(generator: Generator, folder: Path, source_length: int | None, batch_size: int, verify: bool) -> None:
    whole = with_static_shapes(generator, generate_signature(generator), source_length, batch_size, "An ONNX export")
    lengths = prefill_lengths(generator, source_length)
    signatures = step_signatures(generator, source_length, batch_size, lengths)
    folder.mkdir()
    for name, signature in signatures.items():
        _convert(generator.model, _with_other_outputs(signature), folder / f"{name}.onnx")
    facts = {
        "layout": "step",
        "batch_size": batch_size,
        "source_length": source_length,
        "signatures": {name: [x._asdict() for x in signature.inputs] for name, signature in signatures.items()},
    }
    metadata = metadata_files(generator, **facts)[NAME]
    (folder / NAME).write_bytes(metadata)
    if verify:
        values = sample_inputs(generator, whole, source_length or 1, batch_size)
        program = Program(
            {name: _runner(generator.model, folder / f"{name}.onnx") for name in signatures}, json.loads(metadata)
        )
        inputs = dict(zip((x.name for x in whole.inputs), [*values, *own_seed(generator)], strict=True))
        check_generated(generator, values, python_answers(generator, values), program.run(inputs), "ONNX export")


def _with_other_outputs(signature: Signature) -> Signature:
    """The signature with outputs that have no input's name: names are unique in an ONNX graph."""
    taken = {x.name for x in signature.inputs}

    def function(*values):
        outputs = signature.function(*values)
        return {f"next_{name}" if name in taken else name: x for name, x in outputs.items()}

    return signature._replace(function=function)


class _Callable(keras.Model):
    """A signature in the form that Keras' exporter takes. It tracks the model for its weights."""

    def __init__(self, model: keras.Model, signature: Signature):
        super().__init__(name="export")
        self.model = model
        self._signature = signature
        self.built = True

    def call(self, inputs):
        return self._signature.function(*(inputs[x.name] for x in self._signature.inputs))


def _convert(model: keras.Model, signature: Signature, path: Path) -> None:
    specification = {x.name: keras.InputSpec(shape=x.shape, dtype=x.dtype, name=x.name) for x in signature.inputs}
    needed("tf2onnx", "An ONNX export")
    talk = io.StringIO()
    try:
        with contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            _Callable(model, signature).export(
                str(path), format="onnx", verbose=False, input_signature=[specification], opset_version=OPSET
            )
    except Exception as error:  # the converter raises whatever it comes across
        raise _no_way(model, error) from error


def _no_way(model: keras.Model, error: Exception) -> ValueError:
    return ValueError(
        f"Keras' ONNX exporter cannot convert the model '{model.name}': {error}. Try kt.export.saved_model or "
        "kt.export.litert."
    )


def _runner(model: keras.Model, path: Path):
    """A file as a function of named arrays to named arrays."""
    onnxruntime = needed("onnxruntime", "The verification of an ONNX file", "or export with verify=False")
    try:
        session = onnxruntime.InferenceSession(str(path))
    except Exception as error:  # the exporter writes operations that ONNX does not have, and onnxruntime says so
        raise _no_way(model, error) from error
    names = [x.name for x in session.get_outputs()]
    wanted = {x.name for x in session.get_inputs()}

    def run(**inputs):
        inputs = {name: np.asarray(x) for name, x in inputs.items() if name in wanted}
        outputs = session.run(None, inputs)
        return {name.removeprefix("next_"): x for name, x in zip(names, outputs, strict=True)}

    return run
