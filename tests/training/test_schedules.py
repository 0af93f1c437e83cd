"""InverseSquareRootSchedule against the formula of the paper, at step 0, and inside an optimizer."""

import keras
import numpy as np
import pytest

from keras_transformer.training import InverseSquareRootSchedule


def paper(step, dim, warmup_steps):
    """ "Attention Is All You Need", section 5.3, equation 3."""
    return dim**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


@pytest.mark.parametrize("step", [1, 2, 1000, 3999, 4000, 4001, 100_000, 10_000_000])
def test_equals_the_paper(step):
    schedule = InverseSquareRootSchedule(dim=512)
    assert float(schedule(step)) == pytest.approx(paper(step, 512, 4000), rel=1e-6)
    doubled = InverseSquareRootSchedule(dim=512, scale=2.0)
    assert float(doubled(step)) == pytest.approx(2 * paper(step, 512, 4000), rel=1e-6)


def test_peak():
    schedule = InverseSquareRootSchedule(3e-3, warmup_steps=7)
    rates = np.array([float(schedule(step)) for step in range(101)])
    assert rates.argmax() == 7
    assert rates[7] == pytest.approx(3e-3, rel=1e-6)
    assert rates[28] == pytest.approx(1.5e-3, rel=1e-6)
    np.testing.assert_allclose(np.diff(rates[:8]), 3e-3 / 7, rtol=1e-5)


@pytest.mark.parametrize("warmup_steps", [1, 4000])
def test_step_zero_is_finite(warmup_steps):
    assert float(InverseSquareRootSchedule(dim=2, warmup_steps=warmup_steps)(0)) == 0


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.torch_compile)])
def test_in_an_optimizer(jit_compile):
    schedule = InverseSquareRootSchedule(0.1, warmup_steps=3)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")])
    model.compile(keras.optimizers.SGD(schedule), lambda target, output: -output, jit_compile=jit_compile)
    model.fit(np.ones((5, 2)), np.zeros((5, 1)), batch_size=1, verbose=0)
    # The gradient is -1 for each weight, so a weight is the sum of the learning rates of steps 0 to 4.
    expected = 0.1 * (0 + 1 / 3 + 2 / 3 + 1 + (3 / 4) ** 0.5)
    np.testing.assert_allclose(model.get_weights()[0], expected, rtol=1e-5)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 * (3 / 5) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("arguments", [{"peak_learning_rate": 3e-3, "warmup_steps": 7}, {"dim": 5, "scale": 2.0}])
def test_serialization(arguments):
    schedule = InverseSquareRootSchedule(**arguments)
    optimizer = keras.optimizers.Adam(schedule)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))._learning_rate
    assert type(copy) is InverseSquareRootSchedule
    assert copy.get_config() == schedule.get_config()
    assert float(copy(11)) == float(schedule(11))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({}, "either `peak_learning_rate` or `dim`"),
        ({"peak_learning_rate": 0.1, "dim": 512}, "either `peak_learning_rate` or `dim`"),
        ({"dim": 512, "warmup_steps": 0}, "positive `warmup_steps`. Received: 0"),
        ({"dim": 512, "warmup_steps": -1}, "positive `warmup_steps`. Received: -1"),
        ({"dim": 0}, "positive `dim`. Received: 0"),
        ({"peak_learning_rate": -0.1}, "positive `peak_learning_rate`. Received: -0.1"),
        ({"dim": 512, "scale": 0}, "positive `scale`. Received: 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"InverseSquareRootSchedule takes .*{message}"):
        InverseSquareRootSchedule(**arguments)
