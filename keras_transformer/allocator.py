"""What the C library does with memory that is freed, of which a training on CPUs frees a lot at every step."""

import ctypes
import logging
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "GLIBC_TUNABLES", "LD_PRELOAD")  # whoever sets one knows

logger = logging.getLogger("keras_transformer")
_DONE = set()  # "kept", "advised"


def keep_freed_memory() -> bool:
    """Let this process keep the memory that it frees, for what it allocates next: faster training on CPUs.

    TensorFlow allocates every tensor anew. By default glibc gets large blocks from the system and gives them back when
    they are freed, so that their pages are made and cleared again at every step; `time` shows it as system time. Here
    glibc is told to keep them (mallopt: M_MMAP_MAX 0, M_TRIM_THRESHOLD -1, which is never). The process then stays as
    large as it was at its peak. Call it before training; `benchmarks/cpu_training.py` measures what it gains.

    Returns: True if it was done; False, and nothing is changed, where the C library is not glibc (macOS, Windows,
        Alpine Linux).

    Example:

    >>> import keras_transformer as kt
    >>> kept = kt.training.keep_freed_memory()
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    _DONE.add("kept")
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))


def advise() -> None:
    """Say once, at level INFO, that a training on a CPU may gain from `keep_freed_memory`, unless memory is cared for.

    It is not done unasked: it holds for the whole process, which stays as large as it was at its peak.
    """
    if _DONE:
        return
    _DONE.add("advised")
    import keras  # here, as this file can be run without it

    if keras.backend.backend() != "tensorflow" or platform.libc_ver()[0] != "glibc":
        return
    import tensorflow as tf

    if not tf.config.list_physical_devices("GPU") and not any(map(os.environ.get, SETTINGS)):
        logger.info(
            "On CPUs a step of TensorFlow gives the memory of its tensors back to the system and gets it anew. "
            "kt.training.keep_freed_memory(), called before the training, lets the process keep it: often faster."
        )
