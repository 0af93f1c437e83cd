"""Caches hold no more than they must, and what they save changes nothing: rings, blocks of a prompt, buckets."""

import logging

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding import decoder as decoder_module
from keras_transformer.decoding.buckets import bucket
from keras_transformer.decoding.decoder import Decoder
from keras_transformer.decoding.graph import Graph

END, MAX_LENGTH = 3, 17
PROMPTS = np.array([[2, 5, 4, 7, 1, 9, 6], [7, 0, 0, 0, 0, 0, 0], [9, 2, 6, 1, 0, 0, 0]])
LENGTHS = (PROMPTS != 0).sum(axis=1)
POSITIONS = {
    "none": lambda: {},
    "rotary": lambda: {"position": kt.RotaryPosition()},
    "ALiBi": lambda: {"position": kt.AlibiPosition()},
    "relative": lambda: {"position": kt.RelativePosition(8, 16)},
}


def block(**options):
    return kt.DecoderLayer(4, 13, **{"head_dim": 6, "position": kt.RotaryPosition(), **options})


def ids(tokens):
    """A model's inputs, for the oracle."""
    return tokens


def uncompiled(generator):
    """The generator without compilation, where the loop can run in Python: that starts sooner."""
    if keras.backend.backend() == "tensorflow":
        generator.__dict__["_compiled"] = generator.generate
    return generator


def generate(model, prompts=PROMPTS, **options):
    return uncompiled(kt.Generator(model, **{"max_length": MAX_LENGTH, "end_token": END, **options}))(prompts)


def assert_same(actual, expected):
    assert actual["tokens"].tolist() == expected["tokens"].tolist()
    assert actual["lengths"].tolist() == expected["lengths"].tolist()
    np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=1e-4, atol=1e-4)


# Rings


def state_of(model, prompts=PROMPTS, **options):
    """What a generator keeps once the prompts are read, as NumPy arrays by name."""
    decoder = Decoder(Graph(model), MAX_LENGTH, end_token=END)
    tokens = keras.ops.convert_to_tensor(prompts, "int32")
    lengths = keras.ops.convert_to_tensor((prompts != 0).sum(axis=1), "int32")
    state = decoder.begin({}, tokens, lengths, **options).state
    return {name: keras.ops.convert_to_numpy(x) for name, x in state.items()}


@pytest.mark.long
@pytest.mark.parametrize("window", [1, 3, 5, 16])
@pytest.mark.parametrize("options", [{}, {"beams": 3}, {"lookahead": 2}])
def test_a_layer_with_a_window_keeps_that_many_tokens(window, options, language_model):
    model = language_model(block(window=window, num_kv_heads=2), block())
    beams, ring = options.get("beams", 1), window + options.get("lookahead", 0)
    slots = {x.shape for x in state_of(model, **options).values()}
    whole = (3, 4, beams * MAX_LENGTH, 6)
    assert slots == {(3, 2, beams * min(ring, MAX_LENGTH), 6), whole}


@pytest.mark.long
@pytest.mark.parametrize("window", [17, 18, 1000])
def test_a_window_as_long_as_the_sequence_is_no_ring(window, language_model):
    state = state_of(language_model(block(window=window)))
    assert {x.shape[2] for x in state.values()} == {MAX_LENGTH}


@pytest.mark.long
@pytest.mark.parametrize(
    "kind, window",
    [
        ("rotary", 1),
        ("rotary", 3),
        ("none", 3),
        ("ALiBi", 2),
        *(
            pytest.param(*x, marks=pytest.mark.slow)
            for x in [("rotary", 2), ("rotary", 5), ("ALiBi", 5), ("relative", 3)]
        ),
    ],
)
def test_a_ring_gives_what_the_whole_sequence_gives(kind, window, language_model, greedy_oracle):
    encoding = kt.PositionalEncoding() if kind == "none" else None
    model = language_model(block(window=window, **{"position": None, **POSITIONS[kind]()}), encoding=encoding)
    expected = greedy_oracle(model, PROMPTS, max_length=MAX_LENGTH, end_token=END, inputs=ids)
    assert len(np.unique(expected["tokens"])) > 4
    assert_same(generate(model), expected)


@pytest.mark.long
@pytest.mark.parametrize("cache", [True, False])
def test_layers_of_different_windows_and_grouped_queries(cache, language_model, greedy_oracle):
    model = language_model(block(window=5, num_kv_heads=2), block(), block(window=2, num_kv_heads=1), block(window=1))
    expected = greedy_oracle(model, PROMPTS, max_length=MAX_LENGTH, end_token=END, inputs=ids)
    assert_same(generate(model, cache=cache), expected)


@pytest.mark.long
@pytest.mark.xla
def test_a_ring_that_is_compiled(language_model, greedy_oracle):
    model = language_model(block(window=3, num_kv_heads=2), block(window=5))
    expected = greedy_oracle(model, PROMPTS, max_length=MAX_LENGTH, end_token=END, inputs=ids)
    assert_same(kt.Generator(model, max_length=MAX_LENGTH, end_token=END)(PROMPTS), expected)


STRATEGIES = {
    "beams": kt.BeamSearch(3, num_return=3),
    "contrastive": kt.ContrastiveSearch(3, 0.6),
    "sampling": kt.Sampling(temperature=1.5, seed=3),
}


@pytest.mark.long
@pytest.mark.parametrize(
    "name, window",
    [
        pytest.param("beams", 1, marks=pytest.mark.slow),
        ("beams", 3),
        pytest.param("contrastive", 2, marks=pytest.mark.slow),
        ("sampling", 4),
    ],
)
def test_a_ring_with_every_strategy(name, window, language_model):
    model = language_model(block(window=window), block(window=window + 1, num_kv_heads=2))
    options = {"strategy": STRATEGIES[name], "max_length": 13}
    assert_same(generate(model, **options), generate(model, cache=False, **options))


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 4])
def test_a_ring_with_tokens_that_are_taken_back(count, language_model, greedy_oracle):
    model, draft = language_model(block(window=2)), language_model(block(window=3))
    expected = greedy_oracle(model, PROMPTS, max_length=MAX_LENGTH, end_token=END, inputs=ids)
    assert_same(generate(model, strategy=kt.Speculative(draft, count)), expected)


# Long prompts, read in blocks


@pytest.fixture(scope="module", params=[None, 4], ids=lambda window: f"window {window}")
def layered(request, language_model):
    return language_model(block(window=request.param, num_kv_heads=2), block(window=request.param))


@pytest.mark.long
@pytest.mark.eager  # prompts of any length without compilation
@pytest.mark.parametrize("beams", [1, 2])
def test_blocks_leave_the_state_that_one_pass_leaves(beams, layered, monkeypatch):
    random = np.random.default_rng(0)
    for length in range(1, 12):
        prompts = random.integers(1, 29, (3, length))
        prompts[1, max(1, length // 2) :] = 0
        prompts[2, max(1, length - 1) :] = 0
        monkeypatch.setattr(decoder_module, "BLOCK", 512)
        whole = state_of(layered, prompts=prompts, beams=beams)
        monkeypatch.setattr(decoder_module, "BLOCK", 3)
        blocks = state_of(layered, prompts=prompts, beams=beams)
        assert set(whole) == set(blocks)
        for name, x in whole.items():
            used = x.shape[2] // beams * beams if x.shape[2] % MAX_LENGTH == 0 else x.shape[2] - 1  # of a ring, the
            # last slot is for what is thrown away
            np.testing.assert_allclose(blocks[name][:, :, :used], x[:, :, :used], atol=1e-4, err_msg=str(length))


@pytest.mark.long
@pytest.mark.parametrize("length", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 8)), 11])
def test_prompts_in_blocks_are_continued_as_the_whole_model_does(length, layered, monkeypatch, greedy_oracle):
    monkeypatch.setattr(decoder_module, "BLOCK", 3)
    prompts = np.random.default_rng(1).integers(1, 29, (3, length))
    prompts[1, 1:] = 0
    prompts[2, length - 1 :] = 0
    generator = kt.Generator(layered, max_length=13, end_token=END)
    if length < 11:
        generator = uncompiled(generator)
    expected = greedy_oracle(layered, prompts, max_length=13, end_token=END, inputs=ids)
    assert_same(generator(prompts), expected)


@pytest.mark.long
def test_prompts_in_blocks_with_beams(layered, monkeypatch):
    prompts = np.random.default_rng(2).integers(1, 29, (2, 11))
    prompts[1, 4:] = 0
    options = {"max_length": 13, "strategy": kt.BeamSearch(2, num_return=2)}
    expected = generate(layered, prompts, **options)
    monkeypatch.setattr(decoder_module, "BLOCK", 3)
    assert_same(generate(layered, prompts, **options), expected)


# Buckets


def test_sizes_grow_and_waste_at_most_a_third():
    sizes = [bucket(n) for n in range(1, 2000)]
    assert sizes[:17] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16, 16, 16, 16, 24]
    for n, size in enumerate(sizes, 1):
        assert n <= size <= 1.5 * n
        assert bucket(size) == size
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 2 * 11  # two for every doubling
    assert all(isinstance(size, int) for size in sizes)


@pytest.mark.parametrize("n, smallest, expected", [(1, 8, 8), (8, 8, 8), (9, 8, 12), (3, 5, 6), (0, 1, 1)])
def test_the_smallest_size(n, smallest, expected):
    assert bucket(n, smallest) == expected


@pytest.fixture(scope="module")
def plain(language_model):
    return language_model(block())


@pytest.mark.long
def test_few_shapes_are_compiled_and_each_is_logged(plain, caplog, monkeypatch):
    generator = kt.Generator(plain, max_length=9, end_token=END)
    traced, whole = [], generator.generate
    monkeypatch.setattr(generator, "generate", lambda *request: traced.append(1) or whole(*request))
    with caplog.at_level(logging.INFO, "keras_transformer"):
        for rows in (5, 6, 7, 8, 5):
            for length in (7, 8):
                generator(np.full((rows, length), 5))
    compilations = [record for record in caplog.records if record.name == "keras_transformer"]
    assert len(compilations) == 2  # 6 and 8 rows of 8 tokens
    if keras.backend.backend() != "torch":
        assert len(traced) == 2
    assert "generation" in compilations[0].getMessage()
    assert "(6, 8)" in compilations[0].getMessage()
    assert "(8, 8)" in compilations[1].getMessage()


@pytest.mark.long
@pytest.mark.eager  # arrays of any shape without compilation
def test_the_number_of_shapes_grows_with_the_logarithm_of_the_sizes(plain, caplog, monkeypatch):
    generator = uncompiled(kt.Generator(plain, max_length=17, end_token=END))
    monkeypatch.setattr(
        generator,
        "_compiled",
        lambda sources, prompts, *rest: {"scores": keras.ops.zeros((prompts.shape[0], 1)), "prompts": prompts},
    )
    with caplog.at_level(logging.INFO, "keras_transformer"):
        for length in range(1, 18):
            prompts = generator(np.full((2, length), 5))["prompts"]
            assert prompts.shape == (2, min(bucket(length), 17))
            assert (prompts[:, length:] == 0).all()
        for rows in range(1, 33):
            assert generator(np.full((rows, 4), 5))["prompts"].shape == (rows, 4)
    assert len(caplog.records) == 9 + 10 - 1  # 1, 2, 3, 4, 6, 8, 12, 16, 17 tokens and 1, 2, 3, ..., 24, 32 rows


@pytest.mark.long
@pytest.mark.parametrize("name", ["greedy", *STRATEGIES])
def test_rows_give_the_same_alone_as_padded_to_a_bucket(name, plain):
    strategy = STRATEGIES.get(name, kt.Greedy())
    prompts = np.array([[2, 5, 4, 7, 1], [7, 0, 0, 0, 0], [9, 2, 6, 1, 0], [1, 1, 0, 0, 0], [8, 4, 4, 0, 0]])
    generator = uncompiled(kt.Generator(plain, max_length=11, end_token=END, strategy=strategy))
    together = generator(prompts)  # six rows of six tokens
    assert {x.shape[0] for x in together.values()} == {5}
    for row in range(5):
        if name == "sampling" and row:
            continue  # the number of the row is part of the seed
        alone = generator(prompts[row : row + 1, : (prompts[row] != 0).sum()])
        assert_same(alone, {key: x[row : row + 1] for key, x in together.items()})


SOURCES = np.array([[5, 9, 4, 22, 16, 1, 7], [8, 3, 0, 0, 0, 0, 0], [6, 6, 17, 2, 12, 0, 0]])
PREFIXES = np.array([[2, 5, 4], [7, 0, 0], [9, 2, 0]])


def encoder_decoder(roughen, encode, source=None):
    source = keras.Input((None,), dtype="int32", name="source") if source is None else source
    target = keras.Input((None,), dtype="int32", name="target")
    y = kt.PositionalEncoding()(kt.TokenEmbedding(29, 20)(target))
    y = kt.DecoderLayer(4, 13)(y, encode(source))
    return roughen(keras.Model([source, target], keras.layers.Dense(29)(y)))


def assert_sources_are_given_as(shape, model, sources, caplog, greedy_oracle):
    generator = uncompiled(kt.Generator(model, max_length=11, end_token=END))
    with caplog.at_level(logging.INFO, "keras_transformer"):
        result = generator(sources, PREFIXES)
    assert f"source_0 {shape}" in caplog.records[-1].getMessage()
    expected = greedy_oracle(model, PREFIXES, max_length=11, end_token=END, inputs=lambda tokens: [sources, tokens])
    assert_same(result, expected)


@pytest.mark.long
def test_sources_whose_padding_is_masked_are_padded(roughen, caplog, greedy_oracle):
    model = encoder_decoder(roughen, lambda source: kt.EncoderLayer(4, 13)(kt.TokenEmbedding(23, 20)(source)))
    assert_sources_are_given_as((3, 8), model, SOURCES, caplog, greedy_oracle)


@pytest.mark.long
def test_sources_whose_padding_would_count_are_not_padded(roughen, caplog, greedy_oracle):
    def average(source):
        return keras.layers.GlobalAveragePooling1D(keepdims=True)(keras.layers.Embedding(23, 20)(source))

    assert_sources_are_given_as((3, 7), encoder_decoder(roughen, average), SOURCES, caplog, greedy_oracle)


@pytest.mark.long
def test_sources_of_features_are_not_padded(roughen, caplog, greedy_oracle):
    sound = keras.Input((None, 5), name="sound")
    model = encoder_decoder(roughen, lambda x: kt.EncoderLayer(2, 13)(keras.layers.Dense(14)(x)), sound)
    sounds = np.random.default_rng(0).normal(size=(3, 7, 5)).astype("float32")
    assert_sources_are_given_as((3, 7, 5), model, sounds, caplog, greedy_oracle)


@pytest.mark.long
@pytest.mark.parametrize("length", [13, 17])
def test_sources_as_long_as_the_models_table_of_positions(length, roughen, greedy_oracle):
    def encode(source):
        x = kt.LearnedPositionalEncoding(17)(kt.TokenEmbedding(23, 20)(source))
        return kt.EncoderLayer(4, 13)(x)

    model = encoder_decoder(roughen, encode)
    sources = np.random.default_rng(3).integers(1, 23, (3, length))
    expected = greedy_oracle(model, PREFIXES, max_length=11, end_token=END, inputs=lambda tokens: [sources, tokens])
    assert_same(uncompiled(kt.Generator(model, max_length=11, end_token=END))(sources, PREFIXES), expected)


# Rows that are finished


@pytest.mark.long
@pytest.mark.eager
@pytest.mark.parametrize("name", ["greedy", *STRATEGIES, "speculative"])
def test_a_finished_row_does_not_change_while_others_run(name, language_model):
    model = language_model(block(window=2), block())
    strategy = {"greedy": kt.Greedy(), "speculative": kt.Speculative(language_model(block()), 3), **STRATEGIES}[name]
    generator = kt.Generator(model, max_length=9, end_token=END, strategy=strategy)
    decoder = generator.decoder
    tensors = [keras.ops.convert_to_tensor(x, "int32") for x in (PROMPTS, LENGTHS)]
    carry, memory = strategy.begin(decoder, strategy.encode(decoder, {}), *tensors)
    kept, waited = {}, 0
    while not keras.ops.convert_to_numpy(carry["finished"]).all():
        carry = strategy.advance(decoder, carry, memory)
        answer = {key: keras.ops.convert_to_numpy(x) for key, x in strategy.finish(decoder, carry).items()}
        for row in np.flatnonzero(keras.ops.convert_to_numpy(carry["finished"])):
            here = {key: x[row].tolist() for key, x in answer.items()}
            waited += row in kept
            assert kept.setdefault(row, here) == here
    assert waited > 0 and len(kept) == 3
