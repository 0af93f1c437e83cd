"""Runs an ONNX export by the `onnxruntime` package: a file, or the steps of a loop, a file each."""

from pathlib import Path

import numpy as np

from keras_transformer_runtime.description import DAMAGE, NAME, parse, read_folder
from keras_transformer_runtime.packages import needed
from keras_transformer_runtime.program import Program, check_static
from keras_transformer_runtime.runner import Runner, StaticRunner


def open_session(path: Path):
    """The session of a file; ValueError if it holds no model that onnxruntime knows."""
    onnxruntime = needed("onnxruntime", "An ONNX file")
    try:
        return onnxruntime.InferenceSession(str(path))
    except Exception as error:  # onnxruntime has an error class for each status, and no common one
        raise ValueError(f"'{path}' is no model that onnxruntime can run: {error}") from error


def named(session, renamed: dict[str, str] | None = None):
    """A session as a function of named arrays to named arrays.

    Args:
        session: Of onnxruntime.
        renamed: What outputs are called, by their names in the graph, where these are others: names are unique in an
            ONNX graph. Default: an output that has the name of an input is called `next_...` there.
    """
    wanted = [x.name for x in session.get_inputs()]
    renamed = {f"next_{name}": name for name in wanted} if renamed is None else renamed
    names = [renamed.get(x.name, x.name) for x in session.get_outputs()]

    def run(**inputs):
        arrays = {name: np.asarray(inputs[name]) for name in wanted}
        try:
            outputs = session.run(None, arrays)
        except Exception as error:  # it has an error class for each status, and no common one
            shapes = {name: x.shape for name, x in arrays.items()}
            raise ValueError(f"onnxruntime cannot run the model on inputs of shapes {shapes}: {error}") from error
        return dict(zip(names, outputs, strict=True))

    return run


def load_onnx(path: Path) -> Runner:
    """The runner of a file or folder.

    Raises:
        ValueError: If it was not written by this package, or is damaged.
    """
    if path.is_dir():
        metadata, files = read_folder(path)
        check_static(metadata)
        sessions = {name: open_session(path / f"{Path(name).name}.onnx") for name in metadata["signatures"]}
        program = Program({name: named(session) for name, session in sessions.items()}, metadata)
        return StaticRunner(path, metadata, files, program)
    return ONNXRunner(path)


class ONNXRunner(Runner):
    """Of a plain model, with any shapes that it takes."""

    def __init__(self, path: Path):
        session = open_session(path)
        try:
            metadata = parse(session.get_modelmeta().custom_metadata_map[NAME])
            self._function = named(session, dict(metadata["renamed"]))
        except DAMAGE as error:
            raise ValueError(f"'{path}' was not written by kt.export.onnx, or is damaged: {error}.") from error
        super().__init__(path, metadata, {})

    def _run(self, inputs):
        return self._function(**inputs)
