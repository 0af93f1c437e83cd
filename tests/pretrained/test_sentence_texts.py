"""Texts of a sentence encoder are prepared as sentence-transformers does it."""

import json

import pytest

import keras_transformer as kt

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")
pytest.importorskip("tokenizers")

from .checkpoints import byte_level, odd_strings  # noqa: E402

pytestmark = pytest.mark.once


@pytest.fixture
def load(tmp_path):
    """Makes a tokenizer of a folder with such files."""
    byte_level("gpt2").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "modules.json").write_text("[]")

    def load(sentence: dict, prompts: dict | None = None, **kwargs):
        files = {
            "sentence_bert_config.json": sentence,
            "config_sentence_transformers.json": prompts or {},
            "config.json": {"max_position_embeddings": 514},
            "tokenizer_config.json": {"model_max_length": 512},
        }
        for name, content in files.items():
            (tmp_path / name).write_text(json.dumps(content))
        return kt.pretrained.load_tokenizer(tmp_path, **kwargs)

    return load


@pytest.mark.parametrize("lower", [False, True])
def test_prompt_edges_letters_and_length(load, lower):
    prompts = {"prompts": {"query": " Query: ", "passage": ""}, "default_prompt_name": "query"}
    tokenizer = load({"max_seq_length": 13, "do_lower_case": lower}, prompts)
    oracle, texts = byte_level("gpt2"), odd_strings(307)
    texts += [space + "x" + space for space in map(chr, range(0x3100)) if space.isspace()]
    prepared = [(" Query: " + text).strip() for text in texts]
    expected = [oracle.encode(text.lower() if lower else text).ids[:13] for text in prepared]
    assert max(map(len, expected)) == 13
    assert tokenizer.tokenize_ragged(texts).to_list() == expected
    assert tokenizer(texts).numpy()[: len(texts), 0].tolist() == [ids[0] for ids in expected]
    if lower:
        encode = tf.function(tokenizer.tokenize_ragged, input_signature=[tf.TensorSpec([None], tf.string)])
        assert encode(texts).to_list() == expected
    again = type(tokenizer).from_config(tokenizer.get_config())
    assert again.tokenize_ragged(texts[:23]).to_list() == expected[:23]


def test_what_the_caller_gives_counts(load):
    prompts = {"prompts": {"query": "Query: "}, "default_prompt_name": "query"}
    tokenizer = load({"max_seq_length": 13}, prompts, max_length=None, prompt="", strip=False)
    assert tokenizer([" fox " * 31]).numpy()[0].tolist() == byte_level("gpt2").encode(" fox " * 31).ids
    assert load({}).max_length == load({"max_seq_length": None, "model_args": {}}).max_length == 512
    with pytest.raises(ValueError, match="string as prompt, got 3"):
        load({}, prompt=3)


@pytest.mark.parametrize(
    ("sentence", "prompts", "message"),
    [
        ({"shine": 3}, {}, "sentence_bert_config.json' has settings that are not known here.*shine=3"),
        ({"transformer_task": "fill-mask"}, {}, "transformer_task='fill-mask'"),
        ({}, {"default_prompt_name": "q", "prompts": {"p": ""}}, "default_prompt_name='q'; its prompts are p"),
        ({"max_seq_length": "13"}, {}, "max_seq_length='13'; a whole number above 0 is expected"),
        ({}, {"default_prompt_name": ["q"]}, r"default_prompt_name=\['q'\]; a string is expected"),
        ({}, {"default_prompt_name": "q", "prompts": ["q"]}, r"prompts=\['q'\]; an object with settings is expected"),
    ],
)
def test_what_is_not_known_is_refused(load, sentence, prompts, message):
    with pytest.raises(ValueError, match=message):
        load(sentence, prompts)
