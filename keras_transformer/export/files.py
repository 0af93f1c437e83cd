"""Writing an export so that at any moment, whatever fails or dies, `path` is the old one or the new one, whole."""

import contextlib
import ctypes
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

MARK = "exporting"  # what the names of folders end with that hold what is not finished


class Kind(NamedTuple):
    """What an exporter writes, and how to know it."""

    name: str  # with its article
    is_folder: bool
    check: Callable[[Path], object]  # raises ValueError unless that is what is at a path


@contextlib.contextmanager
def replacing(path: str | os.PathLike, kind: Kind, *, overwrite: bool) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when all went well, what was written there takes the place of `path`.

    It lies in a folder of its own, which has room for other files needed on the way. Such a folder of a process that
    died is removed by the next export to the same path.

    Args:
        path: Where the file or folder shall be; of a link, where it points to.
        kind: What is written.
        overwrite: Whether what is there may be replaced, if it is of the same kind, or an empty file or folder.

    Raises:
        ValueError: If something is at `path` that may not be replaced, or the folder it lies in cannot be written to.
    """
    check_target(path, kind, overwrite=overwrite)
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_what_the_dead_left(path)
        folder, lock = _make_folder(path)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be written: {error}") from error
    new, old = folder / "new", folder / "old"
    try:
        yield new
        check_target(path, kind, overwrite=overwrite)  # again: much may have happened in the meantime
        if not path.is_dir() or not any(path.iterdir()):
            os.replace(new, path)
        elif not _exchange(new, path):
            os.replace(path, old)
            os.replace(new, path)
    finally:
        if old.exists() and not path.exists():
            os.replace(old, path)
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def check_target(path: str | os.PathLike, kind: Kind, *, overwrite: bool) -> None:
    """Raise ValueError if something is at `path`, unless it may be overwritten and is of the same kind or empty."""
    path = Path(path)
    if not os.path.lexists(path):
        return
    reason = _why_not(path, kind)
    if reason is not None:
        raise ValueError(
            f"'{path}' exists and is not {kind.name}, which is all that overwrite=True replaces: {reason}. Choose "
            "another path."
        )
    if not overwrite:
        raise ValueError(f"'{path}' exists. Choose another path, or export with overwrite=True.")


def _why_not(path: Path, kind: Kind) -> str | None:
    """Why what is at `path` is not what the kind says; None if it is, or is empty."""
    if not path.exists():
        return "it is a link that points to nothing"
    if path.is_dir() != kind.is_folder:
        return "it is a folder" if path.is_dir() else "it is a file"
    try:
        if any(path.iterdir()) if path.is_dir() else path.stat().st_size or not path.is_file():
            kind.check(path)
    except (ValueError, OSError) as error:
        return str(error).rstrip(".")
    return None


def _make_folder(path: Path) -> tuple[Path, int | None]:
    """A new folder beside `path`, and the lock that tells others that its process lives."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=f".{MARK}", dir=path.parent))
        try:
            lock = _lock(folder)
        except OSError:  # a file system without locks
            return folder, None
        if lock is not None:
            return folder, lock


def _lock(folder: Path) -> int | None:
    """The lock of a folder, unless somebody holds it or the folder is gone. The system frees it when a process dies.

    Raises OSError where there are no locks.
    """
    if fcntl is None:
        raise OSError("this system has no locks")
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _remove_what_the_dead_left(path: Path) -> None:
    """Remove the folders of earlier exports to `path` whose processes ended on the way; if one had just put the old
    export aside, put it back."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}\.{MARK}")
    for folder in [x for x in path.parent.iterdir() if pattern.fullmatch(x.name) and x.is_dir()]:
        try:
            lock = _lock(folder)
        except OSError:
            continue
        if lock is None:
            continue
        if (folder / "old").exists() and not os.path.lexists(path):
            os.replace(folder / "old", path)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system cannot. (`os.replace` takes a folder only to
    where there is none, or an empty one.)"""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2  # Linux
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0
