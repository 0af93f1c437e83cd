"""docs/distributed.md is tested as it stands: its scripts run, on virtual devices of the CPU."""

import os
import pathlib
import re
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "distributed.md"
TWO_LOGICAL_DEVICES = """
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
"""

pytestmark = [pytest.mark.tensorflow, pytest.mark.distributed]


@pytest.fixture(scope="module")
def scripts():
    """The scripts by the names in their first lines."""
    blocks = re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert {name for name, _ in blocks} == {"data_parallel", "model_parallel", "mirrored", "workers", "export"}
    return dict(blocks)


def on_jax(devices: int, **environment: str) -> dict:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags, **environment}


def test_data_parallel(scripts, fresh_process, tmp_path):
    fresh_process(scripts["data_parallel"], cwd=tmp_path, **on_jax(8))
    assert (tmp_path / "language_model.keras").exists()


def test_model_parallel_then_export(scripts, fresh_process, tmp_path):
    printed = fresh_process(scripts["model_parallel"], cwd=tmp_path, **on_jax(8))
    assert "target_embedding/embeddings (1200, 64) (300, 64)" in printed
    fresh_process(scripts["export"], cwd=tmp_path, KERAS_BACKEND="tensorflow")
    assert (tmp_path / "translator" / "saved_model.pb").exists()


def test_mirrored(scripts, fresh_process):
    assert "2 replicas" in fresh_process(TWO_LOGICAL_DEVICES + scripts["mirrored"], KERAS_BACKEND="tensorflow")


def test_workers(scripts, fresh_process, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def run(index):
        environment = on_jax(
            4,
            KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=str(index),
        )
        fresh_process(scripts["workers"], cwd=tmp_path, **environment)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    assert (tmp_path / "language_model.keras").exists()
