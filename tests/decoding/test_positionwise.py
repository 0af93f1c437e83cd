"""What is said of Keras' operations is true: a trial of each, on random input, says the same."""

import types

import keras
import numpy as np
import pytest
from keras import layers, ops
from keras.src.ops import core, linalg, math, nn, numpy

import keras_transformer as kt
from keras_transformer.decoding.positionwise import ALONG_AXIS, time_axes
from keras_transformer.decoding.program import Program, run
from keras_transformer.decoding.trial import Mixed, Trial
from keras_transformer.ops.elementwise import CONSTANT, ELEMENTWISE, REDUCTIONS

LENGTH, WIDTH = 17, 6


class Alone(Program):
    """A model of one sequence (B, T, D) and nothing else, in place of a graph with tokens."""

    target = -1

    def __init__(self, model):
        super().__init__(model)
        self.dependent = set(range(len(self.shapes)))


def trace(function, dtype="float32"):
    """The program of `function` on (B, T, D), the values of a run, and what is said of its time axis."""
    x = keras.Input((None, WIDTH), dtype=dtype)
    program = Alone(keras.Model(x, function(x)))
    random = np.random.default_rng(0)
    values = {0: ops.convert_to_tensor(random.uniform(0.1, 0.9, (2, LENGTH, WIDTH)).astype(dtype))}
    if dtype == "int32":
        values = {0: ops.convert_to_tensor(random.integers(0, 5, (2, LENGTH, WIDTH)), "int32")}
    shapes, axes = {0: (2, LENGTH, WIDTH)}, {0: 1}
    for instruction in program.instructions:
        run([instruction], values)
        shapes.update({slot: tuple(values[slot].shape) for slot in instruction.outputs})
        found = time_axes(instruction, axes, shapes) if all(x in axes for x in instruction.inputs) else None
        axes.update({} if found is None else dict(zip(instruction.outputs, found, strict=True)))
    return program, values, axes.get(program.outputs[0])


def tried(program, values):
    """The time axis of the output as a trial finds it; None if positions are mixed or the axis is lost."""
    slot = program.outputs[0]
    trial = Trial(
        program, LENGTH, program.instructions, (slot,), axes={0: 1}, seen=values, memory={}, masked=set()
    )  # fmt: skip
    try:
        axes = trial.find_axes()
        if axes[0] is not None:
            trial.check_steps(axes)
    except Mixed:
        return None
    return axes[0]


def operation_class(name):
    return next(getattr(module, name) for module in (numpy, nn, math, linalg, core) if hasattr(module, name))


def applied(kind):
    """An operation on as many inputs as it takes, and of the type it takes."""
    if kind in ("Clip", "Cast", "Threshold"):
        arguments = {"Clip": (0.2, 0.7), "Cast": ("int32",), "Threshold": (0.3, 0.1)}[kind]
        return lambda x: operation_class(kind)(*arguments)(x)
    count = {"Where": 3}.get(kind)
    for number in (1, 2) if count is None else (count,):
        try:
            model = lambda x, number=number: operation_class(kind)()(*[x] * number)  # noqa: E731
            trace(model, "int32" if is_integer(kind) else "float32")
            return model
        except (TypeError, ValueError):
            continue
    raise AssertionError(f"{kind} takes neither one nor two inputs")


def is_integer(kind):
    return kind.startswith(("Bitwise", "LeftShift", "RightShift"))


@pytest.mark.tensorflow
def test_elementwise_operations():
    for kind in sorted(ELEMENTWISE | CONSTANT):
        program, values, said = trace(applied(kind), "int32" if is_integer(kind) else "float32")
        assert said == 1 == tried(program, values), kind


@pytest.mark.tensorflow
@pytest.mark.parametrize("kind", sorted(ALONG_AXIS | REDUCTIONS))
def test_operations_along_an_axis(kind):
    keepdims = (False, True) if kind in REDUCTIONS - {"CountNonzero"} else (None,)
    for axis in (2, -1) if kind == "Glu" else (1, 2, -1, -2):
        for keep in keepdims:
            options = {"axis": axis} if keep is None else {"axis": axis, "keepdims": keep}

            def apply(x, options=options):
                operation = operation_class(kind)(*((2,) if kind == "Roll" else ()), **options)
                return operation(x)

            program, values, said = trace(apply)
            assert said == (None if axis in (1, -2) else 1), (kind, axis)
            assert tried(program, values) == said, (kind, axis)


POSITIONWISE = {
    "Identity": lambda x: layers.Identity()(x),
    "Dropout": lambda x: layers.Dropout(0.5)(x),
    "Gaussian noise": lambda x: layers.GaussianNoise(0.5)(x),
    "ReLU": lambda x: layers.ReLU()(x - 0.5),
    "Dense": lambda x: layers.Dense(5)(x),
    "feed-forward": lambda x: kt.FeedForward(7)(x),
    "EinsumDense": lambda x: layers.EinsumDense("btd,df->btf", (None, 4), bias_axes="f")(x),
    "LayerNormalization": lambda x: layers.LayerNormalization()(x),
    "RMSNormalization": lambda x: kt.RMSNormalization()(x),
    "UnitNormalization": lambda x: layers.UnitNormalization()(x),
    "BatchNormalization": lambda x: layers.BatchNormalization()(x),
    "Activation": lambda x: layers.Activation("gelu")(x),
    "softmax as activation": lambda x: layers.Activation("softmax")(x),
    "Softmax": lambda x: layers.Softmax()(x),
    "Add": lambda x: layers.Add()([x, x]),
    "Concatenate": lambda x: layers.Concatenate()([x, x]),
    "Masking": lambda x: layers.Masking()(x),
    "broadcast": lambda x: x + ops.mean(x, axis=-1, keepdims=True) * np.ones(WIDTH, "float32"),
    "concatenate": lambda x: ops.concatenate([x, x], axis=2),
    "stack": lambda x: ops.stack([x, x], axis=-1),
    "split": lambda x: ops.split(x, 2, axis=-1)[1],
    "expand, squeeze": lambda x: ops.squeeze(ops.expand_dims(x, -1), -1),
    "slice": lambda x: x[..., 1:3],
    "an item": lambda x: x[:, :, 2],
    "einsum": lambda x: ops.einsum("btd,bte->btde", x, x),
    "matmul": lambda x: ops.matmul(x, np.ones((WIDTH, 3), "float32")),
    "one-hot": lambda x: ops.one_hot(ops.cast(x * 3, "int32"), 4),
}
ELSEWHERE = {  # the time axis goes to another place
    "transpose": (lambda x: ops.transpose(x, (0, 2, 1)), 2),
    "swap": (lambda x: ops.swapaxes(ops.expand_dims(x, 1), 1, 3), 2),
    "an axis before": (lambda x: ops.expand_dims(x, 1), 2),
    "stacked before": (lambda x: ops.stack([x, x], axis=1), 2),
    "einsum": (lambda x: ops.einsum("btd->bdt", x), 2),
    "summed away": (lambda x: ops.sum(ops.transpose(x, (0, 2, 1)), axis=1), 1),
}
MIXING = {
    "softmax over time": lambda x: layers.Softmax(axis=1)(x),
    "normalization over time": lambda x: layers.LayerNormalization(axis=1)(ops.reshape(x, (-1, LENGTH, WIDTH))),
    "Dense over time": lambda x: ops.transpose(layers.Dense(LENGTH)(ops.reshape(x, (-1, WIDTH, LENGTH))), (0, 2, 1)),
    "first position": lambda x: x + x[:, :1],
    "other positions": lambda x: x[:, ::-1],
    "joined in time": lambda x: ops.concatenate([x, x], axis=1)[:, 1:],
    "einsum over time": lambda x: ops.einsum("btd,bsd->btd", x, x),
    "scores": lambda x: ops.matmul(ops.matmul(x, ops.transpose(x, (0, 2, 1))), x),
    "mean of rows": lambda x: x - ops.mean(x, axis=0, keepdims=True) * 2,
    "batch statistics": lambda x: layers.BatchNormalization()(x, training=True),
    "constant in time": lambda x: x + np.ones((LENGTH, 1), "float32"),
}


@pytest.mark.parametrize("kind", POSITIONWISE)
def test_known_to_act_on_each_position_by_itself(kind):
    program, values, said = trace(POSITIONWISE[kind])
    assert said == 1
    assert tried(program, values) == 1


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_the_time_axis_is_followed(kind):
    function, axis = ELSEWHERE[kind]
    program, values, said = trace(function)
    assert said == axis == tried(program, values)


@pytest.mark.parametrize("kind", MIXING)
def test_not_said_of_what_mixes_positions(kind):
    function = MIXING[kind]
    try:
        _, _, said = trace(function)
    except (ValueError, RuntimeError) as error:
        if keras.backend.backend() != "torch":
            raise
        pytest.skip(f"PyTorch cannot run it: {error}")  # negative steps, layer normalization over such an axis
    assert said is None


def test_a_class_of_the_same_name_is_not_taken_for_keras_own():
    class Add(keras.Operation):
        def call(self, x):
            return ops.cumsum(x, axis=1)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, x.dtype)

    class Dense(layers.Dense):
        def call(self, x):
            return ops.cumsum(super().call(x), axis=1)

    for operation in (Add(), Dense(4)):
        program, values, said = trace(operation)
        assert said is None
        assert tried(program, values) is None


def test_clip_with_bounds_along_time_is_not_elementwise():
    operation = types.SimpleNamespace(x_min=np.zeros((LENGTH, 1)), x_max=1.0)
    program, _, said = trace(lambda x: ops.clip(x, operation.x_min.astype("float32"), 1.0))
    assert said is None
