"""What docs/pretrained.md says of the tokenizer of each family in a SavedModel is so."""

import json
import pathlib
import re

import pytest

import keras_transformer as kt
from keras_transformer.pretrained.families import FAMILIES

pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")
tokenizers = pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")
transformers = pytest.importorskip("transformers")

from .checkpoints import KINDS, odd_strings  # noqa: E402
from .sentencepiece_folders import UNIGRAM, charsmap, train  # noqa: E402

pytestmark = pytest.mark.once
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "pretrained.md"
OF_TRANSFORMERS = {
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gemma3_text": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "opt": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "modernbert": "GPTNeoXTokenizer",
    "t5": "T5Tokenizer",
    "mt5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "mpnet": "MPNetTokenizer",
    "roberta": "RobertaTokenizer",
    "bart": "RobertaTokenizer",
    "clip": "CLIPTokenizer",
    "clip_text_model": "CLIPTokenizer",
    "whisper": "WhisperTokenizer",
}
AS_PUBLISHED = {
    "llama": ["llama2", "llama3", "smollm"],
    "mistral": ["llama2", "mistral"],
    "mixtral": ["llama2", "mistral"],
    "smollm3": ["llama3"],
    "phi3": ["llama2", "o200k"],
    "olmo2": ["llama3"],
    "falcon": ["falcon"],
    "gpt_oss": ["o200k"],
}
SAYS = {
    "yes": True,
    "by its SentencePiece model": False,  # but that of a SentencePiece model is: test_tokenizer_files.py
    "by its SentencePiece models": None,  # it has no tokenizer.json
    "no texts": None,
}
QUICK = ("t5", "vit")


def promises() -> dict[str, str]:
    """By family what the page says."""
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.match(r"\| `(?!model_type`)", line)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]
    return {kind: row[2] for row in rows for kind in re.findall(r"`([\w-]+)`", row[0])}


def published(kind: str, folder) -> list[tokenizers.Tokenizer]:
    """Small tokenizers with the settings that transformers has for a family, or that its checkpoints have."""
    if kind in AS_PUBLISHED:
        return [KINDS[name]() for name in AS_PUBLISHED[kind]]
    maker = getattr(transformers, OF_TRANSFORMERS[kind])
    if maker.model.__name__ == "Unigram":
        train(folder / "model", **UNIGRAM)
        vocabulary = [(token, -1.0) for token in ("<s>", "<pad>", "</s>", "<unk>", "a")]
        return [maker(vocab=vocabulary, _spm_precompiled_charsmap=charsmap(folder / "model")).backend_tokenizer]
    like = "wordpiece" if maker.model.__name__ == "WordPiece" else kind[:5] if kind[:5] == "gemma" else "gpt2"
    model = json.loads(KINDS["clip" if kind[:4] == "clip" else like]().to_str())["model"]
    names = "<|endoftext|> <|startoftext|> <mask> <bos> <eos> <s> </s> <pad> <unk>".split()
    for token in names:
        model["vocab"].setdefault(token, len(model["vocab"]))
    merges = {"merges": [tuple(pair) for pair in model["merges"]]} if "merges" in model else {}
    return [maker(vocab=model["vocab"], **merges).backend_tokenizer]


def test_the_page_has_each_family():
    said = promises()
    assert set(said) == set(FAMILIES) and set(said.values()) == set(SAYS)


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in FAMILIES]
)
def test_the_graph_does_what_the_page_says(tmp_path, kind):
    promise = SAYS[promises()[kind]]
    if promise is None:
        return
    import tensorflow as tf

    for oracle in published(kind, tmp_path):
        tokenizer = kt.text.PretrainedTokenizer(oracle.to_str())
        assert (tokenizer.graph_problem() is None) == promise
        if promise:
            texts = odd_strings(307)
            encode = tf.function(tokenizer.encode, input_signature=[tf.TensorSpec([None], tf.string)])
            assert encode(texts).to_list() == [x.ids for x in oracle.encode_batch(texts, add_special_tokens=False)]
