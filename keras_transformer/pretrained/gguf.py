"""GGUF files: one file with settings and tensors, which the `gguf` package takes out of their quantization.

A file is read as the checkpoint that it was made of: its settings under the names that configuration files have, its
tensors under theirs, with what the converter changed taken back.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.pretrained.config import Settings

TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
GEMMA = {
    **TENSORS,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
SPECIAL = {"bos": "bos_token_id", "eos": "eos_token_id", "padding": "pad_token_id"}
# Of no effect: notes, what the rotary kind already says, and the widths that are checked by the shapes of tensors.
HARMLESS = frozenset({"attention.value_length", "rope.dimension_count", "context_length"})


class Kind(NamedTuple):
    """What is known of the files of an architecture.

    Attributes:
        model_type: In configuration files.
        name: Of its class there, by which `architectures` names it.
        tensors: Names of the tensors of a layer.
        turned: Whether the rows of queries and keys were reordered, for pairs of neighbouring coordinates.
        offset: What was added to the scales of norms.
        further: Makes what else the configuration has, from the settings and the configuration so far.
    """

    model_type: str
    name: str
    tensors: Mapping[str, str] = TENSORS
    turned: bool = False
    offset: float = 0.0
    further: Callable[[Settings, dict], dict] = lambda s, config: {}


def _gemma3(s: Settings, config: dict) -> dict:
    # The largest model scales scores by its width per head; the file does not say so, llama.cpp knows it by its depth.
    largest = config["num_hidden_layers"] == 62
    scalar = config["hidden_size"] // config["num_attention_heads"] if largest else config["head_dim"]
    return {"sliding_window": s.get("attention.sliding_window", 512), "query_pre_attn_scalar": scalar}


KINDS = {
    "gemma3": Kind("gemma3_text", "Gemma3ForCausalLM", GEMMA, offset=1.0, further=_gemma3),
    "llama": Kind("llama", "LlamaForCausalLM", turned=True),
    "qwen2": Kind("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Kind("qwen3", "Qwen3ForCausalLM"),
}


class GGUFTensor(NamedTuple):
    """A tensor of a GGUF file, in the role of `weights.Tensor`."""

    raw: Any  # of the gguf package
    shape: tuple[int, ...]
    restored: Callable[[np.ndarray], np.ndarray]
    dtype: np.dtype = np.dtype("float32")

    def read(self) -> np.ndarray:
        """The tensor, out of its quantization."""
        import gguf

        values = gguf.quants.dequantize(self.raw.data, self.raw.tensor_type)
        return self.restored(np.asarray(values, "float32").reshape(self.shape))


def read_gguf(path: Path) -> tuple[dict, dict[str, GGUFTensor], dict]:
    """The configuration and the tensors of a file, as those of a folder, and all that it says beside its tensors.

    Raises:
        ValueError: If `gguf` is not installed, the file is damaged, its architecture is not known, or it has a setting
            or a tensor that is not.
    """
    reader = _reader(path)
    fields = _fields(reader)
    architecture = Settings(fields, f"'{path}'").get("general.architecture")
    if architecture not in KINDS:
        raise ValueError(
            f"'{path}' holds a model of the architecture {architecture!r}; known in GGUF files are {', '.join(KINDS)}."
        )
    kind, start = KINDS[architecture], f"{architecture}."
    settings = Settings(
        {name.removeprefix(start): value for name, value in fields.items() if name.startswith(start)}, f"'{path}'"
    )
    names = {tensor.name for tensor in reader.tensors}
    config = _config(kind, settings, fields)
    config["tie_word_embeddings"] = "output.weight" not in names
    if "blk.0.attn_output.bias" in names:
        config["attention_bias"] = True
    settings.check(HARMLESS)
    tensors = {}
    for tensor in reader.tensors:
        name = _name(tensor.name, kind, path)
        shape = tuple(int(x) for x in reversed(tensor.shape))
        tensors[name] = GGUFTensor(tensor, shape, _restoring(name, kind, config))
    return config, tensors, fields


def read_fields(path: Path) -> dict:
    """What a file says beside its tensors, by name.

    Raises:
        ValueError: If `gguf` is not installed, or the file is damaged.
    """
    return _fields(_reader(path))


def _reader(path: Path):
    try:
        import gguf
    except ImportError as error:
        raise ValueError(
            f"'{path}' is read by the gguf package, which is not installed: "
            '`pip install "keras-transformer-layers[pretrained]"`.'
        ) from error
    try:
        return gguf.GGUFReader(path)
    except Exception as error:  # the package raises whatever it meets
        raise ValueError(f"'{path}' is no GGUF file, or a truncated one: {error}") from error


def _fields(reader) -> dict:
    return {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}


def _config(kind: Kind, s: Settings, fields: dict) -> dict:
    heads, width = s["attention.head_count"], s["embedding_length"]
    config = {
        "architectures": [kind.name],
        "model_type": kind.model_type,
        "hidden_size": width,
        "num_hidden_layers": s["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": s.get("attention.head_count_kv", heads),
        "head_dim": s.get("attention.key_length", width // heads),
        "intermediate_size": s["feed_forward_length"],
        "rms_norm_eps": s["attention.layer_norm_rms_epsilon"],
        "max_position_embeddings": s["context_length"],
        "rope_theta": s.get("rope.freq_base", 10000.0),
        "vocab_size": s.get("vocab_size", len(fields.get("tokenizer.ggml.tokens", []))),
    }
    scaling = s.get("rope.scaling.type", "none")
    if scaling == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": s["rope.scaling.factor"]}
    elif scaling != "none":
        raise ValueError(f"{s.where} has rope.scaling.type={scaling!r}; none or linear is supported in GGUF files.")
    for name, setting in SPECIAL.items():
        id = fields.get(f"tokenizer.ggml.{name}_token_id")
        if id is not None:
            config[setting] = id
    return {**config, **kind.further(s, config)}


def _name(name: str, kind: Kind, path: Path) -> str:
    """What the checkpoint calls a tensor."""
    block = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if block and block[2] in kind.tensors:
        return f"model.layers.{block[1]}.{kind.tensors[block[2]]}.{block[3]}"
    outer = re.fullmatch(r"(\w+)\.(weight|bias)", name)
    if outer and outer[1] in OUTER:
        return f"{OUTER[outer[1]]}.{outer[2]}"
    raise ValueError(f"'{path}' has the tensor {name}, which is not known of the architecture.")


def _restoring(name: str, kind: Kind, config: dict) -> Callable[[np.ndarray], np.ndarray]:
    """What takes back that the converter changed a tensor."""
    if kind.offset and name.endswith("norm.weight"):
        return lambda x: x - np.float32(kind.offset)
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    heads = next((count for part, count in heads.items() if part in name), None)
    if not kind.turned or heads is None:
        return lambda x: x

    def back(x):
        pairs = x.reshape(heads, x.shape[0] // heads // 2, 2, *x.shape[1:])
        return pairs.swapaxes(1, 2).reshape(x.shape)

    return back
