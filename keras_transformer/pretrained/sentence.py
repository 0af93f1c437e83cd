"""Sentence encoders as sentence-transformers keeps them: an encoder, and in `modules.json` what makes one vector of its
hidden states."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras

from keras_transformer.layers import MaskedPooling
from keras_transformer.pretrained.config import Settings, read_json, read_json_list
from keras_transformer.pretrained.encoder import Encoder, Parts, as_inputs
from keras_transformer.pretrained.layouts import Entry, dense
from keras_transformer.pretrained.sentence_texts import ENCODER_FILES, MODULES, PROMPTS
from keras_transformer.pretrained.weights import Tensor, find

ACTIVATIONS = {  # by the names of PyTorch's classes
    "GELU": keras.activations.gelu,
    "Identity": None,
    "ReLU": keras.activations.relu,
    "SiLU": keras.activations.silu,
    "Sigmoid": keras.activations.sigmoid,
    "Tanh": keras.activations.tanh,
}
MODES = ("cls_token", "max_tokens", "mean_tokens")  # of pooling, in the order in which several are joined
OTHER_MODES = ("mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def read_modules(folder: Path) -> dict | None:
    """The files that describe a sentence encoder, by their names in the folder; None where it holds none.

    Raises:
        ValueError: If one is missing or makes no sense.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = read_json_list(folder / MODULES)
    files: dict[str, list | dict] = {MODULES: modules}
    for module in modules:
        path = module.get("path", "") if isinstance(module, dict) else None
        if not isinstance(path, str) or Path(path).name != path or not isinstance(module.get("type"), str):
            raise ValueError(f"'{folder / MODULES}' has a module without a type, or that lies elsewhere: {module!r}.")
        if path and (folder / path / "config.json").is_file():
            files[f"{path}/config.json"] = read_json(folder / path / "config.json")
    files.update({name: read_json(folder / name) for name in (*ENCODER_FILES, PROMPTS) if (folder / name).is_file()})
    return files


def module_tensors(folder: Path, modules: Mapping) -> dict[str, Tensor]:
    """The tensors of the modules behind the encoder, with the folder that they are in before their names."""
    found = {}
    for kind, path in _listed(modules) if modules else ():
        if kind == "Dense":
            found.update({f"{path}/{name}": tensor for name, tensor in find(folder / path).items()})
    return found


@dataclass(frozen=True)
class SentenceEncoder:
    """An encoder and what makes one vector of its hidden states.

    Attributes:
        encoder: The encoder.
        steps: Functions of the parts and what came before.
        entries: Of both.
    """

    encoder: Encoder
    steps: tuple[Callable[[Parts, keras.KerasTensor], keras.KerasTensor], ...]
    entries: tuple[Entry, ...]

    def build(self, architecture, dtype):
        parts = self.encoder.run(dtype)
        x = parts.hidden
        for step in self.steps:
            x = step(parts, x)
        return as_inputs(parts.inputs), x


def read_sentence_encoder(encoder, modules: Mapping, where: str) -> SentenceEncoder:
    """A sentence encoder of an encoder and the files that `read_modules` found.

    Raises:
        ValueError: If there is a module, or a setting of one, that is not known.
    """
    (first, path), *others = _listed(modules)
    if not isinstance(encoder, Encoder) or first != "Transformer" or path:
        raise ValueError(
            f"{where} holds a sentence encoder that begins with the module {first!r} in '{path}'. Encoders are "
            "supported, BERT and the like, in the folder itself."
        )
    if not others or others[0][0] != "Pooling":
        raise ValueError(f"{where} holds a sentence encoder without a module 'Pooling' behind the first one.")
    steps, entries = [], list(encoder.entries)
    for i, (kind, path) in enumerate(others, 1):
        if kind not in READERS:
            raise ValueError(f"{where} has the module {kind!r}; {', '.join(READERS)} are supported behind an encoder.")
        s = Settings(modules.get(f"{path}/config.json", {}), f"'{path}/config.json' in {where}")
        name = f"{kind.lower()}_{i}"
        steps.append(READERS[kind](s, name))
        s.check(frozenset())
        entries += dense(name, f":{path}/linear") if kind == "Dense" else []
    return SentenceEncoder(encoder, tuple(steps), tuple(entries))


def _listed(modules: Mapping) -> list[tuple[str, str]]:
    """Kinds and folders of the modules in order."""
    return [(module["type"].rpartition(".")[2], module.get("path", "")) for module in modules[MODULES]]


def read_pooling(s: Settings, name: str):
    """The first vector, the maximum, the mean, or several of them side by side."""
    s.skip("word_embedding_dimension", "embedding_dimension")
    s.only("include_prompt", True)
    chosen = [mode for mode in MODES if s.get(f"pooling_mode_{mode}", False)]
    for mode in OTHER_MODES:
        s.only(f"pooling_mode_{mode}", False)
    named = s.get("pooling_mode", [])  # in newer files
    for mode in [named] if isinstance(named, str) else named:
        found = next((x for x in MODES if x.partition("_")[0] == mode), None)
        if found is None:
            raise ValueError(f"{s.where} has pooling_mode={named!r}; 'cls', 'max' and 'mean' are supported.")
        chosen.append(found)
    if not chosen:
        raise ValueError(f"{s.where} names no way of pooling; {', '.join(MODES)} are supported.")

    def pool(parts, x):
        found = []
        for mode in MODES:
            if mode in chosen and mode == "cls_token":
                found.append(x[:, 0])
            elif mode in chosen:
                kind = mode.partition("_")[0]
                found.append(MaskedPooling(kind, **parts.layer(f"{name}_{kind}"))(x))
        return found[0] if len(found) == 1 else keras.layers.Concatenate(**parts.layer(name))(found)

    return pool


def read_dense(s: Settings, name: str):
    """A projection of the vector."""
    kind = s.get("activation_function", "Tanh").rpartition(".")[2]
    if kind not in ACTIVATIONS:
        raise ValueError(
            f"{s.where} has activation_function={s['activation_function']!r}; {', '.join(ACTIVATIONS)} are supported."
        )
    units, use_bias = s["out_features"], s.get("bias", True)
    s.skip("in_features")
    return lambda parts, x: parts.dense(units, name, activation=ACTIVATIONS[kind], use_bias=use_bias)(x)


def read_normalization(s: Settings, name: str):
    """The vector divided by its length."""
    return lambda parts, x: keras.layers.UnitNormalization(**parts.layer(name))(x)


READERS = {"Pooling": read_pooling, "Dense": read_dense, "Normalize": read_normalization}
