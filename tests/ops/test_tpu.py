"""Training and generation, with the kernels of a TPU, can be lowered for one on a machine that has none."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.decoding import generator
from keras_transformer.decoding.compiling import compiled
from keras_transformer.ops import experts, kernels

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="lowers what JAX traces")

LAYERS, LENGTH, BATCH = 2, 1024, 8  # 2^25 scores, from where the splash kernel is chosen
KERNEL = "tpu_custom_call"


@pytest.fixture(autouse=True)
def on_a_tpu(monkeypatch):
    """Let kernels be chosen as they are on a TPU."""
    monkeypatch.setattr(kernels, "fused_device", lambda: "splash")
    monkeypatch.setattr(experts, "_way", lambda: "ragged")


def lowered(function, *args) -> str:
    """The program of a function for a TPU."""
    import jax

    return jax.export.export(jax.jit(function), platforms=["tpu"])(*args).mlir_module()


def training_step(model, inputs, labels) -> str:
    """The program of the value and the gradient of the loss."""
    import jax

    loss = kt.training.SequenceCrossentropy()
    others = [variable.value for variable in model.non_trainable_variables]

    def value(weights):
        logits, _, losses = model.stateless_call(weights, others, inputs, training=True, return_losses=True)
        return loss(labels, logits) + sum(losses)

    return lowered(jax.value_and_grad(value), [variable.value for variable in model.trainable_variables])


def language_model(**options):
    return kt.models.language_model(13, num_layers=LAYERS, dim=16, num_heads=4, intermediate_dim=16, **options)


@pytest.mark.parametrize("of_rows", ["full", "padded", "packed"])
def test_a_training_step_has_the_splash_kernel(of_rows):
    ids = np.random.default_rng(3).integers(1, 13, (BATCH, LENGTH)).astype("int32")
    model = language_model(padding_id=None if of_rows == "full" else 0, packed=of_rows == "packed")
    inputs = ids
    if of_rows == "packed":
        inputs = {"tokens": ids, "segment_ids": ids // 7, "positions": np.zeros_like(ids) + np.arange(LENGTH)}
        inputs = [ops.convert_to_tensor(inputs[x.name], "int32") for x in model.inputs]
    program = training_step(model, inputs, ids)
    assert program.count(KERNEL) == 3  # forward, and backward for queries and for keys; layers share them
    with kt.ops.attention_kernel("exact"):
        assert KERNEL not in training_step(model, inputs, ids)


def test_a_training_step_with_experts():
    ids = np.random.default_rng(3).integers(1, 13, (2, 64)).astype("int32")
    program = training_step(language_model(feed_forward=lambda: kt.MixtureOfExperts(5, 16)), ids, ids)
    assert program.count("ragged_dot") >= 3 * 2 * LAYERS  # each product, and those of its two gradients


@pytest.mark.parametrize("strategy", [kt.Greedy(), kt.BeamSearch(3)], ids=["greedy", "beams"])
def test_generation(strategy, monkeypatch):
    seen = {}

    def noting(function, variables, jit_compile):
        seen.update(function=function, variables=variables)
        run = compiled(function, variables, jit_compile)

        def call(*args):
            seen["args"] = args
            return run(*args)

        return call

    monkeypatch.setattr(generator, "compiled", noting)
    with monkeypatch.context() as patch:  # this once it runs here
        patch.setattr(kernels, "fused_device", lambda: None)
        options = {"start_token": 1, "end_token": 2, "max_length": 9, "strategy": strategy}
        kt.Generator(language_model(position=kt.RotaryPosition), **options)([[3, 4, 5], [7]])

    def loop(values, *args):
        with keras.StatelessScope(state_mapping=list(zip(seen["variables"], values, strict=True))):
            return seen["function"](*args)

    assert "stablehlo.while" in lowered(loop, [variable.value for variable in seen["variables"]], *seen["args"])
