"""Tokens as they come, and the score of given sequences: both agree with what a call returns."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

END, MAX_LENGTH = 3, 11
PROMPTS = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0]])
LENGTHS = (PROMPTS != 0).sum(axis=1)
SOURCES = np.array([[5, 9, 4, 22, 16, 1, 7], [8, 3, 0, 0, 0, 0, 0], [6, 6, 17, 2, 12, 0, 0]])


@pytest.fixture(scope="module")
def model(language_model):
    return language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6))


@pytest.fixture(scope="module")
def draft(language_model):
    return language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6, window=3))


@pytest.fixture(scope="module")
def strategies(draft):
    return {
        "greedy": kt.Greedy(),
        "sampling": kt.Sampling(temperature=1.5, top_p=0.95, seed=5),
        "contrastive": kt.ContrastiveSearch(4, 0.6),
        "speculative": kt.Speculative(draft, 2),
        "speculative sampling": kt.Speculative(draft, 1, strategy=kt.Sampling(temperature=1.5, seed=7)),
        "beams": kt.BeamSearch(3, length_penalty=0.7, num_return=3),
    }


@pytest.fixture(scope="module")
def generators(model, strategies):
    """A generator of each strategy, made once; the end token comes early in some rows."""
    made = {}

    def make(name):
        if name not in made:
            generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=strategies[name])
            made[name] = generator, uncompiled(generator)(PROMPTS)
        return made[name]

    return make


def uncompiled(generator):
    """The generator without compilation, where the loop can run in Python: that starts sooner."""
    if keras.backend.backend() == "tensorflow":
        generator.__dict__["_compiled"] = generator.generate
    return generator


# stream


@pytest.mark.long
@pytest.mark.parametrize("name", ["greedy", "sampling", "contrastive", "speculative", "speculative sampling"])
def test_stream_yields_the_new_tokens_of_a_call_and_stops(name, generators):
    generator, expected = generators(name)
    stream = generator.stream(PROMPTS)
    parts = list(stream)
    with pytest.raises(StopIteration):
        next(stream)
    assert all(part.shape == (3,) and part.dtype == "int32" for part in parts)
    streamed = np.stack(parts, axis=1)
    for row, (start, end) in enumerate(zip(LENGTHS, expected["lengths"][:, 0], strict=True)):
        assert streamed[row][streamed[row] != 0].tolist() == expected["tokens"][row, 0, start:end].tolist()
    if "speculative" not in name:  # each row without gaps, and nothing behind the longest
        new = expected["lengths"][:, 0] - LENGTHS
        assert len(parts) == new.max()
        assert ((streamed != 0) == (np.arange(len(parts)) < new[:, None])).all()


@pytest.mark.long
@pytest.mark.xla
def test_stream_of_an_encoder_decoder_with_a_row_that_ends_first(roughen):
    model = roughen(kt.models.transformer(23, 29, num_layers=1, dim=20, num_heads=5, intermediate_dim=13))
    first = uncompiled(kt.Generator(model, max_length=MAX_LENGTH, end_token=END, start_token=2))(SOURCES)
    end = int(first["tokens"][0, 0, 2])
    generator = uncompiled(kt.Generator(model, max_length=MAX_LENGTH, end_token=end, start_token=2))
    expected = generator(SOURCES)
    assert len(np.unique(expected["lengths"])) > 1
    streamed = np.stack(list(generator.stream(SOURCES)), axis=1)
    np.testing.assert_array_equal(streamed, expected["tokens"][:, 0, 1 : 1 + streamed.shape[1]])


@pytest.mark.long
def test_the_first_token_comes_before_the_second_is_computed(generators, monkeypatch):
    generator, expected = generators("greedy")
    steps, advance = [], generator._compiled_advance
    monkeypatch.setattr(generator, "_compiled_advance", lambda *carry: steps.append(1) or advance(*carry))
    stream = generator.stream(PROMPTS)
    assert steps == []
    for place in range(2):
        expected_here = expected["tokens"][np.arange(3), 0, LENGTHS + place]
        assert next(stream).tolist() == expected_here.tolist()
        assert len(steps) == place + 1


def test_stream_of_prompts_that_leave_nothing_to_generate(generators):
    generator, _ = generators("greedy")
    full = np.tile([[2, 5, 4, 7, 1, 1, 8, 6, 6, 5, 5]], (3, 1))
    assert list(generator.stream(full)) == []


@pytest.mark.parametrize(
    "prompts, message", [([[2, 0, 5]], "padded on the right"), ([[31]], "ids from"), (None, "neither a prompt nor")]
)
def test_stream_refuses_bad_input_when_it_is_called(prompts, message, generators):
    generator, _ = generators("greedy")
    with pytest.raises(ValueError, match=message):
        generator.stream(prompts)


def test_stream_of_beam_search_is_refused_when_it_is_called(generators):
    generator, _ = generators("beams")
    with pytest.raises(ValueError, match=r"BeamSearch .*nothing to stream.*Greedy\(\)"):
        generator.stream(PROMPTS)


def test_stream_tells_of_nan(language_model):
    model = language_model(kt.DecoderLayer(4, 13))
    generator = kt.Generator(model, max_length=5, end_token=END)
    kernel = model.get_layer("logits").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match=r"NaN logits for the rows \[0\]"):
        list(generator.stream([[2]]))


# score


def oracle(model, tokens, prompt_lengths, sources=None, from_logits=True):
    """The summed log-probability of (R, T) tokens, behind their prompts, float64."""
    inputs = tokens.astype("int32") if sources is None else [sources, tokens.astype("int32")]
    outputs = keras.ops.convert_to_numpy(model(inputs, training=False)).astype("float64")
    logs = outputs - np.log(np.exp(outputs).sum(axis=-1, keepdims=True)) if from_logits else np.log(outputs)
    return np.array(
        [
            sum(logs[row, place - 1, token] for place, token in enumerate(tokens[row]) if token and place >= prompt)
            for row, prompt in enumerate(prompt_lengths)
        ]
    )


@pytest.fixture(scope="module")
def sequences():
    """(4, 2, 7), of unequal lengths."""
    tokens = np.random.default_rng(0).integers(1, 29, (4, 2, 7))
    for row, length in enumerate([7, 3, 5, 1, 2, 7, 4, 6]):
        tokens.reshape(8, 7)[row, length:] = 0
    return tokens


@pytest.fixture(scope="module")
def greedy(generators):
    return generators("greedy")[0]


@pytest.mark.parametrize("prompt_lengths", [1, 2, 4])
def test_score_is_the_log_probability_behind_the_prompt(prompt_lengths, model, greedy, sequences):
    expected = oracle(model, sequences.reshape(8, 7), [prompt_lengths] * 8).reshape(4, 2)
    np.testing.assert_allclose(greedy.score(sequences, prompt_lengths=prompt_lengths), expected, rtol=1e-4, atol=1e-4)
    flat = greedy.score(sequences[:, 0], prompt_lengths=prompt_lengths)
    assert flat.shape == (4,) and flat.dtype == "float32"
    np.testing.assert_allclose(flat, expected[:, 0], rtol=1e-4, atol=1e-4)


def test_prompt_lengths_by_row_and_by_sequence(model, greedy, sequences):
    by_row, by_sequence = np.array([1, 2, 3, 4]), np.array([[1, 2], [3, 1], [2, 2], [5, 3]])
    flat = sequences.reshape(8, 7)
    np.testing.assert_allclose(
        greedy.score(sequences, prompt_lengths=by_row),
        oracle(model, flat, by_row.repeat(2)).reshape(4, 2),
        rtol=1e-4,
        atol=1e-4,
    )
    np.testing.assert_allclose(
        greedy.score(sequences, prompt_lengths=by_sequence),
        oracle(model, flat, by_sequence.ravel()).reshape(4, 2),
        rtol=1e-4,
        atol=1e-4,
    )
    np.testing.assert_allclose(
        greedy.score(sequences[:, 0], prompt_lengths=by_row), oracle(model, sequences[:, 0], by_row), rtol=1e-4
    )


def test_the_default_is_a_prompt_of_one_token(greedy, sequences):
    np.testing.assert_array_equal(greedy.score(sequences), greedy.score(sequences, prompt_lengths=1))


def test_forms_of_sequences(greedy, sequences):
    expected = greedy.score(sequences)
    for given in ((sequences.tolist(),), ({"tokens": sequences},), (None, sequences)):
        np.testing.assert_array_equal(greedy.score(*given), expected)


def test_needless_padding_and_other_rows_change_nothing(greedy, sequences):
    expected = greedy.score(sequences)
    padded = np.pad(sequences, ((0, 0), (0, 0), (0, 9)))
    np.testing.assert_allclose(greedy.score(padded), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(greedy.score(sequences[2:3, :1, :5])[0, 0], expected[2, 0], rtol=1e-4)


@pytest.mark.long
def test_sequences_of_one_token_and_longer_than_max_length(model, greedy):
    assert greedy.score([[5], [7]]).tolist() == [0, 0]
    long = np.random.default_rng(1).integers(1, 29, (2, MAX_LENGTH + 2))
    np.testing.assert_allclose(greedy.score(long), oracle(model, long, [1, 1]), rtol=1e-4)


def test_no_sequences(greedy):
    assert greedy.score(np.zeros((0, 4), "int32")).shape == (0,)
    assert greedy.score(np.zeros((0, 2, 4), "int32")).shape == (0, 2)


@pytest.mark.long
@pytest.mark.parametrize("name", ["greedy", "sampling", "contrastive", "speculative", "speculative sampling", "beams"])
def test_score_of_what_was_generated_is_its_score(name, generators):
    generator, result = generators(name)
    assert (result["lengths"] > LENGTHS[:, None]).all()
    scores = generator.score(result["tokens"], prompt_lengths=LENGTHS)
    np.testing.assert_allclose(scores, result["scores"], rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("coverage_penalty", [0.0, 0.3])
def test_score_of_beams_of_an_encoder_decoder(coverage_penalty, roughen):
    model = roughen(kt.models.transformer(23, 29, num_layers=1, dim=20, num_heads=5, intermediate_dim=13))
    strategy = kt.BeamSearch(4, length_penalty=0.6, coverage_penalty=coverage_penalty, num_return=4)
    generator = uncompiled(kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=strategy))
    result = generator(SOURCES, PROMPTS)
    scores = generator.score(SOURCES, result["tokens"], prompt_lengths=LENGTHS)
    np.testing.assert_allclose(scores, result["scores"], rtol=1e-4, atol=1e-4)
    assert scores.shape == (3, 4)
    if not coverage_penalty:
        new = result["lengths"] - LENGTHS[:, None]
        sums = oracle(model, result["tokens"].reshape(12, -1), LENGTHS.repeat(4), SOURCES.repeat(4, axis=0))
        np.testing.assert_allclose(scores, sums.reshape(3, 4) / ((5 + new) / 6) ** 0.6, rtol=1e-4)


@pytest.mark.long
def test_score_of_a_model_that_gives_probabilities(model, sequences):
    soft = keras.Model(model.input, keras.layers.Activation("softmax")(model.output))
    generator = kt.Generator(soft, max_length=MAX_LENGTH, end_token=END, from_logits=False)
    expected = oracle(soft, sequences[:, 0], [2] * 4, from_logits=False)
    np.testing.assert_allclose(generator.score(sequences[:, 0], prompt_lengths=2), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.long
def test_as_many_tokens_as_the_models_table_of_positions_holds(roughen):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.LearnedPositionalEncoding(13)(kt.TokenEmbedding(29, 20)(tokens))
    model = roughen(keras.Model(tokens, keras.layers.Dense(29)(kt.DecoderLayer(4, 13)(x))))
    generator = kt.Generator(model, max_length=9, end_token=END)
    long = np.random.default_rng(1).integers(1, 29, (2, 13))
    np.testing.assert_allclose(generator.score(long), oracle(model, long, [1, 1]), rtol=1e-4)


@pytest.mark.parametrize(
    "tokens, prompt_lengths, message",
    [
        (None, 1, "takes the sequences to judge, as 'tokens'"),
        ([[2.0, 5.0]], 1, r"integers.*float"),
        ([2, 5], 1, r"shape \(batch, length\) or \(batch, beams, length\).*got shape \(2,\)"),
        (np.ones((1, 1, 1, 2), "int32"), 1, r"got shape \(1, 1, 1, 2\)"),
        ([[2, 29]], 1, "The sequence has ids from 2 to 29; TokenEmbedding .* takes ids from 0 to 28"),
        ([[2, -1]], 1, "ids from -1 to 2"),
        ([[2, 5], [2, 7]], [1, 1, 1], r"shape \(2,\), got shape \(3,\)"),
        ([[2, 5], [2, 7]], [[1, 1]], r"shape \(2,\), got shape \(1, 2\)"),
    ],
)
def test_score_refuses_bad_input(tokens, prompt_lengths, message, greedy):
    with pytest.raises(ValueError, match=message):
        greedy.score(tokens, prompt_lengths=prompt_lengths)


def test_score_refuses_sequences_that_do_not_fit_the_sources(roughen):
    model = roughen(kt.models.transformer(23, 29, num_layers=1, dim=20, num_heads=5, intermediate_dim=13))
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END)
    with pytest.raises(ValueError, match="2 sequences for 3 sources"):
        generator.score(SOURCES, PROMPTS[:2])
    with pytest.raises(ValueError, match="takes the sequences to judge, as 'target'"):
        generator.score(SOURCES)
    with pytest.raises(ValueError, match=r"takes the sources \['source'\], got \[\]"):
        generator.score(None, PROMPTS)


def test_score_tells_of_nan(language_model):
    model = language_model(kt.DecoderLayer(4, 13))
    generator = kt.Generator(model, max_length=5, end_token=END)
    kernel = model.get_layer("logits").kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    with pytest.raises(ValueError, match=r"NaN logits for the rows \[0, 1\]"):
        generator.score([[2, 5], [2, 7]])
