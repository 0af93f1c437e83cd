"""Cross-entropy of token sequences: label smoothing, and a mean that padding and replicas cannot shift.

Shapes: B batch, T length, V vocabulary, N = B * T tokens.
"""

import keras
from keras import ops

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

    It is computed in float32 for half precision logits. Where a compiled step cannot raise an error, the loss is NaN:
    for a label that is no integer of 0...V-1, and for probabilities in place of logits or logits in place of
    probabilities.

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
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"SequenceCrossentropy takes a `label_smoothing` in [0, 1). Received: {label_smoothing}")
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
    logits = ops.cast(y_pred, keras.backend.result_type(y_pred.dtype, "float32"))
    if not from_logits:
        logits = ops.log(ops.maximum(logits, keras.config.epsilon()))
    vocabulary_size = logits.shape[-1]
    known = ops.logical_and(y_true >= 0, y_true < vocabulary_size)
    labels = ops.where(known, y_true, ops.zeros_like(y_true))
    losses = _crossentropy(ops.reshape(labels, (-1,)), ops.reshape(logits, (-1, vocabulary_size)), label_smoothing)
    losses = ops.reshape(losses, ops.shape(y_true))  # (B, T)
    return ops.where(ops.logical_and(known, ops.logical_not(wrong)), losses, ops.full_like(losses, float("nan")))


def _crossentropy(labels, logits, label_smoothing):
    """The formula of `SequenceCrossentropy`, for `labels` (N,) and `logits` (N, V), with its gradient.

    The gradient, softmax(z) - (1 - e) onehot(y) - e / V, is written out because automatic
    differentiation keeps and passes over several (N, V) tensors, and even the fused
    sparse_categorical_crossentropy, which has no smoothing, is slower (benchmarks/training_choices.py). First
    derivatives only.
    """
    vocabulary_size = logits.shape[-1]

    @ops.custom_gradient
    def loss_of(logits):
        probabilities = ops.softmax(logits)  # (N, V)
        # exp(max z - logsumexp z) is the largest probability, at least 1 / V: its logarithm is exact.
        normalizer = ops.max(logits, axis=-1, keepdims=True) - ops.log(ops.max(probabilities, axis=-1, keepdims=True))
        label_logit = ops.take_along_axis(logits, ops.expand_dims(labels, -1), axis=-1)  # (N, 1)
        loss = normalizer - (1 - label_smoothing) * label_logit  # (N, 1)
        if label_smoothing:
            loss = loss - label_smoothing * ops.mean(logits, axis=-1, keepdims=True)

        def gradient(*args, upstream=None):
            if upstream is None:  # PyTorch's custom gradients pass it by name, the others by position
                (upstream,) = args
            upstream = ops.expand_dims(upstream, -1)  # (N, 1)
            others = probabilities * upstream  # (N, V)
            label_probability = ops.exp(label_logit - normalizer)  # (N, 1)
            if label_smoothing:
                others = others - upstream * (label_smoothing / vocabulary_size)
            at_label = upstream * (label_probability - (1 - label_smoothing) - label_smoothing / vocabulary_size)
            rows = ops.arange(ops.shape(labels)[0], dtype="int32")
            return ops.scatter_update(
                others, ops.stack([rows, labels], axis=-1), ops.squeeze(at_label, axis=-1)
            )  # (N, V)

        return ops.squeeze(loss, axis=-1), gradient  # (N,)

    return loss_of(logits)


def sum_over_replicas(value):
    """The sum of `value` over the replicas of a `tf.distribute` strategy; `value` itself everywhere else."""
    if keras.backend.backend() != "tensorflow":
        return value
    import tensorflow as tf

    replica = tf.distribute.get_replica_context()
    if replica is None or replica.num_replicas_in_sync == 1:
        return value
    return replica.all_reduce(tf.distribute.ReduceOp.SUM, value)
