"""Whatever functional graph comes: it decodes as the naive loop over the full model does, or is refused by name."""

import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding import positionwise

END, MAX_LENGTH, SOURCE_LENGTH = 3, 9, 5
PROMPTS = np.array([[2, 5, 9], [7, 0, 0]])

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.tensorflow]
_spec = importlib.util.spec_from_file_location("random_graphs", Path(__file__).with_name("random_graphs.py"))
graphs = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(graphs)


def sample_sources(graph, random):
    """Random sources, without padding: whether that shows is tested elsewhere."""
    return [
        random.integers(1, graphs.SOURCE_VOCABULARY, (2, SOURCE_LENGTH))
        if x.dtype == "int32"
        else random.normal(size=(2, SOURCE_LENGTH, 5)).astype("float32")
        for x in graph.sources
    ]


def assert_equals_the_naive_loop(model, sources, result):
    """Greedy decoding by the full model on each sequence so far, row by row, unpadded; ties go either way."""
    for row, prompt in enumerate(PROMPTS):
        tokens = [int(token) for token in prompt if token]
        length, given = int(result["lengths"][row, 0]), result["tokens"][row, 0]
        while len(tokens) < length:
            inputs = [*(x[row : row + 1] for x in sources), np.array([tokens], "int32")]
            inputs = [keras.ops.convert_to_tensor(x) for x in inputs]
            logits = keras.ops.convert_to_numpy(model(inputs if len(inputs) > 1 else inputs[0]))[0, -1].astype(
                "float64"
            )
            logits[0] = -np.inf
            chosen = given[len(tokens)]
            usual = np.abs(logits[logits > -1e8]).max()
            assert logits[chosen] >= logits.max() - 1e-4 * (1 + usual), f"row {row}, position {len(tokens)}"
            tokens.append(int(chosen))
        assert tokens == given[:length].tolist()
        assert length == MAX_LENGTH or tokens[-1] == END


def check(seed, roughen, **options):
    """Make generators of a random graph, change its weights, and compare; what became of it, in words."""
    graph = graphs.RandomGraph(seed, **options)
    random = np.random.default_rng(seed)
    sources = sample_sources(graph, random)
    outcome = "equal"
    for cache in (True, False) if seed % 3 == 0 or graph.culprits else (True,):
        settings = {"max_length": MAX_LENGTH, "end_token": END, "cache": cache, "jit_compile": False}
        settings["target_input"] = "tokens"
        try:
            generator = kt.Generator(graph.model, **settings)
        except ValueError as error:
            told = str(error)
            assert graph.culprits if cache else graph.not_causal, f"refused for no reason: {told}"
            assert any(re.search(name, told) for name in graph.culprits), f"{graph.culprits} not named: {told}"
            outcome = "refused" if cache else outcome
            continue
        roughen(graph.model, seed + 1)
        result = generator(PROMPTS) if not sources else generator(
            {x.name: source for x, source in zip(graph.sources, sources, strict=True)}, PROMPTS
        )  # fmt: skip
        assert_equals_the_naive_loop(graph.model, sources, result)
    return outcome


@pytest.mark.parametrize("seed", range(2))
def test_a_few_random_graphs(seed, roughen):
    check(seed, roughen)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 228))
def test_random_graphs(seed, roughen):
    check(seed, roughen)


@pytest.mark.slow
@pytest.mark.parametrize("kind", graphs.MIXING)
def test_each_kind_of_mixing_is_refused_under_the_cache(kind, roughen):
    assert check(1000, roughen, mixing=[kind]) == "refused"


def test_a_wrong_rule_is_found(roughen, monkeypatch):
    """What would happen if cumulative sums were taken for something that acts on each position by itself."""
    assert check(1001, roughen, mixing=["sentence numbers"]) == "refused"
    monkeypatch.setitem(positionwise._OP_RULES, "Cumsum", positionwise._elementwise)
    with pytest.raises(AssertionError, match="position"):
        for seed in range(1001, 1011):
            check(seed, roughen, mixing=["sentence numbers"])
