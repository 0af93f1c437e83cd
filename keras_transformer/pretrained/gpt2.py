"""Families of learned positions: GPT-2, whose matrices lie as ours do, and OPT."""

from functools import partial

from keras_transformer.layers import LayerNormalization
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.decoder import Decoder
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.layouts import SAME, Entry, joined, of_decoder

OUTER = {"embedding": "wte", "position": "wpe", "decoder_norm": "ln_f", "logits": ":lm_head"}
PARTS = {
    "self_attention_norm": "h.{i}.ln_1",
    "self_attention/query_key_value": "h.{i}.attn.c_attn",
    "self_attention/output": "h.{i}.attn.c_proj",
    "feed_forward_norm": "h.{i}.ln_2",
    "feed_forward/inner": "h.{i}.mlp.c_fc",
    "feed_forward/outer": "h.{i}.mlp.c_proj",
}


def read_gpt2(s: Settings) -> Decoder:
    """GPT-2, DistilGPT2 and what has its model_type."""
    dim, num_heads, num_layers = s["n_embd"], s["n_head"], s["n_layer"]
    scale = (dim // num_heads) ** -0.5 if s.get("scale_attn_weights", True) else 1.0
    by_layer = s.get("scale_attn_by_inverse_layer_idx", False)
    s.skip("reorder_and_upcast_attn")  # our softmax is in float32 in any case
    options = {
        "num_heads": num_heads,
        "intermediate_dim": s.get("n_inner", 4 * dim),
        "activation": read_activation(s, "activation_function", "gelu_new"),
        "normalize_first": True,
        "norm_epsilon": s.get("layer_norm_epsilon", 1e-5),
        "dropout": s.get("resid_pdrop", 0.1),
        "attention_dropout": s.get("attn_pdrop", 0.1),
    }
    return Decoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        num_layers=num_layers,
        layer=lambda i: {**options, "scale": scale / (i + 1) if by_layer else scale},
        entries=of_decoder(num_layers, OUTER, PARTS, kernel=SAME),
        norm=partial(LayerNormalization, epsilon=options["norm_epsilon"]),
        tied=s.get("tie_word_embeddings", True),
        dropout=s.get("embd_pdrop", 0.1),
        positions=(s["n_positions"], 0),
        stddev=s.get("initializer_range", 0.02),
    )


def read_opt(s: Settings) -> Decoder:
    """OPT: learned positions behind two rows that nothing reads; the embedding may be narrower than the layers."""
    dim, num_heads, num_layers = s["hidden_size"], s["num_attention_heads"], s["num_hidden_layers"]
    s.only("layerdrop", 0.0, why="as layers are not left out in training")
    s.skip("activation_dropout")  # of older files; their code does not use it
    is_learned, first = s.get("layer_norm_elementwise_affine", True), s.get("do_layer_norm_before", True)
    norm = partial(LayerNormalization, epsilon=1e-5, center=is_learned, scale=is_learned)
    width, is_there = s.get("word_embed_proj_dim", dim), not s.get("_remove_final_layer_norm", False)
    options = {
        "num_heads": num_heads,
        "intermediate_dim": s["ffn_dim"],
        "activation": read_activation(s, "activation_function", "relu"),
        "use_bias": s.get("enable_bias", True),
        "dropout": s.get("dropout", 0.1),
        "attention_dropout": s.get("attention_dropout", 0.0),
        "norm_placement": "before" if first else "after",
    }
    outer = {
        "embedding": "decoder.embed_tokens",
        "embedding_projection": "decoder.project_in",
        "position": "decoder.embed_positions",
        "decoder_norm": "decoder.final_layer_norm",
        "output_projection": "decoder.project_out",
        "logits": ":lm_head",
    }
    parts = {
        "self_attention_norm": "decoder.layers.{i}.self_attn_layer_norm",
        "self_attention/output": "decoder.layers.{i}.self_attn.out_proj",
        "feed_forward_norm": "decoder.layers.{i}.final_layer_norm",
        "feed_forward/inner": "decoder.layers.{i}.fc1",
        "feed_forward/outer": "decoder.layers.{i}.fc2",
    }
    found = list(of_decoder(num_layers, outer, parts))
    for i in range(num_layers):
        for kind, weights in {"kernel": "weight", "bias": "bias"}.items():
            projections = tuple(f"decoder.layers.{i}.self_attn.{x}_proj.{weights}" for x in "qkv")
            found.append(
                Entry(f"decoder_{i}/self_attention/query_key_value/{kind}", projections, joined(dim, dim, dim))
            )
    return Decoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        num_layers=num_layers,
        layer=lambda i: {**options, "norm": norm()},
        entries=tuple(found),
        norm=norm if first and is_there else None,
        tied=s.get("tie_word_embeddings", True),
        positions=(s["max_position_embeddings"], 2),
        embedding_dim=width if width != dim else None,
        stddev=s.get("init_std", 0.02),
    )


FAMILIES = {
    "gpt2": Family(read_gpt2, "transformer.", (r".*\.attn\.(masked_)?bias",)),
    "opt": Family(read_opt, "model."),
}
