"""A tokenizer in a file of its own: its class and its arguments, in JSON."""

import json
import os
from pathlib import Path

import keras

FILE = "kt_tokenizer.json"  # in a folder


def save_tokenizer(tokenizer, path: str | os.PathLike, *, overwrite: bool) -> None:
    """Write a tokenizer to a file, whole or not at all; to `FILE` if `path` is a folder. A tokenizer is
    replaced with `overwrite`, nothing else is."""
    path = _file(path)
    if os.path.lexists(path):
        if not overwrite:
            raise ValueError(f"'{path}' is there. Give another path, or overwrite=True.")
        try:
            _read(path)
        except (ValueError, OSError) as error:
            raise ValueError(
                f"'{path}' is there and holds no tokenizer, so it is not overwritten. Give another path, or remove it."
            ) from error
    elif not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder '{path.parent}' to write '{path.name}' to.")
    content = json.dumps({"format": 1, "tokenizer": keras.saving.serialize_keras_object(tokenizer)}, ensure_ascii=False)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(content, encoding="utf-8")
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_tokenizer(kind: type, path: str | os.PathLike):
    """The tokenizer in a file, or in the `FILE` of a folder; ValueError unless it is of that kind."""
    path = _file(path)
    serialized = _read(path)
    name = serialized["class_name"]
    try:
        tokenizer = keras.saving.deserialize_keras_object(serialized)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if "Could not locate" in str(error):
            raise ValueError(
                f"'{path}' holds a {name}, which Keras cannot find. Import what defines it, and decorate the class "
                f"with @keras.saving.register_keras_serializable(). ({error})"
            ) from error
        raise ValueError(
            f"'{path}' holds a {name} that cannot be made of what the file says: it is damaged, or get_config() does "
            f"not name all arguments of the class: {error}"
        ) from error
    if not isinstance(tokenizer, kind):
        raise ValueError(f"'{path}' holds a {name}, no {kind.__name__}.")
    return tokenizer


def _read(path: Path) -> dict:
    """The tokenizer in a file, as Keras serializes it; ValueError if there is none."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != 1:
            raise ValueError(f"unknown format {description['format']!r}")
        description["tokenizer"]["class_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is no tokenizer that `save` wrote, or is damaged: {error}") from error
    return description["tokenizer"]


def _file(path: str | os.PathLike) -> Path:
    path = Path(path)
    return path / FILE if path.is_dir() else path
