"""Speculative decoding: the answer is the large model's own, whatever the draft proposes; only the steps are fewer."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

END, MAX_LENGTH = 3, 11
PROMPTS = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0]])
SOURCES = np.array([[5, 9, 4, 22, 16, 1, 7], [8, 3, 0, 0, 0, 0, 0], [6, 6, 17, 2, 12, 0, 0]])


def block(**options):
    return kt.DecoderLayer(4, 13, **{"head_dim": 6, "position": kt.RotaryPosition(), **options})


@pytest.fixture(scope="module")
def model(language_model):
    return language_model(block(), block())


@pytest.fixture(scope="module")
def draft(model):
    """The model with its logits disturbed: it is right about as often as not."""
    noise = keras.layers.Dense(29, name="noise")
    disturbed = keras.Model(model.input, model.output + noise(model.get_layer("logits").input))
    noise.kernel.assign(np.random.default_rng(1).normal(size=noise.kernel.shape) * 0.25)
    return disturbed


@pytest.fixture(scope="module")
def contrary(model):
    """A draft whose most probable token is the model's least probable one."""
    return keras.Model(model.input, -model.output)


@pytest.fixture(scope="module")
def expected(model):
    return uncompiled(kt.Generator(model, max_length=MAX_LENGTH, end_token=END))(PROMPTS)


def ids(tokens):
    """A model's inputs, for the oracle."""
    return tokens


def uncompiled(generator):
    """The generator without compilation, where the loop can run in Python: that starts sooner."""
    if keras.backend.backend() == "tensorflow":
        generator.__dict__["_compiled"] = generator.generate
    return generator


def speculative(model, draft, count, *, strategy=None, **options):
    options = {"max_length": MAX_LENGTH, "end_token": END, **options}
    return uncompiled(kt.Generator(model, strategy=kt.Speculative(draft, count, strategy=strategy), **options))


def assert_same(actual, expected):
    assert actual["tokens"].tolist() == expected["tokens"].tolist()
    assert actual["lengths"].tolist() == expected["lengths"].tolist()
    np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=1e-4, atol=1e-4)


def test_plain_greedy_search_is_the_oracle(model, expected, greedy_oracle):
    assert_same(expected, greedy_oracle(model, PROMPTS, max_length=MAX_LENGTH, end_token=END, inputs=ids))
    assert len(np.unique(expected["tokens"])) > 4


@pytest.mark.long
@pytest.mark.parametrize("count", [1, 2, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_greedy_output_is_the_models_own(count, model, draft, expected):
    assert_same(speculative(model, draft, count)(PROMPTS), expected)


@pytest.mark.long
@pytest.mark.parametrize("count, kind", [(1, "itself"), (3, "itself"), (2, "contrary")])
def test_a_draft_that_is_always_or_never_right(count, kind, model, contrary, expected):
    draft = {"itself": model, "contrary": contrary}[kind]
    assert_same(speculative(model, draft, count)(PROMPTS), expected)


@pytest.mark.xla
def test_compiled(model, draft, expected):
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=kt.Speculative(draft, 3))
    assert_same(generator(PROMPTS), expected)


@pytest.mark.long
def test_without_a_cache(model, draft, expected):
    assert_same(speculative(model, draft, 2, cache=False)(PROMPTS), expected)


@pytest.mark.long
@pytest.mark.parametrize("prompts", [[[5]], [[2, 5, 4, 7, 1, 1, 8, 6, 6, 5], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0]]])
def test_prompts_of_one_token_and_of_all_but_one(prompts, model, draft, greedy_oracle):
    expected = greedy_oracle(model, prompts, max_length=MAX_LENGTH, end_token=END, inputs=ids)
    assert_same(speculative(model, draft, 3)(np.array(prompts)), expected)


@pytest.mark.long
def test_prompts_that_leave_nothing_to_generate(model, draft):
    full = np.array([[2, 5, 4, 7, 1, 1, 8, 3, 6, 6, 6]])
    result = speculative(model, draft, 3)(full)
    assert result["tokens"][0].tolist() == full.tolist()
    assert result["scores"].tolist() == [[0]]


@pytest.mark.long
@pytest.mark.parametrize("count", [2, 3])
def test_the_end_token_ends_a_row_wherever_it_falls_among_the_accepted_ones(count, model, draft, expected):
    for place in (5, 6, 7):
        end = int(expected["tokens"][0, 0, place])
        plain = uncompiled(kt.Generator(model, max_length=MAX_LENGTH, end_token=end))(PROMPTS)
        assert_same(speculative(model, draft, count, end_token=end)(PROMPTS), plain)


@pytest.mark.long
@pytest.mark.parametrize(
    "count, windows",
    [
        (1, (3, 2)),
        *(pytest.param(count, (3, 2), marks=pytest.mark.slow) for count in (2, 5)),
        (1, (1, 1)),
        (3, (2, 5)),
        pytest.param(2, (4, None), marks=pytest.mark.slow),
        (2, (None, 3)),
    ],
)
def test_windows_of_model_and_draft(count, windows, language_model, greedy_oracle):
    model = language_model(block(window=windows[0], num_kv_heads=2))
    draft = language_model(block(window=windows[1]))
    prompts = np.array([[2, 5, 4, 7, 1, 9, 3], [7, 0, 0, 0, 0, 0, 0], [9, 2, 6, 1, 0, 0, 0]])
    expected = greedy_oracle(model, prompts, max_length=17, end_token=END, inputs=ids)
    assert_same(speculative(model, draft, count, max_length=17)(prompts), expected)


def transformer(roughen, seed, **options):
    model = kt.models.transformer(23, 29, num_layers=1, dim=20, num_heads=5, intermediate_dim=13, **options)
    return roughen(model, seed)


@pytest.mark.long
@pytest.mark.parametrize("cache", [True, False])
def test_encoder_decoder_with_padded_sources(cache, roughen, greedy_oracle):
    model, draft = transformer(roughen, 0), transformer(roughen, 1, normalize_first=True)
    expected = greedy_oracle(
        model, PROMPTS, max_length=MAX_LENGTH, end_token=END, inputs=lambda tokens: [SOURCES, tokens]
    )
    assert_same(speculative(model, draft, 3, cache=cache)(SOURCES, PROMPTS), expected)


@pytest.mark.long
def test_processors_see_what_they_see_without_a_draft(model, draft):
    processors = [
        kt.NoRepeatNGram(2),
        kt.RepetitionPenalty(1.5),
        kt.MinimumLength(7, END),
        kt.ForbiddenTokens([5]),
        kt.ForcedTokens({5: 17, 8: 4}),
    ]
    plain = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, processors=processors)
    expected = uncompiled(plain)(PROMPTS)
    assert 17 in expected["tokens"]
    assert_same(speculative(model, draft, 2, processors=processors)(PROMPTS), expected)


# Steps


def steps_of(generator, monkeypatch):
    steps, step = [], generator.decoder.step
    monkeypatch.setattr(generator.decoder, "step", lambda *args, **options: steps.append(1) or step(*args, **options))
    prompts = keras.ops.convert_to_tensor(PROMPTS[:1], "int32")
    generator.generate({}, prompts, keras.ops.convert_to_tensor([4], "int32"))
    return len(steps)


@pytest.mark.long
@pytest.mark.eager
@pytest.mark.parametrize("count, steps", [(1, 4), (2, 3), (3, 2), (6, 1)])
def test_a_draft_that_is_right_saves_steps(count, steps, model, expected, monkeypatch):
    assert expected["lengths"][0, 0] == MAX_LENGTH  # seven new tokens, count + 1 a step
    assert steps_of(speculative(model, model, count), monkeypatch) == steps


@pytest.mark.long
@pytest.mark.eager
def test_a_draft_that_is_wrong_costs_no_more_steps_than_there_are_tokens(model, contrary, monkeypatch):
    assert steps_of(speculative(model, contrary, 3), monkeypatch) == 7


# Sampling

ROWS, VOCABULARY = 8000, 5


@pytest.fixture(scope="module")
def tiny(language_model):
    """A model and a draft of another opinion, of four tokens and padding."""
    model, draft = (language_model(block(), vocabulary=VOCABULARY) for _ in range(2))
    draft.get_layer("logits").kernel.assign(np.random.default_rng(5).normal(size=(20, VOCABULARY)) / 3)
    return model, draft


def exact(log_probabilities, temperature=1.0, top_k=None, top_p=None):
    """The distribution of one token, float64. Token 0 is padding."""
    p = np.exp(np.asarray(log_probabilities, "float64") / temperature)
    p[0] = 0
    descending = np.argsort(-p)
    if top_k is not None:
        p[descending[top_k:]] = 0
    p /= p.sum()
    if top_p is not None:
        p[descending[1 + int((p[descending].cumsum() >= top_p).argmax()) :]] = 0
    return p / p.sum()


def distribution_of_sequences(model, prompt, length, **options):
    """The probability of each sequence, {tokens: p}."""
    found, pending = {}, {tuple(prompt): 1.0}
    while pending:
        tokens, probability = pending.popitem()
        if len(tokens) == length or tokens[len(prompt) :][-1:] == (END,):
            found[tokens] = probability
            continue
        padded = np.array([[*tokens, *[0] * (length - len(tokens))]], "int32")
        logits = keras.ops.convert_to_numpy(model(padded, training=False))[0, len(tokens) - 1].astype("float64")
        for token, p in enumerate(exact(logits - np.log(np.exp(logits).sum()), **options)):
            if p > 0:
                pending[(*tokens, token)] = probability * p
    return found


def assert_distributed(result, expected, rows):
    """Pearson's chi-square test at 3e-5, sequences that are too rare for it taken together."""
    drawn = [
        tuple(tokens[:length].tolist())
        for tokens, length in zip(result["tokens"][:, 0], result["lengths"][:, 0], strict=True)
    ]
    assert set(drawn) <= set(expected), "something was drawn that is impossible"
    statistic, freedom, rest, rest_expected = 0.0, -1, 0, 0.0
    for sequence, probability in sorted(expected.items(), key=lambda item: item[1]):
        rest, rest_expected = rest + drawn.count(sequence), rest_expected + rows * probability
        if rest_expected >= 8:
            statistic += (rest - rest_expected) ** 2 / rest_expected
            freedom += 1
            rest, rest_expected = 0, 0.0
    assert freedom >= 4
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * np.sqrt(2 / (9 * freedom))) ** 3  # Wilson and Hilferty
    assert statistic < limit, f"chi-square {statistic:.0f}, of which {limit:.0f} is tolerable"


@pytest.mark.long
@pytest.mark.parametrize(
    "count, options",
    [
        pytest.param(1, {}, marks=pytest.mark.slow),
        (2, {"top_p": 0.8}),
        (3, {"temperature": 1.7, "top_k": 3}),
        pytest.param(2, {"temperature": 0.6}, marks=pytest.mark.slow),
        pytest.param(5, {"temperature": 1.4}, marks=pytest.mark.slow),
    ],
)
def test_sampled_sequences_have_the_distribution_of_the_model(count, options, tiny):
    model, draft = tiny
    prompt = [2, 1]
    expected = distribution_of_sequences(model, prompt, 5, **options)
    other = distribution_of_sequences(draft, prompt, 5, **options)
    distance = sum(abs(expected.get(x, 0) - other.get(x, 0)) for x in {*expected, *other}) / 2
    assert distance > 0.2, "the draft is too much like the model to tell right from wrong"
    generator = speculative(model, draft, count, strategy=kt.Sampling(**options, seed=13), max_length=5)
    assert_distributed(generator(np.tile([prompt], (ROWS, 1))), expected, ROWS)


@pytest.mark.long
def test_sampled_sequences_of_a_model_that_is_its_own_draft(tiny):
    model, _ = tiny
    expected = distribution_of_sequences(model, [2], 4)
    generator = speculative(model, model, 2, strategy=kt.Sampling(seed=17), max_length=4)
    assert_distributed(generator(np.full((ROWS, 1), 2)), expected, ROWS)


@pytest.mark.long
def test_sampled_sequences_without_a_cache(tiny):
    model, draft = tiny
    expected = distribution_of_sequences(model, [2], 4)
    generator = speculative(model, draft, 2, strategy=kt.Sampling(seed=19), max_length=4, cache=False)
    assert_distributed(generator(np.full((ROWS, 1), 2)), expected, ROWS)


@pytest.mark.long
@pytest.mark.xla
@pytest.mark.slow
def test_sampled_tokens_compiled_with_their_scores_and_the_same_twice(model, draft):
    strategy = kt.Speculative(draft, 2, strategy=kt.Sampling(temperature=1.3, seed=23))
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=strategy)
    result = generator(PROMPTS)
    assert generator(PROMPTS)["tokens"].tolist() == result["tokens"].tolist()
    tokens, lengths = result["tokens"][:, 0], result["lengths"][:, 0]
    logits = keras.ops.convert_to_numpy(model(tokens, training=False)).astype("float64")
    logs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    for row, prompt in enumerate((PROMPTS != 0).sum(axis=1)):
        score = sum(logs[row, place - 1, tokens[row, place]] for place in range(prompt, lengths[row]))
        np.testing.assert_allclose(result["scores"][row, 0], score, rtol=1e-4)


# Bad input


def test_draft_with_another_vocabulary(model, language_model):
    other = language_model(block(), vocabulary=31)
    with pytest.raises(ValueError, match=r"model's vocabulary of 29 tokens; '.*' has 31"):
        speculative(model, other, 2)


def test_draft_with_other_inputs(model, roughen):
    with pytest.raises(ValueError, match=r"no input 'tokens'|model's inputs \['tokens'\]"):
        speculative(model, transformer(roughen, 0), 2)
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("other", "target"))
    memory, x = kt.TokenEmbedding(23, 20)(source), kt.TokenEmbedding(29, 20)(target)
    other = keras.Model([source, target], keras.layers.Dense(29)(kt.DecoderLayer(4, 13)(x, memory)))
    with pytest.raises(ValueError, match=r"model's inputs \['source', 'target'\]; '.*' has \['other', 'target'\]"):
        speculative(transformer(roughen, 0), other, 2)


@pytest.mark.parametrize("cache, message", [(True, "cannot be decoded|later positions"), (False, "not causal")])
def test_draft_that_is_not_causal(cache, message, model, language_model):
    with pytest.raises(ValueError, match=message):
        speculative(model, language_model(kt.EncoderLayer(4, 13)), 2, cache=cache)


def test_draft_that_is_not_functional(model):
    with pytest.raises(ValueError, match="functional model"):
        speculative(model, keras.layers.Dense(29), 2)


@pytest.mark.parametrize("count", [0, -1, True, 1.5, None])
def test_number_of_draft_tokens(count, model):
    with pytest.raises(ValueError, match="positive integer as num_draft_tokens, got"):
        kt.Speculative(model, count)


@pytest.mark.parametrize("strategy", [kt.BeamSearch(2), kt.ContrastiveSearch(), "greedy"])
def test_strategy_that_it_cannot_follow(strategy, model):
    with pytest.raises(ValueError, match=r"takes Greedy\(\) or Sampling\(...\) as strategy, got"):
        kt.Speculative(model, 2, strategy=strategy)
