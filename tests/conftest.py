"""What all tests share: fixed seeds, backend markers, fresh interpreters and a comparison."""

import gc
import json
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

from keras_transformer.decoding import generator
from keras_transformer.decoding.compiling import compiled

NEEDS = "needs TensorFlow"
ONCE = "runs once, on TensorFlow"
LONG = "takes long to compile; ALL=1 runs it"
# What made the answers of OpenNMT-tf, which is not installed beside this Keras.
collect_ignore = ["pages/opennmt/make.py"]
REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items):
    """Skip what needs another backend, and what this one compiles for long, unless ALL=1."""
    backend = keras.backend.backend()
    reasons = {
        "tensorflow": {},
        "jax": {"tensorflow": NEEDS, "once": ONCE, "eager": "would compile each step on JAX", "long": LONG},
        "torch": {"tensorflow": NEEDS, "once": ONCE, "torch_compile": LONG},
    }[backend]
    if os.environ.get("ALL"):
        reasons = {marker: reason for marker, reason in reasons.items() if reason is not LONG}
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{reason} (the backend is {backend})"))
                break


@pytest.fixture(autouse=True, scope="session")
def graphs_instead_of_xla():
    """On TensorFlow generators run as graphs, which takes half the time: all that XLA compiles is compiled on JAX, and
    on TensorFlow, too, by the tests marked `xla`."""
    patch = pytest.MonkeyPatch()
    patch.setattr(generator, "compiled", lambda function, variables, _: compiled(function, variables, False))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def xla(request, monkeypatch):
    """XLA for the tests marked `xla`."""
    if request.node.get_closest_marker("xla"):
        monkeypatch.setattr(generator, "compiled", compiled)


@pytest.fixture(autouse=True, scope="module")
def frozen_heap():
    """What the files before have left alive, no collection looks through again: Keras' `quantize` and the converter to
    LiteRT ask for full ones, which take seconds each in a process that has run a thousand tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeds():
    """Every test starts from the same seeds, and leaves Keras' global dtype policy as it was."""
    keras.utils.set_random_seed(1234)
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def fresh_process():
    """A function that runs Python code in a new interpreter and returns what it printed.

    `fresh_process(code, cwd=None, **environment)`; indentation common to all lines is removed. If the
    process fails, the test fails and shows the process' error output.
    """

    def run(code: str, *, cwd=None, **environment: str) -> str:
        path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        process = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert process.returncode == 0, f"exit status {process.returncode}\n{process.stderr[-8000:]}"
        return process.stdout

    return run


@pytest.fixture
def bare_process(tmp_path):
    """A function that runs code where none of the named packages can be imported, and hands it data as JSON."""

    def run(code: str, data, *, without: list[str]) -> str:
        (tmp_path / "data.json").write_text(json.dumps(data))
        prologue = f"import json, sys\nsys.modules.update(dict.fromkeys({without!r}))\n"
        prologue += "data = json.load(open('data.json'))\n"
        process = subprocess.run(
            [sys.executable, "-c", prologue + textwrap.dedent(code)],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert process.returncode == 0, process.stderr[-8000:]
        return process.stdout

    return run


@pytest.fixture(name="assert_close")
def assert_close_fixture():
    """The function `assert_close`, for tests to use without importing this file."""
    return assert_close


def assert_close(actual, expected, tolerance: float = 1e-5):
    """Assert that two tensors, arrays or nested structures of them have equal shapes and close values.

    Close means |actual - expected| <= tolerance * max(1, |expected|) for each element.
    """
    keras.tree.assert_same_structure(actual, expected)
    for actual_leaf, expected_leaf in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        actual_leaf = as_float64(actual_leaf)
        expected_leaf = as_float64(expected_leaf)
        assert actual_leaf.shape == expected_leaf.shape, f"shapes {actual_leaf.shape} and {expected_leaf.shape}"
        np.testing.assert_allclose(actual_leaf, expected_leaf, rtol=tolerance, atol=tolerance)


def as_float64(tensor) -> np.ndarray:
    """Any tensor, half precision included, as a float64 NumPy array."""
    if keras.ops.is_tensor(tensor):
        tensor = keras.ops.convert_to_numpy(tensor)
    return np.asarray(tensor).astype("float64")
