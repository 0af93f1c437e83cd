"""A configuration file, each of whose settings is made wrong in turn: what loads computes what `transformers` does."""

import json

import numpy as np
import pytest
from keras.ops import convert_to_numpy

import keras_transformer as kt

from .cases import CASES
from .helpers import load_reference, model_class, outputs, rewrite_config, save_random

IDS = np.random.default_rng(7).integers(3, 97, (2, 11))
DECODERS = {kind: name for name, (kind, _) in reversed(CASES.items())}.values()


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_what_loads_is_what_transformers_loads(name, tmp_path):
    right = outputs(save_random(name, tmp_path, shards="5GB"), IDS)
    config, loaded = json.loads((tmp_path / "config.json").read_text()), 0
    for key, value in wrong_values(config):
        rewrite_config(tmp_path, **{**config, key: value})
        try:
            model = kt.pretrained.load_model(tmp_path)
        except ValueError:
            continue
        try:
            expected = outputs(load_reference(model_class(CASES[name][0]), tmp_path), IDS)
        except Exception:  # transformers refuses it, in whatever way: here it has to change nothing,
            if value is None:  # or is not set, and a default is taken
                continue
            expected = right
        assert abs(convert_to_numpy(model(IDS)) - expected).max() < 2e-4 * abs(expected).max(), (key, value)
        loaded += 1
    assert loaded


def wrong_values(config: dict) -> list[tuple]:
    """Each number in turn as a string, a list, null, zero and a negative one."""
    numbers = {key: x for key, x in config.items() if isinstance(x, int | float) and not isinstance(x, bool)}
    return [(key, value) for key, x in numbers.items() for value in (str(x), [x], None, 0 * x, -1 * type(x)(1))]
