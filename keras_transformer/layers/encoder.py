"""The encoder layer: self-attention and a feed-forward network."""

import keras

from keras_transformer.layers.block import TransformerBlock


@keras.saving.register_keras_serializable("keras_transformer")
class EncoderLayer(TransformerBlock):
    """One layer of a Transformer encoder ("Attention Is All You Need", section 3.1).

    x = Norm(x + Dropout(SelfAttention(x))); x = Norm(x + Dropout(FeedForward(x))), or, with `normalize_first`,
    x = x + Dropout(SelfAttention(Norm(x))); x = x + Dropout(FeedForward(Norm(x))), which wants a last normalization
    behind the stack (https://arxiv.org/abs/2002.04745). `norm_placement` has others, f being a sub-layer:

        "after"   x = Norm(x + Dropout(f(x)))
        "before"  x = x + Dropout(f(Norm(x)))
        "both"    x = x + Dropout(Norm'(f(Norm(x))))    "Gemma 2", https://arxiv.org/abs/2408.00118
        "branch"  x = x + Dropout(Norm(f(x)))           "2 OLMo 2 Furious", https://arxiv.org/abs/2501.00656

    With `parallel_norms` the two sub-layers read the same x and are added together, as in GPT-J, GPT-NeoX and Falcon:
    x = x + Dropout(SelfAttention(Norm(x))) + Dropout(FeedForward(Norm'(x))).

    Args:
        num_heads: Number of attention heads H.
        intermediate_dim: Inner width F of the feed-forward network; None where that is given.
        feed_forward: A layer (B, T, D) to (B, T, D) in place of the `FeedForward` that is made otherwise, such as
            `MixtureOfExperts`. What it computes of the padding mask, it gets; its options and dtype are its own.
        dropout: Rate at which the output of each sub-layer is dropped.
        attention_dropout: Rate at which attention weights are dropped.
        activation: Of the feed-forward network: "relu", "gelu", "silu", ... or a function.
        gated: Whether the feed-forward network is gated (SwiGLU with "silu").
        normalize_first: Whether to normalize what goes into a sub-layer rather than what comes out.
        norm: "layer" or "rms"; or a layer that normalizes over the last axis, such as `RMSNormalization(offset=1.0)` or
            one of your own: each place gets one of the same configuration, with the dtype of this layer.
        norm_placement: "after", "before", "both" or "branch". Default: "before" with `normalize_first`, else "after".
        norm_epsilon: Added to the variance; a layer as `norm` has its own.
        parallel_norms: 2 or 1: the sub-layers are parallel, each with a norm of its own or with one for both. None:
            they follow one another.
        use_bias: Whether the projections have biases.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint: Of the projections, as in `keras.layers.Dense`.
        num_kv_heads, head_dim, position, window, sinks, qk_norm, qk_norm_over, scale, soft_cap, qkv_bias: As in
            `MultiHeadSelfAttention`.

    Call arguments: As of `MultiHeadSelfAttention`; with `return_attention_scores=True` the layer returns its output
    and the weights (B, H, T, T).

    Input and output shape: (B, T, D), float. The padding mask passes through.

    Raises:
        ValueError: As its parts do, on an unknown norm or placement, and on options that contradict each other.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.EncoderLayer(num_heads=2, intermediate_dim=32, dropout=0.1)
    >>> tuple(layer(np.ones((2, 3, 8))).shape)
    (2, 3, 8)
    """

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

        def transform(x):
            return self._transform(x, mask, training)

        x, scores, _ = self._run(inputs, {"self_attention": attend, "feed_forward": transform}, training)
        return (x, scores) if return_attention_scores else x
