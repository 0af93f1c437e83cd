"""What a loss and a metric of tokens are given, checked: labels, predictions, weights.

In a compiled step nothing can be raised for a value; what is wrong there makes the result NaN.

Shapes: B batch, T length, V vocabulary.
"""

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.checks import is_ragged
from keras_transformer.ops.runtime import is_known
from keras_transformer.training.ending import LOGITS, PROBABILITIES, kind_of_predictions

NO_ID = -(2**31)  # what a label becomes that is no integer of 32 bits: an id of no vocabulary
# How far from 1 the sum of a softmax may be: rounding, in half precision of each of many probabilities.
_TOLERANCE = {"float16": 1e-2, "bfloat16": 2e-2}
# The operations of a TensorFlow graph behind which probabilities are probabilities still.
_PASS_ON = {"Cast", "Identity", "Reshape", "Squeeze", "ExpandDims", "StopGradient"}


def ids_and_predictions(y_true, y_pred, *, owner: str):
    """`y_true` as int32 (B, T) and `y_pred` as a tensor (B, T, V), or a ValueError that names `owner`."""
    for name, value in (("y_true", y_true), ("y_pred", y_pred)):
        if is_ragged(value):
            raise ValueError(
                f"{owner} takes dense tensors, and `{name}` is ragged. Pad it: `labels.to_tensor(ignore_id)`, and the "
                "model's input with the padding id of its embedding."
            )
    y_true, y_pred = _of_rank(y_true, 2), _of_rank(y_pred, 3)
    expected, received = tuple(y_true.shape), tuple(y_pred.shape)
    fits = len(expected) == 2 and len(received) == 3 and received[2] is not None
    if not fits or not all(map(agree, expected, received[:2])):
        raise ValueError(
            f"{owner} takes integer ids `y_true` of shape (batch, length) and `y_pred` of shape "
            f"(batch, length, vocabulary). Received: y_true.shape={expected}, y_pred.shape={received}"
        )
    return as_ids(y_true, owner), y_pred


def as_ids(y_true, owner: str, name: str = "y_true"):
    """Labels as int32; one that is no integer of 32 bits as `NO_ID`."""
    dtype = keras.backend.standardize_dtype(y_true.dtype)
    if dtype in ("bool", "float16", "bfloat16"):
        raise ValueError(
            f"{owner} takes integer ids as `{name}`. Received: {dtype}"
            f"{'' if dtype == 'bool' else ', which rounds large ids. Cast them to int32 before it does'}."
        )
    ids = ops.cast(y_true, "int32")
    if dtype in ("float32", "float64", "int64", "uint32", "uint64"):
        ids = ops.where(ops.equal(ops.cast(ids, y_true.dtype), y_true), ids, ops.full_like(ids, NO_ID))
    return ids


def check_ignore_id(owner: str, ignore_id) -> None:
    """Raise ValueError unless `ignore_id` is an integer or None."""
    if ignore_id is not None and (isinstance(ignore_id, bool) or not isinstance(ignore_id, int | np.integer)):
        raise ValueError(
            f"{owner} takes as `ignore_id` the label of padding, an integer, or None if there is none. "
            f"Received: {ignore_id!r}"
        )


def is_real(y_true, ignore_id: int | None):
    """Which labels are not padding, boolean, of the shape of `y_true`."""
    return ops.ones_like(y_true, dtype="bool") if ignore_id is None else ops.not_equal(y_true, ignore_id)


def weights_like(values, sample_weight, real, *, owner: str):
    """`sample_weight`, (B,) or (B, T), as a tensor that multiplies `values` (B, T); 0 where they are not `real`."""
    sample_weight = ops.convert_to_tensor(sample_weight)
    if _is_unranked(sample_weight):  # what TensorFlow traces where one `fit` had (B,) and the next has (B, T)
        sample_weight = ops.reshape(sample_weight, (ops.shape(values)[0], -1))
    if len(sample_weight.shape) == 1:
        sample_weight = ops.expand_dims(sample_weight, -1)
    expected, received = tuple(values.shape), tuple(sample_weight.shape)
    fits = len(received) == 2 and agree(received[0], expected[0])
    if not fits or not (received[1] == 1 or agree(received[1], expected[1])):
        raise ValueError(
            f"{owner} takes a `sample_weight` of shape (batch,) or (batch, length), of labels of shape {expected}. "
            f"Received: sample_weight.shape={received}"
        )
    return ops.where(real, ops.cast(sample_weight, values.dtype), ops.zeros_like(values))


def of_the_wrong_kind(y_pred, real, *, from_logits: bool, owner: str):
    """Whether `y_pred` (B, T, V) is probabilities where it should be logits, or the other way round.

    Looked at is the first real token of each row, where `real` (B, T) is True, and all if those are probabilities: not
    negative, with the sum 1. Where values are known, or TensorFlow's graph or the model tells, this is a ValueError;
    else a boolean tensor.
    """
    if not is_known(y_pred):
        kind = PROBABILITIES if _made_by_softmax(y_pred) else kind_of_predictions(y_pred)
        if kind == (PROBABILITIES if from_logits else LOGITS):
            raise _wrong_kind(owner, from_logits)
    first = ops.expand_dims(ops.argmax(ops.cast(real, "int32"), axis=1), 1)  # (B, 1)
    there = ops.take_along_axis(real, first, axis=1)
    rows = ops.take_along_axis(y_pred, ops.expand_dims(first, -1), axis=1)  # (B, 1, V)
    if from_logits:  # what a few rows have by chance all rows have not
        wrong = _all_probabilities(rows, there)
        wrong = ops.cond(wrong, lambda: _all_probabilities(y_pred, real), lambda: wrong)
    else:
        lowest, excess, tolerance = _measures(rows)
        wrong = ops.any(ops.logical_and(there, ops.logical_or(lowest < -tolerance, excess > tolerance)))
    if is_known(wrong) and bool(wrong):
        raise _wrong_kind(owner, from_logits)
    return wrong


def _all_probabilities(rows, real):
    """Whether all rows (B, T, V) that are real (B, T) are probabilities, and there is one. NaN is neither kind."""
    lowest, excess, tolerance = _measures(rows)
    others = ops.logical_and(real, ops.logical_not(ops.logical_and(lowest >= 0, excess <= tolerance)))
    return ops.logical_and(ops.any(real), ops.logical_not(ops.any(others)))


def _measures(rows) -> tuple:
    """Of rows (B, T, V) the lowest entry, how far the sum is from 1, both (B, T), and how far rounding may move it."""
    tolerance = _TOLERANCE.get(keras.backend.standardize_dtype(rows.dtype), 1e-3)
    rows = ops.cast(ops.stop_gradient(rows), "float32")
    return ops.min(rows, axis=-1), ops.abs(ops.sum(rows, axis=-1) - 1), tolerance


def _wrong_kind(owner: str, from_logits: bool) -> ValueError:
    if from_logits:
        return ValueError(
            f"{owner} takes logits and was given probabilities: rows that are not negative and sum to 1, as a softmax "
            f"makes them. Leave the softmax out of the model, or make {owner} with from_logits=False."
        )
    return ValueError(
        f"{owner}(from_logits=False) takes probabilities and was given rows that are negative or do not sum to 1. End "
        f"the model with a softmax, or make {owner} with from_logits=True for logits."
    )


def _made_by_softmax(tensor) -> bool:
    """Whether a TensorFlow graph says so. No other backend keeps what made a tensor."""
    if keras.backend.backend() != "tensorflow" or isinstance(tensor, keras.KerasTensor):
        return False
    import tensorflow as tf

    if not tf.is_symbolic_tensor(tensor):  # a value, perhaps as a constant of a graph
        return False
    operation = tensor.op
    while operation.type in _PASS_ON:
        operation = operation.inputs[0].op
    return operation.type == "Softmax"


def _of_rank(value, rank: int):
    """A tensor; of that rank if TensorFlow knows none."""
    tensor = ops.convert_to_tensor(value)
    if _is_unranked(tensor):
        import tensorflow as tf

        return tf.ensure_shape(tensor, [None] * rank)
    return tensor


def _is_unranked(tensor) -> bool:
    """Only TensorFlow has tensors of unknown rank."""
    on_tensorflow = keras.backend.backend() == "tensorflow" and not isinstance(tensor, keras.KerasTensor)
    return on_tensorflow and tensor.shape.rank is None


def agree(one: int | None, other: int | None) -> bool:
    """Whether two sizes can be the same; None is not known."""
    return None in (one, other) or one == other
