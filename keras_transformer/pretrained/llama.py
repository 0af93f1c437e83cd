"""The families of Llama's descent: rotary positions, root mean square norms, gated feed-forward networks."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from keras_transformer.layers import FeedForward, RMSNormalization
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.decoder import Decoder
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.layouts import SAME, Entry, dense, joined
from keras_transformer.pretrained.rope import read_rotary, rotary

BUFFERS = (r".*rotary_emb\.inv_freq",)
NORMS = {  # of a layer, and its tensors
    "self_attention_norm": "input_layernorm",
    "feed_forward_norm": "post_attention_layernorm",
    "self_attention/query_norm": "self_attn.q_norm",
    "self_attention/key_norm": "self_attn.k_norm",
}
SLIDING = "sliding_attention"


def entries(num_layers: int, layer: Callable[[str, str], list[Entry]]) -> tuple[Entry, ...]:
    """The tensors of a model of this descent.

    Args:
        num_layers: Number of layers.
        layer: Makes those of one from the path of its variables and what the names of its tensors begin with.
    """
    found = [
        Entry("embedding/embeddings", ("embed_tokens.weight",), SAME, copies=(":lm_head.weight",)),
        Entry("decoder_norm/scale", ("norm.weight",), SAME),
        *dense("logits", ":lm_head"),
    ]
    for i in range(num_layers):
        found += layer(f"decoder_{i}", f"layers.{i}")
    return tuple(found)


def of_layer(path: str, name: str, *, heads: tuple[int, int, int], inner: int | None, norms: dict = NORMS):
    """The entries of a layer: widths of all its queries, keys and values, and of its feed-forward network, if it is a
    gated one."""
    found = [Entry(f"{path}/{norm}/scale", (f"{name}.{tensor}.weight",), SAME) for norm, tensor in norms.items()]
    found += dense(f"{path}/self_attention/output", f"{name}.self_attn.o_proj")
    if inner is not None:
        found += dense(f"{path}/feed_forward/outer", f"{name}.mlp.down_proj")
    for kind, weights in {"kernel": "weight", "bias": "bias"}.items():
        projections = tuple(f"{name}.self_attn.{x}_proj.{weights}" for x in "qkv")
        found.append(Entry(f"{path}/self_attention/query_key_value/{kind}", projections, joined(*heads)))
        if inner is not None:
            gated = tuple(f"{name}.mlp.{x}_proj.{weights}" for x in ("gate", "up"))
            found.append(Entry(f"{path}/feed_forward/inner/{kind}", gated, joined(inner, inner)))
    return found


def read_decoder(
    s: Settings,
    *,
    num_kv_heads: int | None = None,
    head_dim: int | None = None,
    theta: float = 10000.0,
    epsilon: float = 1e-6,
    tied: bool = False,
    activation=None,
    norms: dict = NORMS,
    offset: float = 0.0,
    **changes,
) -> Decoder:
    """What the families have in common.

    Args:
        s: The settings.
        num_kv_heads, head_dim, theta, epsilon, tied: Where the file has none.
        activation: Where it is not `hidden_act`.
        norms: The norms of a layer.
        offset: Of the norms.
        changes: Of the options of each layer; those that are functions are called with its number.
    """
    dim, num_heads, num_layers = s["hidden_size"], s["num_attention_heads"], s["num_hidden_layers"]
    num_kv_heads = s.get("num_key_value_heads", num_kv_heads or num_heads)
    head_dim = s.get("head_dim", head_dim or dim // num_heads)
    inner = s["intermediate_size"]
    norm = partial(RMSNormalization, epsilon=s.get("rms_norm_eps", epsilon), offset=offset)
    options = {
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": head_dim,
        "intermediate_dim": inner,
        "activation": activation or read_activation(s, "hidden_act", "silu"),
        "gated": True,
        "norm": norm,
        "norm_placement": "before",
        "use_bias": False,
        "attention_dropout": s.get("attention_dropout", 0.0),
        **changes,
    }
    if "position" not in options:
        turned = read_rotary(s, head_dim, theta=theta)
        options["position"] = lambda i: rotary(**turned)
    heads = num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim
    return Decoder(
        vocabulary_size=s["vocab_size"],
        dim=dim,
        num_layers=num_layers,
        layer=partial(by_number, options),
        entries=entries(num_layers, partial(of_layer, heads=heads, inner=inner, norms=norms)),
        norm=norm,
        tied=s.get("tie_word_embeddings", tied),
        stddev=s.get("initializer_range", 0.02),
    )


def by_number(options: dict, i: int) -> dict:
    """The options of the layer of that number."""
    made = {
        "position": lambda make: make(i),
        "window": lambda make: make(i) if callable(make) else make,
        "norm": lambda make: make(),
        "qk_norm": lambda make: make() if callable(make) else make,
    }
    return {name: made[name](x) if name in made else x for name, x in options.items()}


def layer_types(s: Settings, otherwise: Callable[[int], str]) -> list[str]:
    """The types of the layers, as the file has them or else as a function of their number says."""
    num_layers = s["num_hidden_layers"]
    types = s.get("layer_types", [otherwise(i) for i in range(num_layers)])
    unknown = set(types) - {SLIDING, "full_attention"}
    if unknown or len(types) < num_layers:
        raise ValueError(
            f"{s.where} has layer_types={types!r}; for each of {num_layers} layers 'full_attention' or '{SLIDING}' is "
            "supported."
        )
    return types


def windows(types: list[str], size: int | None) -> Callable[[int], int | None]:
    """The window of the layer of a number, None where it has none."""
    return lambda i: size if types[i] == SLIDING else None


def biases(s: Settings, activation=None) -> dict:
    """Options for biases of attention and, by another setting, of the feed-forward network, of that activation."""
    attention, feed_forward = s.get("attention_bias", False), s.get("mlp_bias", False)
    if attention == feed_forward:
        return {"use_bias": attention}
    activation = activation or read_activation(s, "hidden_act", "silu")
    made = partial(FeedForward, s["intermediate_size"], activation=activation, gated=True, use_bias=feed_forward)
    return {"use_bias": attention, "feed_forward": made}


def read_llama(s: Settings) -> Decoder:
    """Llama 1 to 3.x, and what has its model_type, such as SmolLM and SmolLM2."""
    return read_decoder(s, **biases(s))


def read_mistral(s: Settings) -> Decoder:
    """Mistral: a window in all layers, in its first version."""
    return read_decoder(s, num_kv_heads=8, window=s.optional("sliding_window", 4096))


def read_qwen2(s: Settings) -> Decoder:
    """Qwen2 and Qwen2.5."""
    return read_decoder(s, num_kv_heads=32, window=qwen_windows(s), qkv_bias=True)


def read_qwen3(s: Settings) -> Decoder:
    """Qwen3, of dense layers: queries and keys are normalized."""
    norm = partial(RMSNormalization, epsilon=s.get("rms_norm_eps", 1e-6))
    return read_decoder(s, num_kv_heads=32, head_dim=128, window=qwen_windows(s), qk_norm=norm, **biases(s))


def qwen_windows(s: Settings) -> Callable[[int], int | None]:
    """The windows of the last layers, where the file asks for them."""
    size = s.optional("sliding_window", 4096)
    size = size if s.get("use_sliding_window", False) else None
    first = s.get("max_window_layers", 28)
    types = layer_types(s, lambda i: SLIDING if size is not None and i >= first else "full_attention")
    return windows(types, size)


def read_smollm3(s: Settings) -> Decoder:
    """SmolLM3: every fourth layer has no positions."""
    every, num_layers = s.get("no_rope_layer_interval", 4), s["num_hidden_layers"]
    s.skip("max_window_layers")  # which their code does not use
    turns = s.get("no_rope_layers", [int((i + 1) % every != 0) for i in range(num_layers)])
    if len(turns) < num_layers:
        raise ValueError(f"{s.where} has no_rope_layers={turns!r}; one for each of {num_layers} layers is expected.")
    size = s.get("sliding_window")
    size = size if s.get("use_sliding_window", False) else None
    types = layer_types(s, lambda i: "full_attention" if size is None or turns[i] else SLIDING)
    turned = read_rotary(s, s.get("head_dim", s["hidden_size"] // s["num_attention_heads"]), theta=2000000.0)
    return read_decoder(
        s,
        num_kv_heads=4,
        tied=True,
        position=lambda i: rotary(**turned) if turns[i] else None,
        window=windows(types, size),
        **biases(s),
    )


def read_olmo2(s: Settings) -> Decoder:
    """OLMo 2: norms behind the sub-layers, and over all heads of queries and of keys."""
    norms = {
        **NORMS,
        "self_attention_norm": "post_attention_layernorm",
        "feed_forward_norm": "post_feedforward_layernorm",
    }
    norm = partial(RMSNormalization, epsilon=s.get("rms_norm_eps", 1e-5))
    return read_decoder(
        s, epsilon=1e-5, norms=norms, norm_placement="branch", qk_norm=norm, qk_norm_over="heads", **biases(s)
    )


def read_phi3(s: Settings) -> Decoder:
    """Phi-3 and Phi-4-mini, whose projections are fused as ours are."""
    dim, num_heads = s["hidden_size"], s["num_attention_heads"]
    s.skip("embd_pdrop")  # which their code does not use
    for name in ("attention_bias", "mlp_bias", "lm_head_bias"):  # of the code that the first files brought along
        s.only(name, False)
    for name in ("full_attn_mod", "interpolate_factor"):
        s.only(name, 1)
    s.skip("original_max_position_embeddings")  # also where nothing is scaled
    turned = read_rotary(s, s.get("head_dim", dim // num_heads), first_length=4096)
    decoder = read_decoder(
        s,
        epsilon=1e-5,
        dropout=s.get("resid_pdrop", 0.0),
        position=lambda i: rotary(**turned),
        window=s.get("sliding_window"),
    )

    def layer(path, name):
        norms = [Entry(f"{path}/{norm}/scale", (f"{name}.{tensor}.weight",), SAME) for norm, tensor in NORMS.items()]
        return [
            *norms,
            *dense(f"{path}/self_attention/query_key_value", f"{name}.self_attn.qkv_proj"),
            *dense(f"{path}/self_attention/output", f"{name}.self_attn.o_proj"),
            *dense(f"{path}/feed_forward/inner", f"{name}.mlp.gate_up_proj"),
            *dense(f"{path}/feed_forward/outer", f"{name}.mlp.down_proj"),
        ]

    return replace(decoder, entries=entries(decoder.num_layers, layer))


FAMILIES = {
    "llama": Family(read_llama, "model.", BUFFERS),
    "mistral": Family(read_mistral, "model.", BUFFERS),
    "olmo2": Family(read_olmo2, "model.", BUFFERS),
    "phi3": Family(read_phi3, "model.", BUFFERS),
    "qwen2": Family(read_qwen2, "model.", BUFFERS),
    "qwen3": Family(read_qwen3, "model.", BUFFERS),
    "smollm3": Family(read_smollm3, "model.", BUFFERS),
}
