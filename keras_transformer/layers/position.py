"""Where a token stands, told to the model: by what is added to it, or by how attention compares two tokens."""

import keras
from keras import ops

from keras_transformer.context import decoding
from keras_transformer.layers.checks import check_positive, check_sequence, describe
from keras_transformer.layers.ids import check_ids, check_integers, rows
from keras_transformer.layers.packed import check_positions
from keras_transformer.layers.quantized import Small
from keras_transformer.layers.shaped import Shaped
from keras_transformer.ops.positions import alibi_slopes, relative_buckets, rotate, sinusoids


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

    Input and output shape: (B, T, D), float; optionally `positions`, (B, T), int, where they do not simply count
    up from 0 (packed sequences). The padding mask passes through.

    Raises:
        ValueError: If the input is not of rank 3.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> np.asarray(kt.PositionalEncoding()(np.zeros((1, 2, 3))), "float64").round(3).tolist()
    [[[0.0, 1.0, 0.0], [0.841, 0.54, 0.002]]]
    """

    def __init__(self, max_wavelength: float = 10000.0, **kwargs):
        super().__init__(**kwargs)
        if max_wavelength <= 0:
            raise ValueError(f"{describe(self)} takes a positive max_wavelength, got {max_wavelength!r}.")
        self.max_wavelength = max_wavelength

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)

    def encode(self, positions, inputs):
        """The sinusoids of `positions`, (1 or B, T, D)."""
        return sinusoids(positions, inputs.shape[-1], self.max_wavelength)

    def get_config(self):
        return {**super().get_config(), "max_wavelength": self.max_wavelength}


@keras.saving.register_keras_serializable("keras_transformer")
class LearnedPositionalEncoding(_AddedPosition):
    """Add a learned vector for each position, y[p] = x[p] + P[p] (https://arxiv.org/abs/1705.03122, section 3.1).

    Args:
        max_length: Number of positions that the table holds. There is no going beyond it.
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
        *,
        embeddings_initializer="uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, max_length=max_length)
        self.max_length = max_length
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.max_length, inputs_shape[-1]),
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
        return rows(lambda ids: ops.take(self.embeddings, ids, axis=0), positions, self.max_length)

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
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
        }


class AttentionPosition(Small):
    """What self-attention asks of the position object that is injected into it.

    A position is built with the shape (B, T, H, K) of the queries. One object may be given to several layers, which
    then share its weights, if it has any.

    Attributes:
        of_distance: Whether `bias` depends on the distance of two positions only, so that long sequences need not hold
            it for all pairs.
    """

    of_distance = False

    def rotate(self, states, positions):
        """Queries or keys (B, H, T, K), marked with their `positions` (1 or B, T)."""
        return states

    def bias(self, query_positions, key_positions, causal: bool):
        """What to add to the scores, (1 or B, H, T, S), or None."""
        return None


def serialize_position(position: AttentionPosition | None):
    """The configuration of a position object, marked so that layers which share it still do after loading.

    Keras marks an object as shared from its second serialization on, when the configuration from the first has been
    copied into its layer's already, unmarked; so it is serialized twice (Keras 3.15.1). The shape that it was built
    with is left out: whatever is made from the configuration is built by the first layer that has it, as before, and so
    its weights have the same path.
    """
    keras.saving.serialize_keras_object(position)
    config = keras.saving.serialize_keras_object(position)
    return None if config is None else {key: value for key, value in config.items() if key != "build_config"}


def deserialize_position(position) -> AttentionPosition | None:
    """A position object from its configuration, or the object itself."""
    return keras.saving.deserialize_keras_object(position) if isinstance(position, dict) else position


@keras.saving.register_keras_serializable("keras_transformer")
class RotaryPosition(AttentionPosition):
    """Turn queries and keys by an angle that grows with the position ("RoFormer", https://arxiv.org/abs/2104.09864).

    Their product, and so the score, then depends on the distance of two tokens only. See `kt.ops.rotate`.

    Args:
        max_wavelength: w, in positions over 2 pi; larger for longer contexts.
        interleaved: Whether neighbouring coordinates form a pair, as in the paper, rather than those half a head apart.

    Raises:
        ValueError: On a head of odd width.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.MultiHeadSelfAttention(2, causal=True, position=kt.RotaryPosition())
    >>> tuple(layer(np.ones((1, 3, 8))).shape)
    (1, 3, 8)
    """

    def __init__(self, max_wavelength: float = 10000.0, *, interleaved: bool = False, **kwargs):
        super().__init__(**kwargs)
        if max_wavelength <= 0:
            raise ValueError(f"{describe(self)} takes a positive max_wavelength, got {max_wavelength!r}.")
        self.max_wavelength = max_wavelength
        self.interleaved = interleaved

    def build(self, heads_shape):
        if heads_shape[-1] % 2:
            raise ValueError(
                f"{describe(self)} turns pairs of coordinates and takes an even head width, got {heads_shape[-1]}."
            )

    def rotate(self, states, positions):
        """Queries or keys (B, H, T, K), turned by their positions."""
        return rotate(states, positions, self.max_wavelength, self.interleaved)

    def get_config(self):
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "interleaved": self.interleaved,
        }


@keras.saving.register_keras_serializable("keras_transformer")
class AlibiPosition(AttentionPosition):
    """Lower each score in proportion to the distance ("Train Short, Test Long", https://arxiv.org/abs/2108.12409).

    bias[h, t, s] = -slope_h |t - s|, with fixed slopes: see `kt.ops.alibi_slopes`.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.MultiHeadSelfAttention(2, causal=True, position=kt.AlibiPosition())
    >>> tuple(layer(np.ones((1, 3, 8))).shape)
    (1, 3, 8)
    """

    of_distance = True

    def build(self, heads_shape):
        self.num_heads = heads_shape[-2]

    def bias(self, query_positions, key_positions, causal):
        """The penalty, (1 or B, H, T, S)."""
        distance = ops.abs(ops.expand_dims(query_positions, -1) - ops.expand_dims(key_positions, -2))  # (1|B, T, S)
        slopes = alibi_slopes(self.num_heads).reshape(1, -1, 1, 1)
        return -ops.cast(ops.expand_dims(distance, 1), "float32") * slopes


@keras.saving.register_keras_serializable("keras_transformer")
class RelativePosition(AttentionPosition):
    """Add a learned scalar for each head and distance bucket ("T5", https://arxiv.org/abs/1910.10683, section 2.1).

    bias[h, t, s] = R[bucket(s - t), h]: see `kt.ops.relative_buckets`. Causal attention uses all buckets for the past.
    T5 shares one table among all layers of a stack: give them the same object. `.keras` files keep it shared;
    `Model.from_config` and `clone_model` give each layer a table of its own (Keras 3.15.1).

    Args:
        num_buckets: Rows of the table R.
        max_distance: Distance from which on all share one bucket.
        embeddings_initializer, embeddings_regularizer, embeddings_constraint: Of the table.

    Raises:
        ValueError: If `num_buckets` is not an even number of at least 4, `max_distance` is not larger than
            `num_buckets` / 2, or layers with different numbers of heads share one object.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.MultiHeadSelfAttention(2, position=kt.RelativePosition())
    >>> tuple(layer(np.ones((1, 3, 8))).shape)
    (1, 3, 8)
    """

    of_distance = True

    def __init__(
        self,
        num_buckets: int = 32,
        max_distance: int = 128,
        *,
        embeddings_initializer="glorot_uniform",
        embeddings_regularizer=None,
        embeddings_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, num_buckets=num_buckets, max_distance=max_distance)
        if num_buckets < 4 or num_buckets % 2:
            raise ValueError(f"{describe(self)} takes an even num_buckets of at least 4, got {num_buckets}.")
        if max_distance <= num_buckets // 2:
            raise ValueError(f"{describe(self)} takes a max_distance above num_buckets / 2, got {max_distance}.")
        self.num_buckets = num_buckets
        self.max_distance = max_distance
        self.embeddings_initializer = keras.initializers.get(embeddings_initializer)
        self.embeddings_regularizer = keras.regularizers.get(embeddings_regularizer)
        self.embeddings_constraint = keras.constraints.get(embeddings_constraint)

    def build(self, heads_shape):
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(self.num_buckets, heads_shape[-2]),
            initializer=self.embeddings_initializer,
            regularizer=self.embeddings_regularizer,
            constraint=self.embeddings_constraint,
        )

    def bias(self, query_positions, key_positions, causal):
        """The learned bias, (1 or B, H, T, S)."""
        relative = ops.expand_dims(key_positions, -2) - ops.expand_dims(query_positions, -1)  # (1|B, T, S)
        buckets = relative_buckets(
            relative, bidirectional=not causal, num_buckets=self.num_buckets, max_distance=self.max_distance
        )
        return ops.transpose(ops.take(self.embeddings, buckets, axis=0), (0, 3, 1, 2))  # (1|B, H, T, S)

    def get_config(self):
        return {
            **super().get_config(),
            "num_buckets": self.num_buckets,
            "max_distance": self.max_distance,
            "embeddings_initializer": keras.initializers.serialize(self.embeddings_initializer),
            "embeddings_regularizer": keras.regularizers.serialize(self.embeddings_regularizer),
            "embeddings_constraint": keras.constraints.serialize(self.embeddings_constraint),
        }
