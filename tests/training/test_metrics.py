"""TokenAccuracy and Perplexity against float64 NumPy over unequal batches, and in `fit`."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.training import PaddingRatio, Perplexity, SequenceCrossentropy, TokenAccuracy, TokenCount

LENGTH, VOCABULARY = 7, 11


@pytest.fixture
def ids():
    """Ids (5, 7) of rows with 7, 3, 1, 0 and 5 real tokens."""
    ids = np.random.default_rng(1).integers(1, VOCABULARY, (5, LENGTH))
    return np.where(np.arange(LENGTH) < np.array([[7], [3], [1], [0], [5]]), ids, 0).astype("int32")


@pytest.fixture
def logits(ids):
    """Logits in which about half of the labels win."""
    logits = np.random.default_rng(2).normal(0, 1, (5, LENGTH, VOCABULARY))
    return (logits + 2 * np.eye(VOCABULARY)[ids]).astype("float32")


def accuracy_oracle(ids, logits, weights):
    return np.average(logits.argmax(-1) == ids, weights=weights)


def perplexity_oracle(ids, logits, weights):
    logits = logits.astype("float64")
    probability = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.exp(np.average(-np.log(np.take_along_axis(probability, ids[..., None], -1)[..., 0]), weights=weights))


METRICS = pytest.mark.parametrize(
    "metric_class, oracle", [(TokenAccuracy, accuracy_oracle), (Perplexity, perplexity_oracle)]
)


@METRICS
@pytest.mark.parametrize("ignore_id", [0, 4])
def test_accumulates_tokens_over_unequal_batches(metric_class, oracle, ignore_id, ids, logits, assert_close):
    metric = metric_class(ignore_id=ignore_id)
    for rows in (slice(0, 1), slice(1, 4), slice(4, 5)):
        metric.update_state(ids[rows], logits[rows])
    assert_close(metric.result(), oracle(ids, logits, ids != ignore_id))
    metric.reset_state()
    metric.update_state(ids[:2], logits[:2])
    assert_close(metric.result(), oracle(ids[:2], logits[:2], ids[:2] != ignore_id))


@METRICS
def test_sample_weight(metric_class, oracle, ids, logits, assert_close):
    per_row = np.array([0.5, 2.0, 0.0, 3.0, 1.0], "float32")
    per_token = np.random.default_rng(3).uniform(0, 2, ids.shape).astype("float32")
    for weights, full in ((per_row, per_row[:, None]), (per_token, per_token)):
        metric = metric_class()
        metric.update_state(ids, logits, sample_weight=weights)
        assert_close(metric.result(), oracle(ids, logits, full * (ids != 0)))


@METRICS
def test_padding_counts_for_nothing(metric_class, oracle, ids, logits):
    results = []
    for under_padding in (-1e4, 0.0, np.nan):
        metric = metric_class()
        metric.update_state(ids, np.where((ids == 0)[..., None], np.float32(under_padding), logits))
        results.append(float(metric.result()))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("metric_class, value", [(TokenAccuracy, 0), (Perplexity, 1)])
def test_without_tokens(metric_class, value, logits):
    metric = metric_class()
    assert float(metric.result()) == value
    metric.update_state(np.zeros((5, LENGTH), "int32"), logits)
    assert float(metric.result()) == value


def test_perplexity_of_probabilities(ids, logits, assert_close):
    metric = Perplexity(from_logits=False)
    metric.update_state(ids, ops.softmax(logits, axis=-1))
    assert_close(metric.result(), perplexity_oracle(ids, logits, ids != 0))


def test_perplexity_of_probabilities_taken_for_logits(ids, logits):
    with pytest.raises(ValueError, match="Perplexity takes logits and was given probabilities.*from_logits=False"):
        Perplexity().update_state(ids, ops.softmax(logits, axis=-1))
    with pytest.raises(ValueError, match=r"Perplexity\(from_logits=False\) takes probabilities"):
        Perplexity(from_logits=False).update_state(ids, logits)


@METRICS
@pytest.mark.parametrize("label", [-1, VOCABULARY, 2**31 - 1])
def test_a_label_outside_the_vocabulary_makes_it_nan(metric_class, oracle, label, ids, logits):
    ids[1, 1] = label
    metric = metric_class()
    metric.update_state(ids, logits)
    assert np.isnan(float(metric.result()))


@pytest.mark.parametrize("metric_class, expected", [(TokenCount, 35), (PaddingRatio, 0)])
def test_every_label_counts_where_there_is_no_padding(metric_class, expected, ids):
    metric = metric_class(ignore_id=None)
    metric.update_state(ids, None)
    assert float(metric.result()) == expected
    assert type(metric).from_config(metric.get_config()).ignore_id is None
    with pytest.raises(ValueError, match=f"{metric_class.__name__} takes as `ignore_id` the label of padding"):
        metric_class(ignore_id="<pad>")


def test_perplexity_of_half_precision(ids, logits, assert_close):
    metric = Perplexity()
    metric.update_state(ids, ops.zeros_like(logits, dtype="bfloat16"))
    assert_close(metric.result(), VOCABULARY)


def test_accuracy_of_ties_is_that_of_the_lowest_id(ids, logits):
    metric = TokenAccuracy(ignore_id=-1)
    metric.update_state(ids, np.zeros_like(logits))
    assert float(metric.result()) == pytest.approx(np.mean(ids == 0))


@pytest.mark.long
@pytest.mark.parametrize(
    "policy, jit_compile",
    [("mixed_bfloat16", False), pytest.param("float32", True, marks=[pytest.mark.torch_compile, pytest.mark.slow])],
)
def test_in_compile(policy, jit_compile, ids, assert_close):
    keras.config.set_dtype_policy(policy)
    inputs = keras.Input((None,), dtype="int32")
    outputs = keras.layers.Embedding(VOCABULARY, 13, mask_zero=True, embeddings_initializer="normal")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(VOCABULARY, dtype="float32")(outputs))
    model.compile(
        "adam",
        SequenceCrossentropy(),
        metrics=[TokenAccuracy(), Perplexity()],
        weighted_metrics=[Perplexity(name="weighted_perplexity")],
        jit_compile=jit_compile,
    )
    weights = np.array([0.5, 2.0, 0.0, 3.0, 1.0], "float32")
    history = model.fit(ids, ids, sample_weight=weights, batch_size=2, verbose=0).history
    assert {"token_accuracy", "perplexity", "weighted_perplexity"} <= set(history)
    results = model.evaluate(ids, ids, sample_weight=weights, batch_size=2, verbose=0, return_dict=True)
    logits = ops.convert_to_numpy(model(ids))
    tolerance = 1e-5 if policy == "float32" else 1e-2
    assert_close(results["token_accuracy"], accuracy_oracle(ids, logits, ids != 0), tolerance)
    assert_close(results["perplexity"], perplexity_oracle(ids, logits, ids != 0), tolerance)
    weighted = perplexity_oracle(ids, logits, weights[:, None] * (ids != 0))
    assert_close(results["weighted_perplexity"], weighted, tolerance)


@pytest.mark.parametrize(
    "metric",
    [TokenAccuracy(ignore_id=3, name="hits"), Perplexity(from_logits=False, ignore_id=5, name="surprise")],
)
def test_serialization(metric):
    copy = keras.metrics.deserialize(keras.metrics.serialize(metric))
    assert type(copy) is type(metric)
    assert copy.get_config() == metric.get_config()
    assert copy.name == metric.name and copy.ignore_id == metric.ignore_id


@pytest.mark.parametrize("metric_class", [TokenAccuracy, Perplexity])
def test_shapes_that_do_not_fit(metric_class, ids, logits):
    with pytest.raises(ValueError, match=f"{metric_class.__name__}.*shape.*Received"):
        metric_class().update_state(ids[0], logits[0])
    with pytest.raises(ValueError, match=f"{metric_class.__name__}.*sample_weight.*Received"):
        metric_class().update_state(ids, logits, sample_weight=logits)
