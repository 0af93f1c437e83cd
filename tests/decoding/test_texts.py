"""Texts in and out: a Generator with tokenizers says what its ids say, and streams pieces that make up the text."""

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.export.signatures import Input, Signature
from keras_transformer.export.strings import tokenized, with_tokenizers

from ..letters import Letters

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow  # tokenizers are TensorFlow's; what they do to ids is the same on every backend

TEXTS = ["the cat sat on the mat", "héllo wörld", "dogs and cats and birds", "한국어 텍스트"] * 20
PROMPTS = ["the", "héll"]
TOKENIZERS = {
    "characters": lambda: kt.text.CharacterTokenizer.train(TEXTS),
    "bytes": lambda: kt.text.ByteTokenizer(),
    "SentencePiece": lambda: kt.text.SentencePieceTokenizer.train(TEXTS, 30),
    "WordPiece": lambda: kt.text.WordPieceTokenizer.train(TEXTS, 80),
}


def text_of(tokenizer, ids):
    return tokenizer.detokenize(np.array([ids]))[0].numpy().decode(errors="replace")


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("count", [1, 2])
def test_texts_are_those_of_the_ids_and_pieces_are_the_text(count, name, roughen):
    tokenizer = TOKENIZERS[name]()
    size = tokenizer.vocabulary_size
    model = roughen(kt.models.language_model(size, num_layers=1, dim=20, num_heads=2, intermediate_dim=13))
    strategy = kt.Sampling(temperature=2.0, seed=2, num_return=count)
    generator = kt.Generator(model, max_length=19, end_token=3, target_tokenizer=tokenizer, strategy=strategy)
    result = generator(PROMPTS)
    ids = [row.tolist() for row in np.asarray(tokenizer(PROMPTS))]
    ids = [[x for x in row if x] for row in ids]
    assert result["tokens"].tolist() == generator(ids)["tokens"].tolist()
    expected = [[text_of(tokenizer, x[:n]) for x, n in zip(*row, strict=True)]
                for row in zip(result["tokens"], result["lengths"], strict=True)]  # fmt: skip
    assert result["texts"] == generator(ids)["texts"] == expected
    steps = list(generator.stream(PROMPTS))
    for row, begun in enumerate(text_of(tokenizer, x) for x in ids):
        for place in range(count):
            pieces = [step[row] if count == 1 else step[row][place] for step in steps]
            assert begun.rstrip("\ufffd") + "".join(pieces) == expected[row][place]


CHATS = [["Hi", "Yo, <|user|>"], [""], ["a</s>", "pad<pad> bé", "c"], ["", ""]]
CHAT = "{% for m in messages %}<|user|>{{ m.content }}</s>{% endfor %}<|user|>"


@pytest.fixture(scope="module")
def chatting(roughen):
    """A model, its tokenizer, and that of the package."""
    package = pytest.importorskip("tokenizers")
    special = ["<pad>", "<s>", "</s>", "<|user|>"]
    letters = sorted(package.pre_tokenizers.ByteLevel.alphabet())
    oracle = package.Tokenizer(package.models.BPE({x: id for id, x in enumerate([*special, *letters])}, []))
    oracle.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    oracle.decoder = package.decoders.ByteLevel()
    oracle.add_special_tokens(special)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    tokenizer = kt.text.PretrainedTokenizer(oracle.to_str(), named_tokens=names, chat_template=CHAT)
    model = kt.models.language_model(260, num_layers=1, dim=20, num_heads=2, intermediate_dim=13, padding_id=None)
    return roughen(model), tokenizer, oracle


@pytest.mark.parametrize(
    ("strategy", "padding_id"),
    [(kt.BeamSearch(3, num_return=2), 2), (kt.Sampling(temperature=3.0, seed=5, num_return=2), None)],
    ids=["beams", "samples"],
)
def test_a_chat_has_an_end_behind_each_message_and_comes_back_whole(strategy, padding_id, chatting):
    model, tokenizer, oracle = chatting
    options = {"max_length": 37, "end_token": [2, 77], "start_token": 1, "padding_id": padding_id}
    generator = kt.Generator(model, **options, target_tokenizer=tokenizer, strategy=strategy, jit_compile=False)
    messages = [[{"role": "user", "content": text} for text in chat] for chat in CHATS]
    prompts = tokenizer.apply_chat_template(messages)
    result = generator(prompts)
    for place, prompt in enumerate(prompts):
        found = zip(*(result[name][place] for name in ("tokens", "lengths", "texts")), strict=True)
        for row, count, text in found:
            row = row[:count].tolist()
            assert row[: len(prompt)] == prompt
            row = row[:-1] if row[-1] in (2, 77) else row
            assert text == oracle.decode(row, skip_special_tokens=True)
            assert text.startswith(oracle.decode(prompt, skip_special_tokens=True))
            answer = tokenizer.detokenize(row[len(prompt) :]).numpy().decode(errors="replace")
            assert answer == oracle.decode(row[len(prompt) :], skip_special_tokens=True)
    strings = tokenizer.apply_chat_template(messages, tokenize=False)
    assert generator(strings)["texts"] == result["texts"]
    signature = Signature([Input("tokens", (None, None), "int32")], lambda tokens: {"ids": tokens})
    signature = with_tokenizers(generator, signature, tokenizer, None, padding_id)  # as in an export
    ids, lengths = tokenized(generator, tokenizer, tf.constant([*strings, "a</s>"]), padding_id)
    assert [row[:count].tolist() for row, count in zip(ids.numpy(), lengths, strict=True)] == [
        *prompts,
        oracle.encode("a</s>").ids,
    ]
    if padding_id is not None:
        assert signature.function(tf.constant(strings))["ids"].numpy().tolist() == ids[:4].numpy().tolist()
        with pytest.raises(tf.errors.InvalidArgumentError, match="ends with 2, which also is padding"):
            signature.function(tf.constant(["a", "a</s>"]))


def test_a_chat_streams_its_answer_and_an_answer_may_be_empty(chatting):
    model, tokenizer, oracle = chatting
    options = {"max_length": 29, "start_token": 1, "target_tokenizer": tokenizer, "jit_compile": False}
    generator = kt.Generator(model, end_token=2, **options)
    prompts = ["<|user|>Hi</s><|user|>Yo</s><|user|>", "<|user|>x</s>"]
    result = generator(prompts)
    pieces = ["".join(row) for row in zip(*generator.stream(prompts), strict=True)]
    for prompt, text, answer in zip(("HiYo", "x"), result["texts"], pieces, strict=True):
        assert [prompt + answer] == text
    assert pieces[0]
    ends = [int(result["tokens"][row, 0, len(tokenizer([text])[0])]) for row, text in enumerate(prompts)]
    silent = kt.Generator(model, end_token=ends, **options)
    assert silent(prompts)["texts"] == [["HiYo"], ["x"]]


@pytest.fixture(scope="module")
def tokenizer():
    return kt.text.CharacterTokenizer.train(TEXTS)


@pytest.fixture(scope="module")
def translator(tokenizer, roughen):
    size = tokenizer.vocabulary_size
    return roughen(kt.models.transformer(size, size, num_layers=1, dim=20, num_heads=2, intermediate_dim=13))


def test_an_encoder_decoder_of_texts(tokenizer, translator):
    source = kt.text.CharacterTokenizer(tokenizer.characters, add_end=True)
    options = {"max_length": 13, "start_token": 2, "end_token": 3}
    generator = kt.Generator(translator, **options, source_tokenizer=source, target_tokenizer=tokenizer)
    result = generator(["the cat", "dogs"])
    plain = kt.Generator(translator, **options)(np.asarray(source(["the cat", "dogs"])))
    assert result["tokens"].tolist() == plain["tokens"].tolist() and "texts" not in plain
    pieces = list(generator.stream(["the cat", "dogs"]))
    assert ["".join(x) for x in zip(*pieces, strict=True)] == [row[0] for row in result["texts"]]
    forced = generator(["the cat", "dogs"], ["a", "the"])
    assert [row[0][:1] for row in forced["texts"]] == ["a", "t"]
    assert (forced["tokens"][:, 0, 0] == 2).all()


def test_a_function_as_source_tokenizer(tokenizer, roughen):
    vectors = keras.layers.TextVectorization(max_tokens=17)
    vectors.adapt(TEXTS)
    size = tokenizer.vocabulary_size
    model = roughen(kt.models.transformer(17, size, num_layers=1, dim=20, num_heads=2, intermediate_dim=13))
    options = {"max_length": 13, "start_token": 2, "end_token": 3}
    generator = kt.Generator(model, **options, source_tokenizer=vectors)
    texts = ["the cat sat on", "dogs"]
    assert generator(texts)["tokens"].tolist() == generator(np.asarray(vectors(texts)))["tokens"].tolist()
    with pytest.raises(ValueError, match="detokenize, got TextVectorization"):
        kt.Generator(model, **options, target_tokenizer=vectors)


@pytest.mark.parametrize("inputs", ["the cat", b"the cat"])
def test_a_single_string_belongs_in_a_list(inputs, tokenizer, translator):
    generator = kt.Generator(translator, max_length=13, start_token=2, end_token=3, source_tokenizer=tokenizer)
    with pytest.raises(ValueError, match="put a single one in a list"):
        generator(inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["a", None], r"got one with \['NoneType'\] among them"),
        (["a", [4]], r"got one with \['list'\] among them"),
        (lambda: tf.constant("a"), "put a single one in a list"),
        (lambda: tf.constant([["a"], ["b"]]), r"strings of shape \(batch,\), got shape"),
        (lambda: tf.ragged.constant([["a"], ["b", "c"]]), r"strings of shape \(batch,\), got shape"),
    ],
)
def test_other_forms_of_texts(inputs, message, tokenizer, translator):
    generator = kt.Generator(translator, max_length=13, start_token=2, end_token=3, source_tokenizer=tokenizer)
    with pytest.raises(ValueError, match=message):
        generator(inputs() if callable(inputs) else inputs)


def test_a_class_is_no_tokenizer(translator):
    with pytest.raises(ValueError, match="got the class CharacterTokenizer: make one of it"):
        kt.Generator(translator, max_length=13, end_token=3, target_tokenizer=kt.text.CharacterTokenizer)


def test_texts_without_a_tokenizer_and_tokenizers_that_do_not_fit(tokenizer, translator):
    options = {"max_length": 13, "start_token": 2, "end_token": 3}
    with pytest.raises(ValueError, match="without a source_tokenizer"):
        kt.Generator(translator, **options)(["the cat"])
    with pytest.raises(ValueError, match="source tokenizer has 260 ids"):
        kt.Generator(translator, **options, source_tokenizer=kt.text.ByteTokenizer())
    with pytest.raises(ValueError, match=r"target tokenizer has 6 ids.*load_tokenizer\(vocabulary_size="):
        kt.Generator(translator, **options, target_tokenizer=kt.text.CharacterTokenizer("ab"))


class Every(Letters):
    """Each id is one of text, 0 too."""

    pad_id, start_id, unk_id, end_id = None, 4, 2, 3

    def get_vocabulary(self):
        return ["a", "b", "?", "</s>", "<s>"]

    def encode(self, strings):
        letters = super().encode(strings)
        return letters.with_values(letters.values - 3)


@pytest.mark.parametrize("kind", [Letters, Every])
@pytest.mark.parametrize("add_end", [False, True])
@pytest.mark.parametrize("add_start", [False, True])
def test_no_id_of_a_prompt_is_taken_for_padding(kind, add_start, add_end, roughen):
    tokenizer = kind(add_start=add_start, add_end=add_end)
    tokens = keras.Input((None,), dtype="int32")
    x = kt.TokenEmbedding(5, 8, padding_id=tokenizer.padding_id)(tokens)
    model = roughen(keras.Model(tokens, keras.layers.Dense(5)(kt.DecoderLayer(2, 11)(kt.PositionalEncoding()(x)))))
    generator = kt.Generator(
        model,
        max_length=9,
        start_token=tokenizer.start_id,
        end_token=tokenizer.end_id,
        target_tokenizer=tokenizer,
        jit_compile=False,
    )
    texts = ["ab", "ba", "aa", "b", "aba"]
    of_letter = tokenizer.token_to_id
    rows = [[tokenizer.start_id] * add_start + [of_letter(letter) for letter in text] for text in texts]
    assert generator(texts)["tokens"].tolist() == generator(rows)["tokens"].tolist()
    ids, lengths = tokenized(generator, tokenizer, tf.constant(texts), tokenizer.padding_id)  # in an export
    assert lengths.numpy().tolist() == [len(row) for row in rows]
    assert [row[:count].tolist() for row, count in zip(ids.numpy(), lengths, strict=True)] == rows
    ids, lengths = tokenized(generator, tokenizer, tf.constant(["abab"]), tokenizer.padding_id, (1, 3))  # cut off
    assert ids.numpy().tolist() == [([tokenizer.start_id] * add_start + [of_letter(x) for x in "abab"])[:3]]
    assert lengths.numpy().tolist() == [3]


@pytest.fixture(scope="module")
def bytes_generator(roughen):
    model = roughen(kt.models.language_model(260, num_layers=1, dim=20, num_heads=2, intermediate_dim=13))
    tokenizer = kt.text.ByteTokenizer()
    return kt.Generator(model, max_length=9, end_token=3, target_tokenizer=tokenizer, cache=False, jit_compile=False)


def test_strings_in_whatever_form(bytes_generator):
    expected = bytes_generator(["the", "a"])["texts"]
    forms = [("the", "a"), [b"the", b"a"], np.array(["the", "a"]), np.array([b"the", b"a"]), tf.constant(["the", "a"])]
    for form in [*forms, np.array(["the", "a"], object), np.array(["the", "a"], np.dtypes.StringDType())]:
        assert bytes_generator(form)["texts"] == expected
    for form in ([], np.array([], str), tf.constant([], tf.string)):
        assert bytes_generator(form)["texts"] == [] and list(bytes_generator.stream(form)) == []


def test_strings_that_are_not_one_a_row(bytes_generator):
    for form in (np.array("the"), tf.constant("the")):
        with pytest.raises(ValueError, match="put a single one in a list"):
            bytes_generator(form)
    for form in (np.array([["the"]]), tf.constant([["the"]]), tf.ragged.constant([["the"], ["a", "b"]])):
        with pytest.raises(ValueError, match=r"strings of shape \(batch,\), got shape"):
            bytes_generator(form)
    with pytest.raises(ValueError, match=r"texts of UTF-8, got b'\\xff'"):
        bytes_generator([b"\xff"])


def test_a_source_whose_padding_counts_is_padded_as_its_tokenizer_pads(roughen):
    """A model that does not mask padding was trained on rows of that width."""
    vectors = keras.layers.TextVectorization(max_tokens=17, output_sequence_length=7)
    vectors.adapt(TEXTS)
    source, target = (keras.Input((None,), dtype="int32", name=name) for name in ("source", "target"))
    memory = keras.layers.Conv1D(20, 3, padding="same")(keras.layers.Embedding(17, 20)(source))
    y = kt.DecoderLayer(4, 13)(kt.TokenEmbedding(17, 20)(target), memory)
    model = roughen(keras.Model([source, target], keras.layers.Dense(17)(y)))
    options = {"max_length": 9, "start_token": 2, "end_token": 3, "cache": False, "jit_compile": False}
    generator = kt.Generator(model, **options, source_tokenizer=vectors)
    for texts in (["the cat sat", "dogs"], ["dogs"]):
        result, expected = generator(texts), generator(np.asarray(vectors(texts)))
        np.testing.assert_array_equal(result["scores"], expected["scores"])
    assert (
        np.abs(generator(["dogs"])["scores"] - generator(np.asarray(vectors(["dogs"]))[:, :1])["scores"]).max() > 1e-3
    )


@pytest.mark.parametrize("shape", [(), (1,)])
def test_texts_that_the_model_turns_to_ids_itself(shape, roughen):
    """However many rows there are, one too, and whatever they stand in."""
    vectors = keras.layers.TextVectorization(vocabulary=["the", "cat", "dogs"])
    text, target = keras.Input(shape, dtype="string", name="text"), keras.Input((None,), dtype="int32", name="target")
    memory = kt.EncoderLayer(4, 13)(kt.TokenEmbedding(5, 20)(vectors(text)))
    y = kt.DecoderLayer(4, 13)(kt.TokenEmbedding(17, 20)(target), memory)
    model = roughen(keras.Model([text, target], keras.layers.Dense(17)(y)))
    generator = kt.Generator(model, max_length=7, start_token=2, end_token=None, jit_compile=False)
    expected = generator(["the cat", "dogs"])["tokens"].tolist()
    assert expected[0] != expected[1]
    for texts in (np.array(["the cat", "dogs"]), [["the cat"], ["dogs"]], np.array([["the cat"], ["dogs"]])):
        assert generator(texts)["tokens"].tolist() == expected
    assert generator(["dogs"])["tokens"].tolist() == expected[1:]
    assert [int(x[0]) for x in generator.stream([b"dogs"])] == expected[1][0][1:]
    with pytest.raises(ValueError, match=r"'text' takes strings, got \['int'\]"):
        generator([1, 2])


@pytest.mark.parametrize(
    "features", [[[[1, 2]], [[1, 2], [3, 4]]], np.ones((2, 3, 2), "complex64"), [[["a", "b"]]]], ids=["lists", "c", "s"]
)
def test_features_that_are_none(features, roughen):
    source, target = keras.Input((None, 2), name="source"), keras.Input((None,), dtype="int32", name="target")
    y = kt.DecoderLayer(4, 13)(kt.TokenEmbedding(17, 20)(target), keras.layers.Dense(20)(source))
    model = keras.Model([source, target], keras.layers.Dense(17)(y))
    generator = kt.Generator(model, max_length=7, start_token=2, end_token=3, cache=False)
    with pytest.raises(ValueError, match="'source' takes .*numbers in a regular shape"):
        generator(features)
