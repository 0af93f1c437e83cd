"""Whole models, each a plain function of ten lines over the public layers: use them, or copy one and change it."""

import keras

from keras_transformer.layers import DecoderLayer, EncoderLayer, PositionalEncoding, TokenEmbedding
from keras_transformer.layers.normalization import normalization


def transformer(
    source_vocabulary_size: int,
    target_vocabulary_size: int,
    *,
    num_layers: int = 6,
    dim: int = 512,
    num_heads: int = 8,
    intermediate_dim: int = 2048,
    dropout: float = 0.1,
    name: str = "transformer",
    **options,
) -> keras.Model:
    """The encoder-decoder Transformer of "Attention Is All You Need".

    Inputs "source" (B, S) and "target" (B, T), int, padded with 0; output logits (B, T, target vocabulary).
    Embeddings are scaled by sqrt(dim); the target's is also the output projection.

    Args:
        source_vocabulary_size, target_vocabulary_size: Numbers of ids, padding included.
        num_layers: Of the encoder and of the decoder.
        dim: Width D.
        num_heads, intermediate_dim: Of each layer.
        dropout: Of the embeddings and of each sub-layer.
        name: Of the model.
        options: Further arguments of `EncoderLayer` and `DecoderLayer`, such as `normalize_first=True`, `norm="rms"`.
            `position` is a function that makes one for each layer, such as `kt.RotaryPosition`, or one object that
            all layers share; without it, sinusoids are added to the embeddings.

    Example:

    >>> import keras_transformer as kt
    >>> model = kt.models.transformer(11, 13, num_layers=1, dim=8, num_heads=2, intermediate_dim=16)
    >>> model.output_shape
    (None, None, 13)
    """
    options = {"num_heads": num_heads, "intermediate_dim": intermediate_dim, "dropout": dropout, **options}
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    memory = _embed(TokenEmbedding(source_vocabulary_size, dim, scale=True, name="source_embedding"), source, options)
    for i in range(num_layers):
        memory = EncoderLayer(**_own_position(options), name=f"encoder_{i}")(memory)
    memory = _finish(memory, options, "encoder_norm")
    embedding = TokenEmbedding(target_vocabulary_size, dim, scale=True, name="target_embedding")
    y = _embed(embedding, target, options)
    for i in range(num_layers):
        y = DecoderLayer(**_own_position(options), name=f"decoder_{i}")(y, memory)
    return keras.Model([source, target], embedding(_finish(y, options, "decoder_norm"), reverse=True), name=name)


def language_model(
    vocabulary_size: int,
    *,
    num_layers: int = 6,
    dim: int = 512,
    num_heads: int = 8,
    intermediate_dim: int = 2048,
    dropout: float = 0.1,
    name: str = "language_model",
    **options,
) -> keras.Model:
    """A decoder-only Transformer: tokens in, logits of the next token out.

    Input "tokens" (B, T), int, padded with 0; output logits (B, T, V). Layers normalize first unless told
    otherwise.

    Args:
        vocabulary_size: Number of ids, padding included.
        num_layers, dim, num_heads, intermediate_dim, dropout, name: As in `transformer`.
        options: Further arguments of `DecoderLayer`, `position` as in `transformer`.

    Example:

    >>> import keras_transformer as kt
    >>> kt.models.language_model(11, num_layers=1, dim=8, num_heads=2, position=kt.RotaryPosition).output_shape
    (None, None, 11)
    """
    options = {"num_heads": num_heads, "intermediate_dim": intermediate_dim, "dropout": dropout, **options}
    options.setdefault("normalize_first", True)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = TokenEmbedding(vocabulary_size, dim, scale=True, name="embedding")
    x = _embed(embedding, tokens, options)
    for i in range(num_layers):
        x = DecoderLayer(**_own_position(options), name=f"decoder_{i}")(x)
    return keras.Model(tokens, embedding(_finish(x, options, "decoder_norm"), reverse=True), name=name)


def encoder_classifier(
    vocabulary_size: int,
    num_classes: int,
    *,
    num_layers: int = 6,
    dim: int = 512,
    num_heads: int = 8,
    intermediate_dim: int = 2048,
    dropout: float = 0.1,
    name: str = "encoder_classifier",
    **options,
) -> keras.Model:
    """An encoder whose mean over the real tokens is classified.

    Input "tokens" (B, T), int, padded with 0; output logits (B, num_classes).

    Args:
        vocabulary_size: Number of ids, padding included.
        num_classes: Number of classes.
        num_layers, dim, num_heads, intermediate_dim, dropout, name: As in `transformer`.
        options: Further arguments of `EncoderLayer`; `position` as in `transformer`.

    Example:

    >>> import keras_transformer as kt
    >>> kt.models.encoder_classifier(11, 3, num_layers=1, dim=8, num_heads=2).output_shape
    (None, 3)
    """
    options = {"num_heads": num_heads, "intermediate_dim": intermediate_dim, "dropout": dropout, **options}
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = TokenEmbedding(vocabulary_size, dim, scale=True, name="embedding")
    x = _embed(embedding, tokens, options)
    for i in range(num_layers):
        x = EncoderLayer(**_own_position(options), name=f"encoder_{i}")(x)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(_finish(x, options, "encoder_norm"))
    return keras.Model(tokens, keras.layers.Dense(num_classes, name="classes")(x), name=name)


def _embed(embedding, tokens, options: dict):
    """Embedded tokens, with sinusoids unless attention has positions of its own, dropped out (paper, section 5.4)."""
    x = embedding(tokens)
    if options.get("position") is None:
        x = PositionalEncoding(name=f"{embedding.name}_position")(x)
    return keras.layers.Dropout(options["dropout"], name=f"{embedding.name}_dropout")(x)


def _finish(x, options: dict, name: str):
    """The last normalization, which a stack of layers that normalize first needs."""
    if not options.get("normalize_first"):
        return x
    return normalization(options.get("norm", "layer"), epsilon=options.get("norm_epsilon", 1e-5), name=name)(x)


def _own_position(options: dict) -> dict:
    """The options with a position object of the layer's own, where a function that makes one was given."""
    position = options.get("position")
    if isinstance(position, keras.layers.Layer) or position is None:
        return options
    return {**options, "position": position()}
