"""Families of which each token takes a few experts: Mixtral and gpt-oss."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from keras_transformer.layers import MixtureOfExperts
from keras_transformer.ops import quick_gelu
from keras_transformer.pretrained.activations import read_activation
from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.decoder import Decoder
from keras_transformer.pretrained.family import Family
from keras_transformer.pretrained.layouts import SAME, TRANSPOSED, Entry, Layout
from keras_transformer.pretrained.llama import (
    BUFFERS,
    SLIDING,
    entries,
    layer_types,
    of_layer,
    read_decoder,
    windows,
)
from keras_transformer.pretrained.rope import read_rotary, rotary

YARN = {  # of gpt-oss, where a file has none
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
NO_LOSSES: dict[str, Any] = {
    "balance_loss": 0.0,
    "z_loss": 0.0,
}  # their code adds none unless it is asked to return the router's logits


def stacked(number: int) -> Layout:
    """A matrix (inputs, outputs) for each expert, made of one or several (outputs, inputs) of each, side by side: first
    all that belong to the first expert."""

    def read(tensors):
        each = len(tensors) // number
        rows = [np.concatenate(tensors[i * each : (i + 1) * each]).T for i in range(number)]
        return np.stack(rows)

    return Layout(read, lambda x: [matrix.T for matrix in x])


def gated(number: int) -> Layout:
    """As `stacked`, of two matrices of the same size for each expert."""
    return Layout(stacked(number).read, lambda x: [half.T for matrix in x for half in np.split(matrix, 2, axis=-1)])


def alternating() -> Layout:
    """Gates and values that alternate along the last axis; in the variable all gates come first."""

    def write(x):
        gates, values = np.split(x, 2, axis=-1)
        return [np.stack([gates, values], axis=-1).reshape(x.shape)]

    return Layout(lambda tensors: np.concatenate([tensors[0][..., ::2], tensors[0][..., 1::2]], axis=-1), write)


def read_mixtral(s: Settings) -> Decoder:
    """Mixtral, each of whose experts is a gated network in three tensors."""
    number = s.get("num_local_experts", s.get("num_experts", 8))
    s.only("router_jitter_noise", 0.0, why="as noise of training is not there")
    inner, activation = s["intermediate_size"], read_activation(s, "hidden_act", "silu")
    options = {"top_k": s.get("num_experts_per_tok", 2), "activation": activation, "gated": True, "use_bias": False}
    made = partial(MixtureOfExperts, number, inner, **options, **NO_LOSSES)
    window = s.get("sliding_window")
    decoder = read_decoder(
        s, num_kv_heads=8, epsilon=1e-5, theta=1000000.0, feed_forward=made, activation=activation, window=window
    )

    def layer(path, name, heads):
        experts = [f"{name}.block_sparse_moe.experts.{i}" for i in range(number)]
        first = tuple(f"{expert}.{x}.weight" for expert in experts for x in ("w1", "w3"))
        second = tuple(f"{expert}.w2.weight" for expert in experts)
        return [
            *of_layer(path, name, heads=heads, inner=None),
            Entry(f"{path}/feed_forward/router", (f"{name}.block_sparse_moe.gate.weight",), TRANSPOSED),
            Entry(f"{path}/feed_forward/experts_inner/kernel", first, gated(number)),
            Entry(f"{path}/feed_forward/experts_outer/kernel", second, stacked(number)),
        ]

    return replace(decoder, entries=entries(decoder.num_layers, partial(layer, heads=widths(decoder))))


def read_gpt_oss(s: Settings) -> Decoder:
    """gpt-oss: attention sinks, every second layer a window, experts with limited gates."""
    number = s.get("num_local_experts", s.get("num_experts", 128))
    s.only("swiglu_alpha", 1.702)
    s.skip("hidden_act")  # "silu"; their code does not use it
    options = {
        "top_k": s.get("num_experts_per_tok", s.get("experts_per_token", 4)),
        "activation": quick_gelu,
        "gated": True,
        "gate_limit": s.get("swiglu_limit", 7.0),
        "gate_offset": 1.0,
        "router_bias": True,
        **NO_LOSSES,
    }
    s.skip("experts_per_token", "initial_context_length")  # said again, the second among the positions
    types = layer_types(s, lambda i: "full_attention" if i % 2 else SLIDING)
    turned = read_rotary(s, s.get("head_dim", 64), theta=150000.0, otherwise=YARN)
    decoder = read_decoder(
        s,
        num_kv_heads=8,
        head_dim=64,
        epsilon=1e-5,
        position=lambda i: rotary(**turned),
        activation=quick_gelu,
        use_bias=s.get("attention_bias", True),
        sinks=True,
        window=windows(types, s.optional("sliding_window", 128)),
        feed_forward=partial(MixtureOfExperts, number, s["intermediate_size"], **options),
    )

    def layer(path, name, heads):
        experts, found = f"{name}.mlp.experts", f"{path}/feed_forward"
        return [
            *of_layer(path, name, heads=heads, inner=None),
            Entry(f"{path}/self_attention/sinks", (f"{name}.self_attn.sinks",), SAME),
            Entry(f"{found}/router", (f"{name}.mlp.router.weight",), TRANSPOSED),
            Entry(f"{found}/router_bias", (f"{name}.mlp.router.bias",), SAME),
            Entry(f"{found}/experts_inner/kernel", (f"{experts}.gate_up_proj",), alternating()),
            Entry(f"{found}/experts_inner/bias", (f"{experts}.gate_up_proj_bias",), alternating()),
            Entry(f"{found}/experts_outer/kernel", (f"{experts}.down_proj",), SAME),
            Entry(f"{found}/experts_outer/bias", (f"{experts}.down_proj_bias",), SAME),
        ]

    return replace(decoder, entries=entries(decoder.num_layers, partial(layer, heads=widths(decoder))))


def widths(decoder: Decoder) -> tuple[int, int, int]:
    """Those of all queries, all keys and all values."""
    options = decoder.layer(0)
    keys = options["num_kv_heads"] * options["head_dim"]
    return options["num_heads"] * options["head_dim"], keys, keys


FAMILIES = {
    "gpt_oss": Family(read_gpt_oss, "model.", BUFFERS),
    "mixtral": Family(read_mixtral, "model.", BUFFERS),
}
