"""The projection to the vocabulary and the cross-entropy as one layer, which never holds the logits."""

import keras
from keras import ops

from keras_transformer._keras import carried_metrics
from keras_transformer.layers.checks import check_dense, check_positive, check_sequence, describe
from keras_transformer.layers.embedding import TokenEmbedding
from keras_transformer.layers.quantized import Small
from keras_transformer.ops.blocks import with_gradient
from keras_transformer.ops.runtime import is_known
from keras_transformer.training.given import agree, as_ids, check_ignore_id, is_real, weights_like
from keras_transformer.training.losses import check_label_smoothing, replicas, sum_over_replicas
from keras_transformer.training.metrics import Perplexity, TokenAccuracy
from keras_transformer.training.projected import HIT, LIKELIHOOD, LOSS, projected_crossentropy


@keras.saving.register_keras_serializable("keras_transformer")
class TiedCrossentropy(Small):
    """The loss of hidden states whose logits are x E^T, with the table E of an embedding; the logits are never held.

    It is `SequenceCrossentropy` of `embedding(hidden, reverse=True)`, block by block: for so many tokens at a time the
    logits, their losses and gradients are computed, and only what these add up to is kept. The (B, T, V) logits and
    their gradient, most of the memory of a step where the vocabulary is large, are never there. Tokens whose label is
    `ignore_id` are left out of the products, too: where few tokens have a label, as in masked language modelling, the
    loss takes less time accordingly.

    The layer stands at the end of a model for training, whose inputs include the labels. It adds the mean loss over the
    real tokens of the global batch to the model, so the model is compiled without a loss; perplexity and accuracy
    appear in the logs by themselves. The embedding is shared, not copied: the model of tokens and logits that generates
    is trained with it.

    The table may be changed by LoRA, and may be frozen; it may not be quantized. Under a mixed policy products are made
    in half precision, and what is summed over tokens and over the vocabulary is float32, as is the table's gradient.

    Args:
        embedding: The `TokenEmbedding`; or the `keras.layers.Dense` that makes the logits of a model without tied
            weights. With its bias, if it has one.
        label_smoothing: As of `SequenceCrossentropy`, in [0, 1).
        ignore_id: The label of padding; None: every label counts.
        block_size: How many tokens are looked at together. Default: 256, or more if the vocabulary is small. More take
            more memory, fewer more time.
        kwargs: As of any layer. `dtype` is that of the embedding unless given.

    Call arguments:
        hidden: (B, T, D), float.
        labels: (B, T), int.
        sample_weight: Optional, (B,) or (B, T): multiplies the losses, and not what they are divided by, as in
            `SequenceCrossentropy`. (What `fit` is given as `sample_weight` does not come here.)

    Output shape: (B, T), float32: the loss of each token, 0 where the label is `ignore_id`, NaN where it is no integer
        of 0...V-1. It has no gradient.

    Raises:
        ValueError: If shapes do not fit, the embedding is something else, has an activation or is quantized,
            `label_smoothing` is out of range, labels are of a type that rounds them, or the gradient of the output is
            asked for.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> model = kt.models.language_model(11, num_layers=1, dim=8, num_heads=2, intermediate_dim=16)
    >>> embedding, hidden = model.get_layer("embedding"), model.get_layer("decoder_norm").output
    >>> labels = keras.Input((None,), dtype="int32")
    >>> losses = kt.training.TiedCrossentropy(embedding, label_smoothing=0.1)(hidden, labels)
    >>> trained = keras.Model([model.input, labels], losses)
    >>> trained.compile("adam")
    >>> ids = np.array([[3, 1, 7, 2, 0]])
    >>> history = trained.fit([ids[:, :-1], ids[:, 1:]], verbose=0).history
    >>> sorted(history)
    ['loss', 'perplexity', 'token_accuracy']
    >>> model(ids).shape[-1]                                # the same weights, with logits
    11
    """

    def __init__(
        self,
        embedding: keras.layers.Layer,
        *,
        label_smoothing: float = 0.0,
        ignore_id: int | None = 0,
        block_size: int | None = None,
        **kwargs,
    ):
        if not isinstance(embedding, TokenEmbedding | keras.layers.Dense):
            raise ValueError(
                "TiedCrossentropy takes as `embedding` the TokenEmbedding whose table makes the logits, or a "
                f"keras.layers.Dense that makes them. Received: {embedding!r}"
            )
        # Labels are not to be rounded, and the table's gradient neither.
        super().__init__(**{"dtype": embedding.dtype_policy, **kwargs, "autocast": False})
        check_ignore_id("TiedCrossentropy", ignore_id)
        check_label_smoothing("TiedCrossentropy", label_smoothing)
        if block_size is not None:
            check_positive(self, block_size=block_size)
        activation = getattr(embedding, "activation", None)
        if activation not in (None, keras.activations.linear):
            raise ValueError(
                f"{describe(self)} takes a Dense that makes logits, without an activation. {describe(embedding)} has "
                f"{activation!r}. Leave it out: the loss has the softmax in it."
            )
        self.embedding = embedding
        self.label_smoothing = label_smoothing
        self.ignore_id = ignore_id
        self.block_size = block_size
        self.supports_masking = True
        self.perplexity = Perplexity(ignore_id=ignore_id)
        self.accuracy = TokenAccuracy(ignore_id=ignore_id)

    def build(self, hidden_shape, labels_shape=None, sample_weight_shape=None):
        check_sequence(self, "hidden", hidden_shape)
        if not self.embedding.built:
            self.embedding.build(hidden_shape if isinstance(self.embedding, keras.layers.Dense) else (None, None))

    def __call__(self, hidden, labels, *args, **kwargs):
        remedy = "Pad it: `hidden.to_tensor()`, and the labels with `labels.to_tensor(ignore_id)`."
        check_dense(self, [hidden, labels], remedy)
        return super().__call__(hidden, labels, *args, **kwargs)

    def call(self, hidden, labels, sample_weight=None, training=None):
        matrix, bias, axes = self._head()
        self._check(hidden, labels, matrix.shape[axes.index("d")])
        labels = as_ids(ops.convert_to_tensor(labels), describe(self), "labels")
        vocabulary_size = matrix.shape[axes.index("v")]
        real, known = is_real(labels, self.ignore_id), ops.logical_and(labels >= 0, labels < vocabulary_size)
        weights = ops.cast(real, keras.backend.result_type(self.compute_dtype, "float32"))
        if sample_weight is not None:
            weights = weights_like(weights, sample_weight, real, owner=describe(self))
        hidden = ops.cast(hidden, self.compute_dtype)
        total, statistics = projected_crossentropy(
            ops.reshape(hidden, (-1, hidden.shape[-1])),
            matrix,
            bias,
            ops.reshape(ops.where(ops.logical_and(real, known), labels, -1), (-1,)),
            ops.reshape(weights, (-1,)),
            axes=axes,
            label_smoothing=self.label_smoothing,
            training=bool(training),
            frozen=not self.embedding.trainable_variables,
            block=self.block_size,
        )
        statistics = ops.reshape(statistics, (3, *ops.shape(labels)))
        unknown = ops.logical_and(real, ops.logical_not(known))
        nothing = ops.where(unknown, ops.cast(float("nan"), total.dtype), ops.zeros_like(weights))
        tokens = ops.sum(ops.cast(real, total.dtype))
        # Keras divides a loss that was added by the number of replicas.
        self.add_loss(replicas() * (total + ops.sum(nothing)) / ops.maximum(sum_over_replicas(tokens), 1))
        self._update_metrics(
            {self.perplexity: statistics[LIKELIHOOD] + nothing, self.accuracy: statistics[HIT] + nothing}, real
        )
        return _without_gradient(statistics[LOSS] + nothing)

    def _head(self) -> tuple:
        """The matrix that makes logits, the bias, and the axes of the matrix."""
        embedding = self.embedding
        if embedding.quantization_mode is not None:
            raise ValueError(
                f"{describe(self)} takes weights in float. {describe(embedding)} is quantized to "
                f"{embedding.quantization_mode}. Train before you quantize; the logits of a quantized model are for "
                "SequenceCrossentropy and Perplexity."
            )
        if isinstance(embedding, TokenEmbedding):  # both with what LoRA adds
            bias = None if embedding.bias is None else ops.convert_to_tensor(embedding.bias)
            return ops.convert_to_tensor(embedding.embeddings), bias, "vd"
        bias = ops.convert_to_tensor(embedding.bias) if embedding.use_bias else None
        return ops.convert_to_tensor(embedding.kernel), bias, "dv"

    def _check(self, hidden, labels, width: int | None) -> None:
        check_sequence(self, "hidden", hidden.shape, width)
        expected, received = tuple(hidden.shape[:2]), tuple(labels.shape)
        if len(received) != 2 or not all(map(agree, expected, received)):
            raise ValueError(
                f"{describe(self)} takes labels of shape (batch, length), of hidden {expected}, got {received}."
            )

    def _update_metrics(self, values: dict, real) -> None:
        carried = carried_metrics() if keras.backend.backend() == "jax" else None
        if carried is None:
            if is_known(real) or keras.backend.backend() != "jax":
                _add(values, real)
            return
        variables, state = carried
        with keras.StatelessScope(state_mapping=zip(variables, state, strict=True)) as scope:
            _add(values, real)
        state[:] = map(scope.get_current_value, variables)

    def compute_output_spec(self, hidden, labels, sample_weight=None, training=None):
        width = self.embedding.dim if isinstance(self.embedding, TokenEmbedding) else None
        self._check(hidden, labels, width)
        return keras.KerasTensor(hidden.shape[:2], dtype=keras.backend.result_type(self.compute_dtype, "float32"))

    def compute_mask(self, *args, **kwargs):
        return None

    def get_config(self):
        return {
            **super().get_config(),
            "embedding": keras.saving.serialize_keras_object(self.embedding),
            "label_smoothing": self.label_smoothing,
            "ignore_id": self.ignore_id,
            "block_size": self.block_size,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "embedding": keras.saving.deserialize_keras_object(config["embedding"])})


def _add(values: dict, real) -> None:
    for metric, value in values.items():
        metric.add(ops.stop_gradient(value), real)


def _without_gradient(losses):
    """The losses of the tokens; whoever asks for their gradient is told that there is none."""

    def refuse(_, upstream):
        raise ValueError(
            "The losses of single tokens that TiedCrossentropy returns have no gradient: it adds their mean to the "
            "model's losses by itself. Compile the model without a loss; to weigh tokens, give `sample_weight`."
        )

    return with_gradient(lambda x: (x * 1, None), refuse)(losses)
