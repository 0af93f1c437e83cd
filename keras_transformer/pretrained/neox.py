"""Families whose queries, keys and values are one matrix, head by head: GPT-NeoX (Pythia) and Falcon."""

from functools import partial

from keras_transformer.layers import FeedForward, LayerNormalization
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.decoder import Decoder
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.layouts import interleaved, of_decoder
from keras_transformer.pretrained.rope import read_rotary, rotary


def read_neox(s: Settings) -> Decoder:
    """GPT-NeoX and Pythia: attention and feed-forward network beside each other, a part of each head turned."""
    dim, num_heads, num_layers = s["hidden_size"], s["num_attention_heads"], s["num_hidden_layers"]
    head_dim = dim // num_heads
    theta, fraction = s.get("rotary_emb_base", 10000.0), s.get("rotary_pct", 0.25)
    turned = read_rotary(s, head_dim, theta=theta, fraction=fraction)
    norm = partial(LayerNormalization, epsilon=s.get("layer_norm_eps", 1e-5))
    inner, activation = s["intermediate_size"], read_activation(s, "hidden_act", "gelu")
    options = {
        "num_heads": num_heads,
        "feed_forward": partial(FeedForward, inner, activation=activation),
        "use_bias": s.get("attention_bias", True),
        "dropout": s.get("hidden_dropout", 0.0),
        "attention_dropout": s.get("attention_dropout", 0.0),
        **({"parallel_norms": 2} if s.get("use_parallel_residual", True) else {"norm_placement": "before"}),
    }
    outer = {"embedding": "embed_in", "decoder_norm": "final_layer_norm", "logits": ":embed_out"}
    parts = {
        "self_attention_norm": "layers.{i}.input_layernorm",
        "self_attention/query_key_value": "layers.{i}.attention.query_key_value",
        "self_attention/output": "layers.{i}.attention.dense",
        "feed_forward_norm": "layers.{i}.post_attention_layernorm",
        "feed_forward/inner": "layers.{i}.mlp.dense_h_to_4h",
        "feed_forward/outer": "layers.{i}.mlp.dense_4h_to_h",
    }
    return Decoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        num_layers=num_layers,
        layer=lambda i: {**options, "norm": norm(), "position": rotary(**turned)},
        entries=of_decoder(num_layers, outer, parts, fused=interleaved(num_heads, 1, 1, 1, head_dim=head_dim)),
        norm=norm,
        tied=s.get("tie_word_embeddings", False),
        stddev=s.get("initializer_range", 0.02),
    )


def read_falcon(s: Settings) -> Decoder:
    """Falcon: few key and value heads, and attention and feed-forward network beside each other in most."""
    dim = s["hidden_size"]
    num_heads, num_layers = s["num_attention_heads"], s["num_hidden_layers"]
    head_dim = dim // num_heads
    s.only("alibi", False, why="as their penalty is rounded to bfloat16, which grows with the length")
    s.only("apply_residual_connection_post_layernorm", False)
    turned = read_rotary(s, head_dim)
    is_new, multi_query = s.get("new_decoder_architecture", False), s.get("multi_query", True)
    num_kv_heads, parallel = s.get("num_kv_heads", num_heads), s.get("parallel_attn", True)
    norms = s.get("num_ln_in_parallel_attn", 2 if is_new else 1) if is_new else 1
    if is_new:
        fused = interleaved(num_kv_heads, num_heads // num_kv_heads, 1, 1, head_dim=head_dim)
    elif multi_query:
        num_kv_heads = 1
        fused = interleaved(1, num_heads, 1, 1, head_dim=head_dim)
    else:
        num_kv_heads = num_heads
        fused = interleaved(num_heads, 1, 1, 1, head_dim=head_dim)
    norm = partial(LayerNormalization, epsilon=s.get("layer_norm_epsilon", 1e-5))
    s.skip("attention_dropout")  # which their code does not apply to rotary attention
    options = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "intermediate_dim": s.get("ffn_hidden_size", 4 * dim),
        "activation": read_activation(s, "activation", "gelu"),
        "use_bias": s.get("bias", False),
        "dropout": s.get("hidden_dropout", 0.0),
        **({"parallel_norms": norms} if parallel or is_new else {"norm_placement": "before"}),
    }
    outer = {"embedding": "word_embeddings", "decoder_norm": "ln_f", "logits": ":lm_head"}
    parts = {
        "self_attention_norm": "h.{i}.ln_attn" if norms == 2 else "h.{i}.input_layernorm",
        "self_attention/query_key_value": "h.{i}.self_attention.query_key_value",
        "self_attention/output": "h.{i}.self_attention.dense",
        "feed_forward_norm": "h.{i}.ln_mlp" if norms == 2 else "h.{i}.post_attention_layernorm",
        "feed_forward/inner": "h.{i}.mlp.dense_h_to_4h",
        "feed_forward/outer": "h.{i}.mlp.dense_4h_to_h",
    }
    return Decoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        num_layers=num_layers,
        layer=lambda i: {**options, "norm": norm(), "position": rotary(**turned)},
        entries=of_decoder(num_layers, outer, parts, fused=fused),
        norm=norm,
        tied=s.get("tie_word_embeddings", True),
        stddev=s.get("initializer_range", 0.02),
    )


FAMILIES = {
    "falcon": Family(read_falcon, "transformer."),
    "gpt_neox": Family(read_neox, "gpt_neox.", (r".*\.attention\.(masked_)?bias", r".*rotary_emb\.inv_freq")),
}
