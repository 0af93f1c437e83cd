"""Memory that is freed stays with the process, where that can be asked for."""

import platform

import pytest

from keras_transformer.training import keep_freed_memory

# A block of 256 MiB, of which every page is touched, is freed and made again: how many pages the system had to make.
FAULTS = """
import ctypes, resource
from keras_transformer.training import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def touch():
    block = libc.malloc(2**28)
    ctypes.memset(block, 1, 2**28)
    libc.free(block)

if {keep}:
    assert keep_freed_memory()
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
@pytest.mark.once
def test_freed_pages_are_not_made_again(fresh_process):
    kept, given_back = (
        int(fresh_process(FAULTS.replace("{keep}", keep)).splitlines()[-1]) for keep in ("True", "False")
    )
    assert kept < 20 and given_back > 100


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", None)
    assert keep_freed_memory() is False
