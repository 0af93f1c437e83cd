"""Settings of a kind that they cannot have are refused by name, in each family and each file."""

import itertools

import pytest

from keras_transformer.pretrained import config
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.families import FAMILIES
from keras_transformer.pretrained.generating import read_strategy
from keras_transformer.pretrained.kinds import KINDS
from keras_transformer.pretrained.whisper import read_forced

from .test_published import ENCODERS, PUBLISHED
from .test_published_encoder_decoders import PUBLISHED as ENCODER_DECODERS

FILES = {**PUBLISHED, **ENCODERS, **ENCODER_DECODERS}
SMALL = {"num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2}
WRONG = ("7", "x", [7], [["x"]], [], {}, {"x": 7}, True, None, 0, -1, 2.5, float("nan"))


def small(config: dict) -> dict:
    """A configuration with fewer layers."""
    config = {name: small(value) if isinstance(value, dict) else value for name, value in config.items()}
    return {
        **config,
        **{name: count for name, count in SMALL.items() if name in config and "layer_types" not in config},
    }


def places(settings: Settings) -> list[tuple[str, ...]]:
    """All that was read of a file: by name, those within others by both names."""
    found = [(name,) for name in settings._read]
    for name, inner in settings._values.items():
        if name.startswith("rope_") and isinstance(inner, Settings):
            found += [(name, *place) for place in places(inner)]
    return sorted(found)


def changed(config: dict, place: tuple[str, ...], value) -> dict:
    """The configuration with another value in a place."""
    name, *further = place
    return {**config, name: changed(config.get(name) or {}, further, value) if further else value}


@pytest.mark.parametrize("name", FILES)
def test_each_setting_of_a_family(name):
    values = small(FILES[name])
    read = FAMILIES[values.get("model_type", name)].read
    settings = Settings(values, "the file")
    read(settings)
    for place in places(settings):
        for value in WRONG:
            try:
                read(Settings(changed(values, place, value), "the file"))
            except ValueError as error:
                is_named = place[-1] in str(error) or value is None  # null is not set: another one may lack it
                assert is_named and "the file" in str(error), (place, value)


@pytest.mark.parametrize("name", FILES)
def test_the_kind_of_each_setting_is_known(name, monkeypatch):
    asked = set()
    monkeypatch.setattr(config, "check_kind", lambda where, name, value: asked.add(name))
    FAMILIES[FILES[name].get("model_type", name)].read(Settings(small(FILES[name]), "the file"))
    assert asked and asked <= set(KINDS)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "num_return_sequences": 2},
        {"num_beams": 3, "length_penalty": 0.5, "early_stopping": "never", "num_return_sequences": 2},
    ],
)
def test_each_setting_of_generation(settings):
    for name, value in itertools.product(settings, WRONG):
        try:
            read_strategy(Settings({**settings, name: value}, "the file"))
        except ValueError as error:
            assert name in str(error) or name == "num_return_sequences", (name, value)


def test_each_setting_of_what_whisper_writes():
    settings = {
        "forced_decoder_ids": [[1, None], [2, 41]],
        "lang_to_id": {"<|en|>": 31},
        "language": "en",
        "no_timestamps_token_id": 23,
        "task": "translate",
        "task_to_id": {"translate": 43},
    }
    for name, value in itertools.product(settings, WRONG):
        try:
            read_forced(Settings({**settings, name: value}, "the file"))
        except ValueError as error:
            assert name.removesuffix("_to_id")[:4] in str(error), (name, value)
