"""Memory that is freed stays with the process, where that can be asked for."""

import logging
import platform

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer import allocator
from keras_transformer.training import keep_freed_memory

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

# A block of 256 MiB, of which every page is touched, is freed and made again: how many pages the system had to make.
FAULTS = """
import ctypes, resource, runpy
keep_freed_memory = runpy.run_path({path})["keep_freed_memory"]  # without importing TensorFlow
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


@GLIBC
@pytest.mark.once
@pytest.mark.slow
def test_freed_pages_are_not_made_again(fresh_process):
    kept, given_back = (
        int(fresh_process(FAULTS.format(path=repr(allocator.__file__), keep=keep)).splitlines()[-1])
        for keep in (True, False)
    )
    assert kept < 20 and given_back > 100


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr("ctypes.CDLL", None)
    assert keep_freed_memory() is False


@pytest.fixture
def said(monkeypatch, caplog):
    """What the layers say when they are trained and nothing was said or done before, nor set around the process."""
    monkeypatch.setattr(allocator, "_DONE", set())
    for name in allocator.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    caplog.set_level(logging.INFO, logger="keras_transformer")

    def advice(*, training=True):
        layer = kt.EncoderLayer(num_heads=1, intermediate_dim=3)
        for _ in range(2):
            layer(np.ones((1, 2, 3), "float32"), training=training)
        return [record.message for record in caplog.records if "keep_freed_memory" in record.message]

    return advice


@GLIBC
@pytest.mark.tensorflow
class TestAdvice:
    def test_is_given_once_in_training(self, said):
        assert not said(training=False)
        assert len(said()) == 1

    def test_is_given_by_fit(self, said, caplog):
        model = keras.Sequential([keras.Input((5, 4)), kt.EncoderLayer(num_heads=2, intermediate_dim=3)])
        model.compile("sgd", "mse")
        model.fit(np.ones((3, 5, 4), "float32"), np.ones((3, 5, 4), "float32"), verbose=0)
        assert "keep_freed_memory" in caplog.text

    def test_is_not_given_where_memory_is_kept(self, said, monkeypatch):
        monkeypatch.setattr("ctypes.CDLL", lambda _: type("C", (), {"mallopt": staticmethod(lambda *_: 1)}))
        assert keep_freed_memory()
        assert not said()

    @pytest.mark.parametrize("setting", allocator.SETTINGS)
    def test_is_not_given_where_the_allocator_is_set(self, setting, said, monkeypatch):
        monkeypatch.setenv(setting, "1")
        assert not said()


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow is what the advice is about")
def test_other_backends_are_not_advised(said):
    assert not said()
