"""The decoder layer: causal self-attention, cross-attention where there is a memory, and a feed-forward network."""

import keras

from keras_transformer.layers.block import TransformerBlock
from keras_transformer.layers.checks import describe
from keras_transformer.layers.cross_attention import MultiHeadCrossAttention

NOT_FOR_MEMORY = ("position", "window", "sinks")


@keras.saving.register_keras_serializable("keras_transformer")
class DecoderLayer(TransformerBlock):
    """One layer of a Transformer decoder ("Attention Is All You Need", section 3.1).

    x = Norm(x + Dropout(CausalSelfAttention(x))); x = Norm(x + Dropout(CrossAttention(x, memory)));
    x = Norm(x + Dropout(FeedForward(x))). Called without a memory, it has no cross-attention: the block of a
    decoder-only (GPT) model. With `normalize_first`, each sub-layer reads Norm(x) instead, and the stack wants a last
    normalization behind it. `norm_placement` and `parallel_norms` of `EncoderLayer` have other places for it; with a
    memory, sub-layers are not parallel.

    Args:
        num_heads, intermediate_dim, ...: As in `EncoderLayer`. `position`, `window` and `sinks` are the
            self-attention's.

    Call arguments:
        inputs: (B, T, D), float.
        memory: (B, S, M), float. What the encoder made of the source.
        mask, memory_mask: (B, T) and (B, S), bool, the padding masks; Keras fills them in.
        segment_ids, memory_segment_ids: (B, T) and (B, S), int. Of packed sequences.
        attention_mask, memory_attention_mask: A further restriction on the self- and on the cross-attention.
        return_attention_scores: Whether to return the attention weights, too: the output, the weights
            (B, H, T, T) of the self-attention and, with a memory, those (B, H, T, S) of the cross-attention.

    Output shape: (B, T, D). The padding mask of `inputs` passes through.

    Raises:
        ValueError: As `EncoderLayer` does, and if it is called with a memory after it was built without one, or the
            other way round, or with a memory and `parallel_norms`.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.DecoderLayer(num_heads=2, intermediate_dim=32)
    >>> tuple(layer(np.ones((2, 3, 8)), np.ones((2, 5, 8))).shape)
    (2, 3, 8)
    """

    causal = True

    def __init__(self, num_heads: int, intermediate_dim: int | None = None, **kwargs):
        super().__init__(num_heads, intermediate_dim, **kwargs)
        self.cross_attention = None  # until it is built with a memory. On PyTorch, a class attribute would hide it then

    def build(self, inputs_shape, memory_shape=None):
        super().build(inputs_shape)
        if memory_shape is not None:
            if self.parallel_norms is not None:
                raise ValueError(
                    f"{describe(self)} adds self-attention and feed-forward network of the same x, which leaves "
                    f"cross-attention no place, got parallel_norms={self.parallel_norms} and a memory. Call it without "
                    "a memory, or leave parallel_norms out."
                )
            options = {name: value for name, value in self.attention_options.items() if name not in NOT_FOR_MEMORY}
            self.cross_attention = self._attention(MultiHeadCrossAttention, "cross_attention", **options)
            self.cross_attention.build(inputs_shape, memory_shape)
            self._build_residual("cross_attention", inputs_shape)

    def call(
        self,
        inputs,
        memory=None,
        mask=None,
        inputs_mask=None,
        memory_mask=None,
        segment_ids=None,
        memory_segment_ids=None,
        attention_mask=None,
        memory_attention_mask=None,
        return_attention_scores: bool = False,
        training=None,
    ):
        if (memory is None) != (self.cross_attention is None):
            built, called = ("without", "with") if self.cross_attention is None else ("with", "without")
            raise ValueError(f"{describe(self)} was built {built} a memory and is called {called} one.")

        mask = inputs_mask if mask is None else mask

        def attend(x):
            return self.self_attention(
                x,
                mask=mask,
                segment_ids=segment_ids,
                attention_mask=attention_mask,
                return_attention_scores=return_attention_scores,
                training=training,
            )

        def attend_to_memory(x):
            return self.cross_attention(
                x,
                memory,
                memory_mask=memory_mask,
                segment_ids=segment_ids,
                memory_segment_ids=memory_segment_ids,
                attention_mask=memory_attention_mask,
                return_attention_scores=return_attention_scores,
                training=training,
            )

        def transform(x):
            return self._transform(x, mask, training)

        sublayers = {"self_attention": attend, "cross_attention": attend_to_memory, "feed_forward": transform}
        if memory is None:
            del sublayers["cross_attention"]
        x, *scores, _ = self._run(inputs, sublayers, training)
        return (x, *scores) if return_attention_scores else x
