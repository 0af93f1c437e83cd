"""The shape of encoder-decoders: a source and the tokens so far in, logits of the next token or hidden states out."""

from collections.abc import Callable
from dataclasses import dataclass

import keras

from keras_transformer.layers import DecoderLayer, EncoderLayer, PaddingMask, TokenEmbedding
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.fixed_bias import FixedBias
from keras_transformer.layers.projection import Projection
from keras_transformer.pretrained.initializers import PretrainedNormal
from keras_transformer.pretrained.layouts import Entry

WITH_LOGITS = ("ForConditionalGeneration", "MTModel", "LMHeadModel")  # how the names of models end that give logits
Maker = Callable[..., keras.layers.Layer]  # takes name and dtype


@dataclass(frozen=True, kw_only=True)
class Stack:
    """An encoder or a decoder, its switches set.

    Attributes:
        num_layers: Number of layers.
        layer: Makes the options of a layer; `feed_forward` in them is a function that makes it.
        position: Makes what adds positions to the embeddings, or is None.
        embedding_norm: Makes the normalization of embeddings with their positions, or is None.
        shared_position: Makes the position object that all layers share, or is None.
        norm: Makes the last normalization, or is None.
        last_dropout: Whether what comes out is dropped, too.
    """

    num_layers: int
    layer: Callable[[], dict]
    position: Maker | None = None
    embedding_norm: Maker | None = None
    shared_position: Maker | None = None
    norm: Maker | None = None
    last_dropout: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderDecoder:
    """An encoder-decoder, its switches set.

    Sources are padded with `padding_id`. In targets every id is a token: what pads a text is also what many sequences
    begin with, and what stands behind a sequence changes nothing before it.

    Attributes:
        vocabulary_size, dim: Sizes V and D.
        encoder, decoder: The stacks.
        entries: Variables and the tensors they are made of. Those of variables that the model does not have do not
            count.
        padding_id: Of sources.
        target_vocabulary_size: Of a table that only targets have. None: both share one.
        features: The shape (length, width) of an input "features" in place of ids, and what makes the vectors
            (B, S, D) of it that stand for embeddings, told the dtype. None for ids.
        tied: Whether the targets' table is the output projection, too.
        scale: Of the embedding, as of `TokenEmbedding`.
        output_scale: Factor on what goes into the output projection.
        logits_bias: Whether logits have a bias that is not trained.
        dropout: Rate at which what goes into the first layer is dropped.
        stddev: Of the initial weights, where the model is made without a checkpoint.
    """

    vocabulary_size: int
    dim: int
    encoder: Stack
    decoder: Stack
    entries: tuple[Entry, ...]
    padding_id: int | None = None
    target_vocabulary_size: int | None = None
    features: tuple[tuple[int, int], Callable] | None = None
    tied: bool = True
    scale: bool | float = False
    output_scale: float = 1.0
    logits_bias: bool = False
    dropout: float = 0.0
    stddev: float = 0.02

    def build(self, architecture: str | None, dtype):
        with_logits = architecture is None or architecture.endswith(WITH_LOGITS)
        if not with_logits and not architecture.endswith("Model"):
            raise ValueError(
                f"'{architecture}' is not supported: of encoder-decoders the bare one ('...Model'), its encoder "
                "('...EncoderModel') and the one that gives logits ('...ForConditionalGeneration', '...MTModel') are."
            )
        embeddings = self._embeddings(dtype)
        source, x = self._source(embeddings, dtype)
        memory = self._run(self.encoder, "encoder", x, None, dtype)
        if architecture is not None and architecture.endswith("EncoderModel"):
            return source, memory
        target = keras.Input((None,), dtype="int32", name="target")
        y = self._embedded(self.decoder, "target", embeddings["target"](target), dtype)
        y = self._run(self.decoder, "decoder", y, memory, dtype)
        if with_logits:
            y = y * self.output_scale if self.output_scale != 1.0 else y
            y = embeddings["target"](y, reverse=True) if self.tied else self._projection(dtype)(y)
            y = FixedBias(dtype=dtype, name="logits_bias")(y) if self.logits_bias else y
        return [source, target], y

    def _embeddings(self, dtype) -> dict[str, TokenEmbedding]:
        """The tables of source and target, which may be one."""

        def embedding(size, name):
            initializer = PretrainedNormal(stddev=self.stddev)
            options = {"padding_id": None, "scale": self.scale, "embeddings_initializer": initializer}
            return TokenEmbedding(size, self.dim, dtype=dtype, name=name, **options)

        if self.features is not None or self.target_vocabulary_size is None:
            shared = embedding(self.vocabulary_size, "embedding")
            return {"source": shared, "target": shared}
        return {
            "source": embedding(self.vocabulary_size, "source_embedding"),
            "target": embedding(self.target_vocabulary_size, "target_embedding"),
        }

    def _source(self, embeddings, dtype):
        """The input of the encoder, and what its first layer is given."""
        if self.features is not None:
            shape, convolve = self.features
            source = keras.Input(shape, dtype="float32", name="features")
            return source, self._embedded(self.encoder, "source", convolve(source, dtype), dtype)
        source = ids = keras.Input((None,), dtype="int32", name="source")
        if self.padding_id is not None:
            ids = PaddingMask(self.padding_id, name="source_mask")(ids)
        return source, self._embedded(self.encoder, "source", embeddings["source"](ids), dtype)

    def _embedded(self, stack: Stack, side: str, x, dtype):
        """Embeddings with positions, normalized and dropped."""
        if stack.position is not None:
            x = stack.position(name=f"{side}_position", dtype=dtype)(x)
        if stack.embedding_norm is not None:
            x = stack.embedding_norm(name=f"{side}_norm", dtype=dtype)(x)
        return Dropout(self.dropout, dtype=dtype, name=f"{side}_dropout")(x) if self.dropout else x

    def _run(self, stack: Stack, name: str, x, memory, dtype):
        """What the layers of a stack make of a sequence."""
        weights = {"dtype": dtype, "kernel_initializer": PretrainedNormal(stddev=self.stddev)}
        shared = {}
        if stack.shared_position is not None:
            shared["position"] = stack.shared_position(name=f"{name}_position", dtype=dtype)
        for i in range(stack.num_layers):
            options = {**weights, **stack.layer(), **shared}
            options["feed_forward"] = options["feed_forward"](name="feed_forward", **weights)
            layer = EncoderLayer if memory is None else DecoderLayer
            layer = layer(name=f"{name}_{i}", **options)
            x = layer(x) if memory is None else layer(x, memory)
        if stack.norm is not None:
            x = stack.norm(name=f"{name}_norm", dtype=dtype)(x)
        return Dropout(self.dropout, dtype=dtype, name=f"{name}_dropout")(x) if stack.last_dropout else x

    def _projection(self, dtype) -> Projection:
        size = self.target_vocabulary_size or self.vocabulary_size
        initializer = PretrainedNormal(stddev=self.stddev)
        return Projection(size, use_bias=False, kernel_initializer=initializer, dtype=dtype, name="logits")
