"""Any id may start, end or pad a sequence, or none: what is generated is what a plain loop over the model gives."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

VOCABULARY, MAX_LENGTH = 13, 9
ROWS = [[2, 7, 4, 11], [7], [9, 2, 6]]
ENDS = {"one": (3,), "several": (3, 8, 11), "zero": (0,), "none": ()}


def block():
    return kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6)


@pytest.fixture(scope="module")
def models(language_model):
    """A model for each padding id, all of the same weights."""
    return {id: language_model(block(), vocabulary=VOCABULARY, padding_id=id) for id in (None, 0, 5)}


def log_probabilities(model, row, width=MAX_LENGTH):
    """(V,) behind a row of ids, float64; the row stands in an array of fixed width, which costs one compilation."""
    tokens = np.zeros((1, width), "int32")
    tokens[0, : len(row)] = row
    logits = keras.ops.convert_to_numpy(model(tokens, training=False))[0, len(row) - 1].astype("float64")
    return logits - np.log(np.exp(logits).sum())


def greedy(model, row, ends, never, max_length=MAX_LENGTH):
    """The sequence and its score by a plain loop."""
    row, score = list(row), 0.0
    while len(row) < max_length:
        logs = log_probabilities(model, row)
        chosen = int(np.where(np.arange(len(logs)) == never, -np.inf, logs).argmax())
        row.append(chosen)
        score += logs[chosen]
        if chosen in ends:
            break
    return row, score


def rows_of(result):
    """The sequences of a result, cut at their lengths."""
    return [
        [x[:n].tolist() for x, n in zip(*row, strict=True)]
        for row in zip(result["tokens"], result["lengths"], strict=True)
    ]


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("padding_id", [None, 0, 5])
def test_greedy_is_a_plain_loop(padding_id, ends, models):
    model, ends = models[padding_id], ENDS[ends]
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=list(ends) or None)
    result = generator(ROWS)
    never = None if padding_id in ends else padding_id
    expected = [greedy(model, row, ends, never) for row in ROWS]
    assert rows_of(result) == [[row] for row, _ in expected]
    np.testing.assert_allclose(result["scores"][:, 0], [score for _, score in expected], rtol=1e-4)
    for tokens, length in zip(result["tokens"][:, 0], result["lengths"][:, 0], strict=True):
        assert (tokens[length:] == (padding_id or 0)).all()
    assert generator.padding_id == padding_id
    scores = generator.score(rows_of(result), prompt_lengths=list(map(len, ROWS)))
    np.testing.assert_allclose(scores, result["scores"], rtol=1e-4)
    scores = generator.score(result["tokens"], prompt_lengths=list(map(len, ROWS)), lengths=result["lengths"])
    np.testing.assert_allclose(scores, result["scores"], rtol=1e-4)
    if padding_id is not None:  # then an array tells, too, how long its rows are
        scores = generator.score(result["tokens"], prompt_lengths=list(map(len, ROWS)))
        np.testing.assert_allclose(scores, result["scores"], rtol=1e-4)


def test_the_models_say_all_ids(models):
    """Else the tests above would not tell much."""
    said = {id: set() for id in models}
    for id, model in models.items():
        for first in range(1, VOCABULARY):
            if first != id:
                said[id].update(greedy(model, [first], (), id)[0])
    assert 0 in said[None] and 0 in said[5] and 5 in said[0] and 5 not in said[5]


@pytest.mark.parametrize("padding_id", [None, 5])
def test_zero_starts_and_ends_sequences(padding_id, models):
    generator = kt.Generator(models[padding_id], max_length=MAX_LENGTH, end_token=0, start_token=0)
    expected, _ = greedy(models[padding_id], [0], (0,), padding_id)
    assert rows_of(generator()) == rows_of(generator([[0]])) == rows_of(generator([[]])) == [[expected]]


def test_an_id_that_ends_and_pads(models):
    """As GPT-2's: generated at an end, and what stands behind it is the same id."""
    generator = kt.Generator(models[None], max_length=MAX_LENGTH, end_token=8, start_token=8, padding_id=8)
    expected = [greedy(models[None], row, (8,), None)[0] for row in ([2, 7, 4, 11], [8], [8, 3])]
    result = generator(np.array([[2, 7, 4, 11], [8, 8, 8, 8], [8, 3, 8, 8]]))
    assert rows_of(result) == [[row] for row in expected]
    assert (result["tokens"][np.arange(MAX_LENGTH) >= result["lengths"][..., None]] == 8).all()
    ended = rows_of(result)[0][0]
    streamed = [int(x[0]) for x in generator.stream([[2, 7, 4, 11]])]
    assert streamed == ended[4:]


def test_padding_in_a_keras_embedding(roughen):
    """There id 0 pads unless told otherwise; with mask_zero it must."""
    tokens = keras.Input((None,), dtype="int32")

    def build(mask_zero):
        x = block()(keras.layers.Embedding(VOCABULARY, 20, mask_zero=mask_zero)(tokens))
        return roughen(keras.Model(tokens, keras.layers.Dense(VOCABULARY)(x)))

    model = build(False)
    assert kt.Generator(model, max_length=MAX_LENGTH, end_token=3).padding_id == 0
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=None, padding_id=None)
    assert rows_of(generator(ROWS)) == [[greedy(model, row, (), None)[0]] for row in ROWS]
    with pytest.raises(ValueError, match="Embedding .* hides id 0 .*padding_id=None"):
        kt.Generator(build(True), max_length=MAX_LENGTH, end_token=3, padding_id=None)


# How prompts are given


@pytest.mark.parametrize("padding_id", [None, 0, 5])
def test_prompts_are_as_long_as_their_lists_and_lengths_say(padding_id, models):
    generator = kt.Generator(models[padding_id], max_length=MAX_LENGTH, end_token=(3, 8))
    expected = rows_of(generator(ROWS))
    lengths = np.array([4, 1, 3])
    fill = padding_id or 0
    array = np.array([row + [fill] * (4 - len(row)) for row in ROWS])
    garbage = np.where(np.arange(4) < lengths[:, None], array, 12)
    assert rows_of(generator([np.array(row) for row in ROWS])) == expected
    assert rows_of(generator(np.array(ROWS, dtype=object))) == expected
    assert rows_of(generator(garbage, lengths=lengths)) == expected
    assert rows_of(generator(array, lengths=[4, 1, 3])) == expected
    if padding_id is not None:
        assert rows_of(generator(array)) == rows_of(generator(array.tolist())) == expected
    else:
        whole = [[greedy(models[None], row, (3, 8), None)[0]] for row in array.tolist()]
        assert rows_of(generator(array)) == rows_of(generator(array.tolist())) == whole


@pytest.mark.tensorflow
def test_ragged_prompts(models):
    import tensorflow as tf

    generator = kt.Generator(models[0], max_length=MAX_LENGTH, end_token=3)
    ragged = tf.ragged.constant(ROWS)
    assert rows_of(generator(ragged)) == rows_of(generator(ROWS))
    np.testing.assert_array_equal(generator.score(ragged), generator.score(ROWS))


@pytest.mark.parametrize(
    "prompts, lengths, message",
    [
        (ROWS, [4, 1], "3 rows.*lengths"),
        (ROWS, [4, 2, 3], "lengths"),
        (np.ones((2, 3), int), [3, -1], "lengths"),
        (np.ones((2, 3), int), [3.0, 1.0], "lengths.*integers"),
        ([[2, 7], [9, 0, 0]], [2, 2], "a 0, the id of padding, before a token"),
        (["2 7"], [2], "target_tokenizer|lengths"),
        ([[2, True]], None, "integers.*bool"),
    ],
)
def test_lengths_that_do_not_fit(prompts, lengths, message, models):
    with pytest.raises(ValueError, match=message):
        kt.Generator(models[0], max_length=MAX_LENGTH, end_token=3)(prompts, lengths=lengths)


# Sources


@pytest.fixture(scope="module")
def translators(roughen):
    """An encoder-decoder for each padding id of its source; the target's is None."""

    def build(padding_id):
        source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
        memory = kt.EncoderLayer(4, 13)(kt.TokenEmbedding(VOCABULARY, 20, padding_id=padding_id)(source))
        y = kt.DecoderLayer(4, 13)(kt.TokenEmbedding(VOCABULARY, 20, padding_id=None)(target), memory)
        return roughen(keras.Model([source, target], keras.layers.Dense(VOCABULARY)(y)))

    return {padding_id: build(padding_id) for padding_id in (None, 0, 5)}


@pytest.mark.parametrize("padding_id", [0, 5])
def test_sources_of_different_lengths(padding_id, translators):
    generator = kt.Generator(translators[padding_id], max_length=MAX_LENGTH, end_token=3, start_token=0)
    together = generator(ROWS)
    for row, source in enumerate(ROWS):
        alone = generator([source])
        assert rows_of(alone)[0] == rows_of(together)[row]
        np.testing.assert_allclose(alone["scores"][0], together["scores"][row], rtol=1e-4)
    array = np.array([row + [padding_id] * (4 - len(row)) for row in ROWS])
    assert rows_of(generator(array)) == rows_of(together)


def test_sources_without_padding_are_of_one_length(translators):
    generator = kt.Generator(translators[None], max_length=MAX_LENGTH, end_token=3, start_token=0)
    sources = [[0, 7, 0], [5, 0, 0]]
    assert rows_of(generator(sources)) == rows_of(generator(np.array(sources)))
    assert rows_of(generator(sources[1:])) == rows_of(generator(sources))[1:]
    shorter = generator([[0, 7], [5, 0]])["scores"]
    assert (np.abs(generator(sources)["scores"] - shorter) > 1e-3).all()  # a 0 at the end counts
    with pytest.raises(ValueError, match=r"'source' has rows of 1 to 4 ids.*padding_id=None.*one length"):
        generator(ROWS)


def test_sources_whose_padding_the_model_does_not_mask(roughen):
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    memory = keras.layers.Conv1D(20, 3, padding="same")(keras.layers.Embedding(VOCABULARY, 20)(source))
    y = kt.DecoderLayer(4, 13)(kt.TokenEmbedding(VOCABULARY, 20)(target), memory)
    model = roughen(keras.Model([source, target], keras.layers.Dense(VOCABULARY)(y)))
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=3, start_token=2)
    with pytest.raises(ValueError, match="'source' has rows of 1 to 4 ids.*does not mask"):
        generator(ROWS)
    generator(np.array([[2, 7, 0], [5, 0, 0]]))  # padded as in training, whatever that was


# Every strategy


@pytest.fixture(scope="module")
def strategies(models):
    return {
        "sampling": lambda id: kt.Sampling(temperature=1.3, seed=5),
        "beams": lambda id: kt.BeamSearch(3, num_return=2),
        "contrastive": lambda id: kt.ContrastiveSearch(3, 0.5),
        "speculative": lambda id: kt.Speculative(models[id], 2),
        "speculative sampling": lambda id: kt.Speculative(models[id], 2, strategy=kt.Sampling(temperature=1.3, seed=5)),
    }


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["sampling", "beams", "contrastive", "speculative", pytest.param("speculative sampling", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("padding_id", [None, 5])
def test_what_every_strategy_generates(padding_id, name, models, strategies):
    """Ends end, padding is not said, id 0 is, scores are right, and streams say the same."""
    ends, model = (3, 8), models[padding_id]
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=ends, strategy=strategies[name](padding_id))
    prompts = [[2, 7, 4, 11], [7], [9, 2, 6], [0], [0, 4], [12, 12]]
    result = generator(prompts)
    said = set()
    for row, (prompt, sequences) in enumerate(zip(prompts, rows_of(result), strict=True)):
        for place, sequence in enumerate(sequences):
            new = sequence[len(prompt) :]
            assert sequence[: len(prompt)] == prompt
            assert not set(new[:-1]) & set(ends) and (new[-1] in ends or len(sequence) == MAX_LENGTH)
            assert padding_id not in new
            said.update(new)
            score = sum(log_probabilities(model, sequence[:n])[sequence[n]] for n in range(len(prompt), len(sequence)))
            np.testing.assert_allclose(result["scores"][row, place], score, rtol=1e-3, atol=1e-3)
    assert 0 in said
    if name == "speculative":
        assert rows_of(result) == [[greedy(model, row, ends, padding_id)[0]] for row in prompts]
    if name != "beams":
        streamed = np.stack(list(generator.stream(prompts)), axis=1)
        nothing = -1 if padding_id is None else padding_id
        new = [row[row != nothing].tolist() for row in streamed]
        assert new == [sequence[len(prompt) :] for prompt, (sequence,) in zip(prompts, rows_of(result), strict=True)]


@pytest.mark.parametrize("ends", [(), (0,), (3, 8, 11)])
def test_beams_hold_the_best_of_all_sequences(ends, language_model):
    """With as many beams as there are beginnings nothing is lost: the search is exhaustive, however many ends."""
    allowed, length = (0, 3, 8, 11), 4
    model = language_model(block(), vocabulary=VOCABULARY, padding_id=None)
    processor = kt.ForbiddenTokens([x for x in range(VOCABULARY) if x not in allowed])
    generator = kt.Generator(
        model,
        max_length=length,
        end_token=ends or None,
        strategy=kt.BeamSearch(VOCABULARY - 1, num_return=7),
        processors=[processor],
    )
    result = generator([[7, 2]])
    found = {}

    def extend(row, score):
        if len(row) > 2 and (row[-1] in ends or len(row) == length):
            found[tuple(row)] = score
            return
        logs = log_probabilities(model, row)
        for token in allowed:
            extend([*row, token], score + logs[token])

    extend([7, 2], 0.0)
    expected = sorted(found, key=found.get, reverse=True)[:7]
    assert rows_of(result)[0] == [list(x) for x in expected]
    np.testing.assert_allclose(result["scores"][0], [found[x] for x in expected], rtol=1e-4)


# Processors


def test_minimum_length_with_several_ends(models):
    ends = (3, 8, 11)
    free, held = (
        kt.Generator(models[None], max_length=MAX_LENGTH, end_token=ends, processors=processors)(ROWS)
        for processors in ((), [kt.MinimumLength(7, ends)])
    )
    assert (free["lengths"] < 7).any() and (held["lengths"] >= 7).all()


def test_processors_count_id_zero_as_a_token(models):
    model = models[None]

    def without_repetition(row):
        row = list(row)
        while len(row) < MAX_LENGTH:
            logs = log_probabilities(model, row)
            logs[row] = -np.inf
            row.append(int(logs.argmax()))
        return row

    prompts = [[0, 7, 4, 11], [7], [0]]
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=None, processors=[kt.NoRepeatNGram(1)])
    assert rows_of(generator(prompts)) == [[without_repetition(row)] for row in prompts]
    penalized = kt.Generator(model, max_length=MAX_LENGTH, end_token=None, processors=[kt.RepetitionPenalty(1e6)])
    assert rows_of(penalized(prompts)) == [[without_repetition(row)] for row in prompts]
    forced = kt.Generator(model, max_length=MAX_LENGTH, end_token=None, processors=[kt.ForcedTokens({5: 0})])
    assert (forced(prompts)["tokens"][:, 0, 5] == 0).all()
    silent = kt.Generator(model, max_length=MAX_LENGTH, end_token=None, processors=[kt.ForbiddenTokens([0])])
    assert (silent([[4, 7, 4, 11], [7]])["tokens"] != 0).all()


def test_where_all_is_forbidden_and_nothing_ends(models):
    """Then what the processors were given decides."""
    nothing = kt.Generator(
        models[5], max_length=MAX_LENGTH, end_token=None, processors=[lambda logs, tokens, lengths: logs - 2e30]
    )
    assert rows_of(nothing(ROWS)) == [[greedy(models[5], row, (), 5)[0]] for row in ROWS]


# How ids are given, and ids that are read but never generated


@pytest.mark.parametrize(
    "given",
    [np.array([3, 8]), {3, 8}, frozenset([3, 8]), {3: 0, 8: 0}.keys(), [np.int32(3), np.uint8(8)], (3, 8, 3)],
    ids=lambda given: type(given).__name__,
)
def test_ends_in_whatever_form_are_a_tuple_of_integers(given, models):
    generator = kt.Generator(models[None], max_length=MAX_LENGTH, end_token=given, start_token=np.array(2), cache=False)
    assert generator.special.ends == (3, 8) and repr(generator.end_token) == "(3, 8)"
    assert repr(generator.start_token) == "2"
    generator = kt.Generator(models[None], max_length=MAX_LENGTH, end_token=np.array(3), cache=False)
    assert generator.special.ends == (3,)


@pytest.fixture(scope="module")
def wider(roughen):
    """A model that reads two ids more than it generates, the last of them its padding."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = block()(kt.TokenEmbedding(VOCABULARY + 2, 20, padding_id=VOCABULARY + 1)(tokens))
    return roughen(keras.Model(tokens, keras.layers.Dense(VOCABULARY)(x)))


def test_ids_that_are_never_generated_start_and_pad(wider):
    start, padding = VOCABULARY, VOCABULARY + 1
    generator = kt.Generator(wider, max_length=MAX_LENGTH, end_token=(3, 8, 11), start_token=start, jit_compile=False)
    assert generator.padding_id == padding
    result = generator([[], [2, start], [7]])
    expected = [greedy(wider, row, (3, 8, 11), None) for row in ([start], [2, start], [7])]
    assert rows_of(result) == [[row] for row, _ in expected]
    behind = np.arange(MAX_LENGTH) >= result["lengths"][..., None]
    assert behind.any() and (result["tokens"][behind] == padding).all()
    scores = generator.score(result["tokens"], prompt_lengths=[1, 2, 1])
    np.testing.assert_allclose(scores[:, 0], [score for _, score in expected], rtol=1e-4)
    with pytest.raises(ValueError, match="what the model generates takes ids from 0 to 12"):
        generator.score([[2, start]])
    with pytest.raises(ValueError, match="0 to 12 as end_token.*got 13"):
        kt.Generator(wider, max_length=MAX_LENGTH, end_token=start)


@pytest.mark.parametrize("processor", [kt.RepetitionPenalty(1e6), kt.NoRepeatNGram(1)], ids=repr)
def test_processors_know_ids_that_are_never_generated(processor, wider):
    options = {"max_length": MAX_LENGTH, "end_token": None, "processors": [processor], "jit_compile": False}
    row = rows_of(kt.Generator(wider, **options)([[VOCABULARY, 4]]))[0][0]
    assert row[:2] == [VOCABULARY, 4] and len(set(row)) == MAX_LENGTH  # nothing twice


def test_no_sequences_have_no_scores(models):
    assert kt.Generator(models[0], max_length=MAX_LENGTH, end_token=3, cache=False).score([]).shape == (0,)
