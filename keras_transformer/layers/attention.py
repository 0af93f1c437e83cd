"""Multi-head attention, to the own sequence and to a memory. The formula is in `ops.attention`; here are the weights.

             multi-head        grouped-query      multi-query
queries      q q q q           q q q q            q q q q
             | | | |           \\ / \\ /            \\ \\ / /
keys         k k k k            k   k               k
             num_kv_heads = H   = 2                 = 1
"""

from functools import partial
from typing import TypedDict, Unpack

import keras
from keras import ops

from keras_transformer.context import decoding, is_recording, record
from keras_transformer.layers.checks import (
    check_mask,
    check_positive,
    check_rate,
    check_seed,
    check_sequence,
    check_tokens,
    describe,
)
from keras_transformer.layers.normalization import RMSNormalization
from keras_transformer.layers.packed import check_segments
from keras_transformer.layers.position import (
    AttentionPosition,
    current_positions,
    deserialize_position,
    serialize_position,
)
from keras_transformer.layers.projection import Projecting, Projection, WeightOptions
from keras_transformer.layers.sequence import SequenceLayer
from keras_transformer.ops.kernels import PositionBias, attend
from keras_transformer.ops.masks import boolean, checked
from keras_transformer.ops.visibility import Visibility


class AttentionOptions(TypedDict, total=False):
    """The options of attention that encoder and decoder layers hand on to it under the same names."""

    num_kv_heads: int | None
    head_dim: int | None
    qk_norm: bool
    soft_cap: float | None
    position: AttentionPosition | None
    window: int | None


class _MultiHeadAttention(SequenceLayer, Projecting):
    """What self- and cross-attention share: head sizes, the output projection, and the attention itself."""

    _attends_to_memory = False

    def __init__(
        self,
        num_heads: int,
        head_dim: int | None = None,
        *,
        num_kv_heads: int | None = None,
        qk_norm: bool = False,
        soft_cap: float | None = None,
        dropout: float = 0.0,
        use_bias: bool = True,
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
        if soft_cap is not None and soft_cap <= 0:
            raise ValueError(f"{describe(self)} takes a positive soft_cap, or None, got {soft_cap!r}.")
        check_rate(self, dropout=dropout)
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_kv_heads = num_kv_heads
        self.qk_norm = qk_norm
        self.soft_cap = soft_cap
        self.dropout = dropout
        self.use_bias = use_bias
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
            for name in ("query_norm", "key_norm"):
                norm = self.make(RMSNormalization, name, epsilon=1e-6)
                norm.build((None, None, None, head_dim))
                setattr(self, name, norm)
        self.output_projection = self._project(width, "output", self.num_heads * head_dim)
        self._width = width
        return head_dim

    def _project(self, units: int, name: str, width: int) -> Projection:
        return self.project(units, name, width, use_bias=self.use_bias)

    def _heads(self, projected, *counts: int):
        """Split (B, T, sum(counts) * K) into one heads-first tensor (B, count, T, K) for each of `counts`."""
        total = sum(counts)
        shape = (-1, ops.shape(projected)[1], total, projected.shape[-1] // total)
        heads = ops.swapaxes(ops.reshape(projected, shape), 1, 2)  # (B, total, T, K)
        if len(counts) == 1:
            return heads
        starts = [sum(counts[:i]) for i in range(1, len(counts))]
        return ops.split(heads, starts, axis=1)

    def _attend(self, query, key, value, seen: Visibility, bias, training, return_scores: bool):
        """Attention over heads, and the projection of their concatenation to the model width."""
        check_seed(self, training and self.dropout)
        output, weights = attend(
            query,
            key,
            value,
            seen,
            bias=bias,
            soft_cap=self.soft_cap,
            dropout=self.dropout if training else 0.0,
            seed=self.seed_generator,
            return_scores=return_scores or is_recording(),
        )
        record(self, weights, to_memory=self._attends_to_memory)
        output = ops.swapaxes(output, 1, 2)
        output = ops.reshape(output, (-1, ops.shape(output)[1], self.num_heads * value.shape[-1]))  # (B, T, H K)
        return self.output_projection(output), weights

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "num_kv_heads": self.num_kv_heads,
            "qk_norm": self.qk_norm,
            "soft_cap": self.soft_cap,
            "dropout": self.dropout,
            "use_bias": self.use_bias,
        }


@keras.saving.register_keras_serializable("keras_transformer")
class MultiHeadSelfAttention(_MultiHeadAttention):
    """Every position attends to every position of its own sequence.

    MultiHead(X) = Concat(head_1, ..., head_H) W_O, head_h = Attention(X W_Q,h, X W_K,h, X W_V,h)
    ("Attention Is All You Need", section 3.2.2). [W_Q, W_K, W_V] is one matrix: one product in place of three.

    Args:
        num_heads: Number of heads H.
        head_dim: Width K of a head. Default: D / H.
        causal: Whether a position attends to itself and earlier ones only (the look-ahead mask of a decoder).
        num_kv_heads: Number G of key/value heads, each shared by H / G query heads (grouped-query attention,
            https://arxiv.org/abs/2305.13245). Default: H. 1 is multi-query attention.
        position: `RotaryPosition()`, `AlibiPosition()`, `RelativePosition()` or None.
        window: How many positions a query sees, its own included, to each side that `causal` leaves open.
        qk_norm: Whether to normalize queries and keys by their root mean square (https://arxiv.org/abs/2010.04245).
        soft_cap: Bound on the scores, see `kt.ops.dot_product_attention`.
        dropout: Rate at which attention weights are dropped.
        use_bias: Whether the projections have biases.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint: Of the projections, as in `keras.layers.Dense`.

    Call arguments:
        inputs: (B, T, D), float.
        mask: (B, T), bool, the padding mask; Keras fills it in. As everywhere, 0 and 1 of any type are taken, too.
        segment_ids: (B, T), int. Of packed sequences; each attends within itself.
        attention_mask: (T, T), (B, T, T) or (B, 1 or H, T, T), bool. A further restriction.
        return_attention_scores: Whether to return the attention weights (B, H, T, T), too.

    Output shape: (B, T, D). The padding mask passes through.

    Raises:
        ValueError: If D is not divisible by H and no `head_dim` is given, `num_kv_heads` does not divide H, `window`
            is not positive, a mask has the wrong shape or holds other values than 0 and 1, as additive masks do (within
            compiled functions such a mask gives NaN), or a layer that is not causal takes part in decoding.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.MultiHeadSelfAttention(4, causal=True, num_kv_heads=2, position=kt.RotaryPosition())
    >>> output, scores = layer(np.ones((2, 3, 8)), return_attention_scores=True)
    >>> tuple(output.shape), tuple(scores.shape)
    ((2, 3, 8), (2, 4, 3, 3))
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int | None = None,
        *,
        causal: bool = False,
        position: AttentionPosition | None = None,
        window: int | None = None,
        **kwargs,
    ):
        super().__init__(num_heads, head_dim, **kwargs)
        if window is not None:
            check_positive(self, window=window)
        self.position = deserialize_position(position)
        if self.position is not None and not isinstance(self.position, AttentionPosition):
            raise ValueError(
                f"{describe(self)} takes RotaryPosition(), AlibiPosition(), RelativePosition() or None as position, "
                f"got {position!r}."
            )
        if self.position is not None:
            self.adopt("position", self.position)
        self.causal = causal
        self.window = window

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        width = inputs_shape[-1]
        head_dim = self._build_shared(width)
        self.query_key_value = self._project(
            (self.num_heads + 2 * self.num_kv_heads) * head_dim, "query_key_value", width
        )
        if self.position is not None:
            heads_shape = (None, None, self.num_heads, head_dim)
            if not self.position.built:
                self.position.build(heads_shape)
            elif self.position.get_build_config()["input_shape"] not in (heads_shape, list(heads_shape)):
                raise ValueError(
                    f"{describe(self)} has {self.num_heads} heads of width {head_dim}, but its position "
                    f"{describe(self.position)} is shared with a layer of another shape. Give it one of its own."
                )

    def call(
        self,
        inputs,
        mask=None,
        inputs_mask=None,
        segment_ids=None,
        attention_mask=None,
        return_attention_scores: bool = False,
        training=None,
    ):
        check_sequence(self, "inputs", inputs.shape, self._width)
        if attention_mask is not None:
            check_mask(self, attention_mask, self.num_heads, inputs.shape, inputs.shape)
        if segment_ids is None:
            check_segments(self)
        check_tokens(self, inputs.shape, segment_ids=segment_ids)
        mask = inputs_mask if mask is None else mask
        inputs = checked(inputs, mask, attention_mask)
        padding = self.token_mask(inputs, "mask", mask)
        attention_mask = boolean(describe(self), attention_mask, "attention_mask")
        query, key, value = self._heads(
            self.query_key_value(inputs), self.num_heads, self.num_kv_heads, self.num_kv_heads
        )
        positions = current_positions(self, inputs)
        if self.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.position is not None:
            query, key = self.position.rotate(query, positions), self.position.rotate(key, positions)

        context, query_positions, key_positions = decoding(), None, None
        if context is not None:
            self._check_decodable(segment_ids, attention_mask)
            key, value, key_positions, attention_mask = context.extend(self, key, value, self.window)
            query_positions = positions
            padding = None  # what a row has not reached yet lies after all its positions

        seen = Visibility(
            causal=self.causal,
            window=self.window,
            key_mask=padding,
            query_segments=segment_ids,
            key_segments=segment_ids,
            mask=attention_mask,
            query_positions=query_positions,
            key_positions=key_positions,
        )
        bias = None
        if self.position is not None and type(self.position).bias is not AttentionPosition.bias:
            bias = PositionBias(partial(self.position.bias, causal=self.causal), self.position.of_distance)
        output, scores = self._attend(query, key, value, seen, bias, training, return_attention_scores)
        return (output, scores) if return_attention_scores else output

    def _check_decodable(self, segment_ids, attention_mask) -> None:
        if not self.causal:
            raise ValueError(
                f"{describe(self)} attends to later positions, so the tokens before them cannot be generated one by "
                "one. Make it causal=True (in a DecoderLayer it is), or move it to the source side of the model."
            )
        if segment_ids is not None or attention_mask is not None:
            raise ValueError(
                f"{describe(self)} was given segment_ids or an attention_mask, which the key/value cache does not "
                "keep. Build the model for generation without them, or use Generator(..., cache=False)."
            )

    def get_config(self):
        return {
            **super().get_config(),
            "causal": self.causal,
            "position": serialize_position(self.position),
            "window": self.window,
        }


@keras.saving.register_keras_serializable("keras_transformer")
class MultiHeadCrossAttention(_MultiHeadAttention):
    """Every position attends to every position of another sequence, the memory.

    MultiHead(X, M) = Concat(head_1, ..., head_H) W_O, head_h = Attention(X W_Q,h, M W_K,h, M W_V,h)
    ("Attention Is All You Need", section 3.2.3). [W_K, W_V] is one matrix.

    Args:
        num_heads, head_dim, num_kv_heads, qk_norm, soft_cap, dropout, use_bias, kernel_initializer, ...: As in
            `MultiHeadSelfAttention`.

    Call arguments:
        inputs: (B, T, D), float. The queries.
        memory: (B, S, M), float. The keys and values, of a width of its own.
        mask, memory_mask: (B, T) and (B, S), bool, the padding masks; Keras fills them in.
        segment_ids, memory_segment_ids: (B, T) and (B, S), int. Of packed sequences.
        attention_mask: (T, S), (B, T, S) or (B, 1 or H, T, S), bool. A further restriction.
        return_attention_scores: Whether to return the attention weights (B, H, T, S), too.

    Output shape: (B, T, D). The padding mask of `inputs` passes through.

    Raises:
        ValueError: As in `MultiHeadSelfAttention`, or if the memory has not the width that the layer was built with.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.MultiHeadCrossAttention(2)
    >>> tuple(layer(np.ones((2, 3, 8)), np.ones((2, 5, 6))).shape)
    (2, 3, 8)
    """

    _attends_to_memory = True

    def build(self, inputs_shape, memory_shape):
        check_sequence(self, "inputs", inputs_shape)
        check_sequence(self, "memory", memory_shape)
        head_dim = self._build_shared(inputs_shape[-1])
        self._memory_width = memory_shape[-1]
        self.query = self._project(self.num_heads * head_dim, "query", inputs_shape[-1])
        self.key_value = self._project(2 * self.num_kv_heads * head_dim, "key_value", memory_shape[-1])

    def call(
        self,
        inputs,
        memory,
        mask=None,
        inputs_mask=None,
        memory_mask=None,
        segment_ids=None,
        memory_segment_ids=None,
        attention_mask=None,
        return_attention_scores: bool = False,
        training=None,
    ):
        check_sequence(self, "inputs", inputs.shape, self._width)
        check_sequence(self, "memory", memory.shape, self._memory_width)
        if attention_mask is not None:
            check_mask(self, attention_mask, self.num_heads, inputs.shape, memory.shape)
        check_tokens(self, inputs.shape, segment_ids=segment_ids)
        inputs = checked(inputs, memory_mask, attention_mask)
        memory_mask = self.token_mask(memory, "memory_mask", memory_mask)
        attention_mask = boolean(describe(self), attention_mask, "attention_mask")
        check_tokens(self, memory.shape, memory_segment_ids=memory_segment_ids)
        if (segment_ids is None) != (memory_segment_ids is None):
            given = "memory_segment_ids" if segment_ids is None else "segment_ids"
            raise ValueError(
                f"{describe(self)} takes both segment_ids and memory_segment_ids or neither, got {given} only."
            )
        query = self._heads(self.query(inputs), self.num_heads)
        if self.qk_norm:
            query = self.query_norm(query)
        context = decoding()
        key, value = self._project_memory(memory) if context is None else context.keep(
            self, lambda: self._project_memory(memory)
        )  # fmt: skip
        seen = Visibility(
            key_mask=memory_mask,
            query_segments=segment_ids,
            key_segments=memory_segment_ids,
            mask=attention_mask,
        )
        output, scores = self._attend(query, key, value, seen, None, training, return_attention_scores)
        return (output, scores) if return_attention_scores else output

    def _project_memory(self, memory):
        key, value = self._heads(self.key_value(memory), self.num_kv_heads, self.num_kv_heads)
        return (self.key_norm(key) if self.qk_norm else key), value
