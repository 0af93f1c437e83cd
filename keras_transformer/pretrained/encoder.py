"""The shape of encoders: ids of tokens or pixels in; hidden states, logits or one vector out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import keras
from keras import ops

from keras_transformer.layers import ClassToken, PatchEmbedding, TokenEmbedding
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.position import AttentionPosition
from keras_transformer.pretrained.decoder import learned_positions
from keras_transformer.pretrained.initializers import PretrainedNormal
from keras_transformer.pretrained.layouts import Entry
from keras_transformer.pretrained.token_types import TokenTypeEncoding

MakeNorm = Callable[..., keras.layers.Layer]


class Parts(NamedTuple):
    """What an encoder has put together so far, as the layers behind it find it.

    Attributes:
        prefix: What the names of its layers begin with.
        inputs: By name.
        hidden: The last hidden states (B, T, D).
        embedding: The layer, or None where there are no tokens.
        dtype: Dtype policy.
        stddev: Of initial weights.
    """

    prefix: str
    dtype: Any
    stddev: float
    inputs: dict[str, keras.KerasTensor] | None = None
    hidden: keras.KerasTensor | None = None
    embedding: TokenEmbedding | None = None

    @property
    def normal(self) -> PretrainedNormal:
        """An initializer that draws on its own."""
        return PretrainedNormal(stddev=self.stddev)

    def layer(self, name: str) -> dict:
        """Options of any layer."""
        return {"dtype": self.dtype, "name": f"{self.prefix}{name}"}

    def dense(self, units: int, name: str, **options) -> keras.layers.Dense:
        """A projection of one vector."""
        return keras.layers.Dense(units, kernel_initializer=self.normal, **self.layer(name), **options)


Head = Callable[[Parts], Any]  # the outputs of a model


class First(Protocol):
    """What stands before the first layer of an encoder."""

    def build(self, parts: Parts, *, output_bias: bool) -> Parts:
        """The same with inputs, and with what goes into the first layer."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Ids as the input of an encoder: x = Dropout(Norm(E[id] + types + positions)).

    Attributes:
        vocabulary_size, dim: Sizes V and D.
        padding_id: The id that is no token, or None.
        positions: Number and offset of learned positions, or None.
        counted: An id that is not counted in positions, or None: with it, the first token that is another one has
            position 0, wherever it stands (RoBERTa, MPNet).
        types: Number of kinds of tokens; none where there is no such input.
        norm: Makes the normalization, or is None.
        dropout: Rate.
        hides_padding: Whether padding is hidden, as it need not be where tokens see only what is before them.
    """

    vocabulary_size: int
    dim: int
    padding_id: int | None
    positions: tuple[int, int] | None = None
    counted: int | None = None
    types: int = 0
    norm: MakeNorm | None = None
    dropout: float = 0.0
    hides_padding: bool = True

    def build(self, parts, *, output_bias):
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        inputs = {"tokens": tokens}
        embedding = TokenEmbedding(
            self.vocabulary_size,
            self.dim,
            padding_id=self.padding_id,
            output_bias=output_bias,
            embeddings_initializer=parts.normal,
            **parts.layer("embedding"),
        )
        x = embedding(tokens)
        if self.types:
            inputs["token_types"] = keras.Input((None,), dtype="int32", name="token_types", optional=True)
            types = TokenTypeEncoding(self.types, embeddings_initializer=parts.normal, **parts.layer("token_type"))
            x = types(x, token_types=inputs["token_types"])
        if self.positions:
            position = learned_positions(*self.positions, stddev=parts.stddev, **parts.layer("position"))
            x = position(x, positions=None if self.counted is None else count(tokens, self.counted))
        x = normalized(parts, x, self.norm, self.dropout)
        return parts._replace(inputs=inputs, hidden=x, embedding=embedding)


def count(tokens, other: int):
    """The position of each token (B, T) where those with the id `other` do not count."""
    counted = ops.cumsum(ops.cast(ops.not_equal(tokens, other), "int32"), axis=1)
    return ops.maximum(counted - 1, 0)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Images (B, height, width, channels) as the input of an encoder: each patch a vector, and a learned one before.

    Attributes:
        image, patch: Height and width, in pixels.
        channels, dim: Sizes.
        use_bias: Whether the projection of patches has one.
        norm: Makes the normalization, or is None.
        dropout: Rate.
    """

    image: tuple[int, int]
    patch: tuple[int, int]
    channels: int
    dim: int
    use_bias: bool = True
    norm: MakeNorm | None = None
    dropout: float = 0.0

    @property
    def count(self) -> int:
        """Number of patches."""
        return (self.image[0] // self.patch[0]) * (self.image[1] // self.patch[1])

    def build(self, parts, *, output_bias):
        pixels = keras.Input((*self.image, self.channels), name="pixels")
        x = PatchEmbedding(
            self.dim,
            self.patch,
            use_bias=self.use_bias,
            kernel_initializer=parts.normal,
            **parts.layer("patches"),
        )(pixels)
        x = ClassToken(embeddings_initializer=parts.normal, **parts.layer("class_token"))(x)
        x = learned_positions(self.count + 1, 0, stddev=parts.stddev, **parts.layer("position"))(x)
        x = normalized(parts, x, self.norm, self.dropout)
        return parts._replace(inputs={"pixels": pixels}, hidden=x)


def normalized(parts: Parts, x, norm: MakeNorm | None, dropout: float):
    """What goes into the first layer."""
    if norm is not None:
        x = norm(**parts.layer("embedding_norm"))(x)
    return Dropout(dropout, **parts.layer("embedding_dropout"))(x) if dropout else x


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """An encoder, its switches set.

    Attributes:
        first: What stands before the first layer.
        num_layers: Number of layers.
        layer: Makes the layer of that number; further arguments are its name, dtype and initializer.
        entries: Variables and the tensors they are made of. Those of variables that the model does not have do not
            count.
        heads: By how the names of architectures end, what stands behind the last layer.
        norm: Makes the last normalization, or is None where there is none.
        position: Makes the position that attention in all layers shares, or is None where there is none.
        stddev: Of the initial weights, where the model is made without a checkpoint.
        output_bias: Whether logits that come of the embedding have a bias.
        prefix: What the names of the layers begin with.
    """

    first: Any  # a `First`
    num_layers: int
    layer: Callable[..., keras.layers.Layer]
    entries: tuple[Entry, ...]
    heads: Mapping[str, Head]
    norm: MakeNorm | None = None
    position: Callable[..., AttentionPosition] | None = None
    stddev: float = 0.02
    output_bias: bool = False
    prefix: str = ""

    def build(self, architecture: str | None, dtype):
        name = architecture or "Model"
        head = next((head for ending, head in self.heads.items() if name.endswith(ending)), None)
        if head is None or "LMHead" in name:
            raise ValueError(
                f"'{architecture}' is not supported: of these models those are whose name ends with "
                f"{', '.join(self.heads)}."
            )
        parts = self.run(dtype, output_bias=self.output_bias and name.endswith("ForMaskedLM"))
        return as_inputs(parts.inputs), head(parts)

    def run(self, dtype, *, output_bias: bool = False) -> Parts:
        """The encoder up to its last hidden states."""
        parts = self.first.build(Parts(self.prefix, dtype, self.stddev), output_bias=output_bias)
        x = parts.hidden
        shared = {} if self.position is None else {"position": self.position(**parts.layer("position_bias"))}
        for i in range(self.num_layers):
            x = self.layer(i, kernel_initializer=parts.normal, **shared, **parts.layer(f"encoder_{i}"))(x)
        if self.norm is not None:
            x = self.norm(**parts.layer("encoder_norm"))(x)
        return parts._replace(hidden=x)


def as_inputs(inputs: dict[str, keras.KerasTensor]):
    """The inputs of a model: one, or a list of several."""
    values = list(inputs.values())
    return values[0] if len(values) == 1 else values
