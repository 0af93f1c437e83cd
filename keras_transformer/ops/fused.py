"""The device's own attention: cuDNN's on a GPU and the splash kernel on a TPU under JAX, PyTorch's everywhere.

They hold no scores and leave out what causality and a window hide. Each is told as much of what may be seen as it takes
as a description; the rest becomes a mask or a bias.
"""

import keras
from keras import ops

from keras_transformer.ops.visibility import Visibility

TILE = 128  # the least that the splash kernel cuts lengths and widths into


def fused_device() -> str | None:
    """ "cudnn", "splash" or "torch", whichever runs here; None where there is nothing of the kind."""
    backend = keras.backend.backend()
    if backend == "torch":
        return "torch"
    if backend == "jax":
        import jax

        return {"gpu": "cudnn", "tpu": "splash"}.get(jax.default_backend())
    return None


def on_accelerator() -> bool:
    """Whether there is a GPU or TPU."""
    if keras.backend.backend() == "torch":
        import torch

        return torch.cuda.is_available()
    return not keras.distribution.list_devices()[0].lower().startswith("cpu")


def why_not_fused(
    device: str | None, query, key, value, seen: Visibility, bias, sinks, soft_cap, dropout
) -> str | None:
    """What hinders the device's kernel, or None."""
    width, keys = query.shape[3], key.shape[2]
    if device is None:
        return f"there is none for {keras.backend.backend()} on this device"
    if dropout:
        return "it drops no attention weights as ours are dropped"
    if sinks is not None:
        return "it has no sinks"
    if soft_cap is not None and device != "splash":
        return "it has no soft cap"
    if width != value.shape[3]:
        return f"its values are as wide as its keys, got {value.shape[3]} and {width}"
    if device == "cudnn":
        dtype = keras.backend.standardize_dtype(query.dtype)
        if dtype not in ("float16", "bfloat16"):
            return f"it takes float16 and bfloat16, got {dtype}"
        if width % 8 or width > 128:
            return f"it takes heads of a width that 8 divides, up to 128, got {width}"
        if seen.window is not None and not seen.causal:
            return "its window looks back only"
    if device == "splash":
        if bias is not None or seen.mask is not None:
            return "it takes no bias and no mask of one's own"
        if query.shape[2] % TILE or keys % TILE:
            return f"it takes lengths that {TILE} divides, got {query.shape[2]} and {keys}"
    return None


def fused_attention(
    device: str, query, key, value, seen: Visibility, *, bias=None, scale=None, soft_cap=None, **options
):
    """softmax(Q K^T scale + bias) V on heads-first tensors, by the kernel of `device`; a row that sees nothing is zero.

    Args:
        query: (B, H, T, K). key, value: (B, G, S, K).
        bias: (B or 1, H or 1, T or 1, S or 1), or None.
        options: Handed to the kernel: `implementation` of "cudnn", `interpret` of "splash", by which tests run them on
            a CPU.
    """
    scale = query.shape[3] ** -0.5 if scale is None else scale
    if device == "torch":
        return _torch(query, key, value, seen, bias, scale)
    if device == "cudnn":
        return _cudnn(query, key, value, seen, bias, scale, **options)
    return _splash(query, key, value, seen, scale, soft_cap, **options)


def _torch(query, key, value, seen: Visibility, bias, scale):
    import torch

    length, keys = query.shape[2], key.shape[2]
    only_causal = seen.causal and seen.window is None and not seen.has_masks and bias is None and length == keys
    mask = None if only_causal else seen.dense(length, keys)
    nothing = None
    if mask is not None:  # a row that sees nothing sees all, and is zero in the end: its gradient would be NaN
        nothing = ~mask.any(-1, keepdim=True)
        mask = mask | nothing
    if bias is not None:
        bias = bias.to(query.dtype)
        mask = bias if mask is None else torch.where(mask, bias, -torch.inf)
    if mask is not None:
        mask = mask.expand(query.shape[0], query.shape[1], length, keys)
    output = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value.to(query.dtype),
        attn_mask=mask,
        is_causal=only_causal,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    if mask is None:  # its kernel for that gives zeros for a NaN in rows that are shorter than the processor's vectors
        output = torch.where(_sees_nan(query, key, seen.causal), torch.nan, output)
    return (output if nothing is None else torch.where(nothing, 0.0, output)).to(value.dtype)


def _sees_nan(query, key, causal: bool):
    """Which queries are NaN or see a key that is, (B, H, T, 1)."""
    of_keys = key.isnan().any(-1)
    of_keys = of_keys.cumsum(-1) > 0 if causal else of_keys.any(-1, keepdim=True)
    of_keys = of_keys.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    return (query.isnan().any(-1) | of_keys).unsqueeze(-1)


def _cudnn(query, key, value, seen: Visibility, bias, scale, implementation="cudnn"):
    import jax
    import jax.numpy as jnp

    batch, _, length, _ = query.shape
    keys = key.shape[2]
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    window = None if seen.window is None else (seen.window - 1, 0)
    rest = Visibility(query_segments=seen.query_segments, key_segments=seen.key_segments, mask=seen.mask)
    mask = rest.dense(length, keys)

    def attend(mask, lengths):
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            None if bias is None else bias.astype(query.dtype),
            mask,
            scale=scale,
            is_causal=seen.causal,
            local_window_size=window,
            query_seq_lengths=None if lengths is None else jnp.full((batch,), length, "int32"),
            key_value_seq_lengths=lengths,
            implementation=implementation,
        )

    real = seen.key_mask
    if real is None:
        output = attend(mask, None)
    else:
        lengths = jnp.sum(real, axis=1, dtype="int32")
        on_the_right = jnp.all(real == (jnp.arange(keys) < lengths[:, None]))  # then lengths say it all
        together = real[:, None, None] if mask is None else mask & real[:, None, None]
        output = jax.lax.cond(
            on_the_right,
            lambda: attend(mask, jnp.maximum(lengths, 1)),
            lambda: attend(jnp.broadcast_to(together, (batch, together.shape[1], length, keys)), None),
        )
    output = jnp.swapaxes(output, 1, 2)
    if real is None and mask is None:
        return output
    return jnp.where(_sees_something(seen, length, keys), output, 0)


def _splash(query, key, value, seen: Visibility, scale, soft_cap, interpret=False):
    import jax
    import jax.numpy as jnp
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    batch, heads, length, width = query.shape
    keys = key.shape[2]
    shape = length, keys
    if seen.window is not None:
        mask = masks.LocalMask(shape, (seen.window - 1, 0 if seen.causal else seen.window - 1), offset=0)
    else:
        mask = masks.CausalMask(shape) if seen.causal else masks.FullMask(shape)
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=soft_cap,
        interpret=interpret,
    )
    segments = None
    if seen.key_mask is not None or seen.query_segments is not None:
        of_queries, of_keys = seen.query_segments, seen.key_segments
        if of_queries is None:
            of_queries, of_keys = jnp.zeros((batch, length), "int32"), jnp.zeros((batch, keys), "int32")
        if seen.key_mask is not None:  # a segment that no query is in
            of_keys = jnp.where(seen.key_mask, of_keys, jnp.min(of_queries) - 1)
        segments = kernels.SegmentIds(of_queries.astype("int32"), of_keys.astype("int32"))
    padded = [jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -width % TILE))) for x in (query * scale, key, value)]
    output = jax.vmap(kernel)(*padded, segments)[..., :width].astype(value.dtype)
    return output if segments is None else jnp.where(_sees_something(seen, length, keys), output, 0)


def _sees_something(seen: Visibility, length: int, keys: int):
    """Which queries see a key at all, (B or 1, 1 or H, T or 1, 1)."""
    return ops.any(seen.dense(length, keys), axis=-1, keepdims=True)
