"""Tokens are drawn from exactly the distribution that temperature and filters define, and alike everywhere."""

import importlib.util
import json

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding.sampling import draw

END = 3
DRAWS = 20000
OPTIONS = {
    "nothing": {},
    "sharper": {"temperature": 0.6},
    "flatter": {"temperature": 1.7},
    "top-k": {"top_k": 5},
    "top-k, flatter": {"top_k": 7, "temperature": 1.7},
    "top-p": {"top_p": 0.8},
    "top-p, sharper": {"top_p": 0.7, "temperature": 0.6},
    "min-p": {"min_p": 0.1},
    "all of them": {"temperature": 1.3, "top_k": 11, "top_p": 0.9, "min_p": 0.05},
}
VOCABULARIES = [29, 301]  # below and above a block of the search in two levels


def exact(log_probabilities, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The distribution that tokens are to be drawn from, by sorting, float64. Token 0 is padding."""
    log_probabilities = np.asarray(log_probabilities, "float64").copy()
    log_probabilities[..., 0] = -np.inf
    p = np.exp((log_probabilities - log_probabilities.max(axis=-1, keepdims=True)) / temperature)
    if top_k is not None and top_k < p.shape[-1]:
        p = np.where(p >= np.sort(p, axis=-1)[..., -top_k, None], p, 0)
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None and top_p < 1:
        descending = -np.sort(-p, axis=-1)
        last = (descending.cumsum(axis=-1) >= top_p).argmax(axis=-1)
        p = np.where(p >= np.take_along_axis(descending, last[..., None], axis=-1), p, 0)
        p /= p.sum(axis=-1, keepdims=True)
    if min_p is not None:
        p = np.where(p >= min_p * p.max(axis=-1, keepdims=True), p, 0)
    return p / p.sum(axis=-1, keepdims=True)


def assert_frequencies(counts, probabilities):
    """Pearson's chi-square test at 3e-5, outcomes that are too rare for it taken together."""
    counts, expected = np.asarray(counts, "float64"), np.sum(counts) * np.asarray(probabilities)
    assert not counts[expected == 0].any(), "something was drawn that is impossible"
    rare = expected < 8
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 8:  # the rare ones are few even together: to the likeliest with them
        likeliest = expected[:-1].argmax()
        expected[likeliest] += expected[-1]
        counts[likeliest] += counts[-1]
        counts, expected = counts[:-1], expected[:-1]
    freedom = len(counts) - 1
    assert freedom >= 1
    # Wilson and Hilferty's approximation of the distribution's quantile, four standard deviations out
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * np.sqrt(2 / (9 * freedom))) ** 3
    assert ((counts - expected) ** 2 / expected).sum() < limit


def distributions(rows, vocabulary, seed=0):
    """Log-probabilities (rows, vocabulary), padding impossible."""
    logits = 1.5 * np.random.default_rng(seed).normal(size=(rows, vocabulary))
    logits[:, 0] = -1e30
    return (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))).astype("float32")


def select(strategy, log_probabilities, positions):
    return keras.ops.convert_to_numpy(strategy.select(keras.ops.convert_to_tensor(log_probabilities), positions))


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("name", OPTIONS)
def test_frequencies_are_those_of_the_exact_distribution(name, vocabulary):
    row = distributions(1, vocabulary)
    drawn = select(kt.Sampling(**OPTIONS[name], seed=5), np.tile(row, (DRAWS, 1)), np.full(DRAWS, 7, "int32"))
    assert_frequencies(np.bincount(drawn, minlength=vocabulary), exact(row[0], **OPTIONS[name]))


@pytest.mark.long
def test_frequencies_over_the_positions_of_the_rows():
    row = distributions(1, 29)
    positions = np.arange(DRAWS, dtype="int32") // 10
    drawn = select(kt.Sampling(seed=5), np.tile(row, (DRAWS, 1)), positions)
    assert_frequencies(np.bincount(drawn, minlength=29), exact(row[0]))


@pytest.mark.long
@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("name", OPTIONS)
def test_exactly_the_tokens_of_the_filters_are_kept(name, vocabulary):
    rows = distributions(211, vocabulary, seed=3)  # no sum within 7e-6 of a limit, where rounding would decide
    weights = keras.ops.convert_to_numpy(kt.Sampling(**OPTIONS[name]).weights(keras.ops.convert_to_tensor(rows)))
    expected = exact(rows, **OPTIONS[name])
    np.testing.assert_array_equal(weights > 0, expected > 0)
    np.testing.assert_allclose(weights / weights.sum(axis=-1, keepdims=True), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.long
@pytest.mark.parametrize(
    "options, kept",
    [
        ({"top_k": 2}, [1, 2, 3]),
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 2, 3]),
        ({"top_k": 6}, [1, 2, 3, 4, 5]),
        ({"top_k": 600}, [1, 2, 3, 4, 5]),
        ({"top_p": 0.45}, [1, 2, 3]),
        ({"top_p": 1e-6}, [1]),
        ({"top_p": 1.0}, [1, 2, 3, 4, 5]),
        ({"top_p": 1}, [1, 2, 3, 4, 5]),
        ({"top_p": 0.85}, [1, 2, 3, 4]),
        ({"min_p": 0.49}, [1, 2, 3]),
        ({"min_p": 1.0}, [1]),
        ({"min_p": 1e-6}, [1, 2, 3, 4, 5]),
        ({"top_k": 4, "min_p": 0.3}, [1, 2, 3, 4]),
        ({"top_k": 4, "top_p": 0.9}, [1, 2, 3, 4]),  # .4, .2, .2, .15 of .95: all four are needed
        ({"top_k": 3, "top_p": 0.7}, [1, 2, 3]),  # .5, .25, .25
    ],
)
def test_tokens_as_probable_as_the_last_one_kept_are_kept_too(options, kept):
    probabilities = np.log(np.array([[1e-37, 0.4, 0.2, 0.2, 0.15, 0.05]], "float32"))
    probabilities[0, 0] = -1e30
    weights = keras.ops.convert_to_numpy(kt.Sampling(**options).weights(keras.ops.convert_to_tensor(probabilities)))
    assert np.flatnonzero(weights[0]).tolist() == kept


@pytest.mark.long
@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}])
def test_extreme_settings_are_greedy(options):
    rows = distributions(211, 301, seed=2)
    drawn = select(kt.Sampling(**options), rows, np.arange(211, dtype="int32"))
    np.testing.assert_array_equal(drawn, rows.argmax(axis=-1))


@pytest.mark.parametrize("temperature", [1e3, 1e9])
def test_padding_is_never_drawn_however_hot(temperature):
    rows = np.tile(distributions(1, 5), (DRAWS, 1))
    assert (select(kt.Sampling(temperature=temperature), rows, np.zeros(DRAWS, "int32")) > 0).all()


def draw_with_numpy(weights, numbers):
    return keras.ops.convert_to_numpy(draw(*map(keras.ops.convert_to_tensor, (weights, numbers))))


@pytest.mark.long
@pytest.mark.parametrize("vocabulary", [5, 128, 129, 256, 301, 1009])
def test_a_number_names_the_token_where_the_cumulative_sum_passes_it(vocabulary):
    random = np.random.default_rng(3)
    weights = random.random((499, vocabulary)).astype("float32") ** 3
    weights[:, 0] = 0
    numbers = random.random(499).astype("float32")
    cumulative = weights.astype("float64").cumsum(axis=-1)
    target = numbers[:, None] * cumulative[:, -1:]
    clear = np.abs(cumulative - target).min(axis=-1) > 1e-5 * cumulative[:, -1]  # not within rounding of a border
    assert clear.mean() > 0.9
    expected = (cumulative <= target).sum(axis=-1)
    np.testing.assert_array_equal(draw_with_numpy(weights, numbers)[clear], expected[clear])


@pytest.mark.long
@pytest.mark.parametrize("vocabulary", [29, 301, 1009])
def test_a_token_of_no_weight_is_never_drawn_wherever_the_number_falls(vocabulary):
    random = np.random.default_rng(4)
    rows, blocks = 4001, -(-vocabulary // 128)
    weights = random.random((rows, vocabulary)).astype("float32") ** 3
    weights[:, ::3] = 0  # among them first tokens of blocks,
    weights[:, ::128] = 0  # all of them,
    weights[:, 127::128] = 0  # and last ones
    sums = np.pad(weights, ((0, 0), (0, 128 * blocks - vocabulary))).reshape(rows, blocks, 128).sum(-1).cumsum(-1)
    borders = np.concatenate([np.zeros((rows, 1)), sums / sums[:, -1:]], axis=1)
    numbers = borders[np.arange(rows), random.integers(0, blocks + 1, rows)]
    numbers = (np.round(numbers * 2**24) + random.integers(-1, 2, rows)).clip(0, 2**24 - 1) / 2**24
    drawn = draw_with_numpy(weights, numbers.astype("float32"))
    assert drawn.max() < vocabulary
    assert (weights[np.arange(rows), drawn] > 0).all()


# In a generator

MAX_LENGTH = 9
PROMPTS = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0], [2, 5, 4, 7], [7, 1, 0, 0]])
SETTINGS = {"temperature": 1.3, "top_k": 11, "top_p": 0.95}


@pytest.fixture(scope="module")
def model(language_model):
    return language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6))


@pytest.fixture(scope="module")
def generator(model):
    return kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=kt.Sampling(**SETTINGS, seed=11))


@pytest.fixture(scope="module")
def result(generator):
    return generator(PROMPTS)


def uncompiled(generator):
    """The generator without compilation, where the loop can run in Python: that starts sooner."""
    if keras.backend.backend() == "tensorflow":
        generator.__dict__["_compiled"] = generator.generate
    return generator


def log_probabilities(model, tokens):
    logits = keras.ops.convert_to_numpy(model(tokens, training=False)).astype("float64")
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.fixture(scope="module")
def many(model):
    """Thousands of equal prompts of one token, and two new tokens each."""
    options = {"temperature": 1.2, "top_k": 5, "top_p": 0.9}
    generator = kt.Generator(model, max_length=3, end_token=END, strategy=kt.Sampling(**options, seed=3))
    return options, generator(np.full((6000, 1), 7))


def test_frequencies_of_whole_sequences_from_a_generator(model, many):
    options, result = many
    first = exact(log_probabilities(model, np.array([[7]], "int32"))[0, -1], **options)
    pairs = np.stack([np.full(28, 7), np.arange(1, 29)], axis=1).astype("int32")
    second = exact(log_probabilities(model, pairs)[:, -1], **options)  # by first token, less one
    expected = np.zeros((29, 29))
    expected[1:] = first[1:, None] * second
    expected[END] = first[END] * (np.arange(29) == 0)
    tokens = result["tokens"][:, 0]
    assert_frequencies(np.bincount(29 * tokens[:, 1] + tokens[:, 2], minlength=29 * 29), expected.ravel())


def test_scores_are_the_log_probabilities_of_the_model_without_filters(model, generator, result):
    tokens, lengths = result["tokens"][:, 0], result["lengths"][:, 0]
    every = log_probabilities(model, tokens)
    for row, prompt in enumerate((PROMPTS != 0).sum(axis=1)):
        score = sum(every[row, place - 1, tokens[row, place]] for place in range(prompt, lengths[row]))
        np.testing.assert_allclose(result["scores"][row, 0], score, rtol=1e-4)


def test_the_same_seed_gives_the_same_tokens(generator, result):
    assert generator(PROMPTS)["tokens"].tolist() == result["tokens"].tolist()


def test_another_seed_gives_other_tokens(model, result):
    strategy = kt.Sampling(**SETTINGS, seed=12)
    other = uncompiled(kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=strategy))(PROMPTS)
    assert (other["tokens"] != result["tokens"]).any(axis=-1).all()


def test_rows_with_the_same_prompt_get_different_tokens(result):
    assert result["tokens"][0].tolist() != result["tokens"][3].tolist()


@pytest.mark.long
def test_without_a_cache_the_tokens_are_the_same(generator, result):
    strategy = generator.strategy
    options = {"max_length": MAX_LENGTH, "end_token": END, "strategy": strategy, "cache": False}
    other = uncompiled(kt.Generator(generator.model, **options))(PROMPTS)
    assert other["tokens"].tolist() == result["tokens"].tolist()


@pytest.mark.long
@pytest.mark.parametrize("rows", [1, 2, 4])
def test_a_row_does_not_depend_on_how_many_come_after_it(rows, model, generator, result):
    other = uncompiled(kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=generator.strategy))
    for name, x in other(PROMPTS[:rows]).items():
        np.testing.assert_allclose(x, result[name][:rows], rtol=1e-4)


@pytest.mark.long
def test_the_filters_see_what_the_processors_leave(model):
    strategy = kt.Sampling(temperature=2.0, top_k=2)
    forbidden = tuple(range(1, 25))
    options = {"strategy": strategy, "processors": [kt.ForbiddenTokens(forbidden)]}
    generator = uncompiled(kt.Generator(model, max_length=MAX_LENGTH, end_token=END, **options))
    tokens = generator(np.full((50, 1), 7))["tokens"][:, 0, 1:]
    assert set(np.unique(tokens)) <= {25, 26, 27, 28}
    assert len(np.unique(tokens[:, 0])) == 2


# Elsewhere

FAST = "--xla_backend_optimization_level=0"  # of compilation
SCRIPT = """
import json
import numpy as np
import keras_transformer as kt

model = kt.models.language_model(
    29, num_layers=1, dim=20, num_heads=5, intermediate_dim=13, position=kt.RotaryPosition, window=3
)
random = np.random.default_rng(0)
for weight in model.weights:
    if not weight.dtype.startswith(("int", "uint")):
        weight.assign(random.normal(size=weight.shape) * (0.5 if len(weight.shape) > 1 else 0.1))
strategy = kt.Sampling(temperature=1.3, top_k=17, top_p=0.97, min_p=0.01, seed=1337)
generator = kt.Generator(model, max_length=7, end_token=3, strategy=strategy)
prompts = np.tile([[2, 5, 4], [7, 0, 0], [9, 2, 0], [1, 0, 0]], (8, 1))
tokens = generator(prompts)["tokens"].tolist()
"""


@pytest.fixture(scope="module")
def here():
    names = {}
    exec(SCRIPT, names)
    return names


@pytest.mark.long
@pytest.mark.parametrize("backend", sorted({"tensorflow", "jax", "torch"} - {keras.backend.backend()}))
def test_every_backend_draws_the_same_tokens(backend, here, fresh_process):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    printed = fresh_process(SCRIPT + "print(json.dumps(tokens))", KERAS_BACKEND=backend, XLA_FLAGS=FAST)
    assert json.loads(printed.splitlines()[-1]) == here["tokens"]


def test_what_every_backend_draws_is_varied(here):
    assert len({tuple(row[0]) for row in here["tokens"][0::4]}) >= 7


@pytest.mark.tensorflow
def test_a_saved_model_draws_the_same_tokens(here, tmp_path):
    import tensorflow as tf

    kt.export.saved_model(here["generator"], tmp_path / "sampler", verify=False)
    prompts = tf.constant(here["prompts"], tf.int32)
    generate = tf.saved_model.load(tmp_path / "sampler").signatures["generate"]
    outputs = generate(tokens=prompts, seed=tf.constant(here["generator"].strategy.seed))
    assert outputs["tokens"].numpy().tolist() == here["tokens"]


@pytest.mark.tensorflow
def test_a_litert_file_draws_the_same_tokens(here, tmp_path):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    rows = len(here["prompts"])
    path = tmp_path / "sampler.tflite"
    kt.export.litert(here["generator"], path, source_length=3, batch_size=rows, verify=False)
    run = interpreter.Interpreter(str(path)).get_signature_runner("generate")
    inputs = {"tokens": here["prompts"].astype("int32"), "seed": np.int32(here["generator"].strategy.seed)}
    assert run(**inputs)["tokens"].tolist() == here["tokens"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"temperature": 0}, "positive, finite temperature, got 0.*Greedy"),
        ({"temperature": -1.0}, "positive, finite temperature, got -1.0"),
        ({"temperature": float("nan")}, "positive, finite temperature, got nan"),
        ({"temperature": float("inf")}, "positive, finite temperature, got inf"),
        ({"top_k": 0}, "positive integer as top_k, or None, got 0"),
        ({"top_k": -3}, "positive integer as top_k"),
        ({"top_k": True}, "positive integer as top_k, or None, got True"),
        ({"top_k": 1.5}, "positive integer as top_k, or None, got 1.5"),
        ({"top_k": float("inf")}, "positive integer as top_k, or None, got inf"),
        ({"top_p": 0}, r"top_p in \(0, 1\], or None, got 0"),
        ({"top_p": 1.1}, r"top_p in \(0, 1\], or None, got 1.1"),
        ({"top_p": float("nan")}, r"top_p in \(0, 1\]"),
        ({"min_p": -1}, r"min_p in \(0, 1\], or None, got -1"),
        ({"min_p": 0.0}, r"min_p in \(0, 1\]"),
        ({"min_p": 2}, r"min_p in \(0, 1\]"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        kt.Sampling(**options)
