"""A SavedModel answers what Python answers, in a process that has TensorFlow only and XLA turned off."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

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
def folder(tmp_path_factory, encoder_decoder, decoder_only, classifier):
    """One export of each subject, and one with tokenizers."""
    folder = tmp_path_factory.mktemp("saved_models")
    kt.export.saved_model(decoder_only, folder / "decoder_only")
    kt.export.saved_model(classifier, folder / "classifier")
    kt.export.saved_model(
        encoder_decoder, folder / "encoder_decoder", source_tokenizer=letters(23), target_tokenizer=letters(29)
    )
    return folder


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
        ("encoder_decoder", {"serving_default": ["text"], "generate": ["source"]}),
        ("decoder_only", {"serving_default": ["tokens"], "generate": ["tokens"]}),
        ("classifier", {"serving_default": ["tokens"]}),
    ],
)
def test_signatures_and_their_inputs(name, signatures, folder):
    loaded = tf.saved_model.load(str(folder / name))
    found = {key: list(signature.structured_input_signature[1]) for key, signature in loaded.signatures.items()}
    assert found == signatures


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
