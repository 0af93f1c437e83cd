"""GPT-2: learned positions, layer norms before, matrices that lie as ours do."""

from functools import partial

from keras_transformer.layers import LayerNormalization
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.decoder import Decoder
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.layouts import SAME, Entry, dense, layer_norm

PARTS = {
    "self_attention_norm": "ln_1",
    "self_attention/query_key_value": "attn.c_attn",
    "self_attention/output": "attn.c_proj",
    "feed_forward_norm": "ln_2",
    "feed_forward/inner": "mlp.c_fc",
    "feed_forward/outer": "mlp.c_proj",
}


def entries(num_layers: int) -> tuple[Entry, ...]:
    """All variables and their tensors."""
    found = [
        Entry("embedding/embeddings", ("wte.weight",), SAME, copies=(":lm_head.weight",)),
        Entry("position/embeddings", ("wpe.weight",), SAME),
        *dense("logits", ":lm_head"),
        *layer_norm("decoder_norm", "ln_f"),
    ]
    for i in range(num_layers):
        for path, name in PARTS.items():
            path, name = f"decoder_{i}/{path}", f"h.{i}.{name}"
            found += layer_norm(path, name) if path.endswith("norm") else dense(path, name, SAME)
    return tuple(found)


def read_gpt2(s: Settings) -> Decoder:
    """GPT-2, DistilGPT2 and what has its model_type."""
    dim, num_heads, num_layers = s["n_embd"], s["n_head"], s["n_layer"]
    scale = (dim // num_heads) ** -0.5 if s.get("scale_attn_weights", True) else 1.0
    by_layer = s.get("scale_attn_by_inverse_layer_idx", False)
    s.get("reorder_and_upcast_attn")  # our softmax is in float32 in any case
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
        entries=entries(num_layers),
        norm=partial(LayerNormalization, epsilon=options["norm_epsilon"]),
        tied=s.get("tie_word_embeddings", True),
        dropout=s.get("embd_pdrop", 0.1),
        positions=(s["n_positions"], 0),
        stddev=s.get("initializer_range", 0.02),
    )


FAMILIES = {"gpt2": Family(read_gpt2, "transformer.", (r".*\.attn\.(masked_)?bias",))}
