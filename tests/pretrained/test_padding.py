"""What the tokenizer of a folder pads with is what the model hides, as in transformers, whatever config.json says."""

import json

import keras
import numpy as np
import pytest

import keras_transformer as kt

pytest.importorskip("tensorflow")
pytest.importorskip("tokenizers")

from .checkpoints import wordpiece  # noqa: E402
from .helpers import load_reference, randomized, rewrite_config, torch, transformers  # noqa: E402

pytestmark = pytest.mark.once
TEXTS = ["the quick brown fox jumps", "banana"]
SPECIAL = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")  # padding is 1
ROLES = {
    role: f"[{role.removesuffix('_token').upper()}]"
    for role in ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
}
KINDS = {
    "bert": {"intermediate_size": 67},
    "roberta": {"intermediate_size": 67, "pad_token_id": 4},  # from where positions count, in config.json alone
    "distilbert": {"dim": 44, "n_heads": 4, "n_layers": 2, "hidden_dim": 67},
    "t5": {"d_model": 44, "d_kv": 7, "d_ff": 67, "num_heads": 3, "num_layers": 2, "decoder_start_token_id": 0},
}
SIZES = {"hidden_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 53}


def save(folder, kind: str, roles: dict):
    """A model and a tokenizer that were not made for each other."""
    torch.manual_seed(1234)
    sizes = {} if kind in ("t5", "distilbert") else SIZES
    config = transformers.AutoConfig.for_model(kind, vocab_size=311, **sizes, **KINDS[kind])
    made = randomized(
        (transformers.AutoModelForSeq2SeqLM if kind == "t5" else transformers.AutoModel).from_config(config), "float32"
    )
    made.save_pretrained(folder)
    wordpiece(SPECIAL).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **roles}))
    return load_reference(type(made), folder)


def theirs(reference, given: dict) -> np.ndarray:
    given = {name: torch.tensor(given[name]) for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        if hasattr(reference, "lm_head"):
            return reference(**given, decoder_input_ids=given["input_ids"]).logits.numpy()
        return reference(**given).last_hidden_state.numpy()


def ours(folder) -> tuple[np.ndarray, np.ndarray]:
    """The ids of the texts, and what the model makes of them."""
    ids = np.asarray(kt.pretrained.load_tokenizer(folder)(TEXTS))
    model = kt.pretrained.load_model(folder)
    output = model([ids, ids] if len(model.inputs) > 1 and model.name == "t5" else ids)
    return ids, keras.ops.convert_to_numpy(output["hidden"] if isinstance(output, dict) else output)


@pytest.mark.parametrize("setting", ["left out", "another"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_tokenizers_padding_is_hidden(kind, setting, tmp_path):
    reference = save(tmp_path, kind, ROLES)
    if setting == "left out" and kind != "roberta":
        rewrite_config(tmp_path, pad_token_id=...)
    given = transformers.AutoTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True)
    expected, (ids, found) = theirs(reference, given), ours(tmp_path)
    assert ids.tolist() == given["input_ids"] and ids[1, -1] == 1
    real = ids != 1
    np.testing.assert_allclose(found[real], expected[real], atol=1e-4 * abs(expected).max())


@pytest.mark.parametrize("kind", ["roberta", "t5"])
def test_a_tokenizer_without_a_padding_token_pads_with_what_the_model_hides(kind, tmp_path):
    reference = save(tmp_path, kind, {role: token for role, token in ROLES.items() if role != "pad_token"})
    hidden = 4 if kind == "roberta" else 0
    package = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids, found = ours(tmp_path)
    for row, text in enumerate(TEXTS):
        alone = package(text)["input_ids"]
        assert ids[row, : len(alone)].tolist() == alone and (ids[row, len(alone) :] == hidden).all()
        expected = theirs(reference, {"input_ids": [alone], "attention_mask": [[1] * len(alone)]})
        np.testing.assert_allclose(found[row, : len(alone)], expected[0], atol=1e-4 * abs(expected).max())
