"""A checkpoint's tokenizer in a SavedModel: strings in, strings out."""

import numpy as np
import pytest

import keras_transformer as kt

tf = pytest.importorskip("tensorflow")
pytest.importorskip("tensorflow_text")
pytest.importorskip("tokenizers")
pytest.importorskip("sentencepiece")

from ..pretrained.checkpoints import KINDS  # noqa: E402
from ..pretrained.sentencepiece_folders import sentencepiece_folder  # noqa: E402

pytestmark = pytest.mark.tensorflow
PROMPTS = ["The quick", " don't<|im_end|>", "漢字", "👩‍👩‍👧 ok", "</s>a</s> b", ""]


def generator(tokenizer):
    size = tokenizer.vocabulary_size
    model = kt.models.language_model(size, num_layers=1, dim=13 * 2, num_heads=2, intermediate_dim=29)
    return kt.Generator(
        model, max_length=23, start_token=tokenizer.start_id, end_token=tokenizer.end_id, target_tokenizer=tokenizer
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama3", "llama2", "umt5"])
def test_strings_in_and_strings_out(tmp_path, kind):
    prompts = PROMPTS
    if kind == "umt5":
        sentencepiece_folder(tmp_path, kind)
        tokenizer = kt.pretrained.load_tokenizer(tmp_path)
        prompts = PROMPTS[:-1]  # nothing to begin with, in a model that reads no source
    else:
        roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        tokenizer = kt.text.PretrainedTokenizer(KINDS[kind]().to_str(), named_tokens=roles, add_start=True)
    ours = generator(tokenizer)
    kt.export.saved_model(ours, tmp_path / "saved", samples=prompts)
    loaded = kt.export.load(tmp_path / "saved")
    expected, found = ours(prompts), loaded(prompts)
    np.testing.assert_array_equal(found["tokens"], expected["tokens"])
    assert found["texts"] == expected["texts"]


def test_what_runs_in_python_only_is_exported_with_ids(tmp_path):
    tokenizer = kt.text.PretrainedTokenizer(
        KINDS["unigram"]().to_str(), named_tokens={"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    )
    with pytest.raises(ValueError, match="runs in Python only.*source_tokenizer=None, target_tokenizer=None.*file="):
        kt.export.saved_model(generator(tokenizer), tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
