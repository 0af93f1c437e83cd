"""Multi-head attention to the own sequence. The formula is in `ops.attention`; here are the weights.

             multi-head        grouped-query      multi-query
queries      q q q q           q q q q            q q q q
             | | | |           \\ / \\ /            \\ \\ / /
keys         k k k k            k   k               k
             num_kv_heads = H   = 2                 = 1
"""

from functools import partial

import keras
from keras import ops

from keras_transformer.context import decoding
from keras_transformer.layers.checks import check_mask, check_positive, check_sequence, check_tokens, describe, floats
from keras_transformer.layers.heads import MultiHeadAttention
from keras_transformer.layers.packed import check_segments
from keras_transformer.layers.position import AttentionPosition, deserialize_position, serialize_position
from keras_transformer.layers.positional_encoding import current_positions
from keras_transformer.ops.kernels import PositionBias
from keras_transformer.ops.masks import boolean, checked
from keras_transformer.ops.visibility import Visibility


@keras.saving.register_keras_serializable("keras_transformer")
class MultiHeadSelfAttention(MultiHeadAttention):
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
        sinks: Whether each head has a learned score that takes part in the softmax and has no value, so that a head may
            attend to nothing (gpt-oss; https://arxiv.org/abs/2309.17453). It starts at 0.
        qk_norm: Whether to normalize queries and keys by their root mean square (https://arxiv.org/abs/2010.04245); or
            a layer that normalizes over the last axis, of which queries and keys get one each of the same
            configuration, with the dtype of this layer.
        qk_norm_over: "head": each head by itself, with K scales that all heads share; "heads": all heads of a token
            together, with H K scales for queries and G K for keys ("2 OLMo 2 Furious",
            https://arxiv.org/abs/2501.00656).
        scale: Factor on the scores. Default: 1 / sqrt(K).
        soft_cap: Bound on the scores, see `kt.ops.dot_product_attention`.
        dropout: Rate at which attention weights are dropped.
        use_bias: Whether the projections have biases.
        qkv_bias: Whether those of queries, keys and values have. Default: as `use_bias`.
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
        sinks: bool = False,
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
        self.sinks = sinks

    def build(self, inputs_shape):
        check_sequence(self, "inputs", inputs_shape)
        width = inputs_shape[-1]
        head_dim = self._build_shared(width)
        self.query_key_value = self._project_heads(
            self.num_heads + 2 * self.num_kv_heads, head_dim, "query_key_value", width
        )
        self.sink_scores = None
        if self.sinks:  # not rounded to half precision: the softmax is taken in float32
            self.sink_scores = self.add_weight(
                name="sinks", shape=(self.num_heads,), initializer="zeros", autocast=False
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
        inputs = checked(floats(self, inputs), mask, attention_mask)
        padding = self.token_mask(inputs, "mask", mask)
        attention_mask = boolean(describe(self), attention_mask, "attention_mask")
        query, key, value = self._heads(
            self.query_key_value(inputs), self.num_heads, self.num_kv_heads, self.num_kv_heads
        )
        positions = current_positions(self, inputs)
        if self.qk_norm:
            query, key = self._normalize(self.query_norm, query), self._normalize(self.key_norm, key)
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
        sinks = None if self.sink_scores is None else ops.convert_to_tensor(self.sink_scores)
        output, scores = self._attend(
            query, key, value, seen, training, return_attention_scores, bias=bias, sinks=sinks
        )
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
            "sinks": self.sinks,
        }
