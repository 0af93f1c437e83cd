"""Tokenizers in a SavedModel: strings in, strings out, where neither Keras nor this package can be imported."""

import io

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding.texts import decode
from keras_transformer.text import ByteTokenizer, CharacterTokenizer, SentencePieceTokenizer, WordPieceTokenizer
from keras_transformer.text.keras_hub import as_tokenizer

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")
keras_hub = pytest.importorskip("keras_hub")
sentencepiece = pytest.importorskip("sentencepiece")
pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

TEXTS = ["the cat", "", "a dog the", "다람쥐 🎉 عربي"]
CORPUS = ["the cat sat", "a dog and the cat", "다람쥐 헌 쳇바퀴에", "عربي 🎉 日本語"] * 3
# The operations of tensorflow_text without its Python code, which needs Keras: as TensorFlow Serving has them.
WITH_OPERATIONS = """
import glob, importlib.util, os
import tensorflow as tf
(package,) = importlib.util.find_spec("tensorflow_text").submodule_search_locations
for library in ("wordpiece", "sentencepiece", "regex_split"):
    for path in glob.glob(os.path.join(package, "python", "ops", f"*{library}*.so")):
        tf.load_op_library(path)
"""


def keras_hub_tokenizers():
    """KerasHub's kinds, by name, with padding as id 0, start as 2, end as 3."""
    tokenizers = keras_hub.tokenizers
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=61,
        hard_vocab_limit=False,
        **{"pad_id": 0, "unk_id": 1, "bos_id": 2, "eos_id": 3, "minloglevel": 2},
    )
    # GPT-2's letters for the 256 bytes: those that can be printed are themselves, the others come after U+00FF.
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in printed] + [chr(256 + index) for index in range(256 - len(printed))]
    vocabulary = ["<pad>", "<unk>", "<s>", "</s>", *letters, "th", "the", "Ġc"]
    return {
        "wordpiece": tokenizers.WordPieceTokenizer([*special, "the", "c", "##at", "a", "do", "##g"]),
        "wordpiece_dense": tokenizers.WordPieceTokenizer([*special, "the", "c", "##at", "a"], sequence_length=7),
        "sentencepiece": tokenizers.SentencePieceTokenizer(model.getvalue()),
        "bytes": tokenizers.ByteTokenizer(lowercase=False),
        "byte_pairs": tokenizers.BytePairTokenizer(
            {piece: id for id, piece in enumerate(vocabulary)}, ["t h", "th e", "Ġ c"]
        ),
    }


@pytest.fixture(scope="module")
def theirs():
    return keras_hub_tokenizers()


@pytest.fixture(scope="module")
def ours():
    return {
        "characters": CharacterTokenizer.train(["the cat a dog"], max_length=5, add_end=True),
        "bytes": ByteTokenizer(add_start=True),
        "wordpiece": WordPieceTokenizer.train(["the a dog"] * 3, 23),
        "sentencepiece": SentencePieceTokenizer.train(CORPUS, 35, character_coverage=1.0),
    }


@pytest.fixture(scope="module")
def exports(tmp_path_factory, encoder_decoder, ours, theirs):
    """Exports of one generator, and what its texts must be, by name."""
    folder = tmp_path_factory.mktemp("tokenizers")
    pairs = {
        "plain": (ours["characters"], ours["bytes"]),
        "operations": (ours["wordpiece"], ours["sentencepiece"]),
        "theirs": (theirs["wordpiece"], theirs["byte_pairs"]),
    }
    rows = []
    for name, (source, target) in pairs.items():
        kt.export.saved_model(
            encoder_decoder, folder / name, source_tokenizer=source, target_tokenizer=target, verify=False
        )
        rows += [[int(id) for id in row] for row in source(TEXTS)]
    width = max(map(len, rows))
    generated = encoder_decoder(np.array([row + [0] * (width - len(row)) for row in rows]))["tokens"][:, 0]
    answers = {}
    for name, tokens in zip(pairs, np.split(generated, len(pairs)), strict=True):
        if name == "theirs":  # what lies between the start token, 2, and the end token, 3
            rows = [[*row, 3] for row in tokens.tolist()]
            answers[name] = theirs["byte_pairs"].detokenize([row[1 : row.index(3)] for row in rows])
        else:
            texts = pairs[name][1].detokenize(tokens).numpy()
            answers[name] = [text.decode("utf-8", "replace") for text in texts]
    return folder, answers


def archive_of(tokenizers, folder):
    """A SavedModel of tokenizers, each there and back."""

    def there_and_back(tokenizer):
        return lambda text: {"ids": (ids := tokenizer(text)), "texts": tokenizer.detokenize(ids)}

    archive = keras.export.ExportArchive()
    for name, tokenizer in tokenizers.items():
        archive.track(tokenizer)
        archive.add_endpoint(name, there_and_back(tokenizer), [tf.TensorSpec([None], tf.string, name="text")])
    archive.write_out(str(folder), verbose=False)


COMPARE = """
import tensorflow as tf
texts = tf.constant(data["texts"])
signatures = tf.saved_model.load(data["archive"]).signatures
for name, expected in data["tokenizers"].items():
    found = signatures[name](text=texts)
    assert found["ids"].numpy().tolist() == expected["ids"], (name, found["ids"])
    assert [text.decode() for text in found["texts"].numpy()] == expected["texts"], (name, found["texts"])
for name, expected in data["answers"].items():
    found = tf.saved_model.load(data["folder"] + "/" + name).signatures["serving_default"](text=texts)
    assert [row[0].decode("utf-8", "replace") for row in found["texts"].numpy()] == expected, (name, found["texts"])
"""
OURS_ONLY = ["keras", "keras_transformer", "keras_hub"]


def test_characters_and_bytes_need_nothing_but_tensorflow(ours, exports, tmp_path, bare_process):
    folder, answers = exports
    kinds = {"characters": ours["characters"], "bytes": ours["bytes"]}
    archive_of(kinds, tmp_path / "archive")
    expected = {
        "characters": {"texts": ["the ", "", "a do", "\ufffd\ufffd\ufffd "]},
        "bytes": {"texts": TEXTS},
    }
    for kind, tokenizer in kinds.items():
        expected[kind]["ids"] = tokenizer(TEXTS).numpy().tolist()
    data = {"texts": TEXTS, "archive": str(tmp_path / "archive"), "tokenizers": expected}
    data |= {"folder": str(folder), "answers": {"plain": answers["plain"]}}
    bare_process(COMPARE, data, without=[*OURS_ONLY, "tensorflow_text", "sentencepiece"])


def test_the_others_need_the_operations_of_tensorflow_text(ours, theirs, exports, tmp_path, bare_process):
    """KerasHub's Python code says what its graph must give."""
    folder, answers = exports
    kinds = {f"their_{kind}": as_tokenizer(tokenizer) for kind, tokenizer in theirs.items()}
    kinds |= {kind: ours[kind] for kind in ("wordpiece", "sentencepiece")}
    archive_of(kinds, tmp_path / "archive")
    expected = {}
    for kind, tokenizer in kinds.items():
        ids = tokenizer(TEXTS).numpy()
        texts = [text.decode() for text in tokenizer.detokenize(ids).numpy()]
        if kind.startswith("their_"):
            pieces = theirs[kind.removeprefix("their_")](TEXTS)
            rows = [[int(id) for id in row if id] for row in pieces]
            assert [[id for id in row if id] for row in ids.tolist()] == rows
            assert texts == theirs[kind.removeprefix("their_")].detokenize(rows)
        expected[kind] = {"ids": ids.tolist(), "texts": texts}
    assert expected["their_byte_pairs"]["texts"] == expected["their_bytes"]["texts"] == TEXTS
    data = {"texts": TEXTS, "archive": str(tmp_path / "archive"), "tokenizers": expected, "folder": str(folder)}
    data["answers"] = {name: answers[name] for name in ("operations", "theirs")}
    bare_process(WITH_OPERATIONS + COMPARE, data, without=OURS_ONLY)


def test_other_tokenizers_are_taken_as_they_are(ours):
    assert as_tokenizer(None) is None
    assert as_tokenizer(ours["bytes"]) is ours["bytes"]


def test_what_generation_adds_is_left_out(theirs, encoder_decoder):
    tokenizer = as_tokenizer(theirs["wordpiece"], encoder_decoder)
    ids = np.array([[[2, 4, 5, 6, 3, 4], [2, 7, 2**31 - 1, -1, 4, 0]]])
    assert tokenizer.detokenize(ids).numpy().tolist() == [[b"the cat", b"a the"]]
    assert as_tokenizer(theirs["wordpiece"]).detokenize([4, 3, 4]).numpy() == b"the [SEP] the"
    chat = [2, 4, 5, 6, 3, 2, 7, 4, 0]  # an end within a prompt ends nothing, in an export and in Python
    assert tokenizer.detokenize(chat, lengths=len(chat)).numpy() == b"the cat a the"
    assert decode(theirs["wordpiece"], [chat, []], encoder_decoder.special) == ["the cat a the", ""]


@pytest.mark.parametrize("sequence_length", [None, 5])
@pytest.mark.parametrize("vocabulary", [["the", "[UNK]", "[PAD]"], ["[UNK]", "the", "[PAD]"]])
def test_a_tokenizer_whose_id_0_is_no_padding_is_refused(vocabulary, sequence_length, encoder_decoder, tmp_path):
    tokenizer = keras_hub.tokenizers.WordPieceTokenizer(vocabulary, sequence_length=sequence_length)
    with pytest.raises(ValueError, match="gives id 0 to .* but here id 0 is padding"):
        kt.export.saved_model(encoder_decoder, tmp_path / "model", source_tokenizer=tokenizer)


def test_a_tokenizer_without_ids_or_size_is_refused():
    with pytest.raises(ValueError, match="gives pieces, not ids"):
        as_tokenizer(keras_hub.tokenizers.WordPieceTokenizer(["[PAD]", "[UNK]", "a"], dtype="string"))
    with pytest.raises(ValueError, match="does not know its vocabulary_size"):
        as_tokenizer(keras_hub.tokenizers.UnicodeCodepointTokenizer())
