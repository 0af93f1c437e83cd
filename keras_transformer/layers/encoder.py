"""The encoder layer: self-attention and a feed-forward network."""

import keras

from keras_transformer.layers.block import TransformerBlock


@keras.saving.register_keras_serializable("keras_transformer")
class EncoderLayer(TransformerBlock):
    """One layer of a Transformer encoder ("Attention Is All You Need", section 3.1).

    x = Norm(x + Dropout(SelfAttention(x))); x = Norm(x + Dropout(FeedForward(x))), or, with `normalize_first`,
    x = x + Dropout(SelfAttention(Norm(x))); x = x + Dropout(FeedForward(Norm(x))), which wants a last normalization
    behind the stack (https://arxiv.org/abs/2002.04745).

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
        norm: "layer" or "rms".
        norm_epsilon: Added to the variance.
        use_bias: Whether the projections have biases.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint: Of the projections, as in `keras.layers.Dense`.
        num_kv_heads, head_dim, qk_norm, soft_cap, position, window: As in `MultiHeadSelfAttention`.

    Call arguments: As of `MultiHeadSelfAttention`; with `return_attention_scores=True` the layer returns its output
    and the weights (B, H, T, T).

    Input and output shape: (B, T, D), float. The padding mask passes through.

    Raises:
        ValueError: As its parts do, and on an unknown norm.

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

        x, scores = self._residual("self_attention", inputs, attend, training)
        x, _ = self._residual("feed_forward", x, transform, training)
        return (x, scores) if return_attention_scores else x
