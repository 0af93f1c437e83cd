"""A series goes on: values that follow from values, one step after another, with the cache."""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding.decoder import Decoder
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.strategies import in_shape, repeat_rows
from keras_transformer.decoding.verification import verify_cached
from keras_transformer.layers.checks import check_positive, describe
from keras_transformer.layers.ids import integers
from keras_transformer.ops.random import as_seed, uniforms
from keras_transformer.ops.runtime import concrete

DRAWS = 1024  # random numbers of a row that a step may take


@keras.saving.register_keras_serializable("keras_transformer")
class Rollout(keras.layers.Layer):
    """Continues series by what a causal model says of the next step: what `kt.Generator` is for tokens.

    The model gives, for each step of a series (B, T, C), P numbers that describe the distribution of the next one, and
    `sample` draws from it:

        x_{t+1} = sample(model(x_1, ..., x_t)_t, uniform)

    It is a layer, so that `keras.Model(history, kt.Rollout(...)(history))` is a model of scenarios like any other: its
    `predict` is compiled, it is saved, and it is exported by `kt.export`. Beneath is the decoder of `kt.Generator`,
    with its cache and its proof: where the model, step by step, would give something else than on a whole series, the
    layer refuses it when it is built.

    Args:
        model: A functional model with an input of values (B, T, C), float, and an output (B, T, P). A step may be a
            vector, such as all channels, or a patch of consecutive values. What does not depend on the series, such as
            an encoder, runs once.
        sample: A function of P numbers (R, P), float32, and of `uniform`, where `uniform(k)` is (R, k) random numbers
            between 0 and 1, other ones at each call. It returns the next step (R, C). One that takes the mean, say, has
            no use for `uniform`. Register it (`keras.saving.register_keras_serializable`) to save the layer.
        steps: How many steps are added.
        num_samples: Number of scenarios N of each row.
        seed: Of the random numbers, which are a hash of the seed, the row, the scenario and the step, and the same on
            every backend and in every export.
        target_input: Name of the model's input of the series, where it has several. Default: as in `kt.Generator`.

    Call arguments:
        inputs: (B, T, C), the series so far; of a model of several inputs, a list of all in its order, or a dict by
            their names. A padding mask that Keras carries is not used: what is padding is said by `lengths`.
        lengths: (B,), int. How many steps of each row count, at least one; the others, behind them, are padding.
            Default: all. In a compiled function another length gives NaN.
        seed: An integer in place of the layer's own, or (B,), int32, of each row: then the scenarios of a row do not
            depend on its place in the batch.

    Output shape: (B, N, steps, C), float32: the steps that were added.

    Raises:
        ValueError: If an argument is not as said above, there is not one length or seed for each row, lengths or seeds
            are no integers, a length is not one of the series, the inputs are not those of the model, the length of
            the series is not known, or the model cannot be run step by step; the message names the layer that is in
            the way.

    Example: a random walk, of a model that says that the next step is as this one, give or take one.

    >>> import keras, numpy as np, keras_transformer as kt
    >>> series = keras.Input((5, 1))
    >>> model = keras.Model(series, keras.layers.Identity()(series))
    >>> walk = kt.Rollout(model, lambda now, uniform: now + 2.0 * uniform(1) - 1.0, steps=3, num_samples=100)
    >>> scenarios = np.array(walk(np.full((2, 5, 1), 7.0, "float32")))
    >>> scenarios.shape, bool(abs(scenarios.mean() - 7.0) < 0.5), bool(abs(scenarios - 7.0).max() < 3.0)
    ((2, 100, 3, 1), True, True)
    """

    def __init__(
        self,
        model: keras.Model,
        sample: Callable,
        *,
        steps: int,
        num_samples: int = 1,
        seed: int = 0,
        target_input: str | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive(self, steps=steps, num_samples=num_samples)
        if not callable(sample):
            raise ValueError(f"{describe(self)} takes a function as sample, got {sample!r}.")
        self.graph = Graph(model, target_input, owner=describe(self))
        if not self.graph.takes_values:
            name, shape = self.graph.input_names[self.graph.target], self.graph.shapes[self.graph.target]
            raise ValueError(
                f"{describe(self)} takes a model of values (batch, length, channels), but the input '{name}' is of "
                f"shape {shape}. Name another one by target_input, one of {self.graph.input_names}; what generates ids "
                "is kt.Generator."
            )
        self.model = model
        self.sample = sample
        self.steps = steps
        self.num_samples = num_samples
        self.seed = as_seed(seed)
        self.target_input = target_input
        self.autocast = False  # the model says what it takes

    def build(self, inputs_shape):
        several = isinstance(inputs_shape, dict) or isinstance(inputs_shape[0], list | tuple)
        shape = self._by_slot(inputs_shape if several else [inputs_shape])[self.graph.target]
        channels = self.graph.shapes[self.graph.target][-1]
        if len(shape) != 3 or shape[1] is None or shape[2] != channels:
            raise ValueError(
                f"{describe(self)} takes series of a known length, (batch, length, {channels}), got {shape}. Give the "
                f"input a length, keras.Input((336, {channels})); shorter series are padded on the right, with lengths="
            )
        self._longest = shape[1]
        verify_cached(self.graph, shape[1] + self.steps)

    def _by_slot(self, inputs) -> dict:
        """What the model's inputs are given, by slot."""
        names = self.graph.input_names
        if isinstance(inputs, dict):
            if set(inputs) != set(names):
                raise ValueError(f"{describe(self)} takes what its model takes, {names}, got {[*inputs]}.")
            inputs = [inputs[name] for name in names]
        inputs = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(inputs) != len(names):
            raise ValueError(f"{describe(self)} takes what its model takes, {names}, got {len(inputs)} inputs.")
        return dict(enumerate(inputs))

    def call(self, inputs, lengths=None, seed=None):
        sources = self._by_slot(inputs)
        self._check_rows(sources[self.graph.target], lengths, seed)
        series = ops.cast(sources.pop(self.graph.target), "float32")
        batch, length, channels = ops.shape(series)[0], series.shape[1], series.shape[2]
        if length > self._longest:
            raise ValueError(f"{describe(self)} was built for series of {self._longest} steps, got {length}.")
        given = lengths
        lengths = ops.full((batch,), length, "int32") if given is None else self._checked(given, length)
        fits = ops.logical_and(lengths >= 1, lengths <= length)
        lengths = ops.clip(lengths, 1, length)
        decoder = Decoder(self.graph, length + self.steps, end_token=None, padding_id=None)
        state, memory, _ = decoder.begin(decoder.encode(sources), series, lengths)
        last = ops.reshape(lengths - 1, (-1, 1))
        last_steps = ops.take_along_axis(series, ops.expand_dims(last, 2), axis=1)  # (B, 1, C)
        carry = {
            "step": ops.zeros((), "int32"),
            "last": last_steps,
            "position": last,
            "state": state,
            "new": ops.zeros((batch, self.steps, channels), "float32"),
        }
        step = carry.pop("step")
        carry, memory = repeat_rows((carry, memory), self.num_samples)  # B N rows
        draw = self._draws(batch, seed)
        places = ops.reshape(ops.arange(self.steps, dtype="int32"), (1, -1, 1))

        def advance(step, carry):
            stepped = decoder.step(carry["last"], carry["position"], carry["state"], memory)
            drawn = self._sampled(stepped.logits[:, 0], draw(step), channels)
            new = {
                "last": drawn,
                "position": carry["position"] + 1,
                "state": stepped.state,
                "new": ops.where(places == step, drawn, carry["new"]),
            }
            return step + 1, keras.tree.map_structure(in_shape, new, carry)

        _, carry = ops.while_loop(
            lambda step, carry: step < self.steps, advance, (step, carry), maximum_iterations=self.steps
        )
        new = ops.reshape(carry["new"], (-1, self.num_samples, self.steps, channels))
        if given is None:
            return new
        return ops.where(ops.reshape(fits, (-1, 1, 1, 1)), new, float("nan"))

    def _check_rows(self, series, lengths, seed) -> None:
        """Raise ValueError unless there is a length for each row, and one seed or one for each."""
        batch = series.shape[0]
        for name, value, one in (("lengths", lengths, False), ("seed", seed, True)):
            if value is None:
                continue
            shape = tuple(np.shape(value))
            if shape == () and one:
                continue
            if len(shape) != 1 or (None not in (shape[0], batch) and shape[0] != batch):
                takes = f"of shape (batch,) = ({batch},)" + (", or one for all rows" if one else "")
                raise ValueError(f"{describe(self)} takes {name} {takes}, got {shape}.")

    def _checked(self, lengths, longest: int):
        """Lengths as int32; an error if one is wrong where their values are known, and NaN comes out elsewhere."""
        given, lengths = lengths, integers(self, "lengths", lengths)
        if given is not lengths:  # floats: a fraction is no length
            lengths = ops.where(ops.equal(lengths, given), lengths, 0)
        known = concrete(lengths)
        if known is not None and known.size and (known.min() < 1 or known.max() > longest):
            raise ValueError(
                f"{describe(self)} takes lengths from 1 to {longest}, the steps of the series, got lengths from "
                f"{known.min()} to {known.max()}."
            )
        return ops.cast(lengths, "int32")

    def _sampled(self, outputs, uniform, channels: int):
        """What `sample` makes of outputs (R, P): the next step (R, 1, C)."""
        drawn = ops.cast(self.sample(ops.cast(outputs, "float32"), uniform), "float32")
        if len(drawn.shape) != 2 or drawn.shape[1] != channels:
            raise ValueError(
                f"{describe(self)} takes a sample of shape (rows, {channels}), the next step of each row, but the "
                f"function gave {tuple(drawn.shape)} for outputs of shape {tuple(outputs.shape)}."
            )
        return ops.expand_dims(drawn, 1)

    def _draws(self, batch, seed) -> Callable:
        """A function of a step that returns what `sample` is given as `uniform`."""
        if hasattr(seed, "shape") or np.shape(seed):
            seed = integers(self, "seed", seed)
            known = concrete(seed)
            if known is not None and known.size and (known.min() < -(2**31) or known.max() >= 2**32):
                raise ValueError(
                    f"{describe(self)} takes seeds of 32 bits in an array, got seeds from {known.min()} to "
                    f"{known.max()}. A single Python integer may be larger."
                )
        if len(np.shape(seed)):  # of each row
            scenarios = ops.tile(ops.arange(self.num_samples, dtype="int32"), [batch])
            seed = ops.expand_dims(ops.repeat(ops.cast(seed, "int32"), self.num_samples), 1)
        else:
            scenarios = ops.arange(batch * self.num_samples, dtype="int32")
            seed = self.seed if seed is None else as_seed(seed)
        scenarios = ops.expand_dims(scenarios, 1)

        def of_step(step):
            taken = 0

            def uniform(count: int):
                nonlocal taken
                columns = step * DRAWS + ops.expand_dims(ops.arange(taken, taken + count, dtype="int32"), 0)
                taken += count
                if taken > DRAWS:
                    raise ValueError(f"{describe(self)} has {DRAWS} random numbers for a row and step, not more.")
                return ops.maximum(uniforms(seed, scenarios, columns), 2.0**-25)  # its logarithm is finite

            return uniform

        return of_step

    def compute_output_spec(self, inputs, lengths=None, seed=None):
        series = self._by_slot(inputs)[self.graph.target]
        self._check_rows(series, lengths, seed)
        shape = (series.shape[0], self.num_samples, self.steps, series.shape[2])
        return keras.KerasTensor(shape, dtype="float32")

    def get_config(self):
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "sample": keras.saving.serialize_keras_object(self.sample),
            "steps": self.steps,
            "num_samples": self.num_samples,
            "seed": self.seed,
            "target_input": self.target_input,
        }

    @classmethod
    def from_config(cls, config):
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("model", "sample")}
        return cls(**{**config, **parts})
