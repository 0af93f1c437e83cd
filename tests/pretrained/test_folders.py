"""Folders: what is loaded, refused, kept in `.keras` files, and given back after training."""

import json
import shutil

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import load_reference, model_class, outputs, read_tensors, rewrite_config, same, save_random, torch

IDS = np.random.default_rng(7).integers(0, 97, (2, 11))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A folder of a small model that none of the tests changes, and the model."""
    folder = tmp_path_factory.mktemp("llama") / "folder"
    return folder, save_random("llama", folder)


@pytest.fixture
def copied(llama, tmp_path):
    """A copy of the folder."""
    return shutil.copytree(llama[0], tmp_path / "copy")


def test_an_unknown_setting_is_refused(copied):
    rewrite_config(copied, attention_wobble=0.1)
    with pytest.raises(ValueError, match=r"config.json|attention_wobble=0.1"):
        kt.pretrained.load_model(copied)
    rewrite_config(copied, attention_wobble=None)
    kt.pretrained.load_model(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "dragon"}, r"type 'dragon', which is not known here; known are .*llama"),
        ({"model_type": "dragon", "auto_map": {"AutoModel": "x.py"}}, "code of its own to run.*never done"),
        ({"model_type": ...}, "type None"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "'LlamaForSequenceClassification' is not supported"),
        ({"hidden_act": "wiggle"}, "hidden_act='wiggle'; known are"),
        ({"quantization_config": {"quant_method": "mxfp4"}}, "quantized"),
        ({"vocab_size": ...}, "no setting 'vocab_size'"),
        ({"hidden_size": "44"}, r"^config.json in '.*copy' has hidden_size='44'; a whole number above 0 is expected"),
        ({"num_attention_heads": 0}, "num_attention_heads=0; a whole number above 0"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings='false'; true or false"),
        ({"rope_parameters": "linear"}, "rope_parameters='linear'; an object with settings"),
        ({"model_type": ["llama"]}, r"model_type=\['llama'\]; a string"),
        ({"architectures": "LlamaForCausalLM"}, "architectures='LlamaForCausalLM'; a list of strings"),
        ({"vocab_size": 101}, r"embed_tokens.weight of shape \(97, 44\), the model needs \(101, 44\)"),
        ({"num_hidden_layers": 4}, r"lacks tensors that the model needs: model.layers.3"),
        ({"num_hidden_layers": 2}, r"no place for: model.layers.2"),
        ({"attention_bias": False}, r"no place for: model.layers.0.self_attn.k_proj.bias"),
        ({"tie_word_embeddings": True}, r"lm_head.weight, which should be the same as model.embed_tokens.weight"),
    ],
)
def test_what_is_wrong_is_named(copied, changes, message):
    rewrite_config(copied, **changes)
    with pytest.raises(ValueError, match=message):
        kt.pretrained.load_model(copied)


def test_code_in_a_folder_of_a_known_type_is_left_alone(copied):
    rewrite_config(copied, auto_map={"AutoModelForCausalLM": "code.py"})
    (copied / "code.py").write_text("raise SystemExit")
    assert kt.pretrained.load_model(copied).output_shape == (None, None, 97)


def test_no_folder_and_no_configuration(tmp_path, copied):
    with pytest.raises(ValueError, match="There is no folder"):
        kt.pretrained.load_model(tmp_path / "nothing")
    (copied / "config.json").unlink()
    with pytest.raises(ValueError, match="no config.json"):
        kt.pretrained.load_model(copied)
    (copied / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        kt.pretrained.load_model(copied)


def test_a_bare_model_gives_hidden_states(tmp_path):
    reference = save_random("llama", tmp_path, bare=True)
    model = kt.pretrained.load_model(tmp_path)
    expected = outputs(reference, IDS)
    assert abs(keras.ops.convert_to_numpy(model(IDS)) - expected).max() < 2e-4 * abs(expected).max()
    kt.pretrained.save_model(model, tmp_path / "out")
    assert read_tensors(tmp_path / "out").keys() == read_tensors(tmp_path).keys()


def test_a_keras_file_keeps_what_saving_needs(llama, tmp_path):
    model = kt.pretrained.load_model(llama[0])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(again(IDS)), keras.ops.convert_to_numpy(model(IDS)))
    kt.pretrained.save_model(again, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == json.loads(
        (llama[0] / "config.json").read_text()
    )
    expected = read_tensors(llama[0])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read_tensors(tmp_path / "out").items())


def test_dtypes(llama, tmp_path):
    model = kt.pretrained.load_model(llama[0], dtype="bfloat16")
    assert {variable.dtype for variable in model.weights} == {"bfloat16"}
    model = kt.pretrained.load_model(llama[0], dtype="mixed_bfloat16")
    assert {variable.dtype for variable in model.weights} == {"float32"}
    assert keras.backend.standardize_dtype(model(IDS).dtype) == "bfloat16"
    kt.pretrained.save_model(model, tmp_path, dtype="bfloat16")
    assert {tensor.dtype for tensor in read_tensors(tmp_path).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(ValueError, match="'bfloat17'"):
        kt.pretrained.save_model(model, tmp_path, dtype="bfloat17")


def test_a_name_scope_and_a_copy(llama, tmp_path):
    with keras.name_scope("outer"), keras.name_scope("inner"):
        model = kt.pretrained.load_model(llama[0])
        again = type(model).from_config(model.get_config())
    again.set_weights(model.get_weights())
    expected = outputs(llama[1], IDS)
    for i, scoped in enumerate((model, again)):
        assert abs(keras.ops.convert_to_numpy(scoped(IDS)) - expected).max() < 2e-4 * abs(expected).max()
        kt.pretrained.save_model(scoped, tmp_path / str(i))
        same(read_tensors(tmp_path / str(i)), read_tensors(llama[0]))
    with pytest.raises(ValueError, match="lost its checkpoint, which keras.models.clone_model does not hand on"):
        kt.pretrained.save_model(keras.models.clone_model(model), tmp_path / "clone")


def test_lora_is_added_to_the_weights(llama, tmp_path):
    model = kt.pretrained.load_model(llama[0])
    for layer in model._flatten_layers():
        if layer.name in ("query_key_value", "outer", "embedding"):
            layer.enable_lora(3, lora_alpha=5)
    for variable in model.weights:
        if "lora" in variable.path:
            variable.assign(0.3 * keras.random.normal(variable.shape, seed=1))
    kt.pretrained.save_model(model, tmp_path)
    reference = load_reference(model_class("Llama"), tmp_path)
    expected = outputs(reference, IDS)
    assert abs(expected - outputs(llama[1], IDS)).max() > 0.1
    assert abs(keras.ops.convert_to_numpy(model(IDS)) - expected).max() < 2e-4 * abs(expected).max()


def test_what_cannot_be_given_back(llama, tmp_path):
    with pytest.raises(ValueError, match="of which no checkpoint is known"):
        kt.pretrained.save_model(kt.models.language_model(11, num_layers=1, dim=8, num_heads=2), tmp_path)
    model = kt.pretrained.load_model(llama[0])
    model.quantize("int8")
    with pytest.raises(ValueError, match="is quantized"):
        kt.pretrained.save_model(model, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        kt.pretrained.save_model(kt.pretrained.load_model(llama[0]), tmp_path / "file")


def test_initial_weights_are_drawn_without_a_checkpoint(llama):
    model = kt.pretrained.load_model(llama[0])
    fresh = type(model).from_config(model.get_config())
    kernels = [
        keras.ops.convert_to_numpy(variable)
        for variable in fresh.weights
        if variable.path.endswith(("kernel", "embeddings"))
    ]
    assert all(abs(kernel.std() - 0.02) < 0.005 for kernel in kernels)


def test_one_file_counts_before_an_index_that_an_older_save_left(tmp_path):
    save_random("llama", tmp_path)
    old = read_tensors(tmp_path)
    model = kt.pretrained.load_model(tmp_path)
    for variable in model.trainable_variables:
        variable.assign(2 * variable)
    kt.pretrained.save_model(model, tmp_path / "new")
    (tmp_path / "new" / "model.safetensors").rename(tmp_path / "model.safetensors")
    kt.pretrained.save_model(kt.pretrained.load_model(tmp_path), tmp_path / "again")
    assert all((tensor == 2 * old[name]).all() for name, tensor in read_tensors(tmp_path / "again").items())
