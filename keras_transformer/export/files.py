"""Writing an export so that a failure on the way leaves what was there before."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when all went well, what was written there takes the place of `path`.

    Args:
        path: Where the file or folder shall be.
        overwrite: Whether one that is there already may be replaced.

    Raises:
        ValueError: If `path` exists and `overwrite` is False, or the folder it lies in cannot be written to.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise ValueError(f"'{path}' exists. Choose another path, or export with overwrite=True.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ValueError(f"'{path}' cannot be written: {error}") from error
    try:
        yield folder / "new"
        if path.exists():
            os.replace(path, folder / "old")
        os.replace(folder / "new", path)
    finally:
        if (folder / "old").exists() and not path.exists():
            os.replace(folder / "old", path)
        shutil.rmtree(folder, ignore_errors=True)
