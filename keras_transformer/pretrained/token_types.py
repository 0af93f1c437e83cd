"""What kind of sentence a token belongs to, told to the model by what is added to it."""

import keras
from keras import ops

from keras_transformer.layers.checks import check_positive, check_sequence
from keras_transformer.layers.ids import check_ids, rows
from keras_transformer.layers.quantized import Small
from keras_transformer.layers.shaped import Shaped


@keras.saving.register_keras_serializable("keras_transformer")
class TokenTypeEncoding(Shaped, Small):
    """Add a learned vector for each kind of token, y[t] = x[t] + E[type[t]]. BERT has a kind for each of two sentences
    (https://arxiv.org/abs/1810.04805, section 3).

    Args:
        count: Number of kinds.
        embeddings_initializer: Of the table.

    Call arguments:
        inputs: (B, T, D), float.
        token_types: (B, T), int. None: all are of kind 0.

    Output shape: (B, T, D). The padding mask passes through. Within compiled functions, where its value is not known, a
        kind beyond the table gives NaN.

    Raises:
        ValueError: If the input is not of rank 3, or a kind is beyond the table (where its value is known).

    Example:

    >>> import numpy as np
    >>> from keras_transformer.pretrained.token_types import TokenTypeEncoding
    >>> tuple(TokenTypeEncoding(2)(np.zeros((1, 3, 5)), token_types=np.array([[0, 0, 1]])).shape)
    (1, 3, 5)
    """

    def __init__(self, count: int, *, embeddings_initializer="uniform", **kwargs):
        super().__init__(**kwargs)
        check_positive(self, count=count)
        self.count = count
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.supports_masking = True

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        self.embeddings = self.add_weight(
            name="embeddings", shape=(self.count, inputs_shape[-1]), initializer=self.embeddings_initializer
        )

    def call(self, inputs, token_types=None):
        check_sequence(self, "inputs", inputs.shape)
        table = ops.cast(self.embeddings, inputs.dtype)
        if token_types is None:
            return inputs + table[0]
        check_ids(self, token_types, self.count, "token_types")
        return inputs + rows(lambda ids: ops.take(table, ids, axis=0), token_types, self.count)

    def compute_output_spec(self, inputs, token_types=None):
        check_sequence(self, "inputs", inputs.shape)
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "count": self.count,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
        }
