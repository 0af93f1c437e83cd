"""What generation_config.json says becomes the settings of a Generator."""

import json

import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.generating import read_padding, read_strategy

from ..test_readme import REPOSITORY, python_in
from .checkpoints import CHAT, TEXTS, byte_level
from .helpers import continue_greedily, rewrite_config, save_random, torch, transformers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of a small model, and the model."""
    path = tmp_path_factory.mktemp("gpt2") / "folder"
    return path, save_random("gpt2-gelu", path)


def generator(folder, strategy=None, **settings):
    """A generator of the folder with another generation_config.json."""
    (folder / "generation_config.json").write_text(json.dumps(settings))
    return kt.pretrained.load_generator(folder, max_length=13, strategy=strategy)


def test_special_ids_and_sampling(folder):
    made = generator(
        folder[0],
        bos_token_id=7,
        eos_token_id=[3, 0, 50256],
        pad_token_id=5,
        do_sample=True,
        temperature=0.7,
        top_k=11,
        top_p=0.9,
        repetition_penalty=1.3,
        suppress_tokens=[2, 13],
        min_length=4,
        no_repeat_ngram_size=2,
        transformers_version="5",
    )
    assert (made.start_token, made.end_token, made.padding_id, made.max_length) == (7, (3, 0), 5, 13)
    assert made.strategy == kt.Sampling(temperature=0.7, top_k=11, top_p=0.9, seed=None)
    penalty, ngrams, least, forbidden = made.processors
    assert penalty == kt.RepetitionPenalty(1.3) and ngrams == kt.NoRepeatNGram(2)
    assert least == kt.MinimumLength(5, [3, 0]) and tuple(forbidden.tokens) == (2, 13)


@pytest.mark.parametrize(
    ("ends", "chosen", "padding", "expected"),
    [([3], False, 3, 3), ([3], True, 5, 5), ([3], False, 5, None), ([3], True, 500, None), ([], True, None, None)],
)
def test_padding_is_an_end_or_chosen(ends, chosen, padding, expected):
    assert read_padding(Settings({"pad_token_id": padding}, "x"), ends, 97, chosen) == expected


def test_strategies():
    assert read_strategy(Settings({}, "x")) == kt.Greedy()
    assert read_strategy(Settings({"do_sample": True}, "x")) == kt.Sampling(top_k=50, seed=None)
    beams = {"num_beams": 3, "length_penalty": 0.7, "early_stopping": True, "num_return_sequences": 2}
    expected = kt.BeamSearch(3, length_penalty=0.7, early_stopping=True, num_return=2, length_offset=0.0)
    assert read_strategy(Settings(beams, "x")) == expected
    with pytest.raises(ValueError, match="num_beams=3; one of the two"):
        read_strategy(Settings({"num_beams": 3, "do_sample": True}, "x"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wobble": 3}, "wobble=3"),
        ({"penalty_alpha": 0.6}, "penalty_alpha=0.6; 0.0 is supported"),
        ({"bad_words_ids": [[3, 4]]}, "words of one token"),
        ({"typical_p": 0.4}, "typical_p=0.4"),
        ({"stop_strings": ["end"]}, r"stop_strings=\['end'\]"),
        ({"begin_suppress_tokens": [3]}, r"generation_config.json' has begin_suppress_tokens=\[3\].*behind the prompt"),
        ({"min_new_tokens": 2}, "min_new_tokens=2.*behind the prompt"),
    ],
)
def test_what_is_not_there_is_named(folder, settings, message):
    with pytest.raises(ValueError, match=message):
        generator(folder[0], **settings)


def test_what_is_not_there_is_named_in_the_configuration_of_the_model_too(tmp_path):
    save_random("gpt2-gelu", tmp_path)
    (tmp_path / "generation_config.json").unlink()
    plain = {"diversity_penalty": 0.0, "encoder_no_repeat_ngram_size": 0, "num_beam_groups": 1, "typical_p": 1.0}
    rewrite_config(tmp_path, **plain, exponential_decay_length_penalty=None, sep_token_id=None)
    kt.pretrained.load_generator(tmp_path, max_length=13)
    rewrite_config(tmp_path, exponential_decay_length_penalty=[3, 1.5])
    with pytest.raises(ValueError, match=r"/config.json' has exponential_decay_length_penalty=\[3, 1.5\]"):
        kt.pretrained.load_generator(tmp_path, max_length=13)


def test_an_encoder_generates_nothing(tmp_path):
    sizes = {
        "vocab_size": 11,
        "hidden_size": 4,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 7,
    }
    transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is an encoder, 'bert', which generates nothing"):
        kt.pretrained.load_generator(tmp_path)


@pytest.mark.filterwarnings("ignore:Unfeasible length")
@pytest.mark.parametrize(("least", "length"), [(7, 8), (12, 13), (40, 13)])
def test_the_end_is_the_first_token_behind_the_minimum_length(folder, least, length):
    ends = [token for token in range(97) if token != 1]
    settings = {"bos_token_id": 1, "eos_token_id": ends, "pad_token_id": 2, "min_length": least}
    prompt = [5, 6, 7, 5, 6]
    expected = folder[1].generate(torch.tensor([prompt]), max_length=13, do_sample=False, **settings)[0].tolist()
    assert len(expected) == length
    result = generator(folder[0], **settings)([prompt])
    assert result["tokens"][0, 0, : result["lengths"][0, 0]].tolist() == expected


def test_new_tokens_are_counted_by_the_caller(folder):
    (folder[0] / "generation_config.json").write_text(json.dumps({"max_new_tokens": 2, "eos_token_id": 3}))
    with pytest.warns(UserWarning, match="max_new_tokens=2.*is 53 here"):
        assert kt.pretrained.load_generator(folder[0]).max_length == 53


def test_an_end_ends(folder):
    whole = continue_greedily(folder[1], [0, 5], 11)
    end = whole[6]
    made = generator(folder[0], eos_token_id=[end, 96], bos_token_id=0)
    first = 2 + whole[2:].index(end)
    result = made([[0, 5]])
    assert result["lengths"].tolist() == [[first + 1]]
    np.testing.assert_array_equal(result["tokens"][0, 0, : first + 1], whole[: first + 1])


@pytest.mark.tensorflow
def test_texts_go_in_and_come_out(tmp_path):
    tokenizer = byte_level("gpt2")
    reference = save_random("gpt2-gelu", tmp_path, vocab_size=tokenizer.get_vocab_size())
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    made = kt.pretrained.load_generator(tmp_path, max_length=13)
    prompt = tokenizer.encode("banana").ids
    result = made(["banana"])
    expected = continue_greedily(reference, prompt, 13 - len(prompt))
    length = int(result["lengths"][0, 0])
    assert result["tokens"][0, 0, :length].tolist() == expected[:length]
    assert result["texts"][0][0].startswith("banana")

    rewrite_config(tmp_path, vocab_size=5)
    with pytest.raises(ValueError, match="needs"):
        kt.pretrained.load_generator(tmp_path)


@pytest.mark.tensorflow
def test_a_chat_as_the_page_has_it(tmp_path, monkeypatch):
    pytest.importorskip("jinja2")
    tokenizer, folder = byte_level("gpt2"), tmp_path / "SmolLM2-135M-Instruct"
    ids = {role: tokenizer.token_to_id(token) for role, token in (("eos", "<|im_end|>"), ("pad", "<pad>"))}
    save_random("llama", folder, vocab_size=tokenizer.get_vocab_size(), **{f"{x}_token_id": ids[x] for x in ids})
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"eos_token": "<|im_end|>", "pad_token": "<pad>", "chat_template": CHAT}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    monkeypatch.chdir(tmp_path)
    page = (REPOSITORY / "docs" / "pretrained.md").read_text(encoding="utf-8")
    (block,) = (block for block in python_in(page) if "apply_chat_template" in block)
    made = {"kt": kt}
    exec(block.replace("max_length=200", "max_length=67"), made)
    prompt, result = made["prompt"], made["result"]
    whole = result["tokens"][0, 0, : result["lengths"][0, 0]].tolist()
    assert whole[: len(prompt)] == prompt and prompt.count(ids["eos"]) == 1
    assert made["answer"] == tokenizer.decode(whole[len(prompt) :]) != ""
    assert result["texts"] == [[tokenizer.decode(whole)]]
    assert result["texts"][0][0].startswith("user\nWhat is") and result["texts"][0][0].endswith(made["answer"])


def test_a_length_that_is_not_given_fits_the_positions(tmp_path):
    save_random("gpt2-gelu", tmp_path, n_positions=17)
    made = kt.pretrained.load_generator(tmp_path)
    assert made.max_length == 17
    assert made([[5, 3]])["tokens"].shape == (1, 1, 17)
    with pytest.raises(ValueError, match="17 positions.*19"):
        kt.pretrained.load_generator(tmp_path, max_length=19)


@pytest.mark.tensorflow
def test_a_sentencepiece_model_is_a_tokenizer_too(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    with open(tmp_path / "tokenizer.model", "wb") as file:
        options = {"model_type": "bpe", "vocab_size": 397, "byte_fallback": True, "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXTS), model_writer=file, hard_vocab_limit=False, **options
        )
    save_random("llama", tmp_path, vocab_size=401)
    made = kt.pretrained.load_generator(tmp_path)
    assert made.max_length == 128
    assert made(["banana"], max_length=9)["texts"][0][0].startswith("banana")
