"""What a Generator is given and what it returns: prompts, lengths, scores, the end."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

END, MAX_LENGTH = 3, 9
PROMPTS = np.array([[2, 5, 4, 7], [7, 0, 0, 0], [9, 2, 0, 0]])


@pytest.fixture(scope="module")
def model(language_model):
    return language_model(kt.DecoderLayer(4, 13, position=kt.RotaryPosition(), head_dim=6))


@pytest.fixture(scope="module")
def generator(model):
    """Shared, and so called with prompts of one shape as far as possible: each shape is compiled."""
    return kt.Generator(model, max_length=MAX_LENGTH, end_token=END)


@pytest.fixture(scope="module")
def result(generator):
    return generator(PROMPTS)


def test_shapes_and_types(result):
    assert {name: (x.shape, x.dtype.name) for name, x in result.items()} == {
        "tokens": ((3, 1, MAX_LENGTH), "int32"),
        "lengths": ((3, 1), "int32"),
        "scores": ((3, 1), "float32"),
    }


def test_a_row_depends_on_itself_only(generator, result):
    alone = generator(PROMPTS[1:2, :1])
    other = generator(np.array([[1, 1, 0, 0], [4, 4, 4, 4], PROMPTS[1]]))
    for name in result:
        np.testing.assert_allclose(alone[name][0], result[name][1], rtol=1e-5)
        np.testing.assert_allclose(other[name][2], result[name][1], rtol=1e-5)


def test_needless_padding_changes_nothing(generator, result):
    padded = generator(np.pad(PROMPTS, ((0, 0), (0, 30))))
    assert padded["tokens"].tolist() == result["tokens"].tolist()


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda prompts: {"tokens": prompts}, id="dict by name"),
        pytest.param(lambda prompts: prompts.tolist(), id="lists"),
        pytest.param(lambda prompts: prompts.astype("uint8"), id="uint8"),
        pytest.param(lambda prompts: keras.ops.convert_to_tensor(prompts), id="tensor"),
    ],
)
def test_forms_of_prompts(form, generator, result):
    assert generator(form(PROMPTS))["tokens"].tolist() == result["tokens"].tolist()


def test_prompt_given_as_prompts(generator, result):
    assert generator(prompts=PROMPTS)["tokens"].tolist() == result["tokens"].tolist()


def test_prompts_are_not_changed(generator):
    prompts = PROMPTS.copy()
    generator(prompts)
    np.testing.assert_array_equal(prompts, PROMPTS)


def test_prompts_that_leave_nothing_to_generate(generator):
    full = np.array([[2, 5, 4, 7, 1, 1, 8, 3, 6], [7, 5, 4, 2, 2, 2, 8, 3, 0]])
    result = generator(full)
    assert result["tokens"][0, 0].tolist() == full[0].tolist()
    assert result["lengths"].tolist() == [[MAX_LENGTH], [MAX_LENGTH]]
    assert result["scores"][0, 0] == 0
    assert result["tokens"][1, 0, :-1].tolist() == full[1, :-1].tolist()
    assert result["tokens"][1, 0, -1] != 0
    assert result["scores"][1, 0] < 0


@pytest.fixture(scope="module")
def ended(model, result):
    """A generator whose end token is the second new token of the first row; what came before stays the same."""
    end = int(result["tokens"][0, 0, 5])
    assert end not in result["tokens"][0, 0, :5]
    generator = kt.Generator(model, max_length=MAX_LENGTH, end_token=end, start_token=7)
    return generator, generator(PROMPTS)


def test_the_end_token_ends_a_row(ended, result, greedy_oracle):
    generator, stopped = ended
    expected = greedy_oracle(generator.model, PROMPTS, max_length=MAX_LENGTH, end_token=generator.end_token)
    assert stopped["lengths"][0, 0] == 6
    assert stopped["tokens"][0, 0].tolist() == [*result["tokens"][0, 0, :6].tolist(), 0, 0, 0]
    np.testing.assert_allclose(stopped["scores"], expected["scores"], rtol=1e-4)


def test_lengths_count_tokens_and_the_rest_is_padding(ended):
    generator, stopped = ended
    for tokens, length in zip(stopped["tokens"][:, 0], stopped["lengths"][:, 0], strict=True):
        assert (tokens[:length] != 0).all()
        assert (tokens[length:] == 0).all()
        assert length == MAX_LENGTH or tokens[length - 1] == generator.end_token


def test_an_end_token_in_the_prompt_does_not_end_it(ended):
    generator, _ = ended
    prompts = PROMPTS.copy()
    prompts[1, :2] = generator.end_token
    assert (generator(prompts)["lengths"] > [[4], [2], [2]]).all()


def test_an_empty_prompt_becomes_the_start_token(ended):
    generator, stopped = ended
    prompts = PROMPTS.copy()
    prompts[1] = 0
    assert generator(prompts)["tokens"].tolist() == stopped["tokens"].tolist()  # row 1 is [7], the start token


@pytest.mark.eager
def test_the_loop_ends_with_the_last_row(ended, monkeypatch):
    generator, stopped = ended
    steps = []
    step = generator.decoder.step
    monkeypatch.setattr(generator.decoder, "step", lambda *args: steps.append(1) or step(*args))
    prompt, length = keras.ops.convert_to_tensor(PROMPTS[:1], "int32"), keras.ops.convert_to_tensor([4], "int32")
    generator.generate({}, prompt, length)
    assert len(steps) == stopped["lengths"][0, 0] - 4


@pytest.mark.xla
@pytest.mark.tensorflow
def test_xla_only_where_it_is_asked_for(model, monkeypatch):
    import tensorflow as tf

    asked, function = [], tf.function
    monkeypatch.setattr(
        tf, "function", lambda *args, **kwargs: asked.append(kwargs["jit_compile"]) or function(*args, **kwargs)
    )
    generators = [kt.Generator(model, max_length=7, end_token=END, jit_compile=jit) for jit in (True, False)]
    compiled, graph = (generator(PROMPTS) for generator in generators)
    assert asked == [True, False]
    assert compiled["tokens"].tolist() == graph["tokens"].tolist()


def test_padding_is_never_generated_but_keeps_its_probability(language_model, greedy_oracle):
    model = language_model(kt.DecoderLayer(4, 13, position=kt.AlibiPosition()))
    bias = model.get_layer("logits").bias
    bias.assign(100.0 * (np.arange(29) == 0))
    result = kt.Generator(model, max_length=MAX_LENGTH, end_token=END)(PROMPTS)
    expected = greedy_oracle(model, PROMPTS, max_length=MAX_LENGTH, end_token=END)
    assert result["tokens"].tolist() == expected["tokens"].tolist()
    np.testing.assert_allclose(result["scores"], expected["scores"], rtol=1e-4)
    assert (result["scores"] < -100).all()


def test_no_rows(generator):
    result = generator(np.zeros((0, 4), "int32"))
    assert {name: x.shape for name, x in result.items()} == {
        "tokens": (0, 1, MAX_LENGTH),
        "lengths": (0, 1),
        "scores": (0, 1),
    }


def test_max_length_of_one(model):
    result = kt.Generator(model, max_length=1, end_token=END)(np.array([[5], [2]]))
    assert result["tokens"].tolist() == [[[5]], [[2]]]


@pytest.mark.parametrize("scores, chosen", [([0.1, 0.3, 0.6], 2), ([0.4, 0.4, 0.2], 0), ([0.2, 0.4, 0.4], 1)])
def test_greedy_takes_the_most_probable_and_the_lower_of_two(scores, chosen):
    logs = np.log([scores, [0.5, 0.2, 0.3]]).astype("float32")
    assert keras.ops.convert_to_numpy(kt.Greedy().select(logs, np.array([1, 1]))).tolist() == [chosen, 0]
