"""Each family against `transformers`, with random weights: logits, tokens, a step of training, and the way back."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .cases import CASES, QUICK
from .helpers import (
    continue_greedily,
    load_reference,
    model_class,
    outputs,
    read_tensors,
    same,
    save_random,
    step,
)

IDS = np.random.default_rng(7).integers(0, 97, (2, 23))
IDS[0, :3] = 0
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
SECOND = [pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", EACH)
def test_a_checkpoint_computes_generates_and_comes_back(name, tmp_path):
    reference = save_random(name, tmp_path / "in")
    model = kt.pretrained.load_model(tmp_path / "in")
    assert [x.name for x in model.inputs] == ["tokens"]
    expected = outputs(reference, IDS)
    found = keras.ops.convert_to_numpy(model(IDS))
    assert abs(found - expected).max() < 2e-4 * abs(expected).max()

    padded = IDS.copy()
    padded[1, 9:] = 0
    alone = keras.ops.convert_to_numpy(model(IDS[1:, :9]))
    assert abs(keras.ops.convert_to_numpy(model(padded))[1:, :9] - alone).max() < 1e-5 * abs(alone).max()

    prompts = [[0, 5, 0, 11], [3, 0, 0, 0, 89, 41, 0]]
    generator = kt.Generator(model, max_length=34, end_token=None, jit_compile=False)
    result = generator(prompts)
    for row, prompt in enumerate(prompts):
        expected = continue_greedily(reference, prompt, 30)[:34]
        assert result["tokens"][row, 0, : len(expected)].tolist() == expected

    kt.pretrained.save_model(model, tmp_path / "out", shard_size=50_000)
    same(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))


@pytest.mark.parametrize("name", SECOND)
def test_a_step_of_training_and_half_precision(name, tmp_path):
    reference = save_random(name, tmp_path / "in", dtype="bfloat16", shards="5GB")
    model = kt.pretrained.load_model(tmp_path / "in")
    expected = outputs(reference, IDS)
    assert abs(keras.ops.convert_to_numpy(model(IDS)) - expected).max() < 2e-4 * abs(expected).max()
    kt.pretrained.save_model(model, tmp_path / "out")
    same(read_tensors(tmp_path / "out"), read_tensors(tmp_path / "in"))

    before = {name: tensor.detach().clone() for name, tensor in reference.state_dict().items()}
    rate = 0.1
    model.compile(keras.optimizers.SGD(rate), kt.training.SequenceCrossentropy(ignore_id=None), jit_compile=False)
    model.train_on_batch(IDS[:, :-1], IDS[:, 1:])
    kt.pretrained.save_model(model, tmp_path / "trained", dtype="float32")
    trained = load_reference(model_class(CASES[name][0]), tmp_path / "trained").state_dict()
    for key, tensor in step(reference, IDS, rate).state_dict().items():
        change, expected = trained[key] - before[key], tensor.detach() - before[key]
        assert (change - expected).abs().max() <= 1e-4 * max(expected.abs().max(), 1e-2 * rate), key
