"""Several processes that train one model on JAX: who writes, what each of them sees. With one process, nothing."""

import keras
import numpy as np


def is_writer() -> bool:
    """Whether this process is the one that writes files."""
    return _jax() is None or _jax().process_index() == 0


def whole(variable) -> np.ndarray:
    """The value of a variable, fetched from where its parts are; all processes have to ask for it."""
    value = variable.value
    if _jax() is not None and not (value.is_fully_addressable or value.is_fully_replicated):
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(value, tiled=True))
    if keras.backend.backend() == "tensorflow":
        return np.asarray(value.numpy())  # of the copies of tf.distribute, one; NumPy refuses some of them
    return np.asarray(keras.ops.convert_to_numpy(value))


def from_all(number: int) -> list[int]:
    """The number that each process gives, in the order of the processes; waits for all of them."""
    if _jax() is None or _jax().process_count() == 1:
        return [number]
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.array(number)).ravel().tolist()


def _jax():
    if keras.backend.backend() != "jax":
        return None
    import jax

    return jax
