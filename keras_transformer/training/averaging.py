"""The mean of a training's last checkpoints."""

import os
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from keras_transformer.training.checkpoints import checkpoint_paths
from keras_transformer.training.snapshots import check_same, describe, read_snapshot


def average_checkpoints(
    checkpoints: str | os.PathLike | Sequence[str | os.PathLike], model: keras.Model, *, last: int | None = None
) -> list[Path]:
    """Give a model the mean of the weights of the last checkpoints of a training.

        weight = (weight_1 + ... + weight_k) / k

    which often is a little better than the last weights: "Attention Is All You Need", section 6.1, averages 5 or 20.
    The sum is taken in float64. Only the model is changed: not the files, and what is not a number to average, as the
    seeds of dropout, stays what it is in the model. (`use_ema=True` of Keras' optimizers is the running alternative.)

    Args:
        checkpoints: The directory of `Checkpoints`, or paths of checkpoints in it, oldest first.
        model: A built model of the same architecture; it need not be compiled.
        last: How many checkpoints to average, the newest ones. Default: all.

    Returns:
        The paths of the checkpoints that were averaged.

    Raises:
        ValueError: If there are fewer than `last` checkpoints or none, one is damaged, or one is of another model; the
            model then is as before.

    Example:

    >>> import keras, numpy as np, tempfile, keras_transformer as kt
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = model.fit(
    ...     np.ones((5, 3)), np.ones(5), epochs=4, verbose=0, callbacks=[kt.training.Checkpoints(folder.name, keep=4)]
    ... )
    >>> [path.name for path in kt.training.average_checkpoints(folder.name, model, last=2)]
    ['step-0000000003.npz', 'step-0000000004.npz']
    """
    is_directory = isinstance(checkpoints, str | os.PathLike)
    found = checkpoint_paths(checkpoints) if isinstance(checkpoints, str | os.PathLike) else checkpoints
    paths = [Path(path) for path in found]
    if last is not None and (isinstance(last, bool) or not isinstance(last, int) or last < 1):
        raise ValueError(f"average_checkpoints takes a positive integer or None as `last`. Received: {last!r}")
    if len(paths) < (last or 1):
        where = f"'{checkpoints}' has" if is_directory else "There are"
        raise ValueError(
            f"{where} {len(paths)} checkpoints, and {last or 'at least 1'} should be averaged. "
            "`Checkpoints(keep=...)` says how many are kept."
        )
    if not model.built:
        raise ValueError(f"average_checkpoints takes a model that is built. '{model.name}' is not.")
    paths = paths[-(last or len(paths)) :]
    groups = {"trainable": model.trainable_variables, "non_trainable": model.non_trainable_variables}
    variables = [variable for group in groups.values() for variable in group if _is_float(describe(variable))]
    totals = [np.zeros(variable.shape, "float64") for variable in variables]
    for path in paths:
        snapshot = read_snapshot(path, tuple(groups))
        saved = [
            pair for group in groups for pair in zip(snapshot.variables[group], snapshot.arrays[group], strict=True)
        ]
        saved = [(described, array) for described, array in saved if _is_float(described)]
        check_same(
            [described for described, _ in saved],
            [describe(variable) for variable in variables],
            source=f"The checkpoint '{path}'",
        )
        for total, (_, array) in zip(totals, saved, strict=True):
            total += array.astype("float64")
    for variable, total in zip(variables, totals, strict=True):
        variable.assign(total / len(paths))
    return paths


def _is_float(described: dict) -> bool:
    return keras.backend.is_float_dtype(described["dtype"])
