"""Whole models, each a plain function of ten lines over the public layers: use them, or copy one and change it."""

from collections.abc import Sequence

import keras

from keras_transformer.layers import (
    DecoderLayer,
    DotAttention,
    EncoderLayer,
    MaskedPooling,
    PositionalEncoding,
    RecurrentDecoderLayer,
    TokenEmbedding,
)
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.normalization import normalization
from keras_transformer.layers.recurrent import CELLS
from keras_transformer.layers.residual import EPSILON
from keras_transformer.models.packable import FURTHER, PackableModel


def transformer(
    source_vocabulary_size: int,
    target_vocabulary_size: int,
    *,
    num_layers: int = 6,
    dim: int = 512,
    num_heads: int = 8,
    intermediate_dim: int = 2048,
    dropout: float = 0.1,
    padding_id: int | None | Sequence[int | None] = 0,
    packed: bool = False,
    name: str = "transformer",
    **options,
) -> keras.Model:
    """The encoder-decoder Transformer of "Attention Is All You Need".

    Inputs "source" (B, S) and "target" (B, T), int, padded with `padding_id`; output logits (B, T, target vocabulary).
    Embeddings are scaled by sqrt(dim); the target's is also the output projection.

    Args:
        source_vocabulary_size, target_vocabulary_size: Numbers of ids, padding included.
        num_layers: Of the encoder and of the decoder.
        dim: Width D.
        num_heads, intermediate_dim: Of each layer.
        dropout: Of the embeddings and of each sub-layer.
        padding_id: The id that stands for no token, or None where each is one; for both sides, or one for each.
        packed: Whether the model also takes "source_segment_ids", "source_positions", "target_segment_ids" and
            "target_positions" (B, S) and (B, T), int, as `kt.training.PackedBatches` gives them. They may be left out,
            and generation does without them.
        name: Of the model.
        options: Further arguments of `EncoderLayer` and `DecoderLayer`, such as `normalize_first=True`, `norm="rms"`.
            `position` is a function that makes one for each layer, such as `kt.RotaryPosition`, or one object that
            all layers share; without it, sinusoids are added to the embeddings. `feed_forward` is likewise a function,
            such as `lambda: kt.MixtureOfExperts(8, 2048)`, or one object; then `intermediate_dim` is not used.

    Example:

    >>> import keras_transformer as kt
    >>> model = kt.models.transformer(11, 13, num_layers=1, dim=8, num_heads=2, intermediate_dim=16)
    >>> model.output_shape
    (None, None, 13)
    """
    options = {"num_heads": num_heads, "intermediate_dim": intermediate_dim, "dropout": dropout, **options}
    source, of_source, source_positions = of_source_inputs = _inputs("source", packed)
    target, of_target, target_positions = of_target_inputs = _inputs("target", packed)
    source_padding, target_padding = _of_each_side(padding_id)
    embedding = TokenEmbedding(
        source_vocabulary_size, dim, scale=True, padding_id=source_padding, name="source_embedding"
    )
    memory = _embed(embedding, source, source_positions, options)
    for i in range(num_layers):
        memory = EncoderLayer(**_of_layer(options), name=f"encoder_{i}")(memory, segment_ids=of_source)
    memory = _finish(memory, options, "encoder_norm")
    embedding = TokenEmbedding(
        target_vocabulary_size, dim, scale=True, padding_id=target_padding, name="target_embedding"
    )
    y = _embed(embedding, target, target_positions, options)
    for i in range(num_layers):
        layer = DecoderLayer(**_of_layer(options), name=f"decoder_{i}")
        y = layer(y, memory, segment_ids=of_target, memory_segment_ids=of_source)
    inputs = [x for x in (*of_source_inputs, *of_target_inputs) if x is not None]
    return PackableModel(inputs, embedding(_finish(y, options, "decoder_norm"), reverse=True), name=name)


def language_model(
    vocabulary_size: int,
    *,
    num_layers: int = 6,
    dim: int = 512,
    num_heads: int = 8,
    intermediate_dim: int = 2048,
    dropout: float = 0.1,
    padding_id: int | None = 0,
    packed: bool = False,
    name: str = "language_model",
    **options,
) -> keras.Model:
    """A decoder-only Transformer: tokens in, logits of the next token out.

    Input "tokens" (B, T), int, padded with `padding_id`; output logits (B, T, V). Layers normalize first unless told
    otherwise.

    Args:
        vocabulary_size: Number of ids, padding included.
        num_layers, dim, num_heads, intermediate_dim, dropout, name: As in `transformer`.
        padding_id: The id that stands for no token, or None where each is one.
        packed: Whether the model also takes "segment_ids" and "positions" (B, T), int, as `kt.training.PackedBatches`
            gives them. They may be left out, and generation does without them.
        options: Further arguments of `DecoderLayer`, `position` and `feed_forward` as in `transformer`.

    Example:

    >>> import keras_transformer as kt
    >>> kt.models.language_model(11, num_layers=1, dim=8, num_heads=2, position=kt.RotaryPosition).output_shape
    (None, None, 11)
    """
    options = {"num_heads": num_heads, "intermediate_dim": intermediate_dim, "dropout": dropout, **options}
    if options.get("norm_placement") is None:
        options.setdefault("normalize_first", True)
    tokens, segment_ids, positions = inputs = _inputs("tokens", packed)
    embedding = TokenEmbedding(vocabulary_size, dim, scale=True, padding_id=padding_id, name="embedding")
    x = _embed(embedding, tokens, positions, options)
    for i in range(num_layers):
        x = DecoderLayer(**_of_layer(options), name=f"decoder_{i}")(x, segment_ids=segment_ids)
    inputs = inputs if packed else tokens
    return PackableModel(inputs, embedding(_finish(x, options, "decoder_norm"), reverse=True), name=name)


def encoder_classifier(
    vocabulary_size: int,
    num_classes: int,
    *,
    num_layers: int = 6,
    dim: int = 512,
    num_heads: int = 8,
    intermediate_dim: int = 2048,
    dropout: float = 0.1,
    padding_id: int | None = 0,
    name: str = "encoder_classifier",
    **options,
) -> keras.Model:
    """An encoder whose mean over the real tokens is classified. (Without a token it is zeros.)

    Input "tokens" (B, T), int, padded with `padding_id`; output logits (B, num_classes).

    Args:
        vocabulary_size: Number of ids, padding included.
        num_classes: Number of classes.
        num_layers, dim, num_heads, intermediate_dim, dropout, name: As in `transformer`.
        padding_id: The id that stands for no token, or None where each is one.
        options: Further arguments of `EncoderLayer`, `position` and `feed_forward` as in `transformer`.

    Example:

    >>> import keras_transformer as kt
    >>> kt.models.encoder_classifier(11, 3, num_layers=1, dim=8, num_heads=2).output_shape
    (None, 3)
    """
    options = {"num_heads": num_heads, "intermediate_dim": intermediate_dim, "dropout": dropout, **options}
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = TokenEmbedding(vocabulary_size, dim, scale=True, padding_id=padding_id, name="embedding")
    x = _embed(embedding, tokens, None, options)
    for i in range(num_layers):
        x = EncoderLayer(**_of_layer(options), name=f"encoder_{i}")(x)
    x = MaskedPooling("mean", name="mean")(_finish(x, options, "encoder_norm"))
    return PackableModel(tokens, keras.layers.Dense(num_classes, name="classes")(x), name=name)


def recurrent_seq2seq(
    source_vocabulary_size: int,
    target_vocabulary_size: int,
    *,
    cell: str = "lstm",
    attention: str | None = None,
    dim: int = 512,
    num_layers: int = 1,
    dropout: float = 0.0,
    padding_id: int | None | Sequence[int | None] = 0,
    name: str = "recurrent_seq2seq",
) -> keras.Model:
    """A recurrent encoder-decoder, as translation was done before the Transformer.

    Inputs "source" (B, S) and "target" (B, T), int, padded with `padding_id`; output logits (B, T, target vocabulary).
    The decoder starts from what the encoder ended with, layer by layer. Embeddings are half as wide as the states.

    - Without attention, "lstm" knows the source by that alone ("Sequence to Sequence Learning with Neural Networks",
      https://arxiv.org/abs/1409.3215); for "gru" and "rnn" the encoder's last state is also a context vector that goes
      into every step and into the output ("Learning Phrase Representations using RNN Encoder-Decoder",
      https://arxiv.org/abs/1406.1078).
    - "dot" attends behind the recurrent layers, which gives each output a context vector of its own (`DotAttention`).
    - "additive" attends within the step, to an encoder that reads in both directions (`RecurrentDecoderLayer`).

    Args:
        source_vocabulary_size, target_vocabulary_size: Numbers of ids, padding included.
        cell: "rnn", "lstm" or "gru".
        attention: None, "dot" or "additive".
        dim: Width of the states, of each direction.
        num_layers: Of the encoder and of the decoder.
        dropout: Of the embeddings and between layers.
        padding_id: As in `transformer`.
        name: Of the model.

    Raises:
        ValueError: If `cell` or `attention` is unknown, or `num_layers` or `dim` is too small.

    Example:

    >>> import keras_transformer as kt
    >>> kt.models.recurrent_seq2seq(11, 13, cell="gru", attention="additive", dim=8).output_shape
    (None, None, 13)
    """
    if cell not in CELLS or attention not in (None, "dot", "additive"):
        raise ValueError(
            "recurrent_seq2seq takes 'rnn', 'lstm' or 'gru' as cell and None, 'dot' or 'additive' as attention, got "
            f"cell={cell!r}, attention={attention!r}."
        )
    if num_layers < 1 or dim < 2:
        raise ValueError(
            "recurrent_seq2seq takes at least 1 as num_layers and at least 2 as dim (embeddings are half as wide), got "
            f"num_layers={num_layers}, dim={dim}."
        )
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    source_padding, target_padding = _of_each_side(padding_id)
    x = TokenEmbedding(source_vocabulary_size, dim // 2, padding_id=source_padding, name="source_embedding")(source)
    y = TokenEmbedding(target_vocabulary_size, dim // 2, padding_id=target_padding, name="target_embedding")(target)
    y = embedded = Dropout(dropout, name="target_embedding_dropout")(y)
    states = []
    for i in range(num_layers):
        layer = CELLS[cell](dim, return_sequences=True, return_state=True, name=f"encoder_{i}")
        layer = keras.layers.Bidirectional(layer, name=f"encoder_{i}") if attention == "additive" else layer
        x, *last = layer(Dropout(dropout, name=f"encoder_{i}_dropout")(x))
        states.append(_bridge(last, dim, f"bridge_{i}") if attention == "additive" else last)
    memory = {"additive": x, "dot": None, None: None if cell == "lstm" else states[-1][0]}[attention]
    for i in range(num_layers):
        y = Dropout(dropout, name=f"decoder_{i}_dropout")(y) if i else y
        y = RecurrentDecoderLayer(dim, cell, name=f"decoder_{i}")(y, memory, initial_state=states[i])
        y, context = (y, None) if memory is None else y
    if attention == "dot":
        y = DotAttention(dim, name="attention")(y, x)
    if memory is not None:
        y = keras.layers.Concatenate(name="deep_output")([embedded, y, context])
    return PackableModel([source, target], keras.layers.Dense(target_vocabulary_size, name="logits")(y), name=name)


def _bridge(states, dim: int, name: str) -> list:
    """The states of a decoder from those that the two directions of an encoder ended with."""
    half = len(states) // 2
    return [
        keras.layers.Dense(dim, activation="tanh", name=f"{name}_{i}")(keras.layers.Concatenate()([forward, backward]))
        for i, (forward, backward) in enumerate(zip(states[:half], states[half:], strict=True))
    ]


def _of_each_side(padding_id) -> tuple:
    """The padding ids of source and target, given as one for both or one for each."""
    if not isinstance(padding_id, list | tuple):
        return padding_id, padding_id
    if len(padding_id) != 2:
        raise ValueError(f"padding_id is one for source and target, or one for each of the two, got {padding_id!r}.")
    return tuple(padding_id)


def _inputs(name: str, packed: bool) -> list:
    """The input of token ids of that name; and those of segment ids and of positions, or None."""
    tokens = keras.Input((None,), dtype="int32", name=name)
    if not packed:
        return [tokens, None, None]
    prefix = "" if name == "tokens" else f"{name}_"
    return [tokens, *(keras.Input((None,), dtype="int32", name=prefix + x, optional=True) for x in FURTHER)]


def _embed(embedding, tokens, positions, options: dict):
    """Embedded tokens, with sinusoids unless attention has positions of its own, dropped out (paper, section 5.4)."""
    x = embedding(tokens)
    if options.get("position") is None:
        x = PositionalEncoding(name=f"{embedding.name}_position")(x, positions=positions)
    return Dropout(options["dropout"], name=f"{embedding.name}_dropout")(x)


def _finish(x, options: dict, name: str):
    """The last normalization, which a stack needs unless its layers normalize what they put out."""
    first = options.get("normalize_first") or options.get("parallel_norms") is not None
    if options.get("norm_placement") in (None, "after") and not first:
        return x
    return normalization(options.get("norm", "layer"), epsilon=options.get("norm_epsilon", EPSILON), name=name)(x)


def _of_layer(options: dict) -> dict:
    """The options of one layer: objects of its own, where functions that make them were given."""
    made = {
        name: options[name]()
        for name in ("position", "feed_forward")
        if options.get(name) is not None and not isinstance(options[name], keras.layers.Layer)
    }
    options = {**options, **made}
    if options.get("feed_forward") is not None:
        options.pop("intermediate_dim")
    return options
