"""Cross-entropy of token sequences: label smoothing, and a mean that padding and replicas cannot shift.

Shapes: B batch, T length, V vocabulary, N = B * T tokens.
"""

import keras
from keras import ops

from keras_transformer._keras import kept_losses
from keras_transformer.ops.blocks import after, with_gradient
from keras_transformer.training.given import (
    check_ignore_id,
    ids_and_predictions,
    is_real,
    of_the_wrong_kind,
    weights_like,
)


@keras.saving.register_keras_serializable("keras_transformer")
class SequenceCrossentropy(keras.losses.Loss):
    """Cross-entropy between next-token ids and logits, averaged over the real tokens of the global batch.

    For a token with the id y and the logits z, with label smoothing e
    ("Rethinking the Inception Architecture for Computer Vision", section 7, as used by
    "Attention Is All You Need", section 5.4):

        loss = logsumexp(z) - (1 - e) z[y] - e mean(z)

    which is the cross-entropy with the target distribution (1 - e) onehot(y) + e / V. The value is the
    sum over the real tokens, those with y_true != ignore_id, divided by their number; a batch of
    padding alone gives 0.

    The labels alone say what is padding: a mask that Keras attached to `y_pred` is not consulted.
    `sample_weight` scales the losses and not the divisor, as in Keras' own losses; to leave tokens out
    altogether, make their label `ignore_id`.

    Under `tf.distribute` the divisor counts the tokens of all replicas. Each replica then returns its
    share, and the shares, hence the gradients, add up to those of one device, however the padding is
    spread. The loss that `fit` reports is that of one device too when the replicas have as many rows.

    Logits in half precision are kept as they are, and the loss is computed in float32. Where a compiled step cannot
    raise an error, the loss is NaN: for a label that is no integer of 0...V-1, and for probabilities in place of logits
    or logits in place of probabilities.

    Args:
        label_smoothing: e above, in [0, 1).
        from_logits: Whether `y_pred` holds logits, or else probabilities, the output of a softmax.
        ignore_id: The label of padding: the `padding_id` of the embedding, or what the batches fill labels with. None:
            every label counts.
        name: Name of the loss.

    Call arguments:
        y_true: (B, T), integer ids.
        y_pred: (B, T, V), float.
        sample_weight: Optional, (B,) or (B, T).

    Raises: ValueError if `label_smoothing` is outside [0, 1), the shapes are not the above, or `y_pred` is seen to be
        of the other kind: rows that are not negative and sum to 1 are probabilities.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.training import SequenceCrossentropy
    >>> ids = np.array([[3, 1, 0, 0]])                      # two tokens, then padding
    >>> logits = np.zeros((1, 4, 7), "float32")             # every one of 7 ids equally likely
    >>> round(float(SequenceCrossentropy(label_smoothing=0.1)(ids, logits)), 4)   # log 7
    1.9459
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        from_logits: bool = True,
        ignore_id: int | None = 0,
        name: str = "sequence_crossentropy",
    ):
        super().__init__(name=name)
        check_ignore_id("SequenceCrossentropy", ignore_id)
        check_label_smoothing("SequenceCrossentropy", label_smoothing)
        self.label_smoothing = label_smoothing
        self.from_logits = from_logits
        self.ignore_id = ignore_id

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Keras' own __call__ would divide by all positions, and mask by what `y_pred` carries.
        y_true, y_pred = ids_and_predictions(y_true, y_pred, owner="SequenceCrossentropy")
        losses, real = self.call(y_true, y_pred), is_real(y_true, self.ignore_id)
        if sample_weight is not None:
            losses = losses * weights_like(losses, sample_weight, real, owner="SequenceCrossentropy")
        real_tokens = ops.sum(ops.cast(real, losses.dtype))
        return ops.sum(losses) / ops.maximum(sum_over_replicas(real_tokens), 1)

    def call(self, y_true, y_pred):
        """The loss of each token, (B, T), 0 where `y_true` is padding."""
        real = is_real(y_true, self.ignore_id)
        wrong = of_the_wrong_kind(y_pred, real, from_logits=self.from_logits, owner="SequenceCrossentropy")
        losses = token_crossentropy(
            y_true, y_pred, wrong, label_smoothing=self.label_smoothing, from_logits=self.from_logits
        )
        return ops.where(real, losses, ops.zeros_like(losses))

    def get_config(self):
        return {
            "label_smoothing": self.label_smoothing,
            "from_logits": self.from_logits,
            "ignore_id": self.ignore_id,
            "name": self.name,
        }


def token_crossentropy(y_true, y_pred, wrong=False, *, label_smoothing: float = 0.0, from_logits: bool = True):
    """The cross-entropy of each token, padding like any other, NaN for a label outside 0...V-1, or all if `wrong`.

    `y_true` (B, T) int32, `y_pred` (B, T, V) float; returns (B, T), float32 or wider.
    """
    logits = after(y_pred, wrong)
    if not from_logits:
        probabilities = ops.cast(y_pred, keras.backend.result_type(y_pred.dtype, "float32"))
        logits = ops.log(ops.maximum(probabilities, keras.config.epsilon()))
    vocabulary_size = logits.shape[-1]
    known = ops.logical_and(y_true >= 0, y_true < vocabulary_size)
    labels = ops.where(known, y_true, ops.zeros_like(y_true))
    losses = _crossentropy(ops.reshape(labels, (-1,)), ops.reshape(logits, (-1, vocabulary_size)), label_smoothing)
    losses = ops.reshape(losses, ops.shape(y_true))  # (B, T)
    return ops.where(ops.logical_and(known, ops.logical_not(wrong)), losses, ops.full_like(losses, float("nan")))


def _crossentropy(labels, logits, label_smoothing):
    """The formula of `SequenceCrossentropy`, for `labels` (N,) and `logits` (N, V), with its gradient.

    The gradient, softmax(z) - (1 - e) onehot(y) - e / V, is written out because automatic differentiation keeps and
    passes over several (N, V) tensors, and even the fused sparse_categorical_crossentropy, which has no smoothing, is
    slower (benchmarks/training_choices.py). Kept for it are the logits, in their own type, and the normalizer, from
    which XLA computes the softmax again while it writes the gradient. What runs operation by operation keeps the
    softmax in the place of float32 logits instead of computing it twice. First derivatives only.
    """
    dtype, vocabulary_size = keras.backend.result_type(logits.dtype, "float32"), logits.shape[-1]
    again = keras.backend.backend() == "jax" or keras.backend.standardize_dtype(logits.dtype) != dtype

    def forward(logits, labels):
        values, columns = ops.cast(logits, dtype), ops.expand_dims(labels, -1)
        highest = ops.max(values, axis=-1, keepdims=True)  # (N, 1)
        label_logit = picked(values, columns)  # (N, 1)
        mean = ops.mean(values, axis=-1, keepdims=True) if label_smoothing else 0
        probabilities = ops.softmax(after(values, highest, label_logit, mean))  # (N, V)
        # exp(max z - logsumexp z) is the largest probability, at least 1 / V: its logarithm is exact.
        normalizer = highest - ops.log(ops.max(probabilities, axis=-1, keepdims=True))
        loss = normalizer - (1 - label_smoothing) * label_logit - label_smoothing * mean
        known = logits if again else after(probabilities, normalizer)
        return ops.squeeze(loss, axis=-1), (known, normalizer, label_logit, columns)

    def backward(kept, upstream):
        known, normalizer, label_logit, columns = kept
        probabilities = ops.exp(ops.cast(known, dtype) - normalizer) if again else known
        upstream = ops.expand_dims(upstream, -1)  # (N, 1)
        others = probabilities * upstream  # (N, V)
        label_probability = ops.exp(label_logit - normalizer)  # (N, 1)
        if label_smoothing:
            others = others - upstream * (label_smoothing / vocabulary_size)
        at_label = upstream * (label_probability - (1 - label_smoothing) - label_smoothing / vocabulary_size)
        return ops.cast(replaced(others, columns, at_label), logits.dtype), None

    return with_gradient(forward, backward)(logits, labels)  # (N,)


def picked(matrix, columns):
    """One value of each row of a matrix (N, V), at the columns (N, 1): (N, 1)."""
    if keras.backend.backend() == "tensorflow":  # where Keras would copy the matrix first
        import tensorflow as tf

        return tf.gather(matrix, columns, batch_dims=1)
    return ops.take_along_axis(matrix, columns, axis=-1)


def replaced(matrix, columns, values):
    """A matrix (N, V) with one value of each row replaced, (N, 1), at the columns (N, 1)."""
    if keras.backend.backend() == "jax":  # XLA makes one loop of this and what is around it
        return ops.where(ops.arange(matrix.shape[-1], dtype="int32") == columns, values, matrix)
    rows = ops.arange(ops.shape(matrix)[0], dtype="int32")
    places = ops.stack([rows, ops.squeeze(columns, axis=-1)], axis=-1)
    return ops.scatter_update(matrix, places, ops.squeeze(values, axis=-1))


def sum_over_replicas(value):
    """The sum of `value` over the replicas of a `tf.distribute` strategy; `value` itself everywhere else."""
    if replicas() == 1:
        return value
    import tensorflow as tf

    with kept_losses():
        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def replicas() -> int:
    """The number of replicas of a `tf.distribute` strategy within which this is one; 1 everywhere else."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    return 1 if replica is None else replica.num_replicas_in_sync


def check_label_smoothing(owner: str, label_smoothing: float) -> None:
    """Raise ValueError unless `label_smoothing` is in [0, 1)."""
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{owner} takes a `label_smoothing` in [0, 1). Received: {label_smoothing}")
