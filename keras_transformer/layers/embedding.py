"""Token ids to vectors, and vectors back to logits with the same table."""

import keras
from keras import ops

from keras_transformer.context import decoding
from keras_transformer.layers.checks import check_id, check_ids, check_positive, check_sequence, describe
from keras_transformer.ops.runtime import is_without_xla


@keras.saving.register_keras_serializable("keras_transformer")
class TokenEmbedding(keras.layers.Layer):
    """A vector for each token id, and, in reverse, the logit of each token for a vector.

    forward: E[id] * sqrt(D) if `scale` else E[id]; reverse: x E^T (tied weights, "Using the Output Embedding to
    Improve Language Models", https://arxiv.org/abs/1608.05859; "Attention Is All You Need", section 3.4).
    This is where the padding mask starts: what is `padding_id` is not a token.

    Args:
        vocabulary_size: Number of ids V, padding included.
        dim: Width D.
        padding_id: The id that sequences are padded with. None: every id is a token, and no mask starts here; what
            pads a sequence then has to be known from elsewhere, from lengths, say.
        scale: Whether to multiply by sqrt(D), as the paper does, so that the embedding is not drowned by a
            positional encoding of unit size.
        embeddings_initializer: Default: normal with standard deviation 1 / sqrt(D), which gives logits of unit size
            in reverse.

    Input shape: (B, T), int. Output shape: (B, T, D). With `reverse=True`: (B, T, D) to (B, T, V).

    Raises:
        ValueError: If a size is not positive, `padding_id` is no id of the vocabulary, an id is out of the vocabulary
            (where its value is known, outside of compiled functions), or the width in reverse is not D.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> embedding = kt.TokenEmbedding(11, 5)
    >>> x = embedding(np.array([[7, 3, 0]]))
    >>> tuple(x.shape), tuple(embedding(x, reverse=True).shape)
    ((1, 3, 5), (1, 3, 11))
    >>> np.array(embedding.compute_mask(np.array([[7, 3, 0]]))).tolist()
    [[True, True, False]]
    """

    def __init__(
        self,
        vocabulary_size: int,
        dim: int,
        *,
        scale: bool = False,
        embeddings_initializer=None,
        padding_id: int | None = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, vocabulary_size=vocabulary_size, dim=dim)
        if padding_id is not None:
            check_id(self, vocabulary_size, padding_id=padding_id)
        self.vocabulary_size = vocabulary_size
        self.dim = dim
        self.scale = scale
        self.padding_id = None if padding_id is None else int(padding_id)
        if embeddings_initializer is None:
            embeddings_initializer = keras.initializers.RandomNormal(stddev=dim**-0.5)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_masking = True

    def build(self, inputs_shape=None):
        self.embeddings = self.add_weight(
            name="embeddings", shape=(self.vocabulary_size, self.dim), initializer=self.embeddings_initializer
        )

    def call(self, inputs, reverse: bool = False):
        if reverse:
            check_sequence(self, "inputs to reverse", inputs.shape, self.dim)
            return self._project(inputs)
        self._check_rank(inputs)
        check_ids(self, inputs, self.vocabulary_size)
        embedded = self.look_up(ops.cast(inputs, "int32"))
        return embedded * ops.cast(self.dim**0.5, embedded.dtype) if self.scale else embedded

    def _project(self, inputs):
        table = ops.convert_to_tensor(self.embeddings)
        if decoding() is None or not is_without_xla():
            return ops.matmul(inputs, ops.transpose(table))
        # For the few rows of a step TensorFlow's own product E x^T is the faster one.
        rows = ops.reshape(inputs, (-1, self.dim))
        logits = ops.transpose(ops.matmul(table, ops.transpose(rows)))
        return ops.reshape(logits, (-1, ops.shape(inputs)[1], self.vocabulary_size))

    def look_up(self, ids):
        """The rows of the table that ids (B, T) name."""
        return ops.take(self.embeddings, ids, axis=0)

    def compute_mask(self, inputs, previous_mask=None):
        if len(inputs.shape) == 3:  # in reverse, a position keeps the mask it has
            return previous_mask
        return None if self.padding_id is None else ops.not_equal(inputs, self.padding_id)

    def compute_output_spec(self, inputs, reverse=False):
        if reverse:
            check_sequence(self, "inputs to reverse", inputs.shape, self.dim)
            return keras.KerasTensor((*inputs.shape[:-1], self.vocabulary_size), dtype=self.compute_dtype)
        self._check_rank(inputs)
        return keras.KerasTensor((*inputs.shape, self.dim), dtype=self.compute_dtype)

    def _check_rank(self, ids) -> None:
        if len(ids.shape) != 2:
            raise ValueError(f"{describe(self)} takes ids of shape (batch, length), got {tuple(ids.shape)}.")

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "scale": self.scale,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "padding_id": self.padding_id,
        }
