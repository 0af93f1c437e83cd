"""What a configuration file says is read, or refused by name."""

import math

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.rope import read_rotary, rotary


def test_a_setting_that_nobody_read_is_refused_by_name():
    settings = Settings(
        {"hidden_size": 8, "rope_scaling": {"factor": 2.0, "twist": 3}, "shiny": 1, "use_cache": 5}, "x"
    )
    assert settings["hidden_size"] == 8
    assert settings.get("rope_scaling")["factor"] == 2.0
    with pytest.raises(ValueError, match=r"rope_scaling.twist=3, shiny=1"):
        settings.check()
    settings.get("shiny")
    settings.get("rope_scaling").get("twist")
    settings.check()


def test_null_is_not_set_unless_it_says_that_there_is_none():
    settings = Settings({"heads": None, "window": None}, "x")
    assert settings.get("heads", 7) == 7
    assert settings.optional("window", 4096) is None and settings.optional("cap", 50.0) == 50.0
    with pytest.raises(ValueError, match="x has no setting 'heads'"):
        settings["heads"]


def test_what_says_that_there_is_no_such_thing_is_harmless():
    Settings({"is_encoder_decoder": False, "add_cross_attention": False, "pruned_heads": {}}, "x").check()
    with pytest.raises(ValueError, match="add_cross_attention=True"):
        Settings({"add_cross_attention": True}, "x").check()


def test_only_some_values_of_a_setting():
    settings = Settings({"alibi": True}, "x")
    with pytest.raises(ValueError, match="alibi=True; False is supported, since"):
        settings.only("alibi", False, why="since")


OLD = {"rope_theta": 50.0, "rope_scaling": {"type": "linear", "factor": 4.0}}
NEW = {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 50.0}}
BY_TYPE = {"rope_parameters": {"near": {"rope_type": "default", "rope_theta": 9.0}, "far": NEW["rope_parameters"]}}


@pytest.mark.parametrize(("config", "kind"), [(OLD, None), (NEW, None), (BY_TYPE, "far")])
def test_both_spellings_of_rotary_settings(config, kind):
    settings = Settings(config, "x")
    options = read_rotary(settings, 6, layer_type=kind)
    np.testing.assert_allclose(options["frequencies"], 50.0 ** (-np.arange(3) / 3) / 4, rtol=1e-6)
    if kind is None:
        settings.check()
    else:
        with pytest.raises(ValueError, match="rope_parameters.near"):
            settings.check()


def test_rotary_defaults_and_parts():
    assert read_rotary(Settings({"rope_theta": 500.0}, "x"), 6) == {"max_wavelength": 500.0}
    assert read_rotary(Settings({}, "x"), 6, theta=7.0) == {"max_wavelength": 7.0}
    options = read_rotary(Settings({"partial_rotary_factor": 0.5}, "x"), 12)
    np.testing.assert_allclose(options["frequencies"], 10000.0 ** (-np.arange(3) / 3), rtol=1e-6)
    with pytest.raises(ValueError, match="'spiral'"):
        read_rotary(Settings({"rope_scaling": {"rope_type": "spiral"}}, "x"), 6)


def test_the_length_of_the_first_training_where_a_file_does_not_tell():
    scaling = {"rope_type": "longrope", "short_factor": [1.0, 2.0, 3.0], "long_factor": [5.0, 6.0, 7.0]}
    config = {"rope_scaling": scaling, "max_position_embeddings": 131072}
    options = read_rotary(Settings(config, "x"), 6, first_length=4096)
    assert options["max_length"] == 4096
    assert options["magnitude"] == pytest.approx((1 + np.log(32) / np.log(4096)) ** 0.5)
    options = read_rotary(Settings({**config, "original_max_position_embeddings": 8192}, "x"), 6, first_length=4096)
    assert options["max_length"] == 8192


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_length_have_a_limit(kind):
    scaling = {"rope_type": kind, "factor": 4.0, "short_factor": [1.0, 2.0, 3.0], "long_factor": [5.0, 6.0, 7.0]}
    scaling = {"rope_type": kind, "factor": 4.0} if kind == "dynamic" else scaling
    config = {"rope_scaling": scaling, "max_position_embeddings": 5, "original_max_position_embeddings": 5}
    settings = Settings(config if kind == "longrope" else {**config, "original_max_position_embeddings": None}, "x")
    position = rotary(**read_rotary(settings, 6))
    settings.check()
    factors = [1.0, 2.0, 3.0] if kind == "longrope" else 1.0
    np.testing.assert_allclose(position.frequencies, 10000.0 ** (-np.arange(3) / 3) / factors, rtol=1e-6)
    layer = kt.MultiHeadSelfAttention(1, 6, causal=True, position=position)
    assert np.isfinite(keras.ops.convert_to_numpy(layer(np.ones((1, 5, 6), "float32")))).all()
    with pytest.raises(ValueError, match="up to 5 tokens, got one of 6"):
        layer(np.ones((1, 6, 6), "float32"))
    turned = keras.ops.convert_to_numpy(position.rotate(np.ones((1, 1, 2, 6), "float32"), np.array([[4, 5]])))
    assert np.isfinite(turned[..., 0, :]).all() and np.isnan(turned[..., 1, :]).all()
    assert math.isclose(position.magnitude, math.sqrt(1 + math.log(4) / math.log(5)) if kind == "longrope" else 1.0)


def test_the_kinds_of_rotary_positions_are_those_of_transformers():
    functions = pytest.importorskip("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    config = pytest.importorskip("transformers").LlamaConfig
    for parameters in (
        {"rope_type": "llama3", "factor": 3.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16.0, "beta_slow": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "truncate": False, "mscale": 1.3, "mscale_all_dim": 0.7},
        {"rope_type": "yarn", "factor": 40.0, "attention_factor": 1.7},
    ):
        parameters = {"rope_theta": 77.0, "original_max_position_embeddings": 23, **parameters}
        theirs = config(hidden_size=88, num_attention_heads=4, rope_parameters=dict(parameters))
        frequencies, magnitude = functions[parameters["rope_type"]](theirs, None)
        ours = read_rotary(Settings({"rope_parameters": parameters, "max_position_embeddings": 92}, "x"), 22)
        np.testing.assert_allclose(ours["frequencies"], frequencies.numpy(), rtol=1e-6)
        assert math.isclose(ours["magnitude"], magnitude, rel_tol=1e-6)
