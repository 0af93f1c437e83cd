"""Encoders of texts and images against `transformers`, with random weights: outputs, padding, a step, and back."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .encoder_cases import CASES, QUICK
from .helpers import load_reference, randomized, read_tensors, same, torch, transformers

EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
SECOND = [pytest.param(name, marks=pytest.mark.slow) for name in CASES]
THEIRS = {"hidden": "last_hidden_state", "pooled": "pooler_output"}


def save_random(name, folder, dtype="float32", shards="60KB"):
    architecture, config, options = CASES[name]
    kind = getattr(transformers, architecture)
    torch.manual_seed(1234)
    randomized(kind(getattr(transformers, config)(**options)), dtype).save_pretrained(folder, max_shard_size=shards)
    return load_reference(kind, folder)


def made_inputs(name: str, model) -> dict:
    """Inputs of two sequences or images, the ids without those of padding."""
    generator, options = np.random.default_rng(7), CASES[name][2]
    found = {}
    for x in model.inputs:
        if x.name == "tokens":
            found["tokens"] = generator.integers(6, 97, (2, 23))
            if name.startswith("clip"):
                found["tokens"][:, 13] = found["tokens"][1, 17] = 5  # where a text ends
        elif x.name == "token_types":
            found["token_types"] = generator.integers(0, options.get("type_vocab_size", 2), (2, 23))
        else:
            found["pixels"] = generator.normal(size=(2, *x.shape[1:])).astype("float32")
    return found


def theirs(model, inputs: dict, keys, mask=None) -> dict:
    """What a model of `transformers` puts out, by our names."""
    given = {}
    if "tokens" in inputs:
        given["input_ids"] = torch.tensor(inputs["tokens"])
        given["attention_mask"] = torch.ones_like(given["input_ids"]) if mask is None else torch.tensor(mask)
    if "token_types" in inputs:
        given["token_type_ids"] = torch.tensor(inputs["token_types"])
    if "pixels" in inputs:
        given["pixel_values"] = torch.tensor(np.ascontiguousarray(inputs["pixels"].transpose(0, 3, 1, 2)))
    answer = model(**given)
    if keys == [None]:
        return {None: answer.logits if hasattr(answer, "logits") else answer.last_hidden_state}
    return {key: getattr(answer, THEIRS.get(key, key)) for key in keys}


def ours(outputs) -> dict:
    return outputs if isinstance(outputs, dict) else {None: outputs}


def close(found, expected, tolerance=2e-4):
    expected = expected.detach().numpy() if hasattr(expected, "detach") else keras.ops.convert_to_numpy(expected)
    assert abs(keras.ops.convert_to_numpy(found) - expected).max() < tolerance * abs(expected).max()


@pytest.mark.parametrize("name", EACH)
def test_a_checkpoint_computes_and_comes_back(name, tmp_path):
    reference = save_random(name, tmp_path / "in")
    model = kt.pretrained.load_model(tmp_path / "in")
    inputs = made_inputs(name, model)
    found = ours(model(inputs))
    expected = theirs(reference, inputs, list(found))
    for key, value in found.items():
        close(value, expected[key])
    if "token_types" in inputs:
        without = ours(model(inputs["tokens"]))
        zeros = theirs(reference, {**inputs, "token_types": np.zeros((2, 23), int)}, list(found))
        for key, value in without.items():
            close(value, zeros[key])
    kt.pretrained.save_model(model, tmp_path / "out", shard_size=50_000)
    same(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))


@pytest.mark.parametrize("name", SECOND)
def test_padded_rows_are_rows_alone(name, tmp_path):
    reference = save_random(name, tmp_path)
    model = kt.pretrained.load_model(tmp_path)
    inputs = made_inputs(name, model)
    if "tokens" not in inputs:
        pytest.skip("images have no padding")
    padding = CASES[name][2].get("pad_token_id", reference.config.get_text_config().pad_token_id)
    padded = {key: value.copy() for key, value in inputs.items()}
    padded["tokens"][1, 17 + 1 :] = padding
    mask = np.ones((2, 23), int)
    mask[1, 18:] = 0
    alone = {key: value[1:] if key == "pixels" else value[1:, :18] for key, value in inputs.items()}
    found, alone = ours(model(padded)), ours(model(alone))
    expected = theirs(reference, padded, list(found), mask)
    for key in [key for key in found if key not in ("logits_per_image", "logits_per_text")]:  # which are of pairs
        value, other = keras.ops.convert_to_numpy(found[key])[1], keras.ops.convert_to_numpy(alone[key])[0]
        reference_value = expected[key].detach().numpy()[1]
        if value.shape != other.shape:
            value, reference_value = value[:18], reference_value[:18]
        close(value, other, 1e-5)
        close(value, reference_value)


@pytest.mark.parametrize("name", SECOND)
def test_a_step_of_training(name, tmp_path):
    reference = save_random(name, tmp_path / "in", dtype="bfloat16", shards="5GB")
    model = kt.pretrained.load_model(tmp_path / "in")
    inputs, rate = made_inputs(name, model), 0.1
    kt.pretrained.save_model(model, tmp_path / "out")
    same(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))

    before = {key: tensor.detach().clone() for key, tensor in reference.state_dict().items()}
    outputs = ours(model(inputs))
    key = "logits_per_text" if "logits_per_text" in outputs else list(outputs)[-1]
    target = np.random.default_rng(1).normal(size=outputs[key].shape).astype("float32")
    trained = keras.Model(model.inputs, model.output if key is None else model.output[key])
    trained.compile(keras.optimizers.SGD(rate), "mean_squared_error", jit_compile=False)
    trained.train_on_batch([inputs[x.name] for x in model.inputs], target)
    kt.pretrained.save_model(model, tmp_path / "trained", dtype="float32")
    found = load_reference(type(reference), tmp_path / "trained").state_dict()

    reference.train()
    loss = torch.nn.functional.mse_loss(theirs(reference, inputs, [key])[key], torch.tensor(target))
    loss.backward()
    torch.optim.SGD([x for x in reference.parameters() if x.grad is not None], rate).step()
    changes = {name: tensor.detach() - before[name] for name, tensor in reference.state_dict().items()}
    largest = max(change.abs().max() for change in changes.values())
    assert largest > 0
    for name, expected in changes.items():
        change = found[name] - before[name]
        assert (change - expected).abs().max() <= 1e-4 * max(expected.abs().max(), 0.1 * largest), name


@pytest.mark.parametrize("change, message", [("enable_lora", "is Keras' own, with LoRA"), ("quantize", "is quantized")])
def test_what_is_done_to_a_layer_of_keras_is_not_lost_in_saving(change, message, tmp_path):
    save_random("bert-classes", tmp_path / "in")
    model = kt.pretrained.load_model(tmp_path / "in")
    dense = next(layer for layer in model.layers if type(layer) is keras.layers.Dense)
    getattr(dense, change)({"enable_lora": 2, "quantize": "int8"}[change])
    with pytest.raises(ValueError, match=message):
        kt.pretrained.save_model(model, tmp_path / "out")
