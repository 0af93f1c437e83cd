"""Beam search finds what an exhaustive search finds where it can hold everything, and elsewhere what a plain loop over
the full model finds, row by row."""

import itertools
import math

import keras
import numpy as np
import pytest

import keras_transformer as kt

END, MAX_LENGTH, VOCABULARY = 3, 11, 29
NOTHING = np.float32(-1e30)
SOURCES = np.array([[5, 9, 4, 22, 16, 1, 7], [8, 3, 0, 0, 0, 0, 0], [6, 6, 17, 2, 12, 0, 0]])
PREFIXES = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0]])

ALLOWED = (2, END, 5, 7, 11, 13)  # what the exhaustive search can say
LONG_PROMPTS = np.array([[5, 2, 0, 0, 0], [7, 13, 11, 0, 0], [2, 2, 5, 11, 7]])  # at most 5, 4 and 2 new tokens
BEGINNINGS = {4: 5**3, 5: 5**4}  # what the beams must hold, by new tokens: all that have one to come
VOCABULARIES = {4: 127, 5: 631}  # a little above, for there are no more beams than tokens


# The oracles: float64, of whole runs of the full model, one row at a time


def only_target(tokens, row):
    return tokens


def with_source(tokens, row):
    return [np.repeat(SOURCES[row : row + 1], len(tokens), axis=0), tokens]


def full_log_probabilities(model, sequences, *, rows, width, row=0, inputs=only_target):
    """(n, width, V) of `sequences`, which stand in an array of `rows` rows: few shapes, few compilations."""
    tokens = np.zeros((rows, width), "int32")
    for place, sequence in enumerate(sequences):
        tokens[place, : len(sequence)] = sequence
    logits = model.predict_on_batch(inputs(tokens, row))[: len(sequences)].astype("float64")
    logits -= logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def penalty(new_tokens, length_penalty):
    return ((5 + new_tokens) / 6) ** length_penalty


def beam_oracle(
    model,
    prompt,
    *,
    num_beams,
    max_length=MAX_LENGTH,
    length_penalty=0.0,
    num_return=1,
    early_stopping=False,
    change=lambda log_probabilities, sequence: log_probabilities,
    **run,
):
    """Beam search as its description says: a list of (score, sequence), best first, at most `num_return`."""
    live = [(0.0, 0.0, tuple(prompt))]  # by what they are ranked, log-probability, tokens
    pool = []
    for length in range(len(prompt) + 1, max_length + 1):
        new_tokens = length - len(prompt)
        sequences = [sequence for *_, sequence in live]
        logs = full_log_probabilities(model, sequences, rows=num_beams, width=max_length, **run)[:, length - 2]
        candidates = []
        for (rank, total, sequence), log in zip(live, logs, strict=True):
            changed = change(log, sequence)
            candidates += [(rank + changed[v], total + log[v], (*sequence, v)) for v in range(1, len(log))]
        candidates = [x for x in sorted(candidates, reverse=True)[: 2 * num_beams] if x[0] > -1e29]
        ended = [x for x in candidates if x[2][-1] == END or length == max_length]
        live = [x for x in candidates if x not in ended][:num_beams]
        divisor = penalty(new_tokens, length_penalty)
        pool = sorted(pool + [(rank / divisor, total / divisor, x) for rank, total, x in ended], reverse=True)
        pool = pool[:num_beams]
        if not live or (early_stopping and len(pool) == num_beams):
            break
        if not early_stopping and len(pool) >= num_return:
            ahead = [penalty(n, length_penalty) for n in (new_tokens + 1, max_length - len(prompt))]
            if max(live[0][0] / divisor for divisor in ahead) <= pool[num_return - 1][0]:
                break
    return [(score, sequence) for _, score, sequence in pool[:num_return]]


def all_sequences(model, prompt, *, max_length, allowed=ALLOWED, minimum=0, rows=1, **run):
    """The log-probability of every sequence of allowed tokens that begins with `prompt`: {sequence: sum}."""
    prompt = tuple(prompt)
    room = max_length - len(prompt)
    bodies = list(itertools.product([token for token in allowed if token != END], repeat=room - 1))
    logs = full_log_probabilities(
        model, [prompt + body for body in bodies], rows=max(rows, len(bodies)), width=max_length, **run
    )
    found = {}
    for body, log in zip(bodies, logs[:, len(prompt) - 1 :], strict=True):
        for n in range(room):
            before = sum(log[place, body[place]] for place in range(n))
            for last in allowed if n == room - 1 else (END,):
                sequence = (*prompt, *body[:n], last)
                if last != END or len(sequence) >= minimum:
                    found[sequence] = before + log[n, last]
    return found


def best_of_all(model, prompt, *, length_penalty=0.0, num_return=1, **search):
    found = all_sequences(model, prompt, **search)
    ranked = [(total / penalty(len(x) - len(prompt), length_penalty), x) for x, total in found.items()]
    return sorted(ranked, reverse=True)[:num_return]


def real(prompt):
    return [int(token) for token in prompt if token]


def assert_found(result, expected, tolerance=1e-4):
    """That `result` holds the sequences of `expected`, a list of (score, sequence) for each row, and nothing else."""
    count, width = result["tokens"].shape[1:]
    tokens = [[[*x, *[0] * (width - len(x))] for _, x in row] for row in expected]
    assert result["tokens"].tolist() == [row + [[0] * width] * (count - len(row)) for row in tokens]
    assert result["lengths"].tolist() == [[len(x) for _, x in row] + [0] * (count - len(row)) for row in expected]
    scores = [[score for score, _ in row] + [NOTHING] * (count - len(row)) for row in expected]
    np.testing.assert_allclose(result["scores"], scores, rtol=tolerance, atol=tolerance)


def assert_well_formed(result, prompts, end_token=END):
    """The prompt first, then the new tokens; the end token last if at all; behind it nothing but padding."""
    for row, prompt in enumerate(map(real, prompts)):
        seen = set()
        for sequence, length in zip(result["tokens"][row], result["lengths"][row], strict=True):
            new = sequence[len(prompt) : length]
            assert sequence[: len(prompt)].tolist() == prompt
            assert (new != 0).all() and (new[:-1] != end_token).all()
            assert length == len(sequence) or new[-1] == end_token
            assert (sequence[length:] == 0).all()
            seen.add(tuple(sequence.tolist()))
        assert len(seen) == len(result["tokens"][row]), "a sequence was returned twice"
        assert (np.diff(result["scores"][row]) <= 1e-5).all(), "not the best first"


# Models


def set_rough_weights(model, initial, roughen, seed, bias=None):
    """Random weights that depend on `seed` alone, so that one compiled generator serves several models."""
    model.set_weights(initial)
    roughen(model, seed)
    if bias is not None:
        layer = model.get_layer("logits")
        layer.bias.assign(keras.ops.convert_to_numpy(layer.bias) + bias)
    return model


def bias_of(size, values):
    bias = np.zeros(size)
    for token, value in values.items():
        bias[token] = value
    return bias


def cross_attending_model(decoder_layers=1):
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    memory = kt.EncoderLayer(4, 13)(kt.PositionalEncoding()(kt.TokenEmbedding(23, 20)(source)))
    y = kt.PositionalEncoding()(kt.TokenEmbedding(VOCABULARY, 20)(target))
    for _ in range(decoder_layers):
        y = kt.DecoderLayer(4, 13)(y, memory)
    return keras.Model([source, target], keras.layers.Dense(VOCABULARY, name="logits")(y))


@pytest.fixture(scope="module")
def encoder_decoder():
    model = cross_attending_model()
    return model, model.get_weights()


@pytest.fixture(scope="module")
def generators():
    """Generators that tests share, by what they were made with: each is compiled once."""
    return {}


def shared(generators, model, strategy, **options):
    key = (id(model), strategy, *sorted((name, repr(value)) for name, value in options.items()))
    if key not in generators:
        generators[key] = kt.Generator(
            model, strategy=strategy, **{"max_length": MAX_LENGTH, "end_token": END, **options}
        )
    return generators[key]


# 1. Everything there is


class ForbidOthers(kt.ForbiddenTokens):
    def __init__(self, size, allowed=ALLOWED):
        super().__init__([token for token in range(1, size) if token not in allowed])

    def __repr__(self):
        return f"ForbidOthers({self.tokens})"


def exhaustive_case(language_model, new_tokens, *processors, length_penalty, **options):
    """A model, a generator that holds everything, and its search, for two tokens and at most `new_tokens` more."""
    size, max_length = VOCABULARIES[new_tokens], 2 + new_tokens
    model = language_model(kt.DecoderLayer(2, 13, position=kt.RotaryPosition(), head_dim=6), vocabulary=size)
    strategy = kt.BeamSearch(BEGINNINGS[new_tokens], length_penalty=length_penalty, num_return=17)
    processors = [ForbidOthers(size), *processors]
    options = {"max_length": max_length, "end_token": END, "strategy": strategy, "processors": processors, **options}
    generator = kt.Generator(model, **options)
    search = {"max_length": max_length, "length_penalty": length_penalty, "num_return": 17, "rows": strategy.num_beams}
    likely = bias_of(size, {token: 4.0 if token == END else 6.0 for token in ALLOWED})
    return model, generator, search, likely


@pytest.mark.long
@pytest.mark.parametrize(
    "new_tokens, length_penalty, end_bias, cache", [(5, 0.6, 0.0, False), (4, 0, 0.0, True), (4, 1.3, 4.0, True)]
)
def test_finds_the_best_of_all_sequences_over_six_tokens(
    new_tokens, length_penalty, end_bias, cache, language_model, roughen
):
    """Of five tokens without a cache, which compiles in a fraction of the time where there are 625 beams."""
    model, generator, search, likely = exhaustive_case(
        language_model, new_tokens, length_penalty=length_penalty, cache=cache
    )
    initial = model.get_weights()
    prompts = LONG_PROMPTS[:, :new_tokens]
    lengths = set()
    for seed in range(3):
        set_rough_weights(model, initial, roughen, seed, likely + bias_of(len(likely), {END: end_bias}))
        result = generator(prompts)
        assert_found(result, [best_of_all(model, real(prompt), **search) for prompt in prompts])
        assert_well_formed(result, prompts)
        lengths.update(result["lengths"][0].tolist())
    assert len(lengths) >= 3, "the models say too little to tell right from wrong"


@pytest.mark.long
def test_finds_the_best_of_all_sequences_of_a_minimum_length(language_model, roughen):
    minimum = kt.MinimumLength(5, END)
    model, generator, search, likely = exhaustive_case(language_model, 4, minimum, length_penalty=0.6, cache=False)
    set_rough_weights(model, model.get_weights(), roughen, 3, likely + bias_of(len(likely), {END: 3.0}))
    prompts = LONG_PROMPTS[:, :4]
    free = best_of_all(model, real(prompts[0]), **search)
    expected = [best_of_all(model, real(prompt), minimum=5, **search) for prompt in prompts]
    assert free != expected[0]
    assert_found(generator(prompts), expected)


@pytest.mark.long
def test_as_many_beams_as_tokens(language_model, roughen):
    """Six beams hold all beginnings of one token, so with room for two it is the exhaustive search, too."""
    model = language_model(kt.DecoderLayer(2, 13), encoding=kt.PositionalEncoding(), vocabulary=6)
    initial = model.get_weights()
    strategy = kt.BeamSearch(6, length_penalty=0.6, num_return=5)
    generator = kt.Generator(model, max_length=7, end_token=END, strategy=strategy)
    prompts = np.array([[2, 5, 4, 1, 2], [4, 1, 0, 0, 0], [5, 5, 5, 0, 0]])
    for seed in range(4):
        set_rough_weights(model, initial, roughen, seed)
        search = {"max_length": 7, "length_penalty": 0.6, "num_return": 5}
        result = generator(prompts)
        assert_found(result, [beam_oracle(model, real(prompt), num_beams=6, **search) for prompt in prompts])
        best = best_of_all(model, real(prompts[0]), allowed=range(1, 6), rows=6, **search)
        assert result["tokens"][0].tolist() == [[*x, *[0] * (7 - len(x))] for _, x in best]


def test_the_offset_of_the_length_penalty():
    sums, counts = np.array([-3.0, -5.0, 0.0], "float32"), np.array([2, 7, 0], "int32")
    for offset in (5.0, 0.0, 2.5):
        found = kt.BeamSearch(3, length_penalty=0.7, length_offset=offset).penalize(sums, counts)
        expected = [x / (max(offset + n, 1) / (offset + 1)) ** 0.7 for x, n in zip(sums, counts, strict=True)]
        np.testing.assert_allclose(np.array(found), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="length_offset of 0 or more, got -1"):
        kt.BeamSearch(3, length_offset=-1)


# 2. A plain loop over the full model

SEARCHES = [
    (kt.BeamSearch(1), True),
    (kt.BeamSearch(2, early_stopping=True, num_return=2), False),
    (kt.BeamSearch(3, length_penalty=0.7, num_return=3), False),
    (kt.BeamSearch(5, length_penalty=1.1, num_return=2), True),
    (kt.BeamSearch(5, length_penalty=0.7, early_stopping=True, num_return=5), True),
]
TO_THE_END, EARLY = SEARCHES[3][0], SEARCHES[4][0]


def oracle_of(strategy, model, prompts, **options):
    search = {name: getattr(strategy, name) for name in ("num_beams", "length_penalty", "num_return", "early_stopping")}
    return [beam_oracle(model, real(prompt), row=row, **search, **options) for row, prompt in enumerate(prompts)]


@pytest.mark.xla
@pytest.mark.parametrize(
    "strategy, cache",
    [
        SEARCHES[3],
        *(pytest.param(*search, marks=pytest.mark.slow) for search in SEARCHES[:3] + SEARCHES[4:]),
    ],
)
def test_encoder_decoder_with_padded_sources_and_forced_prefixes(strategy, cache, encoder_decoder, generators, roughen):
    model, initial = encoder_decoder
    generator = shared(generators, model, strategy, cache=cache)
    lengths = set()
    for seed in range(3):
        set_rough_weights(model, initial, roughen, seed, bias_of(VOCABULARY, {END: 2.0}))
        result = generator(SOURCES, PREFIXES)
        assert_found(result, oracle_of(strategy, model, PREFIXES, inputs=with_source))
        assert_well_formed(result, PREFIXES)
        lengths.update((result["lengths"] - (PREFIXES != 0).sum(axis=1)[:, None]).flatten().tolist())
    assert len(lengths) >= 3, "the models say too little to tell right from wrong"


DECODERS = {
    "ring, rotary, grouped-query, pre-norm, tied": lambda language_model: language_model(
        *(
            kt.DecoderLayer(
                4, 13, head_dim=6, num_kv_heads=2, window=window, normalize_first=True, position=kt.RotaryPosition()
            )
            for window in (3, None)
        ),
        kt.RMSNormalization(),
        tied=True,
    ),
    "ring, ALiBi, multi-query": lambda language_model: language_model(
        kt.DecoderLayer(4, 13, num_kv_heads=1, window=5, position=kt.AlibiPosition())
    ),
    "relative position, shared": lambda language_model: language_model(
        *[kt.DecoderLayer(4, 13, position=position) for position in [kt.RelativePosition(8, 16)] for _ in range(2)]
    ),
}
PROMPTS = np.array([[2, 5, 4, 7, 7, 9], [7, 0, 0, 0, 0, 0], [9, 2, 8, 0, 0, 0]])  # up to longer than the windows


@pytest.mark.long
@pytest.mark.parametrize("kind", DECODERS)
def test_decoder_of_every_kind(kind, language_model, roughen):
    model = DECODERS[kind](language_model)
    initial = model.get_weights()
    strategy = kt.BeamSearch(4, length_penalty=0.8, num_return=3)
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=strategy)
    for seed in range(2):
        set_rough_weights(model, initial, roughen, seed)
        assert_found(generator(PROMPTS), oracle_of(strategy, model, PROMPTS))


@pytest.mark.long
@pytest.mark.slow
def test_two_sources_with_the_target_between_them(roughen):
    text = keras.Input((None,), dtype="int32", name="text")
    target = keras.Input((None,), dtype="int32", name="target")
    sound = keras.Input((None, 5), name="sound")
    read = kt.EncoderLayer(2, 13)(kt.PositionalEncoding()(kt.TokenEmbedding(23, 20)(text)))
    heard = kt.EncoderLayer(2, 13)(keras.layers.Dense(14)(sound))
    y = kt.PositionalEncoding()(kt.TokenEmbedding(VOCABULARY, 20)(target))
    y = kt.DecoderLayer(4, 13)(kt.DecoderLayer(4, 13)(y, read), heard)
    model = roughen(keras.Model([text, target, sound], keras.layers.Dense(VOCABULARY)(y)))
    sounds = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")

    def inputs(tokens, row):
        return [np.repeat(x[row : row + 1], len(tokens), axis=0) for x in (SOURCES, sounds)]

    def ordered(tokens, row):
        read, heard = inputs(tokens, row)
        return [read, tokens, heard]

    strategy = kt.BeamSearch(3, num_return=3)
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=strategy, target_input="target")
    result = generator({"sound": sounds, "text": SOURCES}, PREFIXES)
    assert_found(result, oracle_of(strategy, model, PREFIXES, inputs=ordered))


LONG = [0, 0.02, 0.4, 0.5, 0.04, 0.04], [0, 0.001, 0.996, 0.001, 0.001, 0.001], [1] + [2] * 10
SHORT = [0, 0.02, 0.5, 0.4, 0.04, 0.04], [0, 0.001, 0.001, 0.996, 0.001, 0.001], [1, 2, END] + [0] * 8


@pytest.mark.long
@pytest.mark.parametrize(
    "length_penalty, after_1, after_2, expected",
    [pytest.param(1.0, *LONG, id="length rewarded"), pytest.param(-1.0, *SHORT, id="length punished")],
)
def test_goes_on_while_a_longer_sequence_may_overtake(length_penalty, after_1, after_2, expected):
    """To end at once is better than any two tokens that have been seen by then, but not than what may follow: at the
    longest length if length is rewarded, at the next if it is punished."""
    table = np.full((6, 6), 1 / 6)
    table[1], table[2] = after_1, after_2
    tokens = keras.Input((None,), dtype="int32")
    embedding = keras.layers.Embedding(6, 6, weights=[np.log(table + 1e-9)])
    model = keras.Model(tokens, keras.layers.Activation("linear")(embedding(tokens)))
    strategy = kt.BeamSearch(2, length_penalty=length_penalty)
    result = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=strategy)(np.array([[1]]))
    assert result["tokens"][0, 0].tolist() == expected


@pytest.mark.long
def test_processors_decide_the_order_and_the_scores_stay_the_models_own(encoder_decoder, generators, roughen):
    model, initial = encoder_decoder
    strategy = kt.BeamSearch(3, length_penalty=0.7, num_return=3)

    def penalize(log_probabilities, sequence):
        seen = np.isin(np.arange(len(log_probabilities)), sequence)
        return np.where(seen, 2.5 * log_probabilities, log_probabilities)

    generator = shared(generators, model, strategy, processors=[kt.RepetitionPenalty(2.5)])
    changed = 0
    for seed in range(3):
        set_rough_weights(model, initial, roughen, seed, bias_of(VOCABULARY, {END: 1.0}))
        expected = oracle_of(strategy, model, PREFIXES, inputs=with_source, change=penalize)
        assert_found(generator(SOURCES, PREFIXES), expected)
        plain = oracle_of(strategy, model, PREFIXES, inputs=with_source)
        changed += [x for row in plain for _, x in row] != [x for row in expected for _, x in row]
    assert changed


# 3. What holds of every search


@pytest.mark.long
def test_one_beam_is_greedy_search_unless_an_end_is_passed_by(encoder_decoder, generators, roughen):
    """The one beam goes on with what greedy search takes. A sequence that might have ended on the way is in the pool,
    though, and is returned where it is the more probable one."""
    model, initial = encoder_decoder
    beam, greedy = (shared(generators, model, strategy) for strategy in (kt.BeamSearch(1), kt.Greedy()))
    equal = 0
    for seed in range(6):
        set_rough_weights(model, initial, roughen, seed, bias_of(VOCABULARY, {END: 2.0 * (seed % 2) - 1}))
        expected, actual = greedy(SOURCES, PREFIXES), beam(SOURCES, PREFIXES)
        assert (actual["scores"] >= expected["scores"] - 1e-4).all()
        for row, length in enumerate(actual["lengths"][:, 0]):
            same = actual["tokens"][row].tolist() == expected["tokens"][row].tolist()
            before = [x["tokens"][row, 0, : length - 1].tolist() for x in (actual, expected)]
            ended = actual["tokens"][row, 0, length - 1] == END and length < expected["lengths"][row, 0]
            assert same or (before[0] == before[1] and ended)
            equal += same
    assert 9 <= equal, "most should be the same"


@pytest.mark.long
def test_one_beam_is_greedy_search_where_no_end_can_be_passed_by(encoder_decoder, generators, roughen):
    model, initial = encoder_decoder
    beam, greedy = (shared(generators, model, strategy) for strategy in (kt.BeamSearch(1), kt.Greedy()))
    for seed in range(3):
        set_rough_weights(model, initial, roughen, seed, bias_of(VOCABULARY, {END: -100.0}))
        expected, actual = greedy(SOURCES, PREFIXES), beam(SOURCES, PREFIXES)
        assert actual["tokens"].tolist() == expected["tokens"].tolist()
        assert actual["lengths"].tolist() == expected["lengths"].tolist()
        np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=1e-5)


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(TO_THE_END, marks=pytest.mark.slow, id="to the end"), pytest.param(EARLY, id="early stopping")],
)
def test_a_row_does_not_depend_on_its_batch(strategy, encoder_decoder, generators, roughen):
    model, initial = encoder_decoder
    generator = shared(generators, model, strategy, cache=True)
    for seed in range(4):
        set_rough_weights(model, initial, roughen, seed, bias_of(VOCABULARY, {END: 2.0 + seed}))
        together = generator(SOURCES, PREFIXES)  # prompts of 4, 1 and 2 tokens: the first row waits for the others
        alone = [generator(SOURCES[:1], PREFIXES[:1])]
        for row in (1, 2):  # in other company, at another place
            rows = [0, row, 0] if row == 2 else [row, 0, 0]
            other = generator(SOURCES[rows], PREFIXES[rows])
            alone.append({name: x[rows.index(row)][None] for name, x in other.items()})
        for row in range(3):
            assert alone[row]["tokens"][0].tolist() == together["tokens"][row].tolist()
            assert alone[row]["lengths"][0].tolist() == together["lengths"][row].tolist()
            np.testing.assert_allclose(alone[row]["scores"][0], together["scores"][row], rtol=1e-4)


def test_scores_are_what_score_says(encoder_decoder, generators, roughen):
    model, initial = encoder_decoder
    set_rough_weights(model, initial, roughen, 1, bias_of(VOCABULARY, {END: 2.0}))
    generator = shared(generators, model, EARLY, cache=True)
    result = generator(SOURCES, PREFIXES)
    lengths = (PREFIXES != 0).sum(axis=1)
    scores = generator.score(SOURCES, result["tokens"], prompt_lengths=lengths)
    np.testing.assert_allclose(scores, result["scores"], rtol=1e-4)
    assert len(np.unique(result["scores"])) == result["scores"].size


def test_a_prompt_of_full_length_comes_back_with_score_zero(encoder_decoder, generators, roughen):
    model, initial = encoder_decoder
    set_rough_weights(model, initial, roughen, 1)
    generator = shared(generators, model, TO_THE_END, cache=True)
    full = np.array([[2, 5, 4, 7, 1, 1, 8, END, 6, 6, 6], [7] * 10 + [0], [9] + [0] * 10])
    result = generator(SOURCES, full)
    assert result["tokens"][0].tolist() == [full[0].tolist(), [0] * MAX_LENGTH]
    assert result["lengths"][0].tolist() == [MAX_LENGTH, 0]
    assert result["scores"][0].tolist() == [0, NOTHING]
    strategy = TO_THE_END
    expected = oracle_of(strategy, model, full, inputs=with_source)
    assert expected[0] == []
    assert_found({name: x[1:] for name, x in result.items()}, expected[1:])


# 4. Coverage

# Three tokens over four: 9 beginnings that have one to come, and 36 continuations, which are twice 18.
FEW, COVERED_BEAMS, COVERED_LENGTH = (2, END, 7, 11), 19, 6
COVERED_PREFIXES = np.array([[2, 5, 4], [7, 7, 7], [9, 2, 0]])
COVERED = {"length_penalty": 0.6, "coverage_penalty": 0.7, "num_return": 11}


@pytest.fixture(scope="module")
def covered():
    model = cross_attending_model(decoder_layers=2)
    return model, model.get_weights()


def coverage_terms(model, row, prompt, sequences):
    """For each sequence, sum over the real source tokens of log(min(attention from all new tokens, 1))."""
    sources = np.repeat(SOURCES[row : row + 1], len(sequences), axis=0)
    tokens = np.array([[*x, *[0] * (COVERED_LENGTH - len(x))] for x in sequences])
    weights = kt.attention_weights(model, [sources, tokens])
    weights = [x.astype("float64").mean(axis=1) for path, x in weights.items() if "cross_attention" in path]
    assert len(weights) == 2, "one of each decoder layer"
    attention = sum(weights) / len(weights)  # (n, T, S)
    real_source = SOURCES[row] != 0
    terms = []
    for sequence, each in zip(sequences, attention, strict=True):
        summed = each[len(prompt) - 1 : len(sequence) - 1].sum(axis=0)[real_source]
        terms.append(np.log(np.minimum(summed, 1)).sum())
    return terms


def best_covered(model, row, prompt, *, length_penalty, coverage_penalty, num_return):
    found = all_sequences(model, prompt, max_length=COVERED_LENGTH, allowed=FEW, rows=27, row=row, inputs=with_source)
    terms = coverage_terms(model, row, prompt, list(found))
    ranked = [
        (total / penalty(len(x) - len(prompt), length_penalty) + coverage_penalty * term, x)
        for (x, total), term in zip(found.items(), terms, strict=True)
    ]
    return sorted(ranked, reverse=True)[:num_return]


@pytest.mark.long
@pytest.mark.parametrize("cache", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_coverage_penalty_ranks_all_sequences_as_the_formula_does(cache, covered, generators, roughen):
    model, initial = covered
    strategy = kt.BeamSearch(COVERED_BEAMS, **COVERED)
    processors = [ForbidOthers(VOCABULARY, FEW)]
    generator = shared(generators, model, strategy, max_length=COVERED_LENGTH, processors=processors, cache=cache)
    changed = 0
    for seed in range(3):
        set_rough_weights(model, initial, roughen, seed)
        result = generator(SOURCES, COVERED_PREFIXES)
        prompts = [real(prompt) for prompt in COVERED_PREFIXES[:2]]
        expected = [best_covered(model, row, prompt, **COVERED) for row, prompt in enumerate(prompts)]
        assert_found({name: x[:2] for name, x in result.items()}, expected)
        plain = best_covered(model, 0, prompts[0], **{**COVERED, "coverage_penalty": 0})
        changed += [x for _, x in expected[0]] != [x for _, x in plain]
        lengths = (COVERED_PREFIXES != 0).sum(axis=1)
        if cache:
            scores = generator.score(SOURCES, result["tokens"], prompt_lengths=lengths)
            np.testing.assert_allclose(scores, result["scores"], rtol=1e-4)
        tokens = [real(x) for x in result["tokens"][2]]  # four new tokens: too many to be sure of the best
        logs = full_log_probabilities(model, tokens, rows=27, width=COVERED_LENGTH, row=2, inputs=with_source)
        terms = coverage_terms(model, 2, [9, 2], tokens)
        for score, x, log, term in zip(result["scores"][2], tokens, logs, terms, strict=True):
            total = sum(log[place - 1, x[place]] for place in range(2, len(x)))
            np.testing.assert_allclose(score, total / penalty(len(x) - 2, 0.6) + 0.7 * term, rtol=1e-4)
    assert changed, "coverage changes nothing"


# 5. Fewer sequences than beams


def test_empty_sequences_where_fewer_are_possible_than_asked_for(language_model):
    model = language_model(kt.DecoderLayer(2, 13), vocabulary=17)
    strategy = kt.BeamSearch(4, length_penalty=0.6, num_return=3)
    forced = kt.ForcedTokens({3: 7, 4: END})
    generator = kt.Generator(model, max_length=7, end_token=END, strategy=strategy, processors=[forced])
    prompts, expected = np.array([[2, 5, 4], [9, 2, 6]]), []
    for prompt in prompts:
        sequence = (*real(prompt), 7, END)
        logs = full_log_probabilities(model, [sequence], rows=1, width=7)
        expected.append([((logs[0, 2, 7] + logs[0, 3, END]) / penalty(2, 0.6), sequence)])
    result = generator(prompts)
    assert_found(result, expected)
    assert (result["scores"][:, 1:] == NOTHING).all()


@pytest.mark.long
def test_all_possible_sequences_and_then_empty_ones(language_model):
    model = language_model(kt.DecoderLayer(2, 13), vocabulary=6)
    strategy = kt.BeamSearch(5, num_return=5, early_stopping=True)
    forbidden = kt.ForbiddenTokens([1, 2, 4])
    generator = kt.Generator(model, max_length=4, end_token=END, strategy=strategy, processors=[forbidden])
    expected = best_of_all(model, (2, 4), max_length=4, allowed=(END, 5), num_return=5)
    assert len(expected) == 3
    assert_found(generator(np.array([[2, 4]])), [expected])


# 6. Bad input


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_beams": 0}, "positive integer as num_beams, got 0"),
        ({"num_beams": -1}, "positive integer as num_beams, got -1"),
        ({"num_beams": True}, "positive integer as num_beams, got True"),
        ({"num_beams": 2.5}, "positive integer as num_beams, got 2.5"),
        ({"num_beams": "4"}, "positive integer as num_beams, got '4'"),
        ({"num_return": 0}, "positive integer as num_return, got 0"),
        ({"num_return": False}, "positive integer as num_return, got False"),
        ({"num_beams": 2, "num_return": 3}, "num_beams=2 .*cannot return num_return=3"),
        ({"coverage_penalty": -0.1}, "coverage_penalty of 0 or more, got -0.1"),
    ],
)
def test_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        kt.BeamSearch(**arguments)


@pytest.fixture(scope="module")
def decoder_only(language_model):
    return language_model(kt.DecoderLayer(2, 13), vocabulary=17)


def test_more_beams_than_tokens(decoder_only):
    with pytest.raises(ValueError, match="num_beams=18, more than the 17 tokens"):
        kt.Generator(decoder_only, max_length=5, end_token=END, strategy=kt.BeamSearch(18))


def test_coverage_of_a_model_without_cross_attention(decoder_only):
    with pytest.raises(ValueError, match="coverage_penalty.*no cross-attention"):
        kt.Generator(decoder_only, max_length=5, end_token=END, strategy=kt.BeamSearch(2, coverage_penalty=0.2))


def test_stream(decoder_only):
    generator = kt.Generator(decoder_only, max_length=5, end_token=END, strategy=kt.BeamSearch(2))
    with pytest.raises(ValueError, match="BeamSearch knows the first token only when the last is found"):
        generator.stream([[2, 5]])


def test_a_model_that_broke_names_the_rows(language_model):
    model = language_model(kt.DecoderLayer(2, 13), vocabulary=17)
    generator = kt.Generator(model, max_length=5, end_token=END, strategy=kt.BeamSearch(3, num_return=2))
    embedding = model.layers[1]
    embeddings = keras.ops.convert_to_numpy(embedding.trainable_variables[0]).copy()
    embeddings[11] = np.nan
    embedding.trainable_variables[0].assign(embeddings)
    with pytest.raises(ValueError, match=r"NaN logits for the rows \[1\]"):
        generator(np.array([[2, 5], [11, 5], [5, 5]]))


def test_no_rows(encoder_decoder, generators):
    generator = shared(generators, encoder_decoder[0], TO_THE_END, cache=True)
    result = generator(np.zeros((0, 7), "int32"), np.zeros((0, 4), "int32"))
    assert {name: x.shape for name, x in result.items()} == {
        "tokens": (0, 2, MAX_LENGTH),
        "lengths": (0, 2),
        "scores": (0, 2),
    }


def test_length_penalty_has_six_for_one_token_and_eleven_for_six():
    assert math.isclose(float(kt.BeamSearch(length_penalty=2.0).penalize(np.float32(-1.0), np.int32(1))), -1.0)
    np.testing.assert_allclose(float(kt.BeamSearch(length_penalty=2.0).penalize(-1.0, 6)), -((6 / 11) ** 2), rtol=1e-6)
