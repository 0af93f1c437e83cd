"""A SavedModel answers what Python answers, in a process that has TensorFlow only and XLA turned off."""

import sys

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .conftest import OPTIONS, once

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow


class Letters(keras.layers.Layer):
    """A tokenizer of the letters a, b, c, ...: their ids are 4, 5, 6, ..."""

    def __init__(self, vocabulary_size):
        super().__init__()
        self.vocabulary_size = vocabulary_size

    def call(self, strings):
        return tf.maximum(tf.strings.unicode_decode(strings, "UTF-8").to_tensor(93) - 93, 0)

    def detokenize(self, ids):
        letters = tf.constant([""] * 4 + [chr(93 + i) for i in range(4, self.vocabulary_size)])
        return tf.strings.reduce_join(tf.gather(letters, ids), axis=-1)


def letters(vocabulary_size):
    tokenizer = Letters(vocabulary_size)
    tokenizer(tf.constant(["a"]))
    return tokenizer


TEXTS = ["hello", "a", "marmalade", "bcd"]


@pytest.fixture(scope="module")
def folder(exports, encoder_decoder):
    """One export of each subject, one of them with tokenizers."""
    tokenizers = {"source_tokenizer": letters(23), "target_tokenizer": letters(29)}
    once(kt.export.saved_model, encoder_decoder, exports / "encoder_decoder", **tokenizers)
    return exports


@pytest.fixture(scope="module")
def expected_texts(encoder_decoder):
    """What Python makes of the texts, character by character."""
    ids = np.zeros((len(TEXTS), max(map(len, TEXTS))), "int32")
    for row, text in enumerate(TEXTS):
        ids[row, : len(text)] = [ord(letter) - 93 for letter in text]
    tokens = encoder_decoder(ids)["tokens"]
    return [["".join(chr(93 + i) for i in beam if i >= 4) for beam in row] for row in tokens]


def test_answers_as_python_does_in_a_process_without_keras(folder, answers, expected_texts, bare_process):
    data = {"folder": str(folder), "answers": answers, "texts": TEXTS, "expected_texts": expected_texts}
    bare_process(
        """
        import ctypes, os
        import numpy as np
        import tensorflow as tf

        symbol = "_ZN10tensorflow21DisableXlaCompilationEv"  # TF Serving calls it on CPUs
        libraries = [os.path.join(tf.sysconfig.get_lib(), f"libtensorflow_{name}.so.2") for name in ("cc", "framework")]
        libraries = [ctypes.CDLL(library) for library in libraries]
        next(library for library in libraries if hasattr(library, symbol))[symbol]()
        try:
            tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1))
        except tf.errors.OpError:
            pass
        else:
            raise AssertionError("XLA is still on")

        for name, subject in data["answers"].items():
            loaded = tf.saved_model.load(os.path.join(data["folder"], name))
            signature = loaded.signatures["serving_default" if name == "classifier" else "generate"]
            for case in subject["cases"]:
                outputs = signature(**{subject["input"]: tf.constant(case["ids"], tf.int32)})
                assert set(outputs) == set(case["outputs"]), (name, set(outputs))
                for key, expected in case["outputs"].items():
                    np.testing.assert_allclose(outputs[key], expected, rtol=1e-4, atol=1e-4, err_msg=f"{name} {key}")
            if name == "encoder_decoder":
                outputs = loaded.signatures["serving_default"](text=tf.constant(data["texts"]))
                assert {"texts", "tokens", "lengths", "scores"} == set(outputs)
                texts = [[text.decode() for text in row] for row in outputs["texts"].numpy().tolist()]
                assert texts == data["expected_texts"], texts
        """,
        data,
        without=["keras", "keras_transformer"],
    )


@pytest.mark.parametrize("name", ["encoder_decoder", "decoder_only", "classifier"])
def test_no_signature_has_an_op_of_xla(name, folder):
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((folder / name / "saved_model.pb").read_bytes())
    for graph in (meta.graph_def for meta in saved.meta_graphs):
        functions = graph.library.function
        operations = {node.op for node in graph.node} | {node.op for f in functions for node in f.node_def}
        assert len(operations) > 10
        assert not {op for op in operations if op.startswith("Xla")}
        assert not [f.signature.name for f in functions if f.attr["_XlaMustCompile"].b]


@pytest.mark.parametrize(
    "name, signatures",
    [
        (
            "encoder_decoder",
            {
                "serving_default": {"text"},
                "generate": {"source"},
                "score": {"source", "target"},
                "encode": {"source"},
            },
        ),
        (
            "decoder_only",
            {"serving_default": {"tokens"}, "generate": {"tokens"}, "score": {"tokens", "prompt_lengths"}},
        ),
        ("classifier", {"serving_default": {"tokens"}, "encode": {"tokens"}}),
    ],
)
def test_signatures_and_their_inputs(name, signatures, folder):
    loaded = tf.saved_model.load(str(folder / name))
    found = {key: set(signature.structured_input_signature[1]) for key, signature in loaded.signatures.items()}
    for key in {"begin", "advance"} & set(found):  # to stream, what one export was asked for
        del found[key]
    assert found == signatures


SOURCES = np.array([[5, 9, 22, 4, 7], [11, 6, 0, 0, 0]], "int32")


def test_score_is_the_generators(folder, encoder_decoder, decoder_only):
    tokens = encoder_decoder(SOURCES)["tokens"][:, 0]
    score = tf.saved_model.load(str(folder / "encoder_decoder")).signatures["score"]
    scores = score(source=tf.constant(SOURCES), target=tf.constant(tokens))["scores"]
    np.testing.assert_allclose(scores, encoder_decoder.score(SOURCES, tokens), rtol=1e-4)

    score = tf.saved_model.load(str(folder / "decoder_only")).signatures["score"]
    scores = score(tokens=tf.constant(SOURCES), prompt_lengths=tf.constant([3, 1]))["scores"]
    expected = decoder_only.score(SOURCES, prompt_lengths=np.array([3, 1]))
    np.testing.assert_allclose(scores, expected, rtol=1e-4)


def test_encode_gives_what_the_decoder_reads(folder, encoder_decoder):
    outputs = tf.saved_model.load(str(folder / "encoder_decoder")).signatures["encode"](source=tf.constant(SOURCES))
    assert set(outputs) == {"memory", "memory_mask"}
    model = encoder_decoder.model
    memory = keras.Model(model.inputs[0], model.get_layer("encoder_0").output)(SOURCES)
    np.testing.assert_allclose(outputs["memory"], memory, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(outputs["memory_mask"], SOURCES != 0)


def test_each_weight_is_saved_once(folder, encoder_decoder):
    shapes = tf.train.load_checkpoint(str(folder / "encoder_decoder/variables/variables")).get_variable_to_shape_map()
    matrices = sorted(tuple(shape) for shape in shapes.values() if len(shape) > 1)
    weights = [weight for weight in encoder_decoder.model.trainable_variables if len(weight.shape) > 1]
    assert matrices == sorted(tuple(weight.shape) for weight in weights)


@pytest.mark.slow
def test_a_seed_for_each_call_and_a_signature_for_xla(encoder_decoder, tmp_path, capsys):
    def sampling(seed):
        return kt.Generator(encoder_decoder.model, max_length=9, strategy=kt.Sampling(seed=seed), **OPTIONS)

    report = kt.export.saved_model(sampling(5), tmp_path / "model", xla=True)
    assert str(report) in capsys.readouterr().out
    assert report.size > 4 * encoder_decoder.model.count_params()
    assert report.signatures["generate"] == {"source": "int32[?,?]", "seed": "int32[]"}
    assert report.operators["While"] and not [name for name in report.operators if name.startswith("Xla")]
    assert report.milliseconds["generate"] > 0 and report.agreement == 1.0

    signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
    found = []
    for seed in (5, 7):
        expected = sampling(seed)(SOURCES)["tokens"]
        for name in ("generate", "generate_xla"):
            outputs = signatures[name](source=tf.constant(SOURCES), seed=tf.constant(seed))
            np.testing.assert_array_equal(outputs["tokens"], expected, err_msg=f"{name} {seed}")
        found.append(expected.tolist())
    assert found[0] != found[1]


@pytest.mark.filterwarnings("ignore")
def test_an_operation_that_needs_xla_is_named(tmp_path):
    inputs = keras.Input((5,))
    outputs = keras.ops.slice_update(inputs, [0, 1], keras.ops.ones((1, 2)))
    model = keras.Model(inputs, keras.layers.Dense(3)(outputs), name="slices")
    with pytest.raises(ValueError, match="'slices' needs XLA.*XlaDynamicUpdateSlice.*slice_update"):
        kt.export.saved_model(model, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_samples_are_compared_too(encoder_decoder, tmp_path, monkeypatch):
    check, seen = kt.export.agreement.check_generated, []

    def note(generator, inputs, *args):
        seen.append((inputs[0] != 0).sum(axis=1).tolist())
        check(generator, inputs, *args)

    monkeypatch.setattr(sys.modules["keras_transformer.export.saved_model"], "check_generated", note)
    samples = ["hello", "marmalade"]
    kt.export.saved_model(encoder_decoder, tmp_path / "model", source_tokenizer=letters(23), samples=samples)
    assert [len(text) for text in samples] in seen


def test_an_empty_prompt_becomes_the_start_token(folder):
    generate = tf.saved_model.load(str(folder / "decoder_only")).signatures["generate"]
    empty = generate(tokens=tf.zeros((1, 2), tf.int32))["tokens"]
    started = generate(tokens=tf.constant([[2, 0]]))["tokens"]
    np.testing.assert_array_equal(empty, started)


def test_a_prompt_too_long_is_refused_not_cut(folder):
    generate = tf.saved_model.load(str(folder / "decoder_only")).signatures["generate"]
    with pytest.raises(tf.errors.InvalidArgumentError):
        generate(tokens=tf.ones((1, 12), tf.int32))


@pytest.mark.parametrize(
    "tokenizers, message",
    [
        ({"source_tokenizer": letters(24)}, "source tokenizer has 24 ids.*23"),
        ({"target_tokenizer": letters(28)}, "target tokenizer has 28 ids.*29"),
    ],
)
def test_tokenizer_of_another_vocabulary(tokenizers, message, encoder_decoder, tmp_path):
    with pytest.raises(ValueError, match=message):
        kt.export.saved_model(encoder_decoder, tmp_path / "model", **tokenizers)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_that_was_never_called(classifier, tmp_path):
    kt.export.saved_model(classifier, tmp_path / "model", source_tokenizer=Letters(29))
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    (classes,) = loaded.signatures["serving_default"](text=tf.constant(["ab", "c"])).values()
    np.testing.assert_allclose(classes, classifier(np.array([[4, 5], [6, 0]])), rtol=1e-4)


def test_target_tokenizer_of_a_plain_model(classifier, tmp_path):
    with pytest.raises(ValueError, match="export a Generator"):
        kt.export.saved_model(classifier, tmp_path / "model", target_tokenizer=letters(29))


def test_encoder_decoder_without_a_start_token(encoder_decoder, tmp_path):
    generator = kt.Generator(encoder_decoder.model, max_length=9, end_token=3)
    with pytest.raises(ValueError, match="start_token"):
        kt.export.saved_model(generator, tmp_path / "model")
