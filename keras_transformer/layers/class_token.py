"""A learned vector before a sequence."""

import keras
from keras import ops

from keras_transformer.layers.checks import check_sequence, floats
from keras_transformer.layers.quantized import Small
from keras_transformer.layers.sequence import SequenceLayer
from keras_transformer.ops.masks import checked


@keras.saving.register_keras_serializable("keras_transformer")
class ClassToken(SequenceLayer, Small):
    """A learned vector c before the sequence, [c, x_1, ..., x_T], whose place in the output of an encoder stands for
    the whole ("An Image is Worth 16x16 Words", https://arxiv.org/abs/2010.11929, equation 1).

    It belongs to an encoder: on the target side of a model that generates, the first output would stand for no token,
    which a `Generator` refuses.

    Args:
        embeddings_initializer, embeddings_regularizer, embeddings_constraint: Of the vector, as in
            `keras.layers.Embedding`.

    Call arguments:
        inputs: (B, T, D), float.
        mask: (B, T), bool, the padding mask; Keras fills it in.

    Output shape: (B, T + 1, D). The padding mask goes with it; the vector is no padding. Weight: `embeddings` (1, D).

    Raises:
        ValueError: If the input is not of rank 3, its width is unknown or not the one that the layer was built with, or
            the mask has another shape or holds other values than 0 and 1, as additive masks do (within compiled
            functions such a mask gives NaN).

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> patches = np.ones((2, 4, 8))
    >>> x = kt.LearnedPositionalEncoding(5)(kt.ClassToken()(patches))
    >>> x = kt.EncoderLayer(2, 16)(x)
    >>> tuple(x[:, 0].shape)
    (2, 8)
    """

    def __init__(
        self, *, embeddings_initializer="zeros", embeddings_regularizer=None, embeddings_constraint=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(1, inputs_shape[-1]),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )

    def call(self, inputs, mask=None):
        check_sequence(self, "inputs", inputs.shape, self.embeddings.shape[-1])
        inputs = floats(self, inputs)
        self.token_mask(inputs, "mask", mask)
        token = ops.expand_dims(ops.cast(self.embeddings, inputs.dtype), 0)  # (1, 1, D)
        tokens = ops.broadcast_to(token, (ops.shape(inputs)[0], 1, inputs.shape[-1]))
        return checked(ops.concatenate([tokens, inputs], axis=1), mask)

    def compute_mask(self, inputs, previous_mask=None):
        if previous_mask is None:
            return None
        mask = self.token_mask(inputs, "mask", previous_mask)
        return ops.concatenate([ops.ones_like(mask[:, :1]), mask], axis=1)

    def get_config(self):
        return {
            **super().get_config(),
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
        }
