"""The non-linearity between the two products of a feed-forward network, plain or gated."""

from typing import Any

import keras
from keras import ops

from keras_transformer.layers.checks import check_above_zero, describe, get_activation
from keras_transformer.layers.projection import Projecting, WeightOptions
from keras_transformer.ops.activations import trained


class GatingOptions(WeightOptions, total=False):
    """The options that a feed-forward network hands on to its base."""

    activation: Any
    gated: bool
    gate_limit: float | None
    gate_offset: float


class Gating(Projecting):
    """The base of feed-forward networks: h, what comes of the first product, becomes activation(h), or, gated,
    activation(a) * (b + c) of its two halves a and b. A limit L makes of these min(a, L) and b within [-L, L].

    Args:
        activation: Name of a Keras activation, "quick_gelu", "tanh_gelu", or a function.
        gated: Whether there are two halves.
        gate_limit: L, or None.
        gate_offset: c.
    """

    def __init__(
        self,
        *,
        activation="relu",
        gated: bool = False,
        gate_limit: float | None = None,
        gate_offset: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.activation = get_activation(self, activation)
        if not gated and (gate_limit is not None or gate_offset):
            raise ValueError(
                f"{describe(self)} takes gate_limit and gate_offset with gated=True only, got "
                f"gate_limit={gate_limit!r} and gate_offset={gate_offset!r}."
            )
        if gate_limit is not None:
            check_above_zero(self, gate_limit=gate_limit)
        self.gated = gated
        self.gate_limit = gate_limit
        self.gate_offset = gate_offset

    def inner_width(self, width: int) -> int:
        """Of the first product, where the second one takes inputs of that width."""
        return width * 2 if self.gated else width

    def activate(self, hidden, training: bool | None):
        """What goes into the second product, (..., F), of what came out of the first, (..., F) or (..., 2 F)."""
        activation = trained(self.activation) if training else self.activation
        if not self.gated:
            return activation(hidden)
        hidden, gate = ops.split(hidden, 2, axis=-1)
        if self.gate_limit is not None:
            hidden, gate = ops.minimum(hidden, self.gate_limit), ops.clip(gate, -self.gate_limit, self.gate_limit)
        return activation(hidden) * (gate + self.gate_offset if self.gate_offset else gate)

    def get_config(self):
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.activation),
            "gated": self.gated,
            "gate_limit": self.gate_limit,
            "gate_offset": self.gate_offset,
        }
