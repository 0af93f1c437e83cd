"""One file with a training's variables: written whole or not at all, and checked when it is read."""

import contextlib
import io
import json
import os
import socket
import struct
import time
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.training.processes import is_writer, whole

GROUPS = ("trainable", "non_trainable", "optimizer")
# What reading a damaged archive may end in, once it is open: OSError where its directory points out of the file. Each
# member carries a checksum, which is compared before it is parsed.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
ABANDONED = 3600  # seconds since something was last added to an unfinished file: then nobody writes it any more
_DESCRIPTION = "description.json"


class DamagedSnapshot(ValueError):
    """A snapshot that is truncated or was altered."""


class Snapshot(NamedTuple):
    """What is in a file: for each group the variables' descriptions and values, and what else was written."""

    variables: dict[str, list[dict]]
    arrays: dict[str, list[np.ndarray]]
    extra: dict


def write_snapshot(path: Path, groups: dict[str, list], extra: dict) -> None:
    """Write the variables of `groups` and the JSON of `extra`; at any moment, `path` is the old file or the new.

    The format is a zip archive, as of `numpy.savez`: a description in JSON and each variable as a `.npy` file. Of
    several processes all call this, and one writes.
    """
    if not is_writer():
        for variables in groups.values():
            for variable in variables:
                whole(variable)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path.parent)
    # A name that no other process has, for which this folder may be the same.
    unfinished = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.unfinished")
    try:
        with open(unfinished, "wb") as file:
            _write(file, groups, extra)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # where folders cannot be opened, as on Windows
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _write(file, groups: dict[str, list], extra: dict) -> None:
    description: dict = {"format": 1, "extra": extra, "variables": {}}
    with zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for group, variables in groups.items():
            description["variables"][group] = [describe(variable) for variable in variables]
            for index, variable in enumerate(variables):
                with archive.open(f"{group}/{index}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, _bits(variable), allow_pickle=False)
        archive.writestr(_DESCRIPTION, json.dumps(description))


def read_snapshot(path: Path, groups=GROUPS) -> Snapshot:
    """Read `groups` of a snapshot; raises `DamagedSnapshot` unless every byte read is what was written."""
    with open(path, "rb") as file:  # a file that may not be read is not damaged
        try:
            return _read(file, groups)
        except DAMAGE as error:
            raise DamagedSnapshot(f"'{path}' is damaged: {error}") from error


def _read(file, groups) -> Snapshot:
    with zipfile.ZipFile(file) as archive:
        description = json.loads(archive.read(_DESCRIPTION))
        if description["format"] != 1:
            raise ValueError(f"unknown format {description['format']}")
        variables = {group: description["variables"][group] for group in groups}
        arrays = {
            group: [_read_array(archive, f"{group}/{index}.npy", x) for index, x in enumerate(variables[group])]
            for group in groups
        }
        return Snapshot(variables, arrays, description["extra"])


def _remove_abandoned(folder: Path) -> None:
    """Remove what a process began to write and did not finish, because it was killed."""
    for unfinished in folder.glob(".*.unfinished"):
        with contextlib.suppress(OSError):  # another process may have removed or finished it
            if time.time() - unfinished.stat().st_mtime > ABANDONED:
                unfinished.unlink()


def assign(snapshot: Snapshot, groups: dict[str, list], *, source: str) -> None:
    """Give variables the values of a snapshot, all or none.

    Raises: ValueError that names the first variable that is not in both, or has another shape or type.
    """
    for group, variables in groups.items():
        check_same(snapshot.variables[group], [describe(variable) for variable in variables], source=source)
    for group, variables in groups.items():
        for variable, array in zip(variables, snapshot.arrays[group], strict=True):
            variable.assign(array)


def check_same(saved: list[dict], wanted: list[dict], *, source: str) -> None:
    """Compare descriptions of variables, in their order; names without the numbers that Keras appends to them."""
    for index in range(max(len(saved), len(wanted))):
        there, here = (x[index] if index < len(x) else None for x in (saved, wanted))
        if there is None or here is None or _identity(there) != _identity(here):
            raise ValueError(
                f"{source} is of another model. First difference: it has {_spell(there)} where the model has "
                f"{_spell(here)}. Build the model as it was built then, compiled with the same optimizer, or choose "
                "another directory."
            )


def describe(variable) -> dict:
    """Name, shape and type of a variable."""
    return {
        "path": variable.path,
        "shape": list(variable.shape),
        "dtype": keras.backend.standardize_dtype(variable.dtype),
    }


def _identity(described: dict) -> tuple:
    # A model that is built twice in a process has "dense_1" where it had "dense".
    parts = described["path"].replace("/", "_").split("_")
    name = "_".join(part for part in parts if not part.isdigit())
    return name, tuple(described["shape"]), described["dtype"]


def _spell(described: dict | None) -> str:
    if described is None:
        return "no variable"
    return f"'{described['path']}' of shape {tuple(described['shape'])} and type {described['dtype']}"


def _bits(variable) -> np.ndarray:
    """The value as an array of a type that NumPy can write: bfloat16 and the 8-bit floats go as integers."""
    array = whole(variable)
    return array if array.dtype.isbuiltin == 1 else array.view(f"uint{8 * array.dtype.itemsize}")


def _read_array(archive: zipfile.ZipFile, name: str, described: dict) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(archive.read(name)), allow_pickle=False)
    array = array.view(described["dtype"])
    if list(array.shape) != described["shape"]:
        raise ValueError(f"'{described['path']}' has the shape {array.shape}, not {tuple(described['shape'])}")
    return array
