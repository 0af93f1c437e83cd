"""A feed-forward network of experts, of which each token takes a few."""

import math
import warnings
from typing import Unpack

import keras
from keras import ops

from keras_transformer._keras import is_trial
from keras_transformer.layers.checks import check_positive, check_rate, check_sequence, describe, floats, token_mask
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.gating import Gating, GatingOptions
from keras_transformer.layers.projection import Projecting, WeightOptions
from keras_transformer.layers.shaped import Shaped
from keras_transformer.ops.experts import dispatch


@keras.saving.register_keras_serializable("keras_transformer")
class MixtureOfExperts(Shaped, Gating):
    """E feed-forward networks, of which a router gives each token k: many weights, and the work of few.

    With r = x W_r + b_r and S the experts with the k largest r, y = sum over e in S of p_e FFN_e(x), p the softmax of r
    over S ("Mixtral of Experts", https://arxiv.org/abs/2401.04088) or, with `normalize=False`, over all experts
    ("Switch Transformers", https://arxiv.org/abs/2101.03961). FFN_e is a `FeedForward`. Tokens are brought together by
    expert (`ops/experts.py`), so the work is that of k experts however many there are. No token is dropped and none
    depends on another, so a decoder with experts generates with a cache as any other. The router computes in float32.

    Training adds two losses that keep experts busy and logits small, over the real tokens of a call:

        balance_loss E sum_e f_e P_e    f_e: the share of the choices that fell on e; P_e: the mean of softmax(r)_e
        z_loss mean((log sum_e exp(r_e))^2)    ("ST-MoE", https://arxiv.org/abs/2202.08906)

    The first is `balance_loss` where all experts are chosen alike, whatever k is. (Mixtral's code sums over the k
    choices, which is k times as much.)

    It stands wherever a `FeedForward` does, also in a layer: `EncoderLayer(4, feed_forward=MixtureOfExperts(8, 64))`.

    Args:
        num_experts: Number of experts E.
        intermediate_dim: Width F of the inner layer of each.
        top_k: Number of experts k that a token takes.
        activation, gated, gate_limit, gate_offset, dropout, use_bias: Of each expert, as of `FeedForward`. (gpt-oss:
            "quick_gelu", gated, with a limit of 7 and an offset of 1.)
        router_bias: Whether the router has a bias b_r.
        normalize: Whether the k weights of a token sum to one. With top_k=1 the router then learns from the two losses
            only, so Switch Transformers take False.
        balance_loss, z_loss: Weights of the two losses; 0 for none.
        capacity_factor: While training, an expert takes at most ceil(capacity_factor k N / E) of N tokens, first
            choices before second ones and earlier tokens before later ones; what is left over passes by, for the
            residual to carry. Shapes are then fixed, and experts that lie on several devices need no copies of each
            other's weights. Outside of training nothing is dropped. None: nor is it in training.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint: Of the matrices and biases of each expert by itself, as in `keras.layers.Dense`; the
            initializer and regularizer also of the router's.

    Call arguments:
        inputs: (B, T, D), float.
        mask: (B, T), bool, the padding mask; Keras fills it in. Padding takes no part: zeros come out.

    Output shape: (B, T, D). The padding mask passes through.

    Weights are `router` (D, E), `router_bias` (E,), `experts_inner/kernel` (E, D, F) or, gated, (E, D, 2 F), and
    `experts_outer/kernel` (E, F, D). Those of experts are not quantized by `quantize`, which warns of it, and take no
    LoRA.

    Raises:
        ValueError: If `top_k` is larger than `num_experts`, a number is not positive, or as `FeedForward` does.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.MixtureOfExperts(8, 32, top_k=2, activation="silu", gated=True)
    >>> tuple(layer(np.ones((2, 3, 8))).shape)
    (2, 3, 8)
    """

    def __init__(
        self,
        num_experts: int,
        intermediate_dim: int,
        *,
        top_k: int = 2,
        dropout: float = 0.0,
        use_bias: bool = True,
        router_bias: bool = False,
        normalize: bool = True,
        balance_loss: float = 0.01,
        z_loss: float = 0.001,
        capacity_factor: float | None = None,
        **kwargs: Unpack[GatingOptions],
    ):
        super().__init__(**kwargs)
        check_positive(self, num_experts=num_experts, intermediate_dim=intermediate_dim, top_k=top_k)
        check_rate(self, dropout=dropout)
        if top_k > num_experts:
            raise ValueError(
                f"{describe(self)} takes a top_k of at most num_experts, as a token takes each expert once, got "
                f"top_k={top_k} and num_experts={num_experts}."
            )
        for name, weight in {"balance_loss": balance_loss, "z_loss": z_loss}.items():
            if not 0 <= weight < math.inf:
                raise ValueError(f"{describe(self)} takes a weight as {name}, or 0 for no such loss, got {weight!r}.")
        if capacity_factor is not None and not 0 < capacity_factor < math.inf:
            raise ValueError(
                f"{describe(self)} takes a positive capacity_factor (1.0: each expert has room for its even share), or "
                f"None where no token may be dropped, got {capacity_factor!r}."
            )
        self.num_experts = num_experts
        self.intermediate_dim = intermediate_dim
        self.top_k = top_k
        self.dropout = dropout
        self.use_bias = use_bias
        self.router_bias = router_bias
        self.normalize = normalize
        self.balance_loss = balance_loss
        self.z_loss = z_loss
        self.capacity_factor = capacity_factor
        self.supports_masking = True

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        width, inner = inputs_shape[-1], self.intermediate_dim
        options = self.weight_options
        self.router = self.add_weight(
            name="router",
            shape=(width, self.num_experts),
            initializer=options["kernel_initializer"],
            regularizer=options["kernel_regularizer"],
            autocast=False,
        )
        self.router_offset = None
        if self.router_bias:
            self.router_offset = self.add_weight(
                name="router_bias",
                shape=(self.num_experts,),
                initializer=options["bias_initializer"],
                regularizer=options["bias_regularizer"],
                autocast=False,
            )
        self.inner = self._experts("experts_inner", width, self.inner_width(inner))
        self.dropout_layer = self.make(Dropout, "dropout", rate=self.dropout)
        self.outer = self._experts("experts_outer", inner, width)

    def _experts(self, name: str, width: int, units: int) -> "ExpertProjection":
        options = {"num_experts": self.num_experts, "units": units, "use_bias": self.use_bias, **self.weight_options}
        layer = self.make(ExpertProjection, name, **options)
        layer.build((None, width))
        return layer

    def call(self, inputs, mask=None, training=None):
        check_sequence(self, "inputs", inputs.shape)
        inputs = floats(self, inputs)
        if is_trial():
            return ops.zeros_like(inputs)
        real = token_mask(self, inputs, "mask", mask)
        real = None if real is None else ops.reshape(real, (-1,))
        tokens = ops.reshape(inputs, (-1, inputs.shape[-1]))  # (N, D)
        logits = ops.matmul(ops.cast(tokens, "float32"), ops.cast(self.router, "float32"))  # (N, E)
        if self.router_offset is not None:
            logits = logits + ops.cast(self.router_offset, "float32")
        largest, chosen = ops.top_k(logits, self.top_k)
        normalizer = ops.logsumexp(largest if self.normalize else logits, axis=-1, keepdims=True)
        weights = ops.cast(ops.exp(largest - normalizer), inputs.dtype)  # (N, k)

        capacity_factor = self.capacity_factor if training else None
        slots = dispatch(chosen, self.num_experts, real=real, capacity_factor=capacity_factor)
        hidden = self.activate(self.inner(slots.spread(tokens), slots=slots), training)
        outputs = self.outer(self.dropout_layer(hidden, training=training), slots=slots)
        if training:
            self._add_losses(logits, slots.sizes, real)
        return ops.reshape(slots.collect(outputs, weights), ops.shape(inputs))

    def _add_losses(self, logits, sizes, real) -> None:
        """Add the losses of router logits (N, E), of which `sizes` (E,) tells how often each expert was chosen."""
        real = ops.ones_like(logits[:, 0]) if real is None else ops.cast(real, "float32")
        count = ops.maximum(ops.sum(real), 1.0)
        real = ops.expand_dims(real, 1)
        if self.balance_loss:
            shares = ops.cast(sizes, "float32") / (count * self.top_k)
            probabilities = ops.sum(ops.softmax(logits, axis=-1) * real, axis=0) / count
            self.add_loss(self.balance_loss * self.num_experts * ops.sum(shares * probabilities))
        if self.z_loss:
            squares = ops.square(ops.logsumexp(logits, axis=-1, keepdims=True))
            self.add_loss(self.z_loss * ops.sum(squares * real) / count)

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "intermediate_dim": self.intermediate_dim,
            "top_k": self.top_k,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "router_bias": self.router_bias,
            "normalize": self.normalize,
            "balance_loss": self.balance_loss,
            "z_loss": self.z_loss,
            "capacity_factor": self.capacity_factor,
        }


@keras.saving.register_keras_serializable("keras_transformer")
class ExpertProjection(Projecting):
    """y = x W_e + b_e, each row with the matrix of its expert.

    Args:
        num_experts: E.
        units: Width F of the output.
        use_bias: Whether there are biases.
        kwargs: As of `MixtureOfExperts`.

    Call arguments:
        rows: (slots, D). slots: What `ops.experts.dispatch` returned.

    Output shape: (slots, F).
    """

    def __init__(self, num_experts: int, units: int, *, use_bias: bool = True, **kwargs: Unpack[WeightOptions]):
        super().__init__(**kwargs)
        self.num_experts = num_experts
        self.units = units
        self.use_bias = use_bias

    def build(self, rows_shape):
        if isinstance(self.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy):
            self._say_what_stays()
        self.kernel = self._stacked("kernel", (rows_shape[-1], self.units))
        self.bias = self._stacked("bias", (self.units,)) if self.use_bias else None

    def _stacked(self, name: str, shape: tuple[int, ...]):
        """A weight (E, ...) whose initializer, regularizer and constraint see that of each expert by itself."""
        initializer, regularizer, constraint = (
            getattr(self, f"{name}_{kind}") for kind in ("initializer", "regularizer", "constraint")
        )
        return self.add_weight(
            name=name,
            shape=(self.num_experts, *shape),
            initializer=lambda shape, dtype=None: ops.stack(
                [one(shape[1:], dtype=dtype) for one in _copies(initializer, shape[0])]
            ),
            regularizer=regularizer and (lambda x: sum(map(regularizer, _unstacked(x)))),
            constraint=constraint and (lambda x: ops.stack(list(map(constraint, _unstacked(x))))),
        )

    def call(self, rows, slots):
        bias = None if self.bias is None else ops.convert_to_tensor(self.bias)
        return slots.product(rows, ops.convert_to_tensor(self.kernel), bias)  # a variable is cast here

    def quantize(self, mode=None, type_check=True, **options):
        self._say_what_stays()

    def _say_what_stays(self) -> None:
        warnings.warn(
            f"The matrices of the experts '{self.path}' stay in float: Keras' quantization takes one matrix a layer.",
            stacklevel=3,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "units": self.units,
            "use_bias": self.use_bias,
        }


def _unstacked(x) -> list:
    """The matrices of a weight."""
    return ops.unstack(ops.convert_to_tensor(x))


def _copies(initializer, count: int) -> list:
    """As many initializers, each of which draws something else: one with a number as seed draws the same each time."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return [initializer] * count
    config = initializer.get_config()
    if not isinstance(config.get("seed"), int):
        return [initializer.clone() for _ in range(count)]
    return [initializer.from_config({**config, "seed": config["seed"] + i}) for i in range(count)]
