"""Padding is inert: what lies under it changes nothing, on whichever side it is and however the mask got there."""

import warnings

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

from .helpers import (
    BATCH,
    DIM,
    HEAD_DIM,
    HEADS,
    INNER,
    KEYS,
    LENGTH,
    MASK,
    MEMORY,
    MEMORY_DIM,
    MEMORY_MASK,
    POSITIONS,
    VOCABULARY,
    X,
    as_numpy,
    randomize,
)

SOURCE = np.where(MEMORY_MASK, np.random.default_rng(1).integers(1, VOCABULARY, MEMORY_MASK.shape), 0).astype("int32")
TARGET = np.where(MASK, np.random.default_rng(2).integers(1, VOCABULARY, MASK.shape), 0).astype("int32")


def disturbed(x, mask, size=97.0):
    """`x` with other values under the padding."""
    noise = size * np.random.default_rng(6).normal(size=x.shape).astype("float32")
    return np.where(mask[..., None], x, noise)


def at_real_tokens(output, mask):
    return as_numpy(output)[mask]


# With an explicit mask


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize(
    "layer",
    [
        lambda position: kt.MultiHeadSelfAttention(HEADS, HEAD_DIM, position=position),
        lambda position: kt.MultiHeadSelfAttention(HEADS, HEAD_DIM, causal=True, window=3, position=position),
        lambda position: kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM, position=position),
        lambda position: kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM, normalize_first=True, position=position),
    ],
    ids=["self-attention", "causal self-attention", "encoder", "decoder"],
)
def test_what_is_under_padding_changes_nothing(layer, position, assert_close):
    layer = layer(POSITIONS[position]())
    before = at_real_tokens(layer(X, mask=MASK), MASK)
    assert_close(at_real_tokens(layer(disturbed(X, MASK), mask=MASK), MASK), before, 1e-6)


@pytest.mark.parametrize("make", [kt.MultiHeadCrossAttention, lambda h: kt.DecoderLayer(h, INNER, head_dim=HEAD_DIM)],
                         ids=["cross-attention", "decoder"])  # fmt: skip
def test_what_is_under_the_padding_of_a_memory_changes_nothing(make, assert_close):
    layer = make(HEADS) if make is not kt.MultiHeadCrossAttention else make(HEADS, HEAD_DIM)
    before = as_numpy(layer(X, MEMORY, memory_mask=MEMORY_MASK))
    assert_close(layer(X, disturbed(MEMORY, MEMORY_MASK), memory_mask=MEMORY_MASK), before, 1e-6)


@pytest.mark.parametrize("position", POSITIONS)
def test_more_padding_changes_nothing(position, assert_close):
    """A row padded on the right gives what it gives alone; and, with relative positions, padded on the left, too."""
    layer = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM, position=POSITIONS[position]())
    alone = as_numpy(layer(X))
    padding = np.full((BATCH, 2, DIM), 31.0, "float32")
    real = np.ones((BATCH, LENGTH), bool)
    right = layer(np.concatenate([X, padding], 1), mask=np.concatenate([real, ~real[:, :2]], 1))
    left = layer(np.concatenate([padding, X], 1), mask=np.concatenate([~real[:, :2], real], 1))
    assert_close(as_numpy(right)[:, :LENGTH], alone)
    assert_close(as_numpy(left)[:, 2:], alone, 2e-5)


# With masks that Keras carries


def probe(dim, seed):
    """A layer that puts a large vector of its own wherever the id is 0, and keeps the mask."""
    embedding = kt.TokenEmbedding(VOCABULARY, dim)
    embedding.build((None, None))
    randomize(embedding, seed)
    return embedding


def padded_model(body):
    """A functional model of `body(target embedding, source embedding)`, and a function to disturb its padding."""
    source, target = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    source_embedding, target_embedding = probe(MEMORY_DIM, 1), probe(DIM, 2)
    model = keras.Model([source, target], body(target_embedding(target), source_embedding(source)))
    for i, layer in enumerate(model.layers):
        randomize(layer, i)

    def disturb():
        for embedding in (source_embedding, target_embedding):
            table = embedding.embeddings.numpy().copy()
            table[0] = 97.0 * np.random.default_rng(7).normal(size=table.shape[1])
            embedding.embeddings.assign(table)

    return model, disturb


def check_padding_is_inert(body, assert_close):
    model, disturb = padded_model(body)
    before = at_real_tokens(model([SOURCE, TARGET]), MASK)
    disturb()
    assert_close(at_real_tokens(model([SOURCE, TARGET]), MASK), before, 2e-6)
    return model


def test_three_cross_attentions_over_one_memory(assert_close):
    def body(y, memory):
        for _ in range(3):
            y = kt.MultiHeadCrossAttention(HEADS, HEAD_DIM)(y, memory)
        return y

    check_padding_is_inert(body, assert_close)


def test_three_decoder_layers_over_three_encoder_layers(assert_close):
    def body(y, memory):
        for _ in range(3):
            memory = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM, norm="rms")(memory)
        for _ in range(3):
            y = kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM, norm="rms")(y, memory)
        return y

    check_padding_is_inert(body, assert_close)


def test_masks_pass_through_every_layer(assert_close):
    def body(y, memory):
        y = kt.LearnedPositionalEncoding(11)(kt.PositionalEncoding()(y))
        y = kt.FeedForward(INNER)(kt.RMSNormalization()(y))
        memory = kt.FeedForward(INNER)(kt.PositionalEncoding()(memory))
        y = kt.MultiHeadSelfAttention(HEADS, HEAD_DIM)(y)
        return kt.MultiHeadSelfAttention(HEADS, HEAD_DIM)(kt.MultiHeadCrossAttention(HEADS, HEAD_DIM)(y, memory))

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_padding_is_inert(body, assert_close)


def test_masks_reach_the_layers_behind(assert_close):
    def body(y, memory):
        y = kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(y, memory)
        return ops.expand_dims(keras.layers.GlobalAveragePooling1D()(y), 1) + ops.zeros_like(y)

    check_padding_is_inert(body, assert_close)


def test_masks_are_carried_without_a_model(assert_close):
    source, target = probe(MEMORY_DIM, 1), probe(DIM, 2)
    layers = [kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM) for _ in range(3)]

    def run():
        y, memory = target(ops.convert_to_tensor(TARGET)), source(ops.convert_to_tensor(SOURCE))
        for layer in layers:
            y = layer(y, memory)
        return at_real_tokens(y, MASK)

    before = run()
    for embedding in (source, target):
        table = embedding.embeddings.numpy().copy()
        table[0] = 97.0
        embedding.embeddings.assign(table)
    assert_close(run(), before, 2e-6)


def test_an_explicit_mask_goes_before_the_carried_one(assert_close):
    embedding, layer = probe(DIM, 1), kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM)
    x = embedding(ops.convert_to_tensor(TARGET))
    everything = np.ones_like(MASK)
    assert_close(layer(x, mask=everything), layer(as_numpy(x)))


# Masks that an operation dropped

DROPPED = {
    "x + y": lambda x, y: x + y,
    "y + x": lambda x, y: y + x,
    "layers.Add": lambda x, y: keras.layers.Add()([x, y]),
    "x + y, and then a layer": lambda x, y: keras.layers.LayerNormalization()(x + y),
    "x + y, twice": lambda x, y: (x + y) + y,
}


def unmasked(x):
    """A tensor of the shape of `x` that has no mask."""
    return ops.zeros_like(x) + 0.3


@pytest.mark.parametrize("add", DROPPED)
def test_a_mask_that_a_sum_dropped_is_taken_up_again_with_one_warning(add, assert_close):
    def body(y, memory):
        memory = DROPPED[add](memory, unmasked(memory))
        for name in ("first", "second"):
            y = kt.MultiHeadCrossAttention(HEADS, HEAD_DIM, name=name)(y, memory)
        return y

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        check_padding_is_inert(body, assert_close)
    (message,) = [str(warning.message) for warning in caught if warning.category is UserWarning]
    assert "MultiHeadCrossAttention 'first'" in message and "padding mask was dropped" in message
    assert "operation Add 'add" in message


def test_dropped_masks_of_inputs_and_memory_are_both_taken_up(assert_close):
    def body(y, memory):
        y, memory = y + unmasked(y), memory + unmasked(memory)
        for _ in range(2):
            y = kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(y, memory)
        return y

    with pytest.warns(UserWarning, match="Add"):
        check_padding_is_inert(body, assert_close)


def test_a_mask_taken_up_again_reaches_the_layers_behind(assert_close):
    def body(y, memory):
        y = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(y + unmasked(y))
        return ops.expand_dims(keras.layers.GlobalAveragePooling1D()(y), 1) + ops.zeros_like(y)

    with pytest.warns(UserWarning, match="Add"):
        check_padding_is_inert(body, assert_close)


def test_both_masks_of_a_sum_count():
    """Where both sides have a mask, Keras keeps one for `Add`; nothing is attended to that either side pads."""
    ids = keras.Input((LENGTH,), dtype="int32")
    other = keras.Input((LENGTH,), dtype="int32")
    x, y = probe(DIM, 1)(ids), probe(DIM, 2)(other)
    with pytest.warns(UserWarning, match="Add"):
        _, scores = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(x + y, return_attention_scores=True)
    weights = as_numpy(keras.Model([ids, other], scores)([TARGET, TARGET[:, ::-1].copy()]))
    seen = (weights > 0).any(axis=(1, 2))
    np.testing.assert_array_equal(seen, MASK & MASK[:, ::-1])


def test_a_dropped_mask_that_may_not_fit_any_more_is_warned_of():
    def body(y, memory):
        return kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(ops.flip(y, axis=1))

    with pytest.warns(UserWarning, match="dropped by the operation Flip.*attended to.*argument `mask`"):
        padded_model(body)


def test_an_explicit_mask_needs_no_warning():
    def body(y, memory):
        return kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(y + unmasked(y), mask=y._keras_mask)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        padded_model(body)


def test_a_model_that_never_had_a_mask_needs_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x = keras.Input((None, DIM))
        kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(x + unmasked(x))


# Packed sequences


def packed():
    """Rows of 5 that hold sequences of 3 and 2 tokens, and a memory of 7 that holds theirs of 4 and 3."""
    segments = np.tile([[1, 1, 1, 2, 2]], (BATCH, 1)).astype("int32")
    memory_segments = np.tile([[1, 1, 1, 1, 2, 2, 2]], (BATCH, 1)).astype("int32")
    return segments, memory_segments, [(slice(0, 3), slice(0, 4)), (slice(3, LENGTH), slice(4, KEYS))]


@pytest.mark.parametrize(
    ("block", "position"),
    [
        *((kt.EncoderLayer, position) for position in POSITIONS),
        (kt.DecoderLayer, "no position"),
        (kt.DecoderLayer, "rotary"),
    ],
)
def test_packed_segments_equal_rows_of_their_own(block, position, assert_close):
    layer = block(HEADS, INNER, head_dim=HEAD_DIM, window=2, position=POSITIONS[position]())
    segments, memory_segments, parts = packed()
    if block is kt.EncoderLayer:
        together = as_numpy(layer(X, segment_ids=segments))
        apart = [layer(X[:, own]) for own, _ in parts]
    else:
        together = as_numpy(layer(X, MEMORY, segment_ids=segments, memory_segment_ids=memory_segments))
        apart = [layer(X[:, own], MEMORY[:, of_memory]) for own, of_memory in parts]
    for (own, _), alone in zip(parts, apart, strict=True):
        assert_close(together[:, own], as_numpy(alone), 2e-5)


@pytest.mark.parametrize("encoding", [kt.PositionalEncoding(), kt.LearnedPositionalEncoding(11)],
                         ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_packed_segments_have_positions_of_their_own(encoding, assert_close):
    segments, _, parts = packed()
    layer = kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM)
    together = as_numpy(layer(encoding(X, positions=np.array([[0, 1, 2, 0, 1]])), segment_ids=segments))
    for own, _ in parts:
        assert_close(together[:, own], as_numpy(layer(encoding(X[:, own]))))


def test_packed_segments_in_a_functional_model(assert_close):
    ids, segments = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    embedding, layer = probe(DIM, 1), kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM)
    model = keras.Model([ids, segments], layer(embedding(ids), segment_ids=segments))
    own_segments, _, parts = packed()
    tokens = np.random.default_rng(3).integers(1, VOCABULARY, (BATCH, LENGTH)).astype("int32")
    together = as_numpy(model([tokens, own_segments]))
    for own, _ in parts:
        assert_close(together[:, own], as_numpy(layer(embedding(tokens[:, own]))))


# Which id is padding is the embedding's affair


def test_padding_id_says_where_the_mask_starts():
    ids = np.array([[5, 0, 3, 5], [0, 5, 5, 5]])
    masks = [kt.TokenEmbedding(VOCABULARY, DIM, padding_id=id).compute_mask(ids) for id in (0, np.int64(5), None)]
    assert as_numpy(masks[0]).tolist() == [[True, False, True, True], [False, True, True, True]]
    assert as_numpy(masks[1]).tolist() == [[False, True, True, False], [True, False, False, False]]
    assert masks[2] is None


@pytest.mark.parametrize("padding_id", [0, 5, None])
def test_padding_id_is_saved(padding_id):
    embedding = kt.TokenEmbedding(VOCABULARY, DIM, padding_id=padding_id)
    assert kt.TokenEmbedding.from_config(embedding.get_config()).padding_id == padding_id


def test_padding_id_is_found_by_the_layers_behind():
    ids = np.array([[3, 0, 4, 5, 5], [0, 3, 0, 2, 3]])
    tokens = keras.Input((None,), dtype="int32")
    embedding = kt.TokenEmbedding(VOCABULARY, DIM, padding_id=5)
    model = keras.Model(tokens, kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(embedding(tokens)))
    randomize(model)
    np.testing.assert_allclose(as_numpy(model(ids))[0, :3], as_numpy(model(ids[:1, :3]))[0], atol=1e-5)
