"""The log-probability of given sequences, from one run of the full model."""

from keras import ops

from keras_transformer.context import Recording, active
from keras_transformer.decoding.decoder import Decoder, attention_to_memory
from keras_transformer.decoding.strategies import Strategy


def score_sequences(strategy: Strategy, decoder: Decoder, sources: dict, tokens, prompt_lengths, lengths=None):
    """What `strategy` would report for sequences that it had found.

    Args:
        strategy: How sequences were found: it may divide by a length penalty.
        decoder: The model.
        sources: A tensor for each source, by slot.
        tokens: (B, N, T), int32, padded on the right.
        prompt_lengths: (B, N), int32. How many tokens of each are given.
        lengths: (B, N), int32. How many tokens each has. Default: those before the padding.

    Returns:
        (B, N), float32.
    """
    batch, beams, length = ops.shape(tokens)
    memory = decoder.graph.encode(sources)
    if beams != 1:
        memory = {name: ops.repeat(value, beams, axis=0) for name, value in memory.items()}
    flat = ops.reshape(tokens, (-1, length))  # (B N, T)
    with active(Recording()) as recording:
        values = decoder.graph.decode(flat, memory)
    log_probabilities = decoder.log_probabilities(values[decoder.graph.output])  # (B N, T, V)
    # Among what is not judged may be ids that are read but never generated.
    following = ops.expand_dims(ops.minimum(flat[:, 1:], decoder.vocabulary_size - 1), -1)
    gained = ops.take_along_axis(log_probabilities[:, :-1], following, axis=-1)[..., 0]  # (B N, T - 1)
    places = ops.expand_dims(ops.arange(1, length, dtype="int32"), 0)
    judged = places >= ops.reshape(prompt_lengths, (-1, 1))
    if lengths is not None:
        judged = ops.logical_and(judged, places < ops.reshape(lengths, (-1, 1)))
    elif decoder.padding_id is not None:
        judged = ops.logical_and(judged, flat[:, 1:] != decoder.padding_id)
    scores = ops.sum(ops.where(judged, gained, 0.0), axis=-1)
    new_tokens = ops.sum(ops.cast(judged, "int32"), axis=-1)
    coverage = attention_to_memory(recording)
    if coverage is not None:
        coverage = ops.sum(ops.where(ops.expand_dims(judged, -1), coverage[:, :-1], 0.0), axis=1)  # (B N, S)
    return ops.reshape(strategy.penalize(scores, new_tokens, coverage), (batch, beams))
