"""Where a token stands, told to the model by what is added to it."""

import keras
from keras import ops

from keras_transformer.context import decoding
from keras_transformer.layers.checks import (
    check_above_zero,
    check_integer_from_zero,
    check_positive,
    check_sequence,
    describe,
)
from keras_transformer.layers.ids import check_ids, check_integers, rows
from keras_transformer.layers.packed import check_positions
from keras_transformer.layers.quantized import Small
from keras_transformer.layers.shaped import Shaped
from keras_transformer.ops.positions import sinusoids


def current_positions(layer, inputs, positions=None):
    """Positions (1 or B, T) of the tokens in `inputs`: as given, as the decoding context has them, or 0 to T - 1."""
    context = decoding()
    if context is not None:
        if positions is not None:
            raise ValueError(
                f"{describe(layer)} was given `positions`, which packed training takes; generation counts positions "
                "itself. Build the model for generation without them: the weights are the same."
            )
        return context.positions
    if positions is not None:
        return positions
    if isinstance(layer, _AddedPosition):
        check_positions(layer)
    return ops.expand_dims(ops.arange(ops.shape(inputs)[1], dtype="int32"), 0)


class _AddedPosition(Shaped, Small):
    """A layer that adds a vector for each position to the token's own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.autocast = False  # positions may be floats, which half precision would round

    def call(self, inputs, positions=None):
        check_sequence(self, "inputs", inputs.shape)
        check_integers(self, "positions", positions)
        inputs = ops.cast(inputs, self.compute_dtype)
        return inputs + ops.cast(self.encode(current_positions(self, inputs, positions), inputs), inputs.dtype)

    def compute_output_spec(self, inputs, positions=None):
        check_sequence(self, "inputs", inputs.shape)
        return keras.KerasTensor(inputs.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable("keras_transformer")
class PositionalEncoding(_AddedPosition):
    """Add sinusoids of the position ("Attention Is All You Need", section 3.5).

    y[p, 2i] = x[p, 2i] + sin(p / w^(2i / D)), y[p, 2i + 1] = x[p, 2i + 1] + cos(p / w^(2i / D)). Nothing is learned,
    so any length and any width will do.

    Args:
        max_wavelength: w, in positions over 2 pi.
        interleaved: Whether sines and cosines alternate, as in the paper, rather than all sines come first and all
            cosines behind them, as in Marian.
        offset: Position p has the sinusoids of p + offset. OpenNMT-tf counts from 1.

    Input and output shape: (B, T, D), float; optionally `positions`, (B, T), int, where they do not simply count
    up from 0 (packed sequences). The padding mask passes through.

    Raises:
        ValueError: If the input is not of rank 3, or `offset` is no integer from 0 on.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> np.asarray(kt.PositionalEncoding()(np.zeros((1, 2, 3))), "float64").round(3).tolist()
    [[[0.0, 1.0, 0.0], [0.841, 0.54, 0.002]]]
    """

    def __init__(self, max_wavelength: float = 10000.0, *, interleaved: bool = True, offset: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_above_zero(self, max_wavelength=max_wavelength)
        check_integer_from_zero(self, offset=offset)
        self.max_wavelength = max_wavelength
        self.interleaved = interleaved
        self.offset = offset

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)

    def encode(self, positions, inputs):
        """The sinusoids of `positions`, (1 or B, T, D)."""
        return sinusoids(positions + self.offset, inputs.shape[-1], self.max_wavelength, self.interleaved)

    def get_config(self):
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "interleaved": self.interleaved,
            "offset": self.offset,
        }


@keras.saving.register_keras_serializable("keras_transformer")
class LearnedPositionalEncoding(_AddedPosition):
    """Add a learned vector for each position, y[p] = x[p] + P[p] (https://arxiv.org/abs/1705.03122, section 3.1).

    Args:
        max_length: Number of positions that the table holds. There is no going beyond it.
        offset: Position p has the row p + offset of a table of max_length + offset rows, as in RoBERTa and OPT, whose
            offset is 2. Here the first ones are never read.
        embeddings_initializer, embeddings_regularizer, embeddings_constraint: Of the table, as in
            `keras.layers.Embedding`.

    Input and output shape: (B, T, D), float; optionally `positions`, (B, T), int. The padding mask passes through.
        Within compiled functions, where a length or a position is not known, one beyond the table gives NaN.

    Raises:
        ValueError: If the input is not of rank 3, or longer than `max_length`, or a position is beyond the table
            (where its value is known).

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> tuple(kt.LearnedPositionalEncoding(5)(np.zeros((2, 3, 7))).shape)
    (2, 3, 7)
    """

    def __init__(
        self,
        max_length: int,
        offset: int = 0,
        *,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, max_length=max_length)
        check_integer_from_zero(self, offset=offset)
        self.max_length = max_length
        self.offset = offset
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_length + self.offset, inputs_shape[-1]),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )

    def encode(self, positions, inputs):
        """The table's rows at `positions`, (1 or B, T, D)."""
        context = decoding()
        length = inputs.shape[1] if context is None else context.length
        if isinstance(length, int) and length > self.max_length:
            raise ValueError(
                f"{describe(self)} holds {self.max_length} positions, got a sequence of {length}. Make max_length "
                "larger, or use PositionalEncoding or RotaryPosition, which have no limit."
            )
        check_ids(self, positions, self.max_length, "positions")
        return rows(lambda ids: ops.take(self.embeddings, ids + self.offset, axis=0), positions, self.max_length)

    def compute_output_spec(self, inputs, positions=None):
        check_sequence(self, "inputs", inputs.shape)
        length = inputs.shape[1]
        if length is not None and length > self.max_length:
            raise ValueError(f"{describe(self)} holds {self.max_length} positions, got a sequence of {length}.")
        return super().compute_output_spec(inputs, positions)

    def get_config(self):
        return {
            **super().get_config(),
            "max_length": self.max_length,
            "offset": self.offset,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
        }
