"""A recurrent model generates, in every way that there is, what the full model says: its state is kept by position."""

import functools
import itertools

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding import decoder as decoder_module
from keras_transformer.decoding.decoder import Decoder
from keras_transformer.decoding.graph import Graph

from .test_beam_search import assert_found, assert_well_formed, beam_oracle, real

END, MAX_LENGTH = 3, 9
SOURCES = np.array([[5, 9, 4, 22, 16, 1, 7], [8, 3, 0, 0, 0, 0, 0], [6, 6, 17, 2, 12, 0, 0]])
PREFIXES = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0]])
START = np.full((3, 1), 2)
QUICK_KINDS = [("rnn", None), ("lstm", "additive"), ("gru", "dot")]
SLOW_KINDS = [
    pytest.param(*kind, marks=pytest.mark.slow)
    for kind in itertools.product(["rnn", "lstm", "gru"], [None, "dot", "additive"])
    if kind not in QUICK_KINDS
]


def seq2seq(roughen, cell="gru", attention="additive", seed=0, **options):
    return roughen(kt.models.recurrent_seq2seq(23, 29, cell=cell, attention=attention, dim=14, **options), seed)


@pytest.fixture(scope="module")
def rough():
    """`roughen`, for fixtures of this module."""

    def roughen(model, seed=0):
        random = np.random.default_rng(seed)
        for weight in model.weights:
            if not weight.dtype.startswith(("int", "uint")):
                scale = 0.5 if "embeddings" in weight.path else 2 / weight.shape[0] ** 0.5
                weight.assign(scale * random.normal(size=weight.shape))
        return model

    return roughen


@pytest.fixture(scope="module")
def attending(rough):
    """A GRU with additive attention; its end token is a likely one."""
    model = seq2seq(rough)
    bias = model.get_layer("logits").bias
    bias.assign(keras.ops.convert_to_numpy(bias) + 3.0 * (np.arange(29) == END))
    return model


@pytest.fixture(scope="module")
def stacked(rough):
    """A language model of a GRU and an LSTM with self-attention between them."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.RecurrentDecoderLayer(20, "gru", name="first")(kt.TokenEmbedding(29, 20)(tokens))
    x = kt.DecoderLayer(4, 13, window=3)(x)
    x = kt.RecurrentDecoderLayer(20, "lstm", name="second")(x)
    return rough(keras.Model(tokens, keras.layers.Dense(29)(x)))


@functools.cache
def generator_of(model, strategy=None, cache=True):
    """A generator, without compilation where the loop can run in Python: that starts sooner."""
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, start_token=2, strategy=strategy, cache=cache)
    if keras.backend.backend() == "tensorflow":
        generator.__dict__["_compiled"] = generator.generate
    return generator


def generate(model, *inputs, **options):
    return generator_of(model, **options)(*inputs)


def assert_same(actual, expected):
    assert actual["tokens"].tolist() == expected["tokens"].tolist()
    assert actual["lengths"].tolist() == expected["lengths"].tolist()
    np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=1e-4, atol=1e-4)


def with_sources(tokens):
    return [SOURCES, tokens]


# Greedy


@pytest.mark.long
@pytest.mark.parametrize("cell, attention", QUICK_KINDS + SLOW_KINDS)
def test_every_kind_continues_unequal_prefixes_as_the_full_model_does(cell, attention, roughen, greedy_oracle):
    model = seq2seq(roughen, cell, attention, num_layers=2 if cell == "lstm" else 1)
    expected = greedy_oracle(model, PREFIXES, max_length=MAX_LENGTH, end_token=END, inputs=with_sources)
    assert len(np.unique(expected["tokens"])) > 4
    assert_same(generate(model, SOURCES, PREFIXES), expected)


@pytest.mark.long
def test_compiled_from_the_start_token(roughen, assert_decodes_exactly):
    model = seq2seq(roughen, seed=18)
    assert_decodes_exactly(model, SOURCES, START, inputs=with_sources, start_token=2)


@pytest.mark.long
def test_recurrence_and_attention_in_one_decoder_without_a_source(stacked, assert_decodes_exactly):
    assert_decodes_exactly(stacked, prompts=PREFIXES)


@pytest.mark.long
def test_a_row_does_not_depend_on_its_batch(attending):
    together = generate(attending, SOURCES, PREFIXES)
    for row, (source, prefix) in enumerate(zip(SOURCES, PREFIXES, strict=True)):
        alone = generate(attending, np.array([real(source)]), np.array([real(prefix)]))
        assert_same(alone, {name: x[row : row + 1] for name, x in together.items()})


@pytest.mark.long
def test_score_says_what_generation_reported(attending):
    found = generate(attending, SOURCES, PREFIXES)
    scores = generator_of(attending).score(SOURCES, found["tokens"], prompt_lengths=(PREFIXES != 0).sum(axis=1))
    np.testing.assert_allclose(scores, found["scores"], rtol=1e-4, atol=1e-4)


# What is kept


def state_of(model, sources, prompts, **options):
    """The state once the prompts are read, as NumPy arrays in the order of the names."""
    decoder = Decoder(Graph(model), MAX_LENGTH, end_token=END)
    tokens = keras.ops.convert_to_tensor(prompts, "int32")
    lengths = keras.ops.convert_to_tensor((prompts != 0).sum(axis=1), "int32")
    memory = decoder.encode({slot: keras.ops.convert_to_tensor(x, "int32") for slot, x in sources.items()})
    begun = decoder.begin(memory, tokens,
                          lengths, **options)  # fmt: skip
    return [keras.ops.convert_to_numpy(begun.state[name]) for name in sorted(begun.state)]


@pytest.mark.parametrize("options, parts, slots", [({}, 1, 2), ({"beams": 3}, 3, 2), ({"lookahead": 3}, 1, 5)])
def test_a_state_for_each_beam_and_each_token_that_may_be_taken_back(options, parts, slots, roughen):
    model = seq2seq(roughen, "lstm", None)
    state = state_of(model, {0: SOURCES}, START, **options)
    assert [x.shape for x in state] == [(3, parts, slots, 14)] * 2
    last = keras.Model(model.input, model.get_layer("encoder_0").output[1:])([SOURCES, START])
    for ring, encoded in zip(state, last, strict=True):  # no token was read: what the encoder ended with
        expected = keras.ops.convert_to_numpy(encoded)[:, None, None]
        np.testing.assert_allclose(ring, np.broadcast_to(expected, ring.shape), atol=1e-5)


@pytest.mark.long
def test_the_last_token_of_a_prompt_is_not_read_twice(roughen):
    model = seq2seq(roughen)
    state = keras.Model(model.input, model.get_layer("decoder_0").output[0])([SOURCES, PREFIXES])
    state = keras.ops.convert_to_numpy(state)
    (ring,) = state_of(model, {0: SOURCES}, PREFIXES)
    np.testing.assert_allclose(ring[0, 0, 0], state[0, 2], atol=1e-5)  # position n - 2 = 2, in slot 2 mod 2
    np.testing.assert_allclose(ring[2, 0, 0], state[2, 0], atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("length", [4, 7, 8, 11])
def test_prompts_read_in_blocks(length, stacked, monkeypatch):
    prompts = np.random.default_rng(1).integers(4, 29, (3, length))
    prompts[1, 1:] = 0
    prompts[2, length - 2 :] = 0
    monkeypatch.setattr(decoder_module, "BLOCK", 512)
    whole = [x for x in state_of(stacked, {}, prompts, beams=2) if x.shape[1:] == (2, 2, 20)]
    monkeypatch.setattr(decoder_module, "BLOCK", 3)
    blocks = [x for x in state_of(stacked, {}, prompts, beams=2) if x.shape[1:] == (2, 2, 20)]
    assert len(whole) == 3
    ends = np.stack([np.maximum((prompts != 0).sum(axis=1) - 2, -1) % 2, np.arange(3)])
    for one, other in zip(whole, blocks, strict=True):
        np.testing.assert_allclose(one[ends[1], :, ends[0]], other[ends[1], :, ends[0]], atol=1e-4)


# Other ways to generate


@pytest.mark.parametrize("strategy", [kt.BeamSearch(3, length_penalty=0.7, num_return=3)], ids=["3 beams"])
def test_beams_find_what_a_plain_search_over_the_full_model_finds(strategy, attending):
    found = generate(attending, SOURCES, PREFIXES, strategy=strategy)
    search = {name: getattr(strategy, name) for name in ("num_beams", "length_penalty", "num_return")}

    def inputs(tokens, row):
        return [np.repeat(SOURCES[row : row + 1], len(tokens), axis=0), tokens]

    expected = [
        beam_oracle(attending, real(prefix), row=row, max_length=MAX_LENGTH, inputs=inputs, **search)
        for row, prefix in enumerate(PREFIXES)
    ]
    assert_found(found, expected)
    assert_well_formed(found, PREFIXES)
    assert len(set(found["lengths"].ravel())) > 1


@pytest.mark.long
@pytest.mark.parametrize(
    "cell, attention",
    [
        pytest.param("rnn", None, marks=pytest.mark.slow),
        pytest.param("lstm", None, marks=pytest.mark.slow),
        ("gru", "dot"),
        pytest.param("lstm", "additive", marks=pytest.mark.slow),
    ],
)
def test_beams_keep_whatever_state_there_is(cell, attention, roughen):
    model = seq2seq(roughen, cell, attention, num_layers=2 if attention is None else 1)
    strategy = kt.BeamSearch(3, num_return=2)
    expected = generate(model, SOURCES, PREFIXES, strategy=strategy, cache=False)
    assert len(np.unique(expected["tokens"])) > 4
    assert_same(generate(model, SOURCES, PREFIXES, strategy=strategy), expected)


@pytest.mark.long
@pytest.mark.parametrize(
    "strategy",
    [
        kt.BeamSearch(4, coverage_penalty=0.3, num_return=2),
        pytest.param(kt.ContrastiveSearch(3, penalty=0.8), marks=pytest.mark.slow),
    ],
    ids=["coverage", "contrastive"],
)
def test_tokens_side_by_side_from_the_start_token(strategy, attending):
    expected = generate(attending, SOURCES, START, strategy=strategy, cache=False)
    assert_same(generate(attending, SOURCES, START, strategy=strategy), expected)


@pytest.mark.long
def test_beams_over_a_stack(stacked):
    strategy = kt.BeamSearch(4, num_return=2)
    assert_same(
        generate(stacked, PREFIXES, strategy=strategy), generate(stacked, PREFIXES, strategy=strategy, cache=False)
    )


@pytest.mark.long
def test_tokens_that_are_taken_back_leave_nothing(attending):
    noise = keras.layers.Dense(29)
    draft = keras.Model(attending.input, attending.output + noise(attending.get_layer("logits").input))
    noise.kernel.assign(np.random.default_rng(1).normal(size=noise.kernel.shape) * 0.4)  # right more often than not
    found = generate(attending, SOURCES, PREFIXES, strategy=kt.Speculative(draft, 3))
    assert_same(found, generate(attending, SOURCES, PREFIXES))


# What is refused, and what is left as it was


def test_recurrent_layers_of_keras_are_refused_and_ours_is_named_as_the_remedy(roughen):
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.GRU(20, return_sequences=True, name="culprit")(kt.TokenEmbedding(29, 20)(tokens))
    model = roughen(keras.Model(tokens, keras.layers.Dense(29)(x)))
    with pytest.raises(ValueError, match="GRU 'culprit'.*RecurrentDecoderLayer"):
        kt.Generator(model, max_length=MAX_LENGTH, end_token=END)


def test_cudnn_is_left_out_while_decoding_and_only_then(attending, monkeypatch):
    """XLA cannot compile cuDNN's recurrences."""
    encoder, decoder = attending.get_layer("encoder_0"), attending.get_layer("decoder_0")
    layers = [encoder.forward_layer, encoder.backward_layer, decoder.rnn]
    seen = []
    original = type(encoder).call

    def call(self, *args, **kwargs):
        seen.append([layer.use_cudnn for layer in layers])
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(encoder), "call", call)
    graph = Graph(attending)
    graph.encode({0: keras.ops.convert_to_tensor(SOURCES, "int32")})
    attending([SOURCES, PREFIXES])
    assert seen == [[False] * 3, ["auto"] * 3]
