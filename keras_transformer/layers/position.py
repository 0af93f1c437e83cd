"""How attention compares two tokens by where they stand: what is injected into self-attention as its `position`."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.checks import check_above_zero, check_positive, describe
from keras_transformer.layers.quantized import Small
from keras_transformer.ops.positions import alibi_slopes, relative_buckets, rotate

WAVELENGTH = 10000.0


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
        frequencies: R / 2 floats, in radians per position, in place of w^(-2i / K): scaled ones, as for contexts longer
            than those trained with. R < K: the first R coordinates of a head are turned, the others stay
            (partial rotary embedding, as in GPT-NeoX).
        magnitude: A factor on what is turned, as YaRN has it (https://arxiv.org/abs/2309.00071, section 3.4).

    Raises:
        ValueError: On a head of odd width, or one too narrow for the frequencies; on a `max_wavelength` beside them.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.MultiHeadSelfAttention(2, causal=True, position=kt.RotaryPosition())
    >>> tuple(layer(np.ones((1, 3, 8))).shape)
    (1, 3, 8)
    """

    def __init__(
        self,
        max_wavelength: float = WAVELENGTH,
        *,
        interleaved: bool = False,
        frequencies: Sequence[float] | None = None,
        magnitude: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_above_zero(self, max_wavelength=max_wavelength, magnitude=magnitude)
        if frequencies is not None:
            if max_wavelength != WAVELENGTH:
                raise ValueError(
                    f"{describe(self)} takes max_wavelength or frequencies, got both: {max_wavelength} and "
                    f"{frequencies!r}."
                )
            frequencies = _finite_floats(self, frequencies)
        self.max_wavelength = max_wavelength
        self.interleaved = interleaved
        self.frequencies = frequencies
        self.magnitude = magnitude

    def build(self, heads_shape):
        width = heads_shape[-1]
        if self.frequencies is None and width % 2:
            raise ValueError(f"{describe(self)} turns pairs of coordinates and takes an even head width, got {width}.")
        if self.frequencies is not None and 2 * len(self.frequencies) > width:
            raise ValueError(
                f"{describe(self)} has {len(self.frequencies)} frequencies, for as many pairs of coordinates, and so "
                f"takes a head width of at least {2 * len(self.frequencies)}, got {width}."
            )

    def rotate(self, states, positions):
        """Queries or keys (B, H, T, K), turned by their positions."""
        options = {"frequencies": self.frequencies, "magnitude": self.magnitude}
        return rotate(states, positions, self.max_wavelength, self.interleaved, **options)

    def get_config(self):
        return {
            **super().get_config(),
            "max_wavelength": self.max_wavelength,
            "interleaved": self.interleaved,
            "frequencies": None if self.frequencies is None else list(self.frequencies),
            "magnitude": self.magnitude,
        }


def _finite_floats(position, frequencies) -> tuple[float, ...]:
    """Frequencies as floats."""
    values = np.asarray(frequencies, "float64")
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise ValueError(
            f"{describe(position)} takes a list of finite numbers as frequencies, one for each pair of coordinates, "
            f"got {frequencies!r}."
        )
    return tuple(values.tolist())


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
        return ops.multiply(ops.cast(ops.expand_dims(distance, 1), "float32"), -slopes)


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
