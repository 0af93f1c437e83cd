"""The shape of decoder-only models: tokens in, logits of the next token or hidden states out."""

from collections.abc import Callable
from dataclasses import dataclass

import keras
from keras import ops

from keras_transformer.layers import DecoderLayer, LearnedPositionalEncoding, TokenEmbedding
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.projection import Projection
from keras_transformer.pretrained.initializers import PretrainedNormal
from keras_transformer.pretrained.layouts import Entry

WITH_LOGITS = ("ForCausalLM", "LMHeadModel")  # how the names of models end that give logits


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A decoder-only model, its switches set.

    No id is padding: with causal attention what stands behind a sequence changes nothing before it, and any id, that of
    padding too, may stand in a prompt.

    Attributes:
        vocabulary_size, dim, num_layers: Sizes V, D and the number of layers.
        layer: The options of the `DecoderLayer` of that number; `feed_forward` as a function that makes it.
        entries: Variables and the tensors they are made of. Those of variables that the model does not have do not
            count.
        norm: Makes the last normalization, or is None where there is none.
        tied: Whether the embedding is the output projection, too.
        scale: Of the embedding, as of `TokenEmbedding`.
        dropout: Rate at which what goes into the first layer is dropped.
        positions: Number and offset of learned positions, or None.
        embedding_dim: Width of the embedding where it is not D.
        logits_bias: Whether an output projection that is not tied has a bias.
        logits_soft_cap: Bound on the logits, or None.
        stddev: Of the initial weights, where the model is made without a checkpoint.
    """

    vocabulary_size: int
    dim: int
    num_layers: int
    layer: Callable[[int], dict]
    entries: tuple[Entry, ...]
    norm: Callable[..., keras.layers.Layer] | None
    tied: bool
    scale: bool | float = False
    dropout: float = 0.0
    positions: tuple[int, int] | None = None
    embedding_dim: int | None = None
    logits_bias: bool = False
    logits_soft_cap: float | None = None
    stddev: float = 0.02

    def build(self, architecture: str | None, dtype):
        with_logits = architecture is None or architecture.endswith(WITH_LOGITS)
        if not with_logits and not architecture.endswith("Model"):
            raise ValueError(
                f"'{architecture}' is not supported: of decoder-only models the bare one ('...Model') and the one that "
                "gives logits ('...ForCausalLM', '...LMHeadModel') are."
            )
        weights = {"dtype": dtype, "kernel_initializer": PretrainedNormal(stddev=self.stddev)}
        tokens = keras.Input((None,), dtype="int32", name="tokens")
        embedding = TokenEmbedding(
            self.vocabulary_size,
            self.embedding_dim or self.dim,
            padding_id=None,
            scale=self.scale,
            embeddings_initializer=PretrainedNormal(stddev=self.stddev),
            dtype=dtype,
            name="embedding",
        )
        x = embedding(tokens)
        if self.embedding_dim:
            x = Projection(self.dim, use_bias=False, name="embedding_projection", **weights)(x)
        if self.positions:
            x = learned_positions(*self.positions, stddev=self.stddev, dtype=dtype, name="position")(x)
        if self.dropout:
            x = Dropout(self.dropout, dtype=dtype, name="embedding_dropout")(x)
        for i in range(self.num_layers):
            options = {**weights, **self.layer(i)}
            if "feed_forward" in options:
                options["feed_forward"] = options["feed_forward"](name="feed_forward", **weights)
                for name in ("intermediate_dim", "activation", "gated"):
                    options.pop(name, None)
            x = DecoderLayer(name=f"decoder_{i}", **options)(x)
        if self.norm is not None:
            x = self.norm(name="decoder_norm", dtype=dtype)(x)
        if self.embedding_dim:
            x = Projection(self.embedding_dim, use_bias=False, name="output_projection", **weights)(x)
        if with_logits and self.tied:
            x = embedding(x, reverse=True)
        elif with_logits:
            x = Projection(self.vocabulary_size, use_bias=self.logits_bias, name="logits", **weights)(x)
        if with_logits and self.logits_soft_cap:
            x = ops.tanh(x / self.logits_soft_cap) * self.logits_soft_cap
        return tokens, x


def learned_positions(number: int, offset: int, *, stddev: float, **kwargs) -> LearnedPositionalEncoding:
    """A table of positions, the first of which stands in the row `offset`."""
    options = {"offset": offset} if offset else {}
    return LearnedPositionalEncoding(
        number, embeddings_initializer=PretrainedNormal(stddev=stddev), **options, **kwargs
    )
