"""What the tests of decoding share: an oracle that knows nothing of caches, and models worth decoding."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

END, MAX_LENGTH = 3, 11
PROMPTS = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0]])


@pytest.fixture(name="greedy_oracle")
def greedy_oracle_fixture():
    """The function `greedy_oracle`, for tests to use without importing this file."""
    return greedy_oracle


@pytest.fixture(name="roughen", scope="session")
def roughen_fixture():
    """The function `roughen`."""
    return roughen


@pytest.fixture(name="assert_decodes_exactly")
def assert_decodes_exactly_fixture():
    """The function `assert_decodes_exactly`."""
    return assert_decodes_exactly


@pytest.fixture(name="language_model", scope="session")
def language_model_fixture():
    """The function `language_model`."""
    return language_model


def greedy_oracle(model, prompts, *, max_length, end_token, inputs=lambda tokens: [tokens], from_logits=True):
    """Greedy generation as a loop that runs the whole model on what there is so far, row by row of the answer.

    `inputs` makes the model's inputs from the tokens so far. Id 0 is padding: its logit does not count.
    The sequences stand in an array of fixed width, because every width costs JAX a compilation.
    """
    prompts = np.asarray(prompts)
    tokens = np.pad(prompts, ((0, 0), (0, max_length - prompts.shape[1]))).astype("int32")
    lengths = (prompts != 0).sum(axis=1)
    scores = np.zeros(len(prompts))
    finished = lengths >= max_length
    while not finished.all():
        outputs = keras.ops.convert_to_numpy(model(inputs(tokens), training=False)).astype("float64")
        for row in range(len(prompts)):
            if finished[row]:
                continue
            last = outputs[row, lengths[row] - 1]
            log_probabilities = last - np.log(np.exp(last).sum()) if from_logits else np.log(last)
            chosen = 1 + int(log_probabilities[1:].argmax())
            tokens[row, lengths[row]] = chosen
            lengths[row] += 1
            scores[row] += log_probabilities[chosen]
            finished[row] = chosen == end_token or lengths[row] == max_length
    return {"tokens": tokens[:, None], "lengths": lengths[:, None], "scores": scores[:, None]}


def assert_decodes_exactly(
    model, sources=None, prompts=PROMPTS, *, inputs=lambda tokens: [tokens], caches=(True,), **options
):
    """Assert that a generator, with and without its cache as `caches` says, gives what the oracle gives."""
    options = {"max_length": MAX_LENGTH, "end_token": END, **options}
    expected = greedy_oracle(
        model,
        prompts,
        inputs=inputs,
        **{name: options[name] for name in ("max_length", "end_token", "from_logits") if name in options},
    )
    for cache in caches:
        generator = kt.Generator(model, cache=cache, **options)
        actual = generator(prompts) if sources is None else generator(sources, prompts)
        assert actual["tokens"].tolist() == expected["tokens"].tolist(), f"cache={cache}"
        assert actual["lengths"].tolist() == expected["lengths"].tolist(), f"cache={cache}"
        np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=1e-4, atol=1e-4)
    assert len(np.unique(expected["tokens"])) > 4, "the model says too little to tell right from wrong"


def roughen(model, seed=0):
    """Give a model random weights, biases and norms included, that make it attend to and say many things."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.dtype.startswith(("int", "uint")):  # the state of a seed generator
            continue
        noise = random.normal(size=weight.shape)
        if "embeddings" in weight.path:
            weight.assign(0.5 * noise)
        elif len(weight.shape) > 1:
            weight.assign(noise * 2 / weight.shape[0] ** 0.5)
        else:
            weight.assign(keras.ops.convert_to_numpy(weight) + 0.3 * noise)
    return model


def language_model(*blocks, encoding=None, vocabulary=29, dim=20, tied=False, padding_id=0):
    """A rough decoder-only model of the given layers."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = kt.TokenEmbedding(vocabulary, dim, padding_id=padding_id)
    x = embedding(tokens)
    for layer in filter(None, (encoding, *blocks)):
        x = layer(x)
    logits = embedding(x, reverse=True) if tied else keras.layers.Dense(vocabulary, name="logits")(x)
    return roughen(keras.Model(tokens, logits))
