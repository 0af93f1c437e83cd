"""Folders without a tokenizer.json: SentencePiece models, Marian's files and plain vocabularies."""

import json

import keras
import numpy as np
import pytest

import keras_transformer as kt

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")
pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")

from .checkpoints import SPECIAL, TEXTS, byte_level, odd_strings, wordpiece  # noqa: E402
from .sentencepiece_folders import marian_folder, sentencepiece_folder, write  # noqa: E402

pytestmark = pytest.mark.once
PLAIN = [text for text in odd_strings(701) if not any(token in text for token in SPECIAL)]


@pytest.mark.parametrize("model_type", ["llama", "gemma"])
def test_merges_give_the_ids_of_the_package(tmp_path, model_type):
    oracle = sentencepiece_folder(tmp_path, model_type)
    tokenizer = kt.pretrained.load_tokenizer(tmp_path)
    expected = oracle.encode(PLAIN)
    assert tokenizer.tokenize_ragged(PLAIN).to_list() == [[oracle.bos_id(), *row] for row in expected]
    assert [text.decode() for text in tokenizer.detokenize(expected).numpy()] == oracle.decode(expected)
    assert (tokenizer.start_id, tokenizer.end_id) == (oracle.bos_id(), oracle.eos_id())


@pytest.mark.parametrize(
    "model_type", ["t5", *(pytest.param(x, marks=pytest.mark.slow) for x in ("umt5", "xlm-roberta"))]
)
def test_probable_pieces_are_those_of_the_package_in_the_graph_too(tmp_path, model_type):
    oracle = sentencepiece_folder(tmp_path, model_type)
    tokenizer = kt.pretrained.load_tokenizer(tmp_path)
    own = {oracle.unk_id(): tokenizer.unk_id}
    if model_type == "xlm-roberta":  # one further, in front of which four stand
        own |= {id: id + 1 for id in range(3, oracle.vocab_size())}
    pieces = [[own.get(id, id) for id in row] for row in oracle.encode(PLAIN)]
    start, end = ([0], [2]) if model_type == "xlm-roberta" else ([], [1])
    encode = tf.function(tokenizer.tokenize_ragged, input_signature=[tf.TensorSpec([None], tf.string)])
    expected = [[*start, *row, *end] for row in pieces]
    assert tokenizer.tokenize_ragged(PLAIN).to_list() == encode(PLAIN).to_list() == expected
    assert tokenizer.graph_problem() is None
    known = [[id for id in row if id != oracle.unk_id()] for row in oracle.encode(PLAIN)]
    found = tokenizer.detokenize([[own.get(id, id) for id in row] for row in known]).numpy()
    assert [text.decode() for text in found] == [text.strip(" ") for text in oracle.decode(known)]
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(tokenizer))
    assert copy.tokenize_ragged(TEXTS).to_list() == tokenizer.tokenize_ragged(TEXTS).to_list()


def test_t5_has_sentinels_behind_the_pieces(tmp_path):
    oracle = sentencepiece_folder(tmp_path, "t5")
    tokenizer = kt.pretrained.load_tokenizer(tmp_path, vocabulary_size=oracle.vocab_size() + 103)
    last = oracle.vocab_size() + 99
    assert tokenizer.token_to_id("<extra_id_0>") == last == tokenizer.vocabulary_size - 4
    assert tokenizer.token_to_id("<extra_id_99>") == oracle.vocab_size()
    transformers = pytest.importorskip("transformers")
    theirs = transformers.T5Tokenizer.from_pretrained(tmp_path)
    texts = ["a<extra_id_0>b", "  two <extra_id_7>  <extra_id_99> spaces </s>", "a dog\tsees 3 foxes.", ""]
    ids = tokenizer.tokenize_ragged(texts).to_list()
    assert ids == theirs(texts)["input_ids"]
    assert tokenizer.detokenize(ids).numpy().tolist()[2:] == [b"a dog sees 3 foxes.", b""]
    with pytest.raises(ValueError, match="the model has 150 ids"):
        kt.pretrained.load_tokenizer(tmp_path, vocabulary_size=150)


def test_sentencepiece_models_of_other_families_are_refused(tmp_path):
    sentencepiece_folder(tmp_path, "llama")
    write(tmp_path, config__json={"model_type": "camembert"})
    with pytest.raises(ValueError, match="'camembert' gives to the pieces is not known"):
        kt.pretrained.load_tokenizer(tmp_path)
    write(tmp_path, config__json={"model_type": "llama"})
    (tmp_path / "tokenizer.model").write_bytes(b"no model")
    with pytest.raises(ValueError, match="tokenizer.model' is no SentencePiece model"):
        kt.pretrained.load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="8 bytes are not a SentencePiece model"):
        kt.text.PretrainedSentencePieceTokenizer(b"no model", ["<unk>"], named_tokens={"unk_token": "<unk>"})


@pytest.mark.parametrize("apart", [pytest.param(False, id="one"), pytest.param(True, id="two", marks=pytest.mark.slow)])
def test_marian_gives_the_ids_of_transformers(tmp_path, apart):
    transformers = pytest.importorskip("transformers")
    marian_folder(tmp_path, apart)
    theirs = transformers.MarianTokenizer.from_pretrained(tmp_path)
    codes = [">>fra<<The fox", ">>fra<< a", ">>d e<<", ">><<a", ">>fra a", "a >>fra<<", "</s>>>fra<<a", ">>\n<<\n<<x"]
    texts = [*(text for text in odd_strings(701) if "bb" not in text), *codes]  # "bb" and "b" are as probable as this
    ours = [kt.pretrained.load_tokenizer(tmp_path, target=target) for target in (False, True)]
    ids = [tokenizer.tokenize_ragged(texts).to_list() for tokenizer in ours]
    assert ids == [theirs(texts)["input_ids"], theirs(text_target=texts)["input_ids"]]
    encode = tf.function(ours[0].tokenize_ragged, input_signature=[tf.TensorSpec([None], tf.string)])
    assert encode(texts).to_list() == ids[0]
    rows = [[id for id in row if id not in ours[1].stop_ids()] for row in ids[1]]
    back = [text.decode() for text in ours[1].detokenize(rows).numpy()]
    assert back == [theirs.decode(row, skip_special_tokens=True) for row in rows]
    (tmp_path / "target.spm").unlink()
    with pytest.raises(ValueError, match=r"but no \['target.spm'\]"):
        kt.pretrained.load_tokenizer(tmp_path, target=True)


@pytest.mark.slow
def test_marian_translates_texts(tmp_path):
    """Beside the search, which is that of transformers, the tokenizers of both sides."""
    transformers = pytest.importorskip("transformers")
    from .seq2seq import continue_greedily, save_random

    ids = marian_folder(tmp_path, apart=False)[0]
    pad, end = ids["<pad>"], ids["</s>"]
    special = {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": end, "forced_eos_token_id": None}
    reference = save_random("marian", tmp_path, vocab_size=len(ids), decoder_vocab_size=len(ids), **special)
    (tmp_path / "generation_config.json").write_text(json.dumps({**special, "bos_token_id": None}))
    theirs = transformers.MarianTokenizer.from_pretrained(tmp_path)
    generator = kt.pretrained.load_generator(tmp_path, max_length=13)
    source = np.array(theirs(["The fox."])["input_ids"])
    expected = continue_greedily(reference, source, [pad], 12)
    expected = expected[: expected.index(end) + 1] if end in expected else expected
    result = generator(["The fox."])
    assert result["tokens"][0, 0, : len(expected)].tolist() == expected
    assert result["texts"][0][0] == theirs.decode(expected, skip_special_tokens=True)


OPT = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
VOCABULARIES = {
    "bert": ("BertTokenizer", [{}, {"do_lower_case": False}, {"tokenize_chinese_chars": False}]),
    "distilbert": ("DistilBertTokenizer", [{"strip_accents": False}]),
    "mpnet": ("MPNetTokenizer", [{}]),
    "gpt2": ("GPT2Tokenizer", [{}, {"add_prefix_space": True, "add_bos_token": True}]),
    "opt": ("GPT2Tokenizer", [{**OPT, "add_bos_token": True}]),
    "roberta": ("RobertaTokenizer", [{}]),
    "bart": ("BartTokenizer", [{"add_prefix_space": True}]),
    "clip": ("CLIPTokenizer", [{}]),
}


def vocabulary_folder(folder, model_type):
    write(folder, config__json={"model_type": model_type})
    if model_type in ("bert", "distilbert", "mpnet"):
        ids = wordpiece().get_vocab()
        text = "\n".join(sorted(ids, key=ids.get)) + "\n"
        if model_type == "mpnet":
            for theirs, own in {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}.items():
                text = text.replace(theirs, own)
        return write(folder, vocab__txt=text)
    model = json.loads(byte_level("clip" if model_type == "clip" else "gpt2").to_str())["model"]
    for token in ("<|endoftext|>", "<|startoftext|>", "<mask>"):
        model["vocab"].setdefault(token, len(model["vocab"]))
    merges = "\n".join(["#version: 0.2", *map(" ".join, model["merges"])])
    return write(folder, vocab__json=model["vocab"], merges__txt=merges + "\n")


@pytest.mark.parametrize("model_type", VOCABULARIES)
def test_plain_vocabularies_give_the_ids_of_transformers(tmp_path, model_type):
    transformers = pytest.importorskip("transformers")
    name, configs = VOCABULARIES[model_type]
    folder = vocabulary_folder(tmp_path, model_type)
    texts = [*odd_strings(307), "[MASK] a[MASK]", "<mask>b", "<|endoftext|>a<|startoftext|>"]
    for config in configs:
        write(folder, tokenizer_config__json=config)
        ours, theirs = kt.pretrained.load_tokenizer(folder), getattr(transformers, name).from_pretrained(folder)
        assert ours.tokenize_ragged(texts).to_list() == theirs(texts)["input_ids"]
        roles = (theirs.mask_token_id, theirs.pad_token_id)
        assert (ours.mask_id, ours.pad_id) == (roles if model_type != "gpt2" else (None, None))


def test_a_mask_takes_the_space_in_front_of_it(tmp_path):
    """As RoBERTa was trained, and as its tokenizer.json says."""
    tokenizer = kt.pretrained.load_tokenizer(vocabulary_folder(tmp_path, "roberta"))
    assert tokenizer.tokenize_ragged(["a  <mask>"]).to_list() == tokenizer.tokenize_ragged(["a<mask>"]).to_list()


def test_tokens_that_were_added_have_the_ids_that_the_folder_says(tmp_path):
    folder = vocabulary_folder(tmp_path, "gpt2")
    size = kt.pretrained.load_tokenizer(folder).vocabulary_size
    write(folder, added_tokens__json={"<new>": size, "<other>": size + 1})
    tokenizer = kt.pretrained.load_tokenizer(folder)
    assert tokenizer.tokenize_ragged(["<other><new>"]).to_list() == [[size + 1, size]]
    write(folder, added_tokens__json={"<new>": size + 3})
    with pytest.raises(ValueError, match=f"gives the token '<new>' the id {size}, .* the id {size + 3}"):
        kt.pretrained.load_tokenizer(folder)


def test_vocabularies_that_are_none_are_refused(tmp_path):
    folder = vocabulary_folder(tmp_path, "gpt2")
    write(folder, config__json={"model_type": "qwen2"})
    with pytest.raises(ValueError, match="'qwen2' does with a text is not known here"):
        kt.pretrained.load_tokenizer(folder)
    write(folder, config__json={"model_type": "gpt2"}, merges__txt="q q\n")
    with pytest.raises(ValueError, match=r"lacks: \['qq'\]|cannot be read"):
        kt.pretrained.load_tokenizer(folder)
    (folder / "vocab.json").unlink()
    with pytest.raises(ValueError, match="vocab.json' and 'merges.txt' cannot be read"):
        kt.pretrained.load_tokenizer(folder)
    write(folder, config__json={"model_type": "bert"}, vocab__txt="a\nb")
    with pytest.raises(ValueError, match=r"lacks the unknown token '\[UNK\]'"):
        kt.pretrained.load_tokenizer(folder)
