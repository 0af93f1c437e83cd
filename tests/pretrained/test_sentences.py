"""Sentence encoders: an encoder and the modules behind it, against the same in PyTorch."""

import json

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import load_reference, randomized, read_tensors, rewrite_config, same, torch, transformers

SIZES = {
    "vocab_size": 97,
    "hidden_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 67,
    "max_position_embeddings": 53,
}
TOKENS = np.random.default_rng(7).integers(6, 97, (3, 13))
TOKENS[1, 9:] = TOKENS[2, 4:] = 0
MODES = ("cls_token", "max_tokens", "mean_tokens")


def save_modules(folder, pooling: dict, dense: dict | None = None, normalize: bool = False):
    """Modules behind an encoder in the folder; the projection is returned."""
    modules, linear = [("Transformer", ""), ("Pooling", "1_Pooling")], None
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    if dense:
        from safetensors.torch import save_file

        modules.append(("Dense", "2_Dense"))
        (folder / "2_Dense").mkdir()
        (folder / "2_Dense" / "config.json").write_text(json.dumps(dense))
        linear = torch.nn.Linear(dense["in_features"], dense["out_features"], bias=dense.get("bias", True))
        save_file(
            {f"linear.{name}": x.detach() for name, x in linear.named_parameters()},
            folder / "2_Dense" / "model.safetensors",
        )
    if normalize:
        modules.append(("Normalize", "3_Normalize"))
    kind = "sentence_transformers.models."
    listed = [{"idx": i, "name": str(i), "path": x, "type": kind + name} for i, (name, x) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    return linear


def save_encoder(folder, **changes):
    """A BERT with a pooler that sentence encoders do not use."""
    kind = transformers.BertModel
    torch.manual_seed(1234)
    randomized(kind(transformers.BertConfig(**{**SIZES, **changes})), "float32").save_pretrained(folder)
    return load_reference(kind, folder)


def pool(hidden, mask, modes):
    """The vectors of sentences, as sentence-transformers makes them."""
    real = mask[..., None]
    ways = {
        "cls_token": hidden[:, 0],
        "max_tokens": hidden.masked_fill(~real, -1e9).max(1).values,
        "mean_tokens": (hidden * real).sum(1) / real.sum(1),
    }
    return torch.cat([ways[mode] for mode in modes], dim=1)


@pytest.mark.parametrize(
    ("modes", "dense", "normalize"),
    [
        (["mean_tokens"], {"in_features": 44, "out_features": 19}, True),
        pytest.param(["cls_token"], None, False, marks=pytest.mark.slow),
        pytest.param(
            MODES,
            {
                "in_features": 132,
                "out_features": 7,
                "bias": False,
                "activation_function": "torch.nn.modules.linear.Identity",
            },
            False,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_modules_make_one_vector_of_a_sentence(modes, dense, normalize, tmp_path):
    reference = save_encoder(tmp_path / "in")
    pooling = {"word_embedding_dimension": 44, **{f"pooling_mode_{mode}": mode in modes for mode in MODES}}
    linear = save_modules(tmp_path / "in", pooling, dense, normalize)
    model = kt.pretrained.load_model(tmp_path / "in")
    mask = torch.tensor(TOKENS != 0)
    with torch.no_grad():
        hidden = reference(torch.tensor(TOKENS), attention_mask=mask.long()).last_hidden_state
        expected = pool(hidden, mask, modes)
        if dense:
            expected = linear(expected)
            expected = expected if "activation_function" in dense else torch.tanh(expected)
        if normalize:
            expected = torch.nn.functional.normalize(expected, dim=1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(TOKENS)), expected.numpy(), atol=2e-5)

    kt.pretrained.save_model(model, tmp_path / "out")
    for name in ["", "2_Dense"] if dense else [""]:
        same(read_tensors(tmp_path / "out" / name), read_tensors(tmp_path / "in" / name))
    files = sorted(str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*.json"))
    assert files == sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.json"))
    for name in files:
        assert json.loads((tmp_path / "in" / name).read_text()) == json.loads((tmp_path / "out" / name).read_text())


@pytest.mark.parametrize(
    ("pooling", "dense", "message"),
    [
        ({"pooling_mode_lasttoken": True}, None, "pooling_mode_lasttoken=True"),
        ({"pooling_mode_mean_tokens": True, "twist": 3}, None, "twist=3"),
        ({"pooling_mode": "median"}, None, "pooling_mode='median'"),
        ({}, None, "no way of pooling"),
        (
            {"pooling_mode": "mean"},
            {"in_features": 44, "out_features": 5, "activation_function": "torch.nn.Wiggle"},
            "Wiggle",
        ),
        ({"pooling_mode": "mean"}, {"in_features": 3, "out_features": 5}, r"linear.weight of shape \(5, 3\)"),
    ],
)
@pytest.mark.slow
def test_what_is_not_known_of_modules_is_refused(pooling, dense, message, tmp_path):
    save_encoder(tmp_path)
    save_modules(tmp_path, pooling, dense)
    with pytest.raises(ValueError, match=message):
        kt.pretrained.load_model(tmp_path)


@pytest.mark.slow
def test_names_of_old_files_and_heads_of_pretraining(tmp_path):
    from safetensors.torch import load_file, save_file

    config = transformers.BertConfig(**SIZES)
    reference = randomized(transformers.BertForPreTraining(config), "float32").eval()
    reference.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): x
        for name, x in tensors.items()
    }
    save_file({**old, "bert.embeddings.position_ids": torch.arange(53)[None]}, tmp_path / "model.safetensors")
    rewrite_config(tmp_path, architectures=["BertForMaskedLM"])
    model = kt.pretrained.load_model(tmp_path)
    with torch.no_grad():
        expected = reference(torch.tensor(TOKENS), attention_mask=torch.tensor(TOKENS != 0).long()).prediction_logits
    found, expected = keras.ops.convert_to_numpy(model(TOKENS))[0], expected.numpy()[0]
    assert abs(found - expected).max() < 2e-4 * abs(expected).max()
    kt.pretrained.save_model(model, tmp_path / "out")
    same(read_tensors(tmp_path / "out"), tensors)
    model.save(tmp_path / "model.keras")

    kt.pretrained.save_model(keras.models.load_model(tmp_path / "model.keras"), tmp_path / "again")
    same(read_tensors(tmp_path / "again"), tensors)


@pytest.mark.slow
def test_inputs_are_checked(tmp_path):
    save_encoder(tmp_path)
    model = kt.pretrained.load_model(tmp_path)
    expected = keras.ops.convert_to_numpy(model(TOKENS)["hidden"])
    for inputs in ([TOKENS], {"tokens": TOKENS}, [TOKENS, np.zeros_like(TOKENS)]):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(model(inputs)["hidden"]), expected, atol=1e-5)
    np.testing.assert_allclose(model.predict(TOKENS, verbose=0)["hidden"], expected, atol=1e-5)
    for name in ("token_type_ids", "attention_mask"):
        with pytest.raises(ValueError, match=rf"takes \['tokens', 'token_types'\], got \['{name}'\], too"):
            model({"tokens": TOKENS, name: TOKENS})
    with pytest.raises(ValueError, match=r"\['tokens'\] are missing"):
        model({"token_types": TOKENS})
    with pytest.raises(ValueError, match="takes arrays"):
        model(TOKENS.tolist())
    with pytest.raises(ValueError, match="token_types from 0 to 1, got token_types from 0 to 96"):
        model([TOKENS, TOKENS])
    rewrite_config(tmp_path, architectures=["BertLMHeadModel"])
    with pytest.raises(ValueError, match="'BertLMHeadModel' is not supported"):
        kt.pretrained.load_model(tmp_path)
    rewrite_config(tmp_path, architectures=["BertModel"], is_decoder=True)
    with pytest.raises(ValueError, match="is_decoder=True"):
        kt.pretrained.load_model(tmp_path)
