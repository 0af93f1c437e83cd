"""What self- and cross-attention share: heads, their projections and norms, and the call of `ops.attend`."""

from typing import TypedDict, Unpack

import keras
from keras import ops

from keras_transformer.context import is_recording, record
from keras_transformer.layers.checks import (
    check_above_zero,
    check_choice,
    check_positive,
    check_rate,
    check_seed,
    describe,
)
from keras_transformer.layers.normalization import RMSNormalization
from keras_transformer.layers.position import AttentionPosition
from keras_transformer.layers.projection import Projecting, Projection, WeightOptions
from keras_transformer.layers.prototype import Prototype
from keras_transformer.layers.sequence import SequenceLayer
from keras_transformer.ops.kernels import attend
from keras_transformer.ops.visibility import Visibility


class AttentionOptions(TypedDict, total=False):
    """The options of attention that encoder and decoder layers hand on to it under the same names."""

    num_kv_heads: int | None
    head_dim: int | None
    qk_norm: bool | keras.layers.Layer
    qk_norm_over: str
    qkv_bias: bool | None
    scale: float | None
    sinks: bool
    soft_cap: float | None
    position: AttentionPosition | None
    window: int | None


class MultiHeadAttention(SequenceLayer, Projecting):
    """What self- and cross-attention share: head sizes, the output projection, and the attention itself."""

    _attends_to_memory = False

    def __init__(
        self,
        num_heads: int,
        head_dim: int | None = None,
        *,
        num_kv_heads: int | None = None,
        qk_norm: bool | keras.layers.Layer = False,
        qk_norm_over: str = "head",
        scale: float | None = None,
        soft_cap: float | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
        qkv_bias: bool | None = None,
        **kwargs: Unpack[WeightOptions],
    ):
        super().__init__(**kwargs)
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        check_positive(self, num_heads=num_heads, num_kv_heads=num_kv_heads)
        if head_dim is not None:
            check_positive(self, head_dim=head_dim)
        if num_heads % num_kv_heads:
            raise ValueError(
                f"{describe(self)} takes a num_kv_heads that divides num_heads, "
                f"got num_heads={num_heads}, num_kv_heads={num_kv_heads}."
            )
        given = {"scale": scale, "soft_cap": soft_cap}
        check_above_zero(self, **{name: value for name, value in given.items() if value is not None})
        check_choice(self, "qk_norm_over", qk_norm_over, ("head", "heads"))
        qk_norm = Prototype.of(qk_norm)
        if not isinstance(qk_norm, bool | Prototype):
            raise ValueError(
                f"{describe(self)} takes True, False or a layer such as RMSNormalization(epsilon=1e-5) as qk_norm, got "
                f"{qk_norm!r}."
            )
        check_rate(self, dropout=dropout)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_kv_heads = num_kv_heads
        self.qk_norm = qk_norm
        self.qk_norm_over = qk_norm_over
        self.scale = scale
        self.soft_cap = soft_cap
        self.dropout = dropout
        self.use_bias = use_bias
        self.qkv_bias = qkv_bias
        self.seed_generator = keras.random.SeedGenerator() if dropout else None

    def _build_shared(self, width: int) -> int:
        """Build what both kinds have, and return the head width K."""
        if self.head_dim is None and width % self.num_heads:
            raise ValueError(
                f"{describe(self)} divides the input width among its heads, got width {width} and "
                f"num_heads={self.num_heads}. Take a num_heads that divides the width, or set head_dim."
            )
        head_dim = self.head_dim or width // self.num_heads
        if self.qk_norm:
            for name, count in (("query_norm", self.num_heads), ("key_norm", self.num_kv_heads)):
                if isinstance(self.qk_norm, Prototype):
                    norm = self.make_like(self.qk_norm, name)
                else:
                    norm = self.make(RMSNormalization, name, epsilon=1e-6)
                norm.build(
                    (None, None, None, head_dim) if self.qk_norm_over == "head" else (None, None, count * head_dim)
                )
                setattr(self, name, norm)
        self.output_projection = self.project(width, "output", self.num_heads * head_dim, use_bias=self.use_bias)
        self._width, self._head_dim = width, head_dim
        return head_dim

    def _project_heads(self, count: int, head_dim: int, name: str, width: int) -> Projection:
        """A projection of inputs of that width to so many heads of queries, keys or values."""
        use_bias = self.use_bias if self.qkv_bias is None else self.qkv_bias
        return self.project(count * head_dim, name, width, use_bias=use_bias)

    def _heads(self, projected, *counts: int):
        """Split (B, T, sum(counts) * K) into one heads-first tensor (B, count, T, K) for each of `counts`."""
        total = sum(counts)
        shape = (-1, ops.shape(projected)[1], total, projected.shape[-1] // total)
        heads = ops.swapaxes(ops.reshape(projected, shape), 1, 2)  # (B, total, T, K)
        if len(counts) == 1:
            return heads
        starts = [sum(counts[:i]) for i in range(1, len(counts))]
        return ops.split(heads, starts, axis=1)

    def _joined(self, heads, count: int):
        """The heads (B, n, T, K) of a token side by side, (B, T, n K)."""
        heads = ops.swapaxes(heads, 1, 2)
        return ops.reshape(heads, (-1, ops.shape(heads)[1], count * self._head_dim))

    def _normalize(self, norm, heads):
        """Queries or keys (B, n, T, K) normalized, each head by itself or all heads of a token together."""
        if self.qk_norm_over == "head":
            return norm(heads)
        count = heads.shape[1]
        return self._heads(norm(self._joined(heads, count)), count)

    def _attend(self, query, key, value, seen: Visibility, training, return_scores: bool, *, bias=None, sinks=None):
        """Attention over heads, and the projection of their concatenation to the model width."""
        check_seed(self, training and self.dropout)
        output, weights = attend(
            query,
            key,
            value,
            seen,
            bias=bias,
            sinks=sinks,
            scale=self.scale,
            soft_cap=self.soft_cap,
            dropout=self.dropout if training else 0.0,
            seed=self.seed_generator,
            return_scores=return_scores or is_recording(),
        )
        record(self, weights, to_memory=self._attends_to_memory)
        return self.output_projection(self._joined(output, self.num_heads)), weights

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "num_kv_heads": self.num_kv_heads,
            "qk_norm": Prototype.serialize(self.qk_norm),
            "qk_norm_over": self.qk_norm_over,
            "scale": self.scale,
            "soft_cap": self.soft_cap,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
            "qkv_bias": self.qkv_bias,
        }
