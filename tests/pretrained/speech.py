"""A spoken sentence by eSpeak NG, and the weights of whisper-tiny.en, both of packages that `make test-pretrained`
installs."""

import ctypes
import json
import shutil
import struct
from pathlib import Path

import numpy as np

from .helpers import torch, transformers

SAMPLING_RATE = 16_000
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "Please call me tomorrow morning at nine o'clock.",
    "My father is a doctor and my mother is a teacher.",
    "Good evening, ladies and gentlemen.",
]
SIZES = {
    "vocab_size": 51864,
    "d_model": 384,
    "encoder_layers": 4,
    "decoder_layers": 4,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_ffn_dim": 1536,
    "pad_token_id": 50256,
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "decoder_start_token_id": 50257,
}
NO_TIMES = 50362
OUTER = {"embeddings": "embed_tokens.weight", "position_encodings": "embed_positions.weight"}
FEED_FORWARD = {"linear_0": "fc1", "linear_1": "fc2", "layer_norm": "final_layer_norm"}
ATTENTION = {"self_attention": "self_attn", "attention": "encoder_attn"}
JOINED = {("self_attention", "linear_0"): "qkv", ("attention", "linear_0"): "q", ("attention", "linear_1"): "kv"}
TYPES = ("f4", "i1", "i2", "i4", "f2")
SAMPLES = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def speak(text: str) -> np.ndarray:
    """The text, spoken, at Whisper's sampling rate, from -1 to 1."""
    import espeakng_loader

    library, found = espeakng_loader.load_library(), []
    rate = library.espeak_Initialize(2, 0, str(espeakng_loader.get_data_path()).encode(), 0)  # 2: samples, at once

    @SAMPLES
    def collect(samples, count, events):
        if samples and count > 0:
            found.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    library.espeak_SetSynthCallback(collect)
    library.espeak_SetVoiceByName(b"en-us")
    given = text.encode() + b"\0"
    library.espeak_Synth(given, ctypes.c_size_t(len(given)), 0, 1, 0, 1, None, None)  # of characters in UTF-8
    library.espeak_Synchronize()
    sound = np.concatenate(found) / 32768.0
    times = np.arange(int(len(sound) * SAMPLING_RATE / rate)) * rate / SAMPLING_RATE
    return np.interp(times, np.arange(len(sound)), sound).astype("float32")


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file of CTranslate2: a count, and for each its name, shape, type, size and values; names of
    copies at the end."""
    data, at = path.read_bytes(), 0

    def number(kind: str) -> int:
        nonlocal at
        (value,) = struct.unpack_from(f"<{kind}", data, at)
        at += struct.calcsize(kind)
        return value

    def text() -> str:
        nonlocal at
        size = number("H")
        at += size
        return data[at - size : at - 1].decode()

    _version, _kind, _revision = number("I"), text(), number("I")
    tensors = {}
    for _ in range(number("I")):
        name, shape = text(), [number("I") for _ in range(number("B"))]
        dtype = np.dtype(TYPES[number("B")])
        size = number("I")
        tensors[name] = np.frombuffer(data, dtype, size // dtype.itemsize, at).reshape(shape)
        at += size
    for _ in range(number("I")):
        name = text()
        tensors[name] = tensors[text()]
    return tensors


def split(name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    """A tensor of a stack as `transformers` has it, by its name there; queries, keys and values are apart there."""
    name, _, kind = name.rpartition("/")
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)
    layer, _, part = name.partition("/")
    if not part:
        return {OUTER.get(layer, f"{layer}.{kind}"): x}
    layer, (sublayer, part) = layer.replace("_", "s."), part.split("/")
    if sublayer == "ffn":
        return {f"{layer}.{FEED_FORWARD[part]}.{kind}": x}
    attention = ATTENTION[sublayer]
    if part == "layer_norm":
        return {f"{layer}.{attention}_layer_norm.{kind}": x}
    joined = JOINED.get((sublayer, part), ("out",))
    parts = zip(joined, np.split(x, len(joined)), strict=True)
    return {f"{layer}.{attention}.{one}_proj.{kind}": y for one, y in parts}


def save_whisper(package: Path, folder: Path):
    """whisper-tiny.en in the form of `transformers`, in the folder; and as its model."""
    state = {}
    for name, x in read_ctranslate2(package / "model.bin").items():
        stack, _, name = name.partition("/")
        if x.ndim and not name.startswith("projection"):
            state |= {f"model.{stack}.{key}": torch.tensor(y) for key, y in split(name, x).items()}
    for name in [name for name in state if name.endswith("k_proj.bias")]:
        assert not state.pop(name).any()
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    model = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**SIZES))
    model.load_state_dict(state)
    settings = json.loads((package / "config.json").read_text())
    model.generation_config = transformers.GenerationConfig(
        **{name: SIZES[name] for name in SIZES if name.endswith("token_id")},
        suppress_tokens=settings["suppress_ids"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        forced_decoder_ids=[[1, NO_TIMES]],
        no_timestamps_token_id=NO_TIMES,
        is_multilingual=False,
        return_timestamps=False,
        max_length=448,
    )
    model.half().save_pretrained(folder)
    shutil.copy(package / "tokenizer.json", folder)
    return model.float().eval()
