"""What LoRA and quantization ask of a layer, beyond what Keras' own layers do (Keras 3.15.1)."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_transformer._keras import untrack


class Unquantized(keras.layers.Layer):
    """A layer without a large matrix of its own: under a quantized dtype policy it computes as it always does."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def quantized_call(self, *args, **kwargs):
        return self.call(*args, **kwargs)


class Small(Unquantized):
    """A layer of few weights or none, which stay in float when a model is quantized."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def quantize(self, mode=None, type_check=True, **options):
        """Do nothing, as there is nothing to gain."""


class Adaptable(keras.layers.Layer):
    """A layer of Keras' with LoRA that is trained on after it was loaded, and that quantizes as its base does.

    Keras' own layers add A B to the matrix when they are saved and come back with A = B = 0, from where no gradient
    leads away; here A and B are saved. And what `enable_lora` froze stays so when the layer is unfrozen.

    Attributes:
        adapted: The name of the matrix: "kernel" or "embeddings".
    """

    adapted: str
    lora_rank: Any  # an integer, and a number as alpha, when there is a change
    lora_alpha: Any

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    @property
    def trainable(self):
        return keras.layers.Layer.trainable.fget(self)

    @trainable.setter
    def trainable(self, value):
        keras.layers.Layer.trainable.fset(self, value)
        if getattr(self, "lora_enabled", False):
            self._matrix.trainable = False

    @property
    def _matrix(self):
        return getattr(self, f"_{self.adapted}")

    @property
    def _factors(self) -> dict:
        names = (f"lora_{self.adapted}_a", f"lora_{self.adapted}_b")
        return {name: getattr(self, name, None) for name in names}

    def enable_lora(self, rank: int, lora_alpha: float | None = None, **options) -> None:
        # When a layer with a LoRA rank is built, Keras forgets the alpha that its constructor was given.
        super().enable_lora(rank, self.lora_alpha if lora_alpha is None else lora_alpha, **options)

    def quantize(self, mode=None, type_check=True, **options):
        # Keras refuses subclasses, since they may compute something else. These do not.
        own = type(self).__module__.startswith("keras_transformer.")
        super().quantize(mode, type_check=type_check and not own, **options)

    def save_own_variables(self, store):
        if not self.built or not self.lora_enabled:
            return super().save_own_variables(store)
        self.lora_enabled = False
        try:
            super().save_own_variables(store)
        finally:
            self.lora_enabled = True
        for name, factor in self._factors.items():
            store[name] = factor
        store["lora_scale"] = np.float32(self.lora_alpha / self.lora_rank)

    def load_own_variables(self, store):
        kept = {name: np.asarray(store[name]) for name in (*self._factors, "lora_scale") if name in store.keys()}
        matrix = {name: store[name] for name in store.keys() if name not in kept}
        before = {name: ops.copy(factor) for name, factor in self._factors.items() if factor is not None}
        super().load_own_variables(matrix)  # which makes A = B = 0
        if self.lora_enabled:
            first, second = self._factors.values()
            a, b = self._factors
            first.assign(kept.get(a, before[a]))
            if kept:
                second.assign(kept[b])
        elif kept:
            self._merge(*kept.values())

    def merge_lora(self) -> None:
        """Add A B to the matrix and forget them."""
        if not self.lora_enabled:
            return
        factors = self._factors
        a, b = factors.values()
        self._merge(a, b, self.lora_alpha / self.lora_rank)
        for name, factor in factors.items():
            untrack(self, factor)
            setattr(self, name, None)
        self.lora_enabled, self.lora_rank, self.lora_alpha = False, None, None
        self._matrix.trainable = self.trainable

    def _merge(self, a, b, scale):
        if self.quantization_mode is not None:
            raise ValueError(
                f"The weights of '{self.name}' were saved with LoRA and cannot be added to a quantized matrix. Call "
                f"enable_lora({a.shape[1]}) on it before they are loaded."
            )
        self._matrix.assign_add(ops.matmul(float(scale) * a, b))


def int8_product(inputs, table, scales, quantizer, dtype: str):
    """x E^T of inputs (..., D) and a table (V, D) of int8 whose rows are to be divided by `scales` (V,).

    Inputs go through `quantizer`, if there is one, so that the product is one of integers. Rounding has no gradient, so
    the gradient is that of the product with the table in float.
    """

    @ops.custom_gradient
    def product(x, table, scales):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            rows = ops.cast(table, dtype) / ops.expand_dims(scales, -1)
            return ops.matmul(upstream, rows), None, None

        divisor = scales
        if quantizer is not None:
            x, by = quantizer(x, axis=-1)
            divisor = scales * by
        return ops.cast(ops.matmul(x, ops.transpose(table)), dtype) / divisor, gradient

    return product(inputs, table, ops.cast(scales, dtype))
