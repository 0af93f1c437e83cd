"""Multi-head attention to another sequence, such as what an encoder made of the source."""

import keras

from keras_transformer.context import decoding
from keras_transformer.layers.checks import check_mask, check_sequence, check_tokens, describe, floats
from keras_transformer.layers.heads import MultiHeadAttention
from keras_transformer.ops.masks import boolean, checked
from keras_transformer.ops.visibility import Visibility


@keras.saving.register_keras_serializable("keras_transformer")
class MultiHeadCrossAttention(MultiHeadAttention):
    """Every position attends to every position of another sequence, the memory.

    MultiHead(X, M) = Concat(head_1, ..., head_H) W_O, head_h = Attention(X W_Q,h, M W_K,h, M W_V,h)
    ("Attention Is All You Need", section 3.2.3). [W_K, W_V] is one matrix.

    Args:
        num_heads, head_dim, num_kv_heads, qk_norm, qk_norm_over, scale, soft_cap, dropout, use_bias, qkv_bias,
            kernel_initializer, ...: As in `MultiHeadSelfAttention`.

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
        self.query = self._project_heads(self.num_heads, head_dim, "query", inputs_shape[-1])
        self.key_value = self._project_heads(2 * self.num_kv_heads, head_dim, "key_value", memory_shape[-1])

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
        inputs = checked(floats(self, inputs), memory_mask, attention_mask)
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
            query = self._normalize(self.query_norm, query)
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
        output, scores = self._attend(query, key, value, seen, training, return_attention_scores)
        return (output, scores) if return_attention_scores else output

    def _project_memory(self, memory):
        key, value = self._heads(self.key_value(memory), self.num_kv_heads, self.num_kv_heads)
        return (self._normalize(self.key_norm, key) if self.qk_norm else key), value
