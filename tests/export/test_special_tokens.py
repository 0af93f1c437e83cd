"""Any id may start, end or pad a sequence, in every format and layout as in Python."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .conftest import roughen

tf = pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]
PROMPTS = [[0, 9, 22, 4], [11, 0], [8]]


def language_model(padding_id, size=29):
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(size, 12, padding_id=padding_id)(tokens))
    x = kt.DecoderLayer(2, 13)(x)
    return roughen(keras.Model(tokens, keras.layers.Dense(size)(x)))


def translator(padding_id, size=23):
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    memory = kt.EncoderLayer(2, 13)(kt.TokenEmbedding(size, 12, padding_id=padding_id)(source))
    x = kt.PositionalEncoding()(kt.TokenEmbedding(size, 12, padding_id=padding_id)(target))
    return roughen(keras.Model([source, target], keras.layers.Dense(size)(kt.DecoderLayer(2, 13)(x, memory))))


def generator(model, **options):
    return kt.Generator(model, **{"max_length": 9, "end_token": 5, "jit_compile": False, **options})


def exports(generator, folder, length, streaming=False):
    """The generator in each format and layout, loaded."""
    kt.export.saved_model(generator, folder / "saved_model", streaming=streaming, verify=False)
    for layout in ("generate", "step"):
        options = {"source_length": length, "batch_size": 2, "layout": layout, "verify": False}
        kt.export.litert(generator, folder / f"{layout}.tflite", **options)
    return {name: kt.export.load(folder / name) for name in ("saved_model", "generate.tflite", "step.tflite")}


def check(runners, generator, inputs, **options):
    expected = generator(inputs, **options)
    for name, runner in runners.items():
        outputs = runner(inputs, **options)
        for key in ("tokens", "lengths"):
            np.testing.assert_array_equal(outputs[key], expected[key], err_msg=f"{name} {key}")
        np.testing.assert_allclose(outputs["scores"], expected["scores"], rtol=1e-4, atol=1e-4, err_msg=name)
        if name == "step.tflite" or "begin" in getattr(runner, "signatures", ()):
            rows = inputs[:2], {key: x[:2] for key, x in options.items()}
            streams = [list(x.stream(rows[0], **rows[1])) for x in (runner, generator)]
            np.testing.assert_array_equal(*streams, err_msg=f"{name} stream")


@pytest.mark.parametrize("padding_id", [None, 3])
def test_prompts(padding_id, tmp_path):
    """Lists of several lengths, arrays with lengths, and arrays that are padded."""
    subject = generator(language_model(padding_id), padding_id=padding_id, start_token=0, end_token=[5, 17])
    runners = exports(subject, tmp_path, 4, streaming=True)
    check(runners, subject, PROMPTS)
    check(runners, subject, [[], [7]])
    array = np.array([[0, 9, 22, 4], [11, 6, 8, 8], [8, 1, 1, 1]])
    check(runners, subject, array, lengths=np.array([4, 2, 1]))
    check(runners, subject, array)
    signature = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["generate"]
    assert ("lengths" in signature.structured_input_signature[1]) == (padding_id is None)
    if padding_id is not None:
        padded = np.where(np.arange(4) < np.array([[4], [2], [1]]), array, 3)
        check(runners, subject, padded)
        expected = subject(PROMPTS)["tokens"]
        padded = tf.constant([[0, 9, 22, 4], [11, 0, 3, 3], [8, 3, 3, 3]])
        np.testing.assert_array_equal(signature(tokens=padded)["tokens"], expected)
        for runner in runners.values():
            with pytest.raises(ValueError, match="there is a 3"):
                runner([[7, 3, 4]])


@pytest.mark.parametrize("padding_id", [None, 3])
def test_sources(padding_id, tmp_path):
    subject = generator(translator(padding_id), start_token=0)
    runners = exports(subject, tmp_path, 4)
    check(runners, subject, np.array([[0, 9, 22, 4], [11, 6, 1, 0]]))
    sources = [[0, 9, 22, 4], [11, 0], [8]]
    if padding_id is not None:
        check(runners, subject, sources)
        check(runners, subject, np.array([[0, 9, 3, 3], [11, 6, 1, 3], [2, 2, 3, 3]]))
        return
    for run in [subject, *runners.values()]:  # nothing hides what would pad the shorter rows
        with pytest.raises(ValueError, match="rows of"):
            run(sources)
    np.testing.assert_array_equal(runners["saved_model"]([[7, 8]])["tokens"], subject([[7, 8]])["tokens"])
    for name in ("generate.tflite", "step.tflite"):
        with pytest.raises(ValueError, match="nothing shorter"):
            runners[name]([[7, 8]])


def test_padding_that_also_starts_and_ends(tmp_path):
    """As in many checkpoints: one id for all three, which no embedding hides."""
    subject = generator(language_model(None), padding_id=6, start_token=6, end_token=6)
    runners = exports(subject, tmp_path, 4)
    check(runners, subject, [[6, 9, 6, 4], [11, 2], [6], []])
    check(runners, subject, np.array([[6, 9, 6, 4], [11, 2, 6, 6]]))
    check({"step.tflite": runners["step.tflite"]}, subject, [[11, 6], [6, 6, 6]])
    for name in ("saved_model", "generate.tflite"):
        with pytest.raises(ValueError, match="A prompt ends with 6, which also is padding"):
            runners[name]([[11, 6]])


def test_no_end_and_several_sequences(tmp_path):
    strategy = kt.Sampling(seed=7, num_return=3)
    subject = generator(language_model(0), end_token=None, strategy=strategy)
    kt.export.saved_model(subject, tmp_path / "saved_model", streaming=True)
    runners = {"saved_model": kt.export.load(tmp_path / "saved_model")}
    prompts = np.array([[4, 9], [11, 2]])
    check(runners, subject, prompts)
    assert runners["saved_model"].metadata["end_tokens"] == []
    first, second = (runners["saved_model"](prompts, seed=seed)["tokens"] for seed in (1, 2))
    assert (first != second).any()
    np.testing.assert_array_equal(first, subject(prompts, seed=1)["tokens"])
    for layout in ("generate", "step"):
        options = {"source_length": 2, "batch_size": 2, "layout": layout, "verify": False}
        kt.export.litert(subject, tmp_path / "model.tflite", overwrite=True, **options)
        check({f"{layout}.tflite": kt.export.load(tmp_path / "model.tflite")}, subject, prompts)


@pytest.mark.parametrize("padding_id", [None, 6])
def test_scores(padding_id, tmp_path):
    """With padding that also ends sequences its first one counts."""
    subject = generator(language_model(None), padding_id=padding_id, end_token=6)
    kt.export.saved_model(subject, tmp_path / "saved_model", verify=False)
    score = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["score"]
    tokens = np.array([[4, 9, 0, 6, 6], [4, 9, 6, 6, 6], [4, 9, 1, 2, 0]], "int32")
    lengths = np.array([4, 3, 5], "int32")
    given = {"tokens": tf.constant(tokens), "prompt_lengths": tf.constant([1, 2, 1])}
    if padding_id is None:
        given["lengths"] = tf.constant(lengths)
    sequences = [row[:length].tolist() for row, length in zip(tokens, lengths, strict=True)]
    expected = subject.score(sequences, prompt_lengths=[1, 2, 1])
    np.testing.assert_allclose(score(**given)["scores"], expected, rtol=1e-4, atol=1e-5)


def test_texts_go_in_and_come_out_by_the_generators_tokenizers(tmp_path):
    """Unless an export is told otherwise; prompts have no end, and several ids end a text."""
    tokenizer = kt.text.CharacterTokenizer("abcdefghij klmnopqrstuvwx", add_end=True)
    model = language_model(0)
    options = {"target_tokenizer": tokenizer, "end_token": [3, 7]}
    subject = generator(model, **options)
    kt.export.saved_model(subject, tmp_path / "saved_model")
    kt.export.litert(subject, tmp_path / "model.tflite", source_length=5)
    serve = tf.saved_model.load(str(tmp_path / "saved_model")).signatures["serving_default"]
    texts = ["abc", "x", "a dog"]
    expected = subject(texts)
    served = serve(text=tf.constant(texts))
    np.testing.assert_array_equal(served["tokens"], expected["tokens"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="A prompt is empty"):
        serve(text=tf.constant(["abc", ""]))
    assert [[text.decode() for text in row] for row in served["texts"].numpy()] == expected["texts"]
    for name in ("saved_model", "model.tflite"):
        outputs = kt.export.load(tmp_path / name)(texts)
        np.testing.assert_array_equal(outputs["tokens"], expected["tokens"])
        assert outputs["texts"] == expected["texts"]
    prompts = [[4, 3, 5], [6], [3, 7, 4]]  # an end within a prompt ends nothing
    expected = subject(prompts)["texts"]
    assert [text[:count] for (text,), count in zip(expected, (2, 1, 2), strict=True)] == ["ab", "c", "da"]
    for name in ("saved_model", "model.tflite"):
        assert kt.export.load(tmp_path / name)(prompts)["texts"] == expected
    none = {"source_tokenizer": None, "target_tokenizer": None}
    kt.export.saved_model(subject, tmp_path / "ids", verify=False, **none)
    serve = tf.saved_model.load(str(tmp_path / "ids")).signatures["serving_default"]
    assert set(serve.structured_input_signature[1]) == {"tokens"} and "texts" not in serve.structured_outputs


def test_a_tokenizer_without_padding(tmp_path):
    """Id 0 is a letter, to the tokenizer and to the model: only lengths tell where a text ends."""

    class Letters(kt.text.Tokenizer):
        pad_id = start_id = end_id = None
        unk_id = 28

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.built = True

        def get_vocabulary(self):
            return list("abcdefghijklmnopqrstuvwxyz .!")

        def encode(self, strings):
            letters = tf.strings.unicode_split(strings, "UTF-8")
            found = tf.argmax(letters.flat_values[:, None] == tf.constant(self.get_vocabulary()), axis=1)
            return letters.with_flat_values(tf.cast(found, tf.int32))

        def decode(self, ids):
            return tf.strings.reduce_join(tf.gather(tf.constant(self.get_vocabulary()), ids), axis=-1)

    subject = generator(language_model(None), target_tokenizer=Letters(), end_token=[5, 17])
    texts = ["abba", "a", "ca"]
    kt.export.saved_model(subject, tmp_path / "model")
    serve = tf.saved_model.load(str(tmp_path / "model")).signatures["serving_default"]
    expected = subject([[0, 1, 1, 0], [0], [2, 0]])
    outputs = serve(text=tf.constant(texts))
    np.testing.assert_array_equal(outputs["tokens"], expected["tokens"])
    assert kt.export.load(tmp_path / "model")(texts)["texts"] == expected["texts"]
    assert all(text.startswith(prompt) for (text,), prompt in zip(expected["texts"], texts, strict=True))
