"""Gemma 1, 2 and 3 (text): norms that scale by 1 + w, embeddings by sqrt(D); from the second on, norms on both sides of
each sub-layer, windows, and capped scores."""

from dataclasses import replace
from functools import partial

from keras_transformer.layers import RMSNormalization
from keras_transformer.pretrained.activations import ACTIVATIONS, read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.decoder import Decoder
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.llama import BUFFERS, NORMS, SLIDING, biases, layer_types, read_decoder, windows
from keras_transformer.pretrained.rope import read_rotary, rotary

BOTH_NORMS = {
    **NORMS,
    "self_attention_output_norm": "post_attention_layernorm",
    "feed_forward_norm": "pre_feedforward_layernorm",
    "feed_forward_output_norm": "post_feedforward_layernorm",
}


def read_gemma(s: Settings) -> Decoder:
    """Gemma 1."""
    s.only("use_bidirectional_attention", None, False)
    kind = s.get("hidden_activation", s.get("hidden_act", "gelu_pytorch_tanh"))
    if kind == "gelu":  # files of the first release say so, and mean the other
        activation = ACTIVATIONS["gelu_pytorch_tanh"]
    else:
        activation = read_activation(s, "hidden_activation", kind)
    decoder = read_decoder(
        s, num_kv_heads=16, head_dim=256, tied=True, offset=1.0, activation=activation, **biases(s, activation)
    )
    return replace(decoder, scale=True)


def read_gemma2(s: Settings) -> Decoder:
    """Gemma 2: every second layer a window."""
    types = layer_types(s, lambda i: "full_attention" if i % 2 else SLIDING)
    return _read_later(s, types, soft_cap=50.0, logits_soft_cap=30.0)


def read_gemma3(s: Settings) -> Decoder:
    """Gemma 3, the text model: two kinds of positions, and normalized queries and keys."""
    every = s.get("sliding_window_pattern", s.get("_sliding_window_pattern", 6))
    types = layer_types(s, lambda i: SLIDING if (i + 1) % every else "full_attention")
    head_dim = s.get("head_dim", 256)
    parameters = s.get("rope_parameters") or {}
    local = s.get("rope_local_base_freq", 10000.0)
    turned = {"full_attention": read_rotary(s, head_dim, theta=1000000.0, layer_type="full_attention")}
    if SLIDING in parameters:
        turned[SLIDING] = read_rotary(s, head_dim, theta=local, layer_type=SLIDING)
    else:
        turned[SLIDING] = {"max_wavelength": float(local)}
    norm = partial(RMSNormalization, epsilon=s.get("rms_norm_eps", 1e-6), offset=1.0)
    return _read_later(s, types, qk_norm=norm, position=lambda i: rotary(**turned[types[i]]))


def _read_later(s: Settings, types: list[str], soft_cap=None, logits_soft_cap=None, **changes) -> Decoder:
    s.only("use_bidirectional_attention", None, False)
    s.skip("hidden_act")  # that of the first generation, which their code does not use
    activation = read_activation(s, "hidden_activation", "gelu_pytorch_tanh")
    decoder = read_decoder(
        s,
        num_kv_heads=4,
        head_dim=256,
        tied=True,
        offset=1.0,
        activation=activation,
        norms=BOTH_NORMS,
        norm_placement="both",
        scale=s.get("query_pre_attn_scalar", 256) ** -0.5,
        soft_cap=s.optional("attn_logit_softcapping", soft_cap),
        window=windows(types, s.optional("sliding_window", 4096)),
        **biases(s, activation),
        **changes,
    )
    return replace(decoder, scale=True, logits_soft_cap=s.optional("final_logit_softcapping", logits_soft_cap))


FAMILIES = {
    "gemma": Family(read_gemma, "model.", BUFFERS),
    "gemma2": Family(read_gemma2, "model.", BUFFERS),
    "gemma3_text": Family(read_gemma3, "model.", BUFFERS),
}
