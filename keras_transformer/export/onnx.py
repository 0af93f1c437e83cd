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
from keras_transformer.export.files import Kind, replacing
from keras_transformer.export.metadata import metadata_files
from keras_transformer.export.padding import try_padding
from keras_transformer.export.samples import sample_inputs, sample_seed
from keras_transformer.export.signatures import (
    Signature,
    fixed_rows,
    generate_signature,
    model_signature,
    require_tensorflow,
    with_static_shapes,
)
from keras_transformer.export.steps import prefill_lengths, step_signatures
from keras_transformer.models.packable import FURTHER, unpacked
from keras_transformer.ops.runtime import for_converter
from keras_transformer_runtime.description import NAME, read_folder
from keras_transformer_runtime.onnx import named, open_session
from keras_transformer_runtime.packages import needed
from keras_transformer_runtime.program import Program

OPSET = 18  # the first with exclusive or, which sampling takes


def onnx(
    generator_or_model: Generator | keras.Model,
    path: str | os.PathLike,
    *,
    source_length: int | None = None,
    batch_size: int | None = None,
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
        batch_size: Number of rows, of a generator. Default: 1, or what the model's inputs are fixed to.
        overwrite: Whether what is there may be replaced.
        verify: Whether to run what was written with the `onnxruntime` package and compare it with Python.

    Raises:
        ValueError: If the backend is not TensorFlow, the path exists or cannot be written, `source_length` is
            missing, or Keras' exporter cannot convert an operation of the model.
        ExportMismatchError: If the files do not give what Python gives; nothing is written then.
    """
    require_tensorflow("An ONNX file")
    _require_converter()
    if isinstance(generator_or_model, Generator):
        with replacing(path, STEPS, overwrite=overwrite) as new:
            rows = fixed_rows(generator_or_model, 1) if batch_size is None else batch_size
            _write_steps(generator_or_model, new, source_length, rows, verify)
    else:
        with replacing(path, FILE, overwrite=overwrite) as new:
            _write_model(unpacked(generator_or_model, FURTHER), new, source_length or 5, verify)


def _write_model(model: keras.Model, path: Path, length: int, verify: bool) -> None:
    signature = model_signature(model)
    renamed = _convert(model, signature, path)
    metadata = metadata_files(model, signature, renamed=renamed)[NAME]
    _describe(path, metadata)
    if verify:
        values = sample_inputs(model, signature, length, fixed_rows(model, 2))
        exported = _runner(model, path, renamed)(**dict(zip((x.name for x in signature.inputs), values, strict=True)))
        check_outputs(model, signature.function(*values), exported, "ONNX file")


def _write_steps(generator: Generator, folder: Path, source_length: int | None, batch_size: int, verify: bool) -> None:
    ids = generate_signature(generator)
    whole = with_static_shapes(generator, ids, source_length, batch_size, "An ONNX export")
    lengths = prefill_lengths(generator, source_length)
    signatures = step_signatures(generator, source_length, batch_size, lengths)
    folder.mkdir()
    for name, signature in signatures.items():
        _convert(generator.model, signature, folder / f"{name}.onnx")
    facts = {
        "layout": "step",
        "batch_size": batch_size,
        "source_length": source_length,
        "signatures": {name: [x._asdict() for x in signature.inputs] for name, signature in signatures.items()},
    }
    padding = try_padding(generator, ids, whole, source_length)
    metadata = metadata_files(generator, ids, padding=padding, **facts)[NAME]
    (folder / NAME).write_bytes(metadata)
    if verify:
        values, seed = sample_inputs(generator, whole, source_length or 1, batch_size), sample_seed(generator)
        program = Program(
            {name: _runner(generator.model, folder / f"{name}.onnx") for name in signatures}, json.loads(metadata)
        )
        inputs: dict = dict(zip((x.name for x in whole.inputs), [*values, *seed], strict=True))
        check_generated(generator, values, python_answers(generator, values, *seed), program.run(inputs), "ONNX export")


def _describe(path: Path, metadata: bytes) -> None:
    """Put the description into the file, where `kt.export.load` finds it."""
    import onnx

    content = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(content, {NAME: metadata.decode()})
    onnx.save(content, path)


def _check_file(path: Path) -> None:
    """Raise ValueError unless a file is what tf2onnx writes: before format 2 there was no description in it."""
    import onnx

    try:
        producer = onnx.load(path, load_external_data=False).producer_name
    except Exception as error:  # of protobuf, which is no dependency to name here
        raise ValueError(f"it is no ONNX file: {error}") from error
    if producer != "tf2onnx":
        raise ValueError(f"it is an ONNX file of {producer or 'unknown origin'}")


def _check_steps(path: Path) -> None:
    """Raise ValueError unless a folder holds steps, a description, and nothing else."""
    read_folder(path)
    strange = sorted(x.name for x in path.iterdir() if x.name != NAME and x.suffix != ".onnx")
    if strange:
        raise ValueError(f"it holds {strange}, too")


FILE = Kind("an ONNX file of kt.export.onnx", False, _check_file)
STEPS = Kind("a folder of ONNX files of kt.export.onnx", True, _check_steps)


class _Callable(keras.Model):
    """A signature in the form that Keras' exporter takes. It tracks the model for its weights."""

    def __init__(self, model: keras.Model, signature: Signature):
        super().__init__(name="export")
        self.model = model
        self._signature = signature
        self.built = True

    def call(self, inputs):
        return self._signature.function(*(inputs[x.name] for x in self._signature.inputs))


def _convert(model: keras.Model, signature: Signature, path: Path) -> dict[str, str]:
    """Write a signature, and return what its outputs are called by their names in the graph, where these are others:
    names are unique in an ONNX graph, so an output that has the name of an input is called `next_...`."""
    renamed, taken = {}, {x.name for x in signature.inputs}

    def function(*values):
        outputs, unique = signature.function(*values), {}
        for name, x in outputs.items():
            new = name
            while new in taken or (new != name and new in outputs):
                new = f"next_{new}"
            if new != name:
                renamed[new] = name
            unique[new] = x
        return unique

    specification = {x.name: keras.InputSpec(shape=x.shape, dtype=x.dtype, name=x.name) for x in signature.inputs}
    talk = io.StringIO()
    try:
        with contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk), for_converter("onnx"):
            _Callable(model, signature._replace(function=function)).export(
                str(path), format="onnx", verbose=False, input_signature=[specification], opset_version=OPSET
            )
            _check_file_of(path, signature)
    except Exception as error:  # the converter raises whatever it comes across
        raise _no_way(model, error) from error
    return renamed


def _check_file_of(path: Path, signature: Signature) -> None:
    """Raise an error if there is an operation in the file that ONNX does not have, which the converter leaves there, or
    an input that the signature does not have, which it makes of what a layer keeps as a tensor."""
    import onnx

    onnx.checker.check_model(str(path))
    known = {x.name for x in signature.inputs}
    strange = sorted({x.name for x in onnx.load(path, load_external_data=False).graph.input} - known)
    if strange:
        raise ValueError(
            f"it makes inputs of the tensors {strange}, which a layer keeps beside its variables (as keras.layers."
            "Normalization does with its statistics). Let the layer keep NumPy arrays"
        )


def _require_converter() -> None:
    """Make tf2onnx know the operation of exact GELU: erfc(x) = 1 - erf(x). (tf2onnx 1.17 does not.)"""
    handler, utils = (needed(f"tf2onnx.{name}", "An ONNX export") for name in ("handler", "utils"))

    @handler.tf_op("Erfc")
    class Erfc:
        @classmethod
        def version_9(cls, context, node, **kwargs):
            types, shapes = node.output_dtypes, node.output_shapes
            one = context.make_const(utils.make_name("one"), np.array(1, utils.map_onnx_to_numpy_type(types[0])))
            context.remove_node(node.name)
            erf = context.make_node("Erf", node.input, dtypes=types, shapes=shapes)
            inputs = [one.output[0], erf.output[0]]
            context.make_node("Sub", inputs, name=node.name, outputs=node.output, dtypes=types, shapes=shapes)


def _no_way(model: keras.Model, error: Exception) -> ValueError:
    return ValueError(
        f"Keras' ONNX exporter cannot convert the model '{model.name}': {error}. Try kt.export.saved_model or "
        "kt.export.litert."
    )


def _runner(model: keras.Model, path: Path, renamed: dict[str, str] | None = None):
    """A file as a function of named arrays to named arrays."""
    needed("onnxruntime", "The verification of an ONNX file", "or export with verify=False")
    try:
        return named(open_session(path), renamed)
    except ValueError as error:
        raise _no_way(model, error) from error
