"""Contrastive search chooses what its formula says, computed with the full model and without a cache."""

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


def oracle(model, prompts, top_k, penalty, *, sources=None, max_length=MAX_LENGTH, end_token=END, forbidden=()):
    """Equation 5 of the paper, with the full model on each candidate. h is the input of the last layer.

    Probabilities are those of the tokens that may be chosen, so padding has none.
    """
    last_layer = keras.Model(model.inputs, [model.get_layer("logits").input, model.output])

    def run(tokens):
        """h, as unit vectors, and log-probabilities of whole sequences."""
        inputs = tokens if sources is None else [np.repeat(sources, len(tokens) // len(prompts), axis=0), tokens]
        hidden, logits = (keras.ops.convert_to_numpy(x).astype("float64") for x in last_layer(inputs, training=False))
        hidden /= np.linalg.norm(hidden, axis=-1, keepdims=True)
        return hidden, logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    rows = len(prompts)
    tokens = np.pad(prompts, ((0, 0), (0, max_length - prompts.shape[1]))).astype("int32")
    lengths, scores = (prompts != 0).sum(axis=1), np.zeros(rows)
    finished = lengths >= max_length
    while not finished.all():
        _, logs = run(tokens)
        at = np.minimum(lengths, max_length - 1)
        allowed = logs[np.arange(rows), at - 1].copy()  # (B, V)
        allowed[:, [0, *forbidden]] = -np.inf
        p = np.exp(allowed) / np.exp(allowed).sum(axis=-1, keepdims=True)
        candidates = np.argsort(-p, axis=-1, kind="stable")[:, :top_k]
        tried = np.repeat(tokens[:, None], top_k, axis=1)
        for row in range(rows):
            tried[row, :, at[row]] = candidates[row]
        hidden = run(tried.reshape(-1, max_length))[0].reshape(rows, top_k, max_length, -1)
        for row in np.flatnonzero(~finished):
            place = lengths[row]
            similarity = (hidden[row, :, :place] * hidden[row, :, place : place + 1]).sum(axis=-1).max(axis=-1)
            value = (1 - penalty) * p[row, candidates[row]] - penalty * similarity
            chosen = candidates[row, np.where(p[row, candidates[row]] > 0, value, -np.inf).argmax()]
            tokens[row, place] = chosen
            scores[row] += logs[row, place - 1, chosen]
            lengths[row] += 1
            finished[row] = chosen == end_token or lengths[row] == max_length
    return {"tokens": tokens[:, None], "lengths": lengths[:, None], "scores": scores[:, None]}


@pytest.fixture(scope="module")
def expected(model):
    """With four candidates and the penalty of the paper."""
    return oracle(model, PROMPTS, 4, 0.6)


def search(model, top_k, penalty, **options):
    """A generator that is not compiled, where the loop can run in Python: that starts sooner."""
    options = {"max_length": MAX_LENGTH, "end_token": END, **options}
    generator = kt.Generator(model, strategy=kt.ContrastiveSearch(top_k, penalty), **options)
    if keras.backend.backend() == "tensorflow":
        generator.__dict__["_compiled"] = generator.generate
    return generator


def assert_same(actual, expected):
    assert actual["tokens"].tolist() == expected["tokens"].tolist()
    assert actual["lengths"].tolist() == expected["lengths"].tolist()
    np.testing.assert_allclose(actual["scores"], expected["scores"], rtol=1e-4, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("top_k, penalty", [(2, 0.6), pytest.param(4, 0.3, marks=pytest.mark.slow), (7, 0.9)])
def test_tokens_are_those_of_the_formula(top_k, penalty, model):
    assert_same(search(model, top_k, penalty)(PROMPTS), oracle(model, PROMPTS, top_k, penalty))


@pytest.mark.long
def test_it_is_neither_greedy_nor_blind_to_probability(model, expected, greedy_oracle):
    greedy = greedy_oracle(model, PROMPTS, max_length=MAX_LENGTH, end_token=END, inputs=lambda tokens: tokens)
    results = (greedy, expected, oracle(model, PROMPTS, 4, 1.0))
    texts = {str(result["tokens"].tolist()) for result in results}
    assert len(texts) == 3


@pytest.mark.long
def test_without_a_cache(model, expected):
    assert_same(search(model, 4, 0.6, cache=False)(PROMPTS), expected)


@pytest.mark.xla
def test_compiled_and_the_rows_do_not_depend_on_each_other(model, expected):
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=END, strategy=kt.ContrastiveSearch(4, 0.6))
    result = generator(PROMPTS)
    assert_same(result, expected)
    alone = search(model, 4, 0.6)(PROMPTS[1:2, :1])
    assert alone["tokens"][0].tolist() == result["tokens"][1].tolist()


@pytest.mark.long
@pytest.mark.parametrize("top_k, cache", [(1, False), (5, True)])
def test_a_penalty_of_zero_is_greedy_search(top_k, cache, model, greedy_oracle):
    expected = greedy_oracle(model, PROMPTS, max_length=MAX_LENGTH, end_token=END, inputs=lambda tokens: tokens)
    assert_same(search(model, top_k, 0, cache=cache)(PROMPTS), expected)


@pytest.mark.long
@pytest.mark.parametrize(
    "prompts, cache", [([[5]], False), ([[2, 5, 4, 7, 1, 1, 8, 6, 6, 5], [7, 0, 0, 0, 0, 0, 0, 0, 0, 0]], True)]
)
def test_prompts_of_one_token_and_of_all_but_one(prompts, cache, model):
    assert_same(search(model, 4, 0.6, cache=cache)(np.array(prompts)), oracle(model, np.array(prompts), 4, 0.6))


@pytest.mark.long
def test_prompts_that_leave_nothing_to_generate(model):
    full = np.array([[2, 5, 4, 7, 1, 1, 8, 3, 6, 6, 6]])
    result = search(model, 4, 0.6)(full)
    assert result["tokens"][0].tolist() == full.tolist()
    assert result["scores"].tolist() == [[0]]


@pytest.mark.long
def test_the_end_token_ends_a_row(model, expected):
    end = int(expected["tokens"][0, 0, 6])
    result = search(model, 4, 0.6, end_token=end)(PROMPTS)
    assert_same(result, oracle(model, PROMPTS, 4, 0.6, end_token=end))
    assert result["lengths"].min() < MAX_LENGTH


@pytest.mark.long
@pytest.mark.parametrize("window", [1, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 5))])
def test_windows_shorter_and_longer_than_the_prompts(window, language_model):
    model = language_model(block(window=window, num_kv_heads=2))
    prompts = np.array([[2, 5, 4, 7, 1, 9, 3], [7, 0, 0, 0, 0, 0, 0], [9, 2, 6, 1, 0, 0, 0]])
    expected = oracle(model, prompts, 4, 0.6, max_length=13)
    assert_same(search(model, 4, 0.6, max_length=13)(prompts), expected)


@pytest.mark.long
@pytest.mark.parametrize("normalize_first, cache", [(True, True), (False, False)])
def test_encoder_decoder_with_padded_sources(normalize_first, cache, roughen):
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    memory = kt.EncoderLayer(4, 13)(kt.PositionalEncoding()(kt.TokenEmbedding(23, 20)(source)))
    x = kt.PositionalEncoding()(kt.TokenEmbedding(29, 20)(target))
    x = kt.DecoderLayer(4, 13, normalize_first=normalize_first)(x, memory)
    model = roughen(keras.Model([source, target], keras.layers.Dense(29, name="logits")(x)))
    expected = oracle(model, PROMPTS, 4, 0.6, sources=SOURCES)
    assert_same(search(model, 4, 0.6, cache=cache)(SOURCES, PROMPTS), expected)


@pytest.mark.long
@pytest.mark.parametrize("forbidden", [(), (5, 8, 26)])
def test_what_must_not_be_chosen_is_not_although_it_is_among_the_candidates(forbidden, model):
    processors = [kt.ForbiddenTokens(forbidden)] if forbidden else []
    result = search(model, 29, 0.9, processors=processors)(PROMPTS)
    assert_same(result, oracle(model, PROMPTS, 29, 0.9, forbidden=forbidden))
    new = np.concatenate(
        [
            tokens[prompt:length]
            for tokens, prompt, length in zip(
                result["tokens"][:, 0], (PROMPTS != 0).sum(axis=1), result["lengths"][:, 0], strict=True
            )
        ]
    )
    assert not np.isin(new, [0, *forbidden]).any()


@pytest.mark.parametrize("top_k", [0, -1, True, 1.5, None])
def test_number_of_candidates(top_k):
    with pytest.raises(ValueError, match="positive integer as top_k, got"):
        kt.ContrastiveSearch(top_k)


@pytest.mark.parametrize("penalty", [-0.1, 1.1, float("nan")])
def test_penalty(penalty):
    with pytest.raises(ValueError, match=r"penalty in \[0, 1\], got"):
        kt.ContrastiveSearch(penalty=penalty)


def test_more_candidates_than_tokens(model):
    with pytest.raises(ValueError, match="top_k=30, more than the 29 tokens"):
        search(model, 30, 0.6)
