"""What encoder and decoder layers have in common: their arguments, and the parts they are made of."""

from typing import Unpack

import keras

from keras_transformer.layers.attention import MultiHeadSelfAttention
from keras_transformer.layers.checks import check_positive, check_rate, check_sequence, describe
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.heads import AttentionOptions
from keras_transformer.layers.position import deserialize_position, serialize_position
from keras_transformer.layers.projection import WeightOptions
from keras_transformer.layers.prototype import Prototype
from keras_transformer.layers.residual import Residual, ResidualOptions

ATTENTION_OPTIONS = tuple(AttentionOptions.__annotations__)
OF_FEED_FORWARD = {"intermediate_dim": None, "activation": "relu", "gated": False}  # the defaults


class BlockOptions(AttentionOptions, ResidualOptions, WeightOptions, total=False):
    """The options that a block hands on to its parts under the same names."""


class TransformerBlock(Residual):
    """The arguments of `EncoderLayer` and `DecoderLayer`, and the parts they are made of."""

    causal = False

    def __init__(
        self,
        num_heads: int,
        intermediate_dim: int | None = None,
        *,
        feed_forward: keras.layers.Layer | None = None,
        attention_dropout: float = 0.0,
        activation="relu",
        gated: bool = False,
        use_bias: bool = True,
        **kwargs: Unpack[BlockOptions],
    ):
        options: dict = {**kwargs}
        self.attention_options = {name: options.pop(name) for name in ATTENTION_OPTIONS if name in options}
        if "position" in self.attention_options:
            self.attention_options["position"] = deserialize_position(self.attention_options["position"])
        if "qk_norm" in self.attention_options:
            self.attention_options["qk_norm"] = Prototype.of(self.attention_options["qk_norm"])
        super().__init__(**options)
        check_positive(self, num_heads=num_heads)
        check_rate(self, attention_dropout=attention_dropout)
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.use_bias = use_bias
        given = deserialize_position(feed_forward)
        self.feed_forward_is_given = given is not None
        if given is None:
            check_positive(self, intermediate_dim=intermediate_dim)
            self.feed_forward = self.make(
                FeedForward,
                "feed_forward",
                intermediate_dim=intermediate_dim,
                activation=activation,
                gated=gated,
                use_bias=use_bias,
                **self.weight_options,
            )
        else:
            self._check_given(given, intermediate_dim=intermediate_dim, activation=activation, gated=gated)
            self.feed_forward = self.adopt("feed_forward", given)
        self.self_attention = self._attention(
            MultiHeadSelfAttention, "self_attention", causal=self.causal, **self.attention_options
        )

    def _check_given(self, given, **options) -> None:
        """Raise ValueError if the feed-forward network that was given is no layer, or is told what it is twice."""
        if not isinstance(given, keras.layers.Layer):
            raise ValueError(
                f"{describe(self)} takes a layer as feed_forward, such as MixtureOfExperts(8, 64), got {given!r}."
            )
        told = {name: value for name, value in options.items() if value != OF_FEED_FORWARD[name]}
        if told:
            raise ValueError(
                f"{describe(self)} takes {' and '.join(told)} or a feed_forward, which has them itself, got both: "
                f"{', '.join(f'{name}={value!r}' for name, value in told.items())} and {given!r}."
            )

    def _attention(self, attention_class, name: str, **options):
        """An attention sub-layer with the options that all attention of this block shares."""
        return self.make(
            attention_class,
            name,
            num_heads=self.num_heads,
            dropout=self.attention_dropout,
            use_bias=self.use_bias,
            **self.weight_options,
            **options,
        )

    def _transform(self, x, mask, training):
        """What the feed-forward network makes of x."""
        options = {"mask": mask, "training": training}
        taken = self.feed_forward.call_signature_parameters
        update = self.feed_forward(x, **{name: value for name, value in options.items() if name in taken})
        if update.shape[-1] != x.shape[-1]:
            raise ValueError(
                f"{describe(self)} takes a feed_forward that keeps the width of its input, {x.shape[-1]}, since a "
                f"residual goes around it; {describe(self.feed_forward)} puts out {update.shape[-1]}."
            )
        return update

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        self.self_attention.build(inputs_shape)
        self._build_residual("self_attention", inputs_shape)
        if not self.feed_forward.built:  # one that was given may be
            self.feed_forward.build(inputs_shape)
        self._build_residual("feed_forward", inputs_shape)

    def get_config(self):
        given = self.feed_forward if self.feed_forward_is_given else None
        feed_forward = self.feed_forward.get_config() if given is None else OF_FEED_FORWARD
        options = dict(self.attention_options)
        if "position" in options:
            options["position"] = serialize_position(options["position"])
        if "qk_norm" in options:
            options["qk_norm"] = Prototype.serialize(options["qk_norm"])
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "intermediate_dim": feed_forward["intermediate_dim"],
            "feed_forward": serialize_position(given),
            "attention_dropout": self.attention_dropout,
            "activation": feed_forward["activation"],
            "gated": feed_forward["gated"],
            "use_bias": self.use_bias,
            **options,
        }
