"""Metrics of token sequences that leave padding out and weigh every real token alike, whatever its batch."""

import keras
from keras import ops

from keras_transformer.training.given import (
    check_ignore_id,
    ids_and_predictions,
    is_real,
    of_the_wrong_kind,
    weights_like,
)
from keras_transformer.training.losses import token_crossentropy


class TokenMean(keras.metrics.Metric):
    """Mean of a value over all real tokens seen since the last reset: what the metrics below have in common.

    It keeps the sum of the values and the sum of their weights, so batches with more tokens count more, and
    replicas can add theirs up. A subclass says in `token_values` what is averaged.
    """

    def __init__(self, *, ignore_id: int | None = 0, name: str | None = None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        check_ignore_id(type(self).__name__, ignore_id)
        self.ignore_id = ignore_id
        self.total = self.add_variable((), "zeros", dtype=self.dtype, name="total")
        self.weight = self.add_variable((), "zeros", dtype=self.dtype, name="weight")

    def token_values(self, y_true, y_pred, real):
        """The value of each token, (B, T); what stands at padding, where `real` is False, is of no account."""
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add a batch: `y_true` (B, T), `y_pred` (B, T, V), `sample_weight` (B,), (B, T) or None."""
        owner = type(self).__name__
        y_true, y_pred = ids_and_predictions(y_true, y_pred, owner=owner)
        real = is_real(y_true, self.ignore_id)
        weights = ops.cast(real, self.dtype)
        if sample_weight is not None:
            weights = weights_like(weights, sample_weight, real, owner=owner)
        self.add(ops.where(real, self.token_values(y_true, y_pred, real), 0), weights)

    def add(self, values, weights):
        """Add the values of tokens that are known already, and what they weigh."""
        weights = ops.cast(weights, self.dtype)
        self.total.assign_add(ops.sum(ops.cast(values, self.dtype) * weights))
        self.weight.assign_add(ops.sum(weights))

    def result(self):
        return ops.divide_no_nan(self.total, self.weight)

    def get_config(self):
        return {**super().get_config(), "ignore_id": self.ignore_id}


@keras.saving.register_keras_serializable("keras_transformer")
class TokenAccuracy(TokenMean):
    """Fraction of the real tokens whose id has the highest logit (or probability).

    Padding, y_true == ignore_id, is left out. With a `sample_weight` (in `weighted_metrics`), the weighted
    fraction. 0 before any token was seen; NaN once a label is no integer of 0...V-1, as the loss is.

    Args:
        ignore_id: The label of padding, as of the loss; None: every label counts.
        name: Name of the metric.
        dtype: Data type of the sums and the result.

    Call arguments: `y_true` (B, T) ids, `y_pred` (B, T, V), `sample_weight` (B,) or (B, T).

    Raises: ValueError if the shapes are not these.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.training import TokenAccuracy
    >>> accuracy = TokenAccuracy()
    >>> ids = np.array([[2, 1, 0]])                         # the last position is padding
    >>> logits = np.array([[[0.0, 0.1, 0.9], [0.8, 0.1, 0.1], [1.0, 0.0, 0.0]]])
    >>> accuracy.update_state(ids, logits)
    >>> float(accuracy.result())
    0.5
    """

    def __init__(self, *, ignore_id: int | None = 0, name: str = "token_accuracy", dtype=None):
        super().__init__(ignore_id=ignore_id, name=name, dtype=dtype)

    def token_values(self, y_true, y_pred, real):
        hits = ops.cast(ops.equal(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), y_true), self.dtype)
        known = ops.logical_and(y_true >= 0, y_true < y_pred.shape[-1])
        return ops.where(known, hits, ops.full_like(hits, float("nan")))


@keras.saving.register_keras_serializable("keras_transformer")
class Perplexity(TokenMean):
    """exp of the mean negative log-likelihood of the real tokens, over all batches since the last reset.

        perplexity = exp(-sum(log p(y)) / number of tokens)

    Padding, y_true == ignore_id, is left out; there is no label smoothing, whatever the loss has. With a
    `sample_weight` (in `weighted_metrics`), the mean is weighted. 1 before any token was seen; NaN where
    `SequenceCrossentropy` is.

    Args:
        from_logits: Whether `y_pred` holds logits, or else probabilities, the output of a softmax.
        ignore_id: The label of padding, as of the loss; None: every label counts.
        name: Name of the metric.
        dtype: Data type of the sums and the result.

    Call arguments: `y_true` (B, T) ids, `y_pred` (B, T, V), `sample_weight` (B,) or (B, T).

    Raises: ValueError if the shapes are not these, or `y_pred` is seen to be of the other kind.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.training import Perplexity
    >>> perplexity = Perplexity()
    >>> perplexity.update_state(np.array([[3, 1, 0]]), np.zeros((1, 3, 7), "float32"))
    >>> round(float(perplexity.result()), 4)                # a fair choice among 7
    7.0
    """

    def __init__(self, *, from_logits: bool = True, ignore_id: int | None = 0, name: str = "perplexity", dtype=None):
        super().__init__(ignore_id=ignore_id, name=name, dtype=dtype)
        self.from_logits = from_logits

    def token_values(self, y_true, y_pred, real):
        wrong = of_the_wrong_kind(y_pred, real, from_logits=self.from_logits, owner="Perplexity")
        return token_crossentropy(y_true, y_pred, wrong, from_logits=self.from_logits)

    def result(self):
        return ops.exp(super().result())

    def get_config(self):
        return {**super().get_config(), "from_logits": self.from_logits}


@keras.saving.register_keras_serializable("keras_transformer")
class TokenCount(keras.metrics.Sum):
    """Number of real tokens seen since the last reset, those with y_true != ignore_id; what `TokenRate` reads.

    Counted in float32: exact up to 16.7 million, then to six digits.

    Args:
        ignore_id: The label of padding, as of the loss; None: there is none.
        name: Name of the metric.
        dtype: Data type of the count.

    Call arguments: `y_true` (B, T) ids; `y_pred` and `sample_weight` are not looked at.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.training import TokenCount
    >>> count = TokenCount()
    >>> count.update_state(np.array([[3, 1, 0, 0]]), None)
    >>> float(count.result())
    2.0
    """

    def __init__(self, *, ignore_id: int | None = 0, name: str = "tokens", dtype=None):
        super().__init__(name=name, dtype=dtype)
        check_ignore_id(type(self).__name__, ignore_id)
        self.ignore_id = ignore_id

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(ops.cast(is_real(y_true, self.ignore_id), self.dtype))

    def get_config(self):
        return {**super().get_config(), "ignore_id": self.ignore_id}


@keras.saving.register_keras_serializable("keras_transformer")
class PaddingRatio(keras.metrics.Mean):
    """Fraction of the positions that are padding, y_true == ignore_id: computation that nothing is learned from.

    Args:
        ignore_id: The label of padding, as of the loss; None: there is none.
        name: Name of the metric.
        dtype: Data type of the sums and the result.

    Call arguments: `y_true` (B, T) ids; `y_pred` and `sample_weight` are not looked at.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.training import PaddingRatio
    >>> ratio = PaddingRatio()
    >>> ratio.update_state(np.array([[3, 1, 5, 0]]), None)
    >>> float(ratio.result())
    0.25
    """

    def __init__(self, *, ignore_id: int | None = 0, name: str = "padding", dtype=None):
        super().__init__(name=name, dtype=dtype)
        check_ignore_id(type(self).__name__, ignore_id)
        self.ignore_id = ignore_id

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(ops.cast(ops.logical_not(is_real(y_true, self.ignore_id)), self.dtype))

    def get_config(self):
        return {**super().get_config(), "ignore_id": self.ignore_id}
