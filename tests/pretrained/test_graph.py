"""A checkpoint's tokenizer does in the graph what the `tokenizers` package does in Python, or says that it cannot."""

import json
import random

import pytest

import keras_transformer as kt

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")
tokenizers = pytest.importorskip("tokenizers")

from keras_transformer.text.graph.words import pre_tokenizer  # noqa: E402

from .checkpoints import ADDED, KINDS, LLAMA3, O200K, SPECIAL, odd_strings  # noqa: E402

pytestmark = pytest.mark.once


def in_graph(oracle, **kwargs):
    """A tokenizer, and its two ways as functions of the graph."""
    tokenizer = kt.text.PretrainedTokenizer(oracle.to_str(), **kwargs)
    assert tokenizer.graph_problem() is None
    encode = tf.function(tokenizer.tokenize_ragged, input_signature=[tf.TensorSpec([None], tf.string)])
    decode = tf.function(tokenizer.detokenize, input_signature=[tf.RaggedTensorSpec([None, None], tf.int32)])
    return (
        tokenizer,
        lambda texts: encode(texts).to_list(),
        lambda ids: decode(tf.ragged.constant(ids, tf.int32)).numpy(),
    )


def check(oracle, texts, seed=5):
    unknown = getattr(oracle.model, "unk_token", None)
    tokenizer, encode, decode = in_graph(oracle, named_tokens={"unk_token": unknown} if unknown else {})
    expected = [row.ids for row in oracle.encode_batch(texts)]
    assert encode(texts) == expected
    randomness = random.Random(seed)
    kept = [id for id in range(oracle.get_vocab_size()) if id not in tokenizer.stop_ids()]
    ids = [[id for id in row if id not in tokenizer.stop_ids()] for row in expected]
    ids += [randomness.choices(kept, k=randomness.randrange(13)) for _ in texts]
    assert [text.decode() for text in decode(ids)] == oracle.decode_batch(ids, skip_special_tokens=True)


QUICK = ("cased", "gpt2", "llama2")
ALL = [pytest.param(kind, 5003, marks=pytest.mark.slow) for kind in KINDS if kind != "unigram"]


@pytest.mark.parametrize("kind, count", [*((kind, 307) for kind in QUICK), *ALL])
def test_ids_and_texts_equal_those_of_the_package(kind, count):
    oracle = KINDS[kind]()
    oracle.add_special_tokens(ADDED[:1])
    others = [tokenizers.AddedToken("fox", normalized=True), tokenizers.AddedToken("  ", normalized=False)]
    oracle.add_tokens([*ADDED[1:], *others])
    check(oracle, odd_strings(count, seed=count))


def test_bytes_that_are_no_text_read_as_python_reads_them():
    oracle = KINDS["gpt2"]()
    _, encode, _ = in_graph(oracle)
    broken = [b"a\xff b", b"\xe2\x82", b"\xf0\x9f\x91 x", b"\xed\xa0\x80", b"\xc0\xaf\xff\xfe\xff"]
    assert encode(broken) == [oracle.encode(x.decode(errors="replace")).ids for x in broken]


@pytest.mark.parametrize("in_order", [pytest.param(True, marks=pytest.mark.slow), False])
def test_merges_of_any_order(in_order):
    """Also such as no training makes, where a merge needs what is learned later."""
    randomness = random.Random(13)
    vocabulary, merges = {x: id for id, x in enumerate(["<unk>", *"abc"])}, []
    while len(merges) < 61:
        pair = tuple(randomness.choices([x for x in vocabulary if len(x) < 6 and x != "<unk>"], k=2))
        if pair not in merges:
            merges.append(pair)
            vocabulary.setdefault("".join(pair), len(vocabulary))
    if not in_order:
        randomness.shuffle(merges)
    oracle = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=in_order))
    _, encode, _ = in_graph(oracle)
    texts = ["".join(randomness.choices("aaabbcd", k=randomness.randrange(23))) for _ in range(1009)]
    assert encode(texts) == [row.ids for row in oracle.encode_batch(texts)]


@pytest.mark.parametrize(
    "own",
    [
        pytest.param({"Split": (O200K, "isolated")}, marks=pytest.mark.slow, id="o200k"),
        pytest.param({"Split": (LLAMA3, "isolated")}, marks=pytest.mark.slow, id="llama3"),
        {"Split": (r"\p{N}{1,3}", "isolated")},
        {"Split": (r"[0-9][0-9][0-9]", "isolated")},
        {"Split": (r"[^\S\r\n]+|[a-z\-]{2,}?", "removed")},
        {"Split": (r"\s|-", "merged_with_previous")},
        {"Split": (r"\s|-", "merged_with_next")},
        {"Punctuation": ("contiguous",)},
        {"Punctuation": ("isolated",)},
        {"Digits": (True,)},
        {"Digits": (False,)},
        {"BertPreTokenizer": ()},
        {"Metaspace": ("▁", "always", True)},
        {"Metaspace": ("▁", "never", True)},
    ],
    ids=str,
)
def test_words_equal_those_of_the_package(own):
    ((kind, arguments),) = own.items()
    if kind == "Split":
        arguments = (tokenizers.Regex(arguments[0]), *arguments[1:])
    own = getattr(tokenizers.pre_tokenizers, kind)(*arguments)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = own
    words = pre_tokenizer(json.loads(tokenizer.to_str())["pre_tokenizer"])
    texts = [text for text in odd_strings(401, seed=23) if text]
    found = words(tf.constant(texts), tf.ones(len(texts), tf.bool)).to_list()
    assert [[word.decode() for word in row] for row in found] == [
        [word for word, _ in own.pre_tokenize_str(text)] for text in texts
    ]


def test_what_the_graph_cannot_do_is_named(tmp_path):
    def problem(**changes):
        content = json.loads(KINDS["gpt2"]().to_str())
        content.update(changes)
        return kt.text.PretrainedTokenizer(json.dumps(content)).graph_problem()

    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False, "trim_offsets": True}

    def words(pattern):
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, byte_level]}

    assert problem() is None
    assert "NFKD" in problem(normalizer={"type": "NFKD"})
    assert r"'(?=a'" in problem(pre_tokenizer=words(r"\s(?=a)"))
    assert "possessive" in problem(pre_tokenizer=words(r"\p{L}++|."))
    assert "white space may be part of" in problem(pre_tokenizer=words(r"[^a]+|\s+(?!\S)|\s+"))
    assert "CTC" in problem(decoder={"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True})
    token = {"id": 0, "content": "<pad>", "single_word": True, "lstrip": False, "rstrip": False}
    assert "single_word" in problem(added_tokens=[{**token, "normalized": False, "special": True}])
    tokenizer = kt.text.PretrainedTokenizer(KINDS["unigram"]().to_str())
    assert "Unigram" in tokenizer.graph_problem() or "NFKC" in tokenizer.graph_problem()
    with pytest.raises(ValueError, match="runs in Python only: the graph cannot do .*Export with ids"):
        tf.function(tokenizer.tokenize)(tf.constant(["a"]))
    assert tokenizer(SPECIAL[:1]).shape[0] == 1
