"""Normalization over time that is taken back at the end of a model."""

import keras
from keras import ops

from keras_transformer.layers.checks import check_above_zero, check_sequence, describe
from keras_transformer.layers.quantized import Small
from keras_transformer.layers.sequence import SequenceLayer
from keras_transformer.ops.masks import checked


@keras.saving.register_keras_serializable("keras_transformer")
class ReversibleNormalization(SequenceLayer, Small):
    """Each row and channel of a time series with mean 0 and variance 1 over time, and the way back for a forecast
    ("Reversible Instance Normalization for Accurate Time-Series Forecasting against Distribution Shift",
    https://openreview.net/forum?id=cGDAkQo1C0p).

    With m and v, the mean and the variance over the time of the reference, which is the input itself unless given:

        y = (x - m) / sqrt(v + epsilon) * gamma + beta;  in reverse  x = (y - beta) / gamma * sqrt(v + epsilon) + m

    The layer keeps nothing from call to call: the way back is told which series it was.

        x = norm(history)
        ...                                                          # a model that gives (B, H, C)
        forecast = norm(x, reference=history, reverse=True)

    Args:
        affine: Whether a scale `gamma` and a shift `beta` are learned for each channel.
        epsilon: Added to the variance. A channel that does not change gives zeros, and comes back as it was.
        gamma_initializer, beta_initializer: Of these.
        gamma_regularizer, beta_regularizer, gamma_constraint, beta_constraint: Of these.

    Call arguments:
        inputs: (B, T, C), float or int.
        reference: (B, S, C), whose mean and variance it is. Needed in reverse.
        reverse: Whether to take the normalization back.
        mask, reference_mask: (B, T) and (B, S), bool, the padding masks; Keras fills them in. Padding does not count,
            and comes out as zeros; in reverse that of the reference counts alone, and `mask` is ignored.
        inputs_mask: The same as `mask`, under the name that Keras fills in where there is a reference.

    In reverse a channel whose `gamma` has come to 0 gives inf or NaN: nothing of it is left to take back.

    Output shape: (B, T, C), calculated in float32 at least. In reverse it stays so, whatever the dtype policy is: what
    is measured may be too large for half precision. The padding mask passes through. Weights: `gamma`, `beta` (C,).

    Raises:
        ValueError: If `epsilon` is not positive, an input is not of rank 3, the channels are not those that the layer
            was built with, the reference has another number of rows, there is no reference in reverse, or a mask has
            another shape or holds other values than 0 and 1 (NaN within compiled functions).

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> norm, x = kt.ReversibleNormalization(), np.array([[[1.0], [3.0], [5.0]]], "float32")
    >>> np.asarray(norm(x), "float64").ravel().round(3).tolist()
    [-1.225, 0.0, 1.225]
    >>> np.asarray(norm(norm(x), reference=x, reverse=True), "float64").ravel().round(3).tolist()
    [1.0, 3.0, 5.0]
    """

    def __init__(
        self,
        affine: bool = True,
        *,
        epsilon: float = 1e-5,
        gamma_initializer="ones",
        beta_initializer="zeros",
        gamma_regularizer=None,
        beta_regularizer=None,
        gamma_constraint=None,
        beta_constraint=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_above_zero(self, epsilon=epsilon)
        self.affine = affine
        self.epsilon = epsilon
        self.gamma_initializer = keras.initializers.get(gamma_initializer)
        self.beta_initializer = keras.initializers.get(beta_initializer)
        self.gamma_regularizer = keras.regularizers.get(gamma_regularizer)
        self.beta_regularizer = keras.regularizers.get(beta_regularizer)
        self.gamma_constraint = keras.constraints.get(gamma_constraint)
        self.beta_constraint = keras.constraints.get(beta_constraint)
        self.autocast = False  # what is measured loses too much in half precision

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        self._channels = inputs_shape[-1]
        if self.affine:
            self.gamma = self._per_channel("gamma")
            self.beta = self._per_channel("beta")

    def _per_channel(self, name: str):
        return self.add_weight(
            name=name,
            shape=(self._channels,),
            initializer=getattr(self, f"{name}_initializer"),
            regularizer=getattr(self, f"{name}_regularizer"),
            constraint=getattr(self, f"{name}_constraint"),
            autocast=False,
        )

    def masked_arguments(self, given):
        own = () if given.get("reverse") else (("inputs", "mask"),)  # each forecast comes back by itself
        return (*own, ("reference", "reference_mask"))

    def call(self, inputs, reference=None, reverse: bool = False, mask=None, inputs_mask=None, reference_mask=None):
        check_sequence(self, "inputs", inputs.shape, self._channels)
        if reference is not None:
            check_sequence(self, "reference", reference.shape, self._channels)
            rows, expected = reference.shape[0], inputs.shape[0]
            if None not in (rows, expected) and rows != expected:
                raise ValueError(
                    f"{describe(self)} takes a reference of as many rows as the inputs, {expected}, got {rows}."
                )
        elif reverse:
            raise ValueError(
                f"{describe(self)} keeps no mean and no variance from call to call: in reverse it takes the series "
                "that it normalized as reference=..."
            )
        given = inputs_mask if mask is None else mask
        mask = None if reverse else self.token_mask(inputs, "mask", given)
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        x = ops.cast(inputs, dtype)
        if reference is None:
            mean, deviation = self._statistics(x, mask)
        else:
            reference_real = self.token_mask(reference, "reference_mask", reference_mask)
            mean, deviation = self._statistics(ops.cast(reference, dtype), reference_real)
        gamma, beta = (ops.cast(w, dtype) for w in (self.gamma, self.beta)) if self.affine else (1.0, 0.0)
        if reverse:
            return checked((x - beta) / gamma * deviation + mean, reference_mask)
        y = (x - mean) / deviation * gamma + beta
        y = y if mask is None else ops.where(ops.expand_dims(mask, -1), y, ops.zeros_like(y))
        return ops.cast(checked(y, given, reference_mask), self.compute_dtype)

    def _statistics(self, x, mask):
        """Mean and standard deviation (B, 1, C) over the real time steps of (B, T, C)."""
        if mask is None:
            mean = ops.mean(x, axis=1, keepdims=True)
            return mean, ops.sqrt(ops.mean(ops.square(x - mean), axis=1, keepdims=True) + self.epsilon)
        real = ops.expand_dims(mask, -1)
        count = ops.maximum(ops.sum(ops.cast(real, x.dtype), axis=1, keepdims=True), 1.0)
        mean = ops.sum(ops.where(real, x, ops.zeros_like(x)), axis=1, keepdims=True) / count
        distance = ops.where(real, x - mean, ops.zeros_like(x))
        return mean, ops.sqrt(ops.sum(ops.square(distance), axis=1, keepdims=True) / count + self.epsilon)

    def get_config(self):
        return {
            **super().get_config(),
            "affine": self.affine,
            "epsilon": self.epsilon,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
            "beta_initializer": keras.initializers.serialize(self.beta_initializer),
            "gamma_regularizer": keras.regularizers.serialize(self.gamma_regularizer),
            "beta_regularizer": keras.regularizers.serialize(self.beta_regularizer),
            "gamma_constraint": keras.constraints.serialize(self.gamma_constraint),
            "beta_constraint": keras.constraints.serialize(self.beta_constraint),
        }
