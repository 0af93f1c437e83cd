"""What pads a sequence, told apart from the table that its ids are looked up in."""

import keras
from keras import ops

from keras_transformer.layers.checks import check_integer_from_zero, describe
from keras_transformer.layers.quantized import Small


@keras.saving.register_keras_serializable("keras_transformer")
class PaddingMask(Small):
    """Marks an id as padding, in front of an embedding that takes every id for a token.

    y = ids, with the padding mask ids != padding_id. For two inputs that share one `TokenEmbedding`, of which only one
    is padded with that id: in T5 padding is also what target sequences start with, and so a token of theirs.

    Args:
        padding_id: The id that sequences are padded with.

    Input and output shape: (B, T), int.

    Raises:
        ValueError: If `padding_id` is no integer from 0 on, or the input is not of rank 2.

    Example:

    >>> import keras, keras_transformer as kt
    >>> source = keras.Input((None,), dtype="int32", name="source")
    >>> target = keras.Input((None,), dtype="int32", name="target")
    >>> embedding = kt.TokenEmbedding(11, 8, padding_id=None)
    >>> memory = kt.EncoderLayer(2, 16)(embedding(kt.PaddingMask(0)(source)))
    >>> y = kt.DecoderLayer(2, 16)(embedding(target), memory)
    >>> model = keras.Model([source, target], embedding(y, reverse=True))
    """

    def __init__(self, padding_id: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_integer_from_zero(self, padding_id=padding_id)
        self.padding_id = int(padding_id)
        self.supports_masking = True
        self.autocast = False  # ids that come as floats would be rounded

    def call(self, inputs):
        return ops.copy(inputs)  # the mask is put on what comes out

    def compute_output_spec(self, inputs):
        if len(inputs.shape) != 2:
            raise ValueError(f"{describe(self)} takes ids of shape (batch, length), got {tuple(inputs.shape)}.")
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def compute_mask(self, inputs, previous_mask=None):
        mask = ops.not_equal(inputs, self.padding_id)
        return mask if previous_mask is None else ops.logical_and(mask, ops.cast(previous_mask, "bool"))

    def get_config(self):
        return {**super().get_config(), "padding_id": self.padding_id}
