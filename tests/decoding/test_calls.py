"""What one call may bring of its own: a seed, a shorter limit; several samples of a row; and what a generator tells."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.ops.random import as_seed

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

END, MAX_LENGTH = 3, 11
PROMPTS = [[2, 5, 4], [7], [9, 2]]


@pytest.fixture(scope="module")
def model(language_model):
    return language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6))


@pytest.fixture(scope="module")
def draft(language_model):
    return language_model(kt.DecoderLayer(4, 13, head_dim=6))


def make(model, strategy=None, **options):
    return kt.Generator(model, **{"max_length": MAX_LENGTH, "end_token": END, "strategy": strategy, **options})


def hot(**options):
    return kt.Sampling(temperature=2.0, **options)


# Seeds


def test_a_seed_of_a_call_is_that_of_the_strategy_and_compiles_nothing(model):
    generator = make(model, hot(seed=5))
    for seed in (5, 6, -1):
        expected = make(model, hot(seed=seed))(PROMPTS)["tokens"]
        np.testing.assert_array_equal(generator(PROMPTS, seed=seed)["tokens"], expected)
    np.testing.assert_array_equal(generator(PROMPTS)["tokens"], make(model, hot(seed=5))(PROMPTS)["tokens"])
    assert len(generator._log["generation"].seen) == 1


def test_seeds_of_any_size_are_different_ones(model):
    seeds = [0, -1, 7, 2**31, 2**32 + 7, 2**40, 2**41, -(2**70), np.int64(5), np.uint64(2**63)]
    assert len({as_seed(seed) for seed in seeds}) == len(seeds)
    generator = make(model, hot())
    assert len({generator(PROMPTS, seed=seed)["tokens"].tobytes() for seed in seeds}) == len(seeds)


def test_no_seed_is_a_fresh_one_each_time(model):
    generator = make(model, hot(seed=None))
    assert len({generator(PROMPTS)["tokens"].tobytes() for _ in range(4)}) == 4
    same = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        same.append(generator(PROMPTS)["tokens"].tolist())
    assert same[0] == same[1]


def test_a_tensor_is_a_seed(model):
    generator = make(model, hot(), cache=False)
    expected = generator(PROMPTS, seed=5)["tokens"].tolist()
    assert generator(PROMPTS, seed=keras.ops.convert_to_tensor(5))["tokens"].tolist() == expected
    for seed in (5.5, [5, 6]):
        with pytest.raises(ValueError, match="A seed is an integer"):
            generator(PROMPTS, seed=keras.ops.convert_to_tensor(seed))


@pytest.mark.parametrize("seed", [1.5, "1", True, [1]])
def test_what_is_no_seed(seed, model):
    with pytest.raises(ValueError, match="A seed is an integer"):
        make(model)(PROMPTS, seed=seed)
    with pytest.raises(ValueError, match="A seed is an integer"):
        kt.Sampling(seed=seed)


def test_stream_takes_the_seed_of_a_call(model):
    generator = make(model, hot(seed=5), end_token=None)
    expected = generator([[2, 5]], seed=9)["tokens"][0, 0, 2:]
    assert [int(x[0]) for x in generator.stream([[2, 5]], seed=9)] == expected.tolist()


# Several samples of a row


@pytest.mark.parametrize("speculative", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_independent_samples_of_each_row(speculative, model, draft):
    def strategy(count):
        sampling = hot(seed=3, num_return=count)
        return kt.Speculative(draft, 2, strategy=sampling) if speculative else sampling

    several, one = make(model, strategy(5)), make(model, strategy(1))
    result = several(PROMPTS)
    assert result["tokens"].shape == (3, 5, MAX_LENGTH) and result["lengths"].shape == (3, 5)
    np.testing.assert_array_equal(result["tokens"][:, 0], one(PROMPTS)["tokens"][:, 0])  # the first is the one alone
    assert all(len({x.tobytes() for x in row}) == 5 for row in result["tokens"])
    scores = several.score(result["tokens"], prompt_lengths=[3, 1, 2], lengths=result["lengths"])
    np.testing.assert_allclose(scores, result["scores"], rtol=1e-4, atol=1e-4)
    streamed = np.stack(list(several.stream(PROMPTS)), axis=-1)  # (B, N, steps)
    for row, prompt in enumerate(PROMPTS):
        for place in range(5):
            new = streamed[row, place][streamed[row, place] != 0]
            sequence = result["tokens"][row, place, len(prompt) : result["lengths"][row, place]]
            assert new.tolist() == sequence.tolist()


def test_samples_have_the_models_distribution(model):
    """Of 3,000 first tokens by number of return, each is as frequent as it is probable, and two do not depend."""
    count = 3000
    tokens = make(model, kt.Sampling(seed=1, num_return=count), max_length=2)([[7]])["tokens"][0, :, 1]
    logits = keras.ops.convert_to_numpy(model(np.array([[7]]), training=False))[0, 0].astype("float64")
    logits[0] = -np.inf
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    frequency = np.bincount(tokens, minlength=29) / count
    assert np.abs(frequency - expected).max() < 0.04
    pairs = (tokens[1:] == tokens[:-1]).mean()
    assert abs(pairs - (expected**2).sum()) < 0.04


@pytest.mark.parametrize("count", [0, -1, 1.5, True])
def test_no_number_of_samples(count):
    with pytest.raises(ValueError, match="positive integer as num_return"):
        kt.Sampling(num_return=count)


# A shorter limit


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    ["greedy", "beams", *(pytest.param(x, marks=pytest.mark.slow) for x in ("sampling", "contrastive", "speculative"))],
)
def test_max_length_of_a_call_is_that_of_a_generator(name, model, draft):
    strategy = {
        "greedy": None,
        "sampling": hot(seed=1),
        "beams": kt.BeamSearch(3, length_penalty=0.7, num_return=2),
        "contrastive": kt.ContrastiveSearch(3, 0.5),
        "speculative": kt.Speculative(draft, 2),
    }[name]
    generator = make(model, strategy)
    whole = generator(PROMPTS)
    for limit in (3, 7):
        shorter, expected = generator(PROMPTS, max_length=limit), make(model, strategy, max_length=limit)(PROMPTS)
        assert shorter["tokens"].tolist() == expected["tokens"].tolist()
        assert shorter["lengths"].tolist() == expected["lengths"].tolist()
        np.testing.assert_allclose(shorter["scores"], expected["scores"], rtol=1e-4, atol=1e-5)
        if name != "beams":
            new = expected["lengths"][:, 0].max() - 1
            assert len(list(generator.stream(PROMPTS[1:2], max_length=limit))) <= new
    assert generator(PROMPTS)["tokens"].tolist() == whole["tokens"].tolist()
    assert len(generator._log["generation"].seen) == 1


@pytest.mark.parametrize(
    "limit, message",
    [(12, "at most the generator's own max_length, 11"), (0, "positive integer"), (2.0, "positive"), (2, "3 tokens")],
)
def test_a_limit_that_cannot_be(limit, message, model):
    with pytest.raises(ValueError, match=message):
        make(model)(PROMPTS, max_length=limit)


# What it tells


def test_repr_tells_what_it_is(model, draft):
    shown = repr(make(model, kt.Speculative(draft, 2), end_token=[3, 5], start_token=2))
    for part in (
        model.name,
        "max_length=11",
        "end_token=(3, 5)",
        "start_token=2",
        "padding_id=0",
        "Speculative",
        "Greedy",
    ):
        assert part in shown


@pytest.mark.parametrize("name", ["model", "end_token", "max_length", "strategy", "start_token", "processors", "cache"])
def test_settings_are_fixed(name, model):
    generator = make(model)
    with pytest.raises(AttributeError, match=f"{name} of a Generator is fixed.*Make another"):
        setattr(generator, name, getattr(generator, name))


def test_many_shapes_are_warned_of(caplog):
    log = kt.decoding.buckets.CompileLog("generation")
    for length in range(60):
        assert log.note(source=(1, length)) and not log.note(source=(1, length))
    assert [record.levelname for record in caplog.records].count("WARNING") == 1
    assert "pad them" in caplog.text


# Probabilities in place of logits


@pytest.mark.parametrize("cache", [True, False])
def test_probabilities_and_logits_are_told_apart(cache, model):
    soft = keras.Model(model.input, keras.layers.Activation("softmax")(model.output))
    with pytest.raises(ValueError, match="gives probabilities.*from_logits=False"):
        make(soft, cache=cache)
    with pytest.raises(ValueError, match="gives no probabilities.*leave from_logits away"):
        make(model, cache=cache, from_logits=False)
    logs = keras.Model(model.input, keras.ops.log_softmax(model.output))
    positive = keras.Model(model.input, keras.ops.relu(model.output))
    expected = make(model, cache=cache)(PROMPTS)["tokens"].tolist()
    assert make(soft, cache=cache, from_logits=False)(PROMPTS)["tokens"].tolist() == expected
    assert make(logs, cache=cache)(PROMPTS)["tokens"].tolist() == expected
    make(positive, cache=cache)
    with pytest.raises(ValueError, match="gives no probabilities"):
        make(positive, cache=cache, from_logits=False)
