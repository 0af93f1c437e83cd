"""Processors change log-probabilities as plain Python does, one after the other, and under every strategy."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding import processors

END, MAX_LENGTH, VOCABULARY = 3, 13, 29
ROWS, WIDTH, SIZE = 17, 11, 7
NEVER = -1e29  # below it, a token is forbidden


# Each by itself, on random numbers and histories of every length


@pytest.fixture(scope="module")
def case():
    """Log-probabilities (R, V), histories (R, L) and their lengths (R,), from none to full."""
    random = np.random.default_rng(0)
    logs = np.log(random.dirichlet(np.ones(SIZE), ROWS)).astype("float32")
    lengths = (np.arange(ROWS) % (WIDTH + 1)).astype("int32")
    tokens = random.integers(1, SIZE, (ROWS, WIDTH)).astype("int32")
    tokens[np.arange(WIDTH) >= lengths[:, None]] = 0
    tokens[-1, :5], lengths[-1] = [2, 2, 2, 2, 2], 5  # n-grams that overlap
    return logs, tokens, lengths


def process(processor, case):
    logs, tokens, lengths = (keras.ops.convert_to_tensor(x) for x in case)
    return keras.ops.convert_to_numpy(processor(logs, tokens, lengths))


def expect(change, case):
    """What `change(row of log-probabilities, history)`, which alters the row, makes of each row."""
    logs, tokens, lengths = case
    expected = logs.astype("float64")
    for row, length in zip(expected, range(len(lengths)), strict=True):
        change(row, tokens[length, : lengths[length]].tolist())
    return expected


def assert_same(actual, expected):
    np.testing.assert_array_equal(actual < NEVER, expected < NEVER)
    allowed = expected > NEVER
    np.testing.assert_allclose(actual[allowed], expected[allowed], rtol=1e-6)


def repetition(penalty):
    def change(row, history):
        for token in set(history):
            row[token] *= penalty

    return change


def no_repeat(size):
    def change(row, history):
        seen = {tuple(history[start : start + size]) for start in range(len(history) - size + 1)}
        for token in range(1, len(row)):
            if (*history[len(history) - size + 1 :], token) in seen:
                row[token] = -np.inf

    return change


def minimum(length, end_token):
    def change(row, history):
        if len(history) + 1 < length:
            row[end_token] = -np.inf

    return change


def forbid(tokens, places=range(99)):
    def change(row, history):
        if len(history) in places:
            row[list(tokens)] = -np.inf

    return change


def force(tokens):
    def change(row, history):
        if len(history) in tokens:
            row[~np.isin(np.arange(len(row)), tokens[len(history)])] = -np.inf

    return change


ORACLES = {
    "repetition, discouraged": (kt.RepetitionPenalty(1.7), repetition(1.7)),
    "repetition, encouraged": (kt.RepetitionPenalty(0.6), repetition(0.6)),
    "no token twice": (kt.NoRepeatNGram(1), no_repeat(1)),
    "no pair twice": (kt.NoRepeatNGram(2), no_repeat(2)),
    "no triple twice": (kt.NoRepeatNGram(3), no_repeat(3)),
    "no 11-gram twice": (kt.NoRepeatNGram(WIDTH), no_repeat(WIDTH)),
    "minimum length": (kt.MinimumLength(5, 2), minimum(5, 2)),
    "minimum length of one": (kt.MinimumLength(1, 2), minimum(1, 2)),
    "forbidden": (kt.ForbiddenTokens([2, 5, 5]), forbid([2, 5])),
    "none forbidden": (kt.ForbiddenTokens([]), forbid([])),
    "forbidden from the third on": (kt.ForbiddenTokens([2, 5], start=3), forbid([2, 5], range(3, 99))),
    "forbidden at the second": (kt.ForbiddenTokens([2, 5], start=2, stop=3), forbid([2, 5], [2])),
    "forced, one of several": (kt.ForcedTokens({1: [4, 6], 7: 2}), force({1: [4, 6], 7: 2})),
    "forced": (kt.ForcedTokens({1: 4, 7: 2}), force({1: 4, 7: 2})),
    "none forced": (kt.ForcedTokens({}), force({})),
}


@pytest.mark.parametrize("name", ORACLES)
def test_equals_plain_python(name, case):
    processor, change = ORACLES[name]
    assert_same(process(processor, case), expect(change, case))


def test_every_processor_of_the_package_has_an_oracle():
    public = {x for x in vars(processors).values() if isinstance(x, type) and x.__module__ == processors.__name__}
    assert {type(processor) for processor, _ in ORACLES.values()} == public


def test_the_oracle_of_ngrams_forbids_something(case):
    for size in (1, 2, 3):
        assert (expect(no_repeat(size), case) < NEVER).any()


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_run_of_one_token_ends_where_its_ngram_would_repeat(size):
    tokens = np.zeros((4, WIDTH), "int32")
    lengths = np.array([size - 1, size, size + 1, WIDTH], "int32")
    for row, length in enumerate(lengths):
        tokens[row, :length] = 5
    logs = np.full((4, SIZE), -1.0, "float32")
    result = process(kt.NoRepeatNGram(size), (logs, tokens, lengths))
    assert (result[:, 5] < NEVER).tolist() == [False, True, True, True]
    assert (np.delete(result, 5, axis=1) == -1).all()


def test_a_size_above_the_longest_sequence_forbids_nothing(case):
    for size in (WIDTH + 1, WIDTH + 2, 3 * WIDTH):
        np.testing.assert_array_equal(process(kt.NoRepeatNGram(size), case), case[0])


def test_what_is_forbidden_stays_forbidden_under_any_repetition_penalty(case):
    logs, tokens, lengths = case
    first = process(kt.ForbiddenTokens([2, 4]), case)
    for penalty in (0.05, 0.3, 30.0):
        assert (process(kt.RepetitionPenalty(penalty), (first, tokens, lengths))[:, [2, 4]] < NEVER).all()


def test_padding_is_no_repetition(case):
    logs, tokens, lengths = case
    for processor in (kt.RepetitionPenalty(2.0), kt.NoRepeatNGram(1), kt.NoRepeatNGram(2)):
        np.testing.assert_array_equal(process(processor, case)[:, 0], logs[:, 0])


# A model, and plain greedy search with processors


@pytest.fixture(scope="module")
def model(language_model):
    model = language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6))
    bias = model.get_layer("logits").bias
    bias.assign(keras.ops.convert_to_numpy(bias) + 2.0 * (np.arange(VOCABULARY) == END))
    return model


@pytest.fixture(scope="module")
def draft(language_model):
    return language_model(kt.DecoderLayer(2, 7), encoding=kt.PositionalEncoding(), dim=8)


PROMPTS = np.array([[2, 5, 4, 2], [7, 0, 0, 0], [9, 9, 0, 0]])
FORBIDDEN, FORCED, LEAST, DISLIKED = (1, 8, 22, 27), {5: 19, 8: 6}, 11, 12


def dislike(log_probabilities, tokens, lengths):
    """A user's function: token 12 only as the sixth or a later one."""
    early = keras.ops.expand_dims(lengths < 6, 1)
    disliked = keras.ops.arange(VOCABULARY) == DISLIKED
    return keras.ops.where(keras.ops.logical_and(early, disliked), -1e30, log_probabilities)


def disliked(row, history):
    if len(history) < 6:
        row[DISLIKED] = -np.inf


PROCESSORS = [
    kt.RepetitionPenalty(1.3),
    dislike,
    kt.NoRepeatNGram(2),
    kt.ForbiddenTokens(FORBIDDEN),
    kt.MinimumLength(LEAST, END),
    kt.ForcedTokens(FORCED),
]
CHANGES = [repetition(1.3), disliked, no_repeat(2), forbid(FORBIDDEN), minimum(LEAST, END), force(FORCED)]


def greedy_with(model, changes):
    """Tokens and summed log-probabilities of greedy search over the full model; `changes` alter what it chooses by."""
    tokens = np.pad(PROMPTS, ((0, 0), (0, MAX_LENGTH - PROMPTS.shape[1]))).astype("int32")
    scores = np.zeros(len(PROMPTS))
    for row, length in enumerate((PROMPTS != 0).sum(axis=1)):
        while length < MAX_LENGTH:
            logits = keras.ops.convert_to_numpy(model(tokens, training=False))[row, length - 1].astype("float64")
            logs = logits - np.log(np.exp(logits).sum())
            changed = logs.copy()
            for change in changes:
                change(changed, tokens[row, :length].tolist())
            chosen = 1 + int(changed[1:].argmax())
            tokens[row, length] = chosen
            scores[row] += logs[chosen]
            length += 1
            if chosen == END:
                break
    return tokens, scores


def assert_greedy(model, processors, changes):
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, processors=processors)
    result = generator(PROMPTS)
    tokens, scores = greedy_with(model, changes)
    assert result["tokens"][:, 0].tolist() == tokens.tolist()
    np.testing.assert_allclose(result["scores"][:, 0], scores, rtol=1e-4)
    return tokens


@pytest.mark.long
def test_processors_act_in_the_order_given(model):
    """A user's function that looks at what is still allowed sees what came before it."""

    def halve_the_best(log_probabilities, tokens, lengths):
        best = keras.ops.max(log_probabilities[:, 1:], axis=-1, keepdims=True)
        return keras.ops.where(log_probabilities >= best, log_probabilities - 3.0, log_probabilities)

    def halved(row, history):
        row[row >= row[1:].max()] -= 3.0

    forbidden = (4, 5, 10, 11, 14, 15, 20, 21, 24, 25)
    first = assert_greedy(model, [kt.ForbiddenTokens(forbidden), halve_the_best], [forbid(forbidden), halved])
    second = assert_greedy(model, [halve_the_best, kt.ForbiddenTokens(forbidden)], [halved, forbid(forbidden)])
    assert first.tolist() != second.tolist()


# All of them at once, under every strategy


@pytest.fixture(scope="module")
def results(model, draft):
    """A function: the generator of a strategy, and what it made of the prompts."""
    strategies = {
        "greedy": kt.Greedy(),
        "sampling": kt.Sampling(temperature=1.5, seed=5),
        "beam search": kt.BeamSearch(3, length_penalty=0.6, num_return=3),
        "contrastive search": kt.ContrastiveSearch(top_k=3, penalty=0.4),
        "speculative": kt.Speculative(draft, 3),
        "speculative sampling": kt.Speculative(draft, 2, strategy=kt.Sampling(seed=7)),
    }
    made = {}

    def run(name):
        if name not in made:
            generator = kt.Generator(
                model, max_length=MAX_LENGTH, end_token=END, strategy=strategies[name], processors=PROCESSORS
            )
            made[name] = generator, generator(PROMPTS)
        return made[name]

    return run


STRATEGIES = ["greedy", "sampling", "beam search", "contrastive search", "speculative", "speculative sampling"]


@pytest.mark.long
@pytest.mark.parametrize("name", [*STRATEGIES[:-1], pytest.param(STRATEGIES[-1], marks=pytest.mark.slow)])
def test_every_strategy_keeps_to_all_of_them(name, results):
    _, result = results(name)
    for row, prompt in enumerate((PROMPTS != 0).sum(axis=1)):
        for tokens, length in zip(result["tokens"][row], result["lengths"][row], strict=True):
            sequence, new = tokens[:length].tolist(), tokens[prompt:length].tolist()
            assert length >= LEAST and 0 not in sequence and END not in new[:-1]
            assert sequence[-1] == END or length == MAX_LENGTH
            assert not set(new) & set(FORBIDDEN)
            assert DISLIKED not in sequence[:6]
            assert {position: sequence[position] for position in FORCED} == FORCED
            for end in range(prompt, length):
                earlier = {tuple(sequence[start : start + 2]) for start in range(end - 1)}
                assert tuple(sequence[end - 1 : end + 1]) not in earlier, "a pair stands twice"


@pytest.mark.long
@pytest.mark.parametrize("name", STRATEGIES)
def test_scores_stay_the_models_own(name, results):
    generator, result = results(name)
    lengths = (PROMPTS != 0).sum(axis=1)
    scores = generator.score(result["tokens"], prompt_lengths=lengths)
    np.testing.assert_allclose(scores, result["scores"], rtol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("name", ["greedy", "speculative"])
def test_greedy_search_and_its_speculative_form_equal_the_plain_loop(name, results, model):
    _, result = results(name)
    tokens, scores = greedy_with(model, CHANGES)
    assert result["tokens"][:, 0].tolist() == tokens.tolist()
    np.testing.assert_allclose(result["scores"][:, 0], scores, rtol=1e-4)
    plain, _ = greedy_with(model, [])
    assert plain.tolist() != tokens.tolist()


# Bad input


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: kt.RepetitionPenalty(0), "positive penalty, got 0"),
        (lambda: kt.RepetitionPenalty(-1.5), "positive penalty, got -1.5"),
        (lambda: kt.RepetitionPenalty(float("nan")), "positive penalty, got nan"),
        (lambda: kt.NoRepeatNGram(0), "positive integer as size, got 0"),
        (lambda: kt.NoRepeatNGram(True), "positive integer as size, got True"),
        (lambda: kt.NoRepeatNGram(2.0), "positive integer as size, got 2.0"),
        (lambda: kt.MinimumLength(0, END), "positive integer as length, got 0"),
        (lambda: kt.MinimumLength(5, [3.5]), "integers as end_token, got"),
        (lambda: kt.MinimumLength(5, None), "list of ids as end_token, got None"),
        (lambda: kt.RepetitionPenalty("1"), "positive penalty, got '1'"),
        (lambda: kt.ForbiddenTokens(5), "list of ids as tokens, got 5"),
        (lambda: kt.ForbiddenTokens([1.5]), r"integers as tokens, got \[1.5\]"),
        (lambda: kt.ForbiddenTokens([True]), r"integers as tokens, got \[True\]"),
        (lambda: kt.ForbiddenTokens([1], start=3, stop=3), "0 <= start < stop, got start=3 and stop=3"),
        (lambda: kt.ForbiddenTokens([1], start=1.5), r"integers as start and stop, got \[1.5\]"),
        (lambda: kt.ForcedTokens({1: [2, 2.7]}), r"integers as tokens, got \[2, 2.7\]"),
        (lambda: kt.ForcedTokens({1: 2.7}), r"integers as tokens, got \[2.7\]"),
        (lambda: kt.ForcedTokens({1.5: 2}), r"integers as positions, got \[1.5\]"),
        (lambda: kt.ForcedTokens([2]), r"dict of ids by position, got \[2\]"),
        (lambda: kt.Sampling(temperature="hot"), "temperature, got 'hot'"),
        (lambda: kt.Sampling(top_p="x"), "top_p in .*got 'x'"),
        (lambda: kt.BeamSearch(2.0), "positive integer as num_beams, got 2.0"),
        (lambda: kt.BeamSearch(2, length_penalty=None), "number as length_penalty, got None"),
        (lambda: kt.BeamSearch(2, coverage_penalty="x"), "coverage_penalty of 0 or more, got 'x'"),
        (lambda: kt.ContrastiveSearch(3, True), r"penalty in \[0, 1\], got True"),
        (lambda: kt.MinimumLength(False, END), "positive integer as length, got False"),
        (lambda: kt.MinimumLength(4.5, END), "positive integer as length, got 4.5"),
    ],
)
def test_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "processor, message",
    [
        (
            kt.ForbiddenTokens([5, VOCABULARY]),
            "ForbiddenTokens takes ids from 0 to 28.*but for 0, which is padding.*got 29",
        ),
        (kt.ForbiddenTokens([0]), "ForbiddenTokens takes ids from 0 to 28.*but for 0, which is padding.*got 0"),
        (kt.ForbiddenTokens([-1]), "ForbiddenTokens takes ids from 0 to 28.*but for 0, which is padding.*got -1"),
        (kt.ForbiddenTokens(range(1, VOCABULARY)), "forbids all 29 tokens"),
        (kt.ForcedTokens({4: VOCABULARY}), "ForcedTokens takes ids from 0 to 28.*but for 0, which is padding.*got 29"),
        (kt.ForcedTokens({4: 0}), "ForcedTokens takes ids from 0 to 28.*but for 0, which is padding.*got 0"),
        (kt.ForcedTokens({0: 5}), "positions from 1 to 12.*got 0"),
        (kt.ForcedTokens({MAX_LENGTH: 5}), "positions from 1 to 12.*got 13"),
        (kt.ForcedTokens({-1: 5}), "positions from 1 to 12.*got -1"),
        (kt.MinimumLength(MAX_LENGTH + 1, END), "MinimumLength asks for 14 tokens.*max_length is 13"),
        (kt.MinimumLength(5, VOCABULARY), "MinimumLength takes ids from 0 to 28.*but for 0, which is padding.*got 29"),
        ("no repetition, please", "functions as processors, got 'no repetition, please'"),
        (None, "functions as processors, got None"),
    ],
)
def test_processor_that_does_not_suit_the_model(processor, message, model):
    with pytest.raises(ValueError, match=message):
        kt.Generator(model, max_length=MAX_LENGTH, end_token=END, processors=[kt.NoRepeatNGram(2), processor])
