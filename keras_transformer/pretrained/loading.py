"""From a folder to a model."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import keras

from keras_transformer.pretrained.config import Settings, read_json
from keras_transformer.pretrained.families import FAMILIES
from keras_transformer.pretrained.family import Architecture, Family
from keras_transformer.pretrained.gguf import read_gguf
from keras_transformer.pretrained.hub import folder_of
from keras_transformer.pretrained.initializers import loading
from keras_transformer.pretrained.kept import keep, of_heads
from keras_transformer.pretrained.model import PretrainedModel
from keras_transformer.pretrained.padding import padded
from keras_transformer.pretrained.sentence import module_tensors, read_modules, read_sentence_encoder
from keras_transformer.pretrained.tokenizer import padding_of
from keras_transformer.pretrained.variables import as_stored, fill, of_model
from keras_transformer.pretrained.weights import Tensor, find


class Source(NamedTuple):
    """A checkpoint that has been found.

    Attributes:
        where: What error messages call it.
        config, generation_config: What its files say; the second may not be there.
        modules: What those of a sentence encoder say, if it is one.
        tensors: Finds its tensors.
        fields: What a GGUF file says beside its tensors; None of a folder.
        padding: Finds the id that the tokenizer beside the model pads with, if there is one.
    """

    where: str
    config: dict
    generation_config: dict | None
    modules: dict | None
    tensors: Callable[[], Mapping]
    fields: Mapping | None = None
    padding: Callable[[], int | None] = lambda: None

    @property
    def of_settings(self) -> str:
        """What error messages call its settings."""
        return self.where if self.fields is not None else f"config.json in {self.where}"


def load_model(folder: str | os.PathLike, dtype=None) -> PretrainedModel:
    """A plain functional model from a folder of a checkpoint, `config.json` and `*.safetensors`.

    The layers are those of this package, named and readable in `model.summary()`. The input of a language model is
    "tokens" (B, T), int; what comes out is what `architectures` in the file says: logits (B, T, V) of "...ForCausalLM"
    and "...ForMaskedLM", those of classes (B, classes) of "...ForSequenceClassification", hidden states (B, T, D) of a
    bare "...Model", or a dict of them, "hidden", and of what its pooler makes of them, "pooled". Encoders that tell
    kinds of tokens apart have an input "token_types" (B, T), too, which may be left out: all are of kind 0 then. That
    of images is "pixels" (B, height, width, channels); in PyTorch, channels come first. An encoder-decoder has the
    inputs "source" (B, S), padded with the folder's padding id, and "target" (B, T); Whisper has "features" (B, frames,
    mel), as `kt.LogMelSpectrogram` makes them, in place of a source. Dropout rates are those of the file, and act in
    training.

    A sentence encoder, as sentence-transformers saves one (`modules.json`), gives one vector (B, D) for each text.

    Code in the folder is never run: what a `model_type` that is known here means, this package knows; where the file
    also names code of its own (`auto_map`), that is left alone, and the settings are checked as ever.

    Args:
        folder: Where the files are; or a `.gguf` file, which `gguf` reads; or the name of a model on a hub,
            "owner/model", from where `huggingface_hub` downloads it, if that is installed.
        dtype: Dtype or dtype policy of the model, such as "bfloat16" or "mixed_bfloat16". Default: Keras' own, float32
            unless set otherwise, whatever type the tensors have.

    Returns:
        A functional `keras.Model`, to call, `fit`, save, hand to `kt.Generator`, and give back by
        `kt.pretrained.save_model`.

    Raises:
        ValueError: If a file is missing, damaged or a pickle, the `model_type` or the architecture is not known, a
            setting is not known or asks for what the layers do not have, or a tensor is missing, not wanted, or of
            another shape.
    """
    return model_of(read_source(folder), dtype)


def model_of(source: Source, dtype=None) -> PretrainedModel:
    """The model of a checkpoint that has been found; see `load_model`."""
    family, where = family_of(source.config, source.of_settings), source.where
    if source.config.get("quantization_config") is not None:
        raise ValueError(
            f"{where} holds quantized weights ({source.config['quantization_config']}). Dequantize them first: load "
            "them with transformers and that option, and `save_pretrained`."
        )
    found = source.tensors()
    tensors = named(found, family)
    settings = Settings(source.config, source.of_settings, tensors)
    architecture = read_architecture(family, settings, source.modules, found, source.padding)
    settings.check()
    prefix = family.prefix if any(name.startswith(family.prefix) for name in tensors) else ""
    policy = keras.config.dtype_policy() if dtype is None else keras.dtype_policies.get(dtype)
    types = Counter(x.dtype.name for x in tensors.values())
    usual = types.most_common(1)[0][0] if types else "float32"
    checkpoint = {
        "config": source.config,
        "generation_config": source.generation_config,
        "modules": source.modules,
        "prefix": prefix,
        "dtype": usual,
        "dtypes": {name: x.dtype.name for name, x in tensors.items() if x.dtype.name != usual},
    }
    with loading(), keras.StatelessScope():
        inputs, outputs = architecture.build((settings.get("architectures") or [None])[0], policy)
        name = source.config["model_type"]
        model = PretrainedModel(inputs, outputs, name=name, checkpoint=checkpoint)
        entries = of_model(model, architecture.entries, prefix)
        known = {tensor for entry in entries for tensor in (*entry.tensors, *entry.copies)}
        unused = of_heads({name: x for name, x in tensors.items() if name not in known}, family.heads)
        if unused:
            model = PretrainedModel(inputs, keep(outputs, unused, policy), name=name, checkpoint=checkpoint)
            entries = of_model(model, architecture.entries, prefix)
        stored = as_stored(entries, tensors)
        renamed = {x.path: list(x.tensors) for x, y in zip(stored, entries, strict=True) if x.tensors != y.tensors}
        if renamed:
            model.checkpoint["stored_as"] = renamed
        fill(model, stored, tensors, where)
    return model


def named(tensors: Mapping[str, Tensor], family: Family) -> dict[str, Tensor]:
    """The tensors that hold what was learned, by the names that they have today."""
    found = {}
    for name, tensor in tensors.items():
        if not any(re.fullmatch(pattern, name) for pattern in family.ignored):
            for pattern, today in family.renamed:
                name = re.sub(pattern, today, name)
            found[name] = tensor
    return found


def read_architecture(
    family: Family,
    settings: Settings,
    modules: Mapping | None,
    tensors: Mapping[str, Tensor] | None = None,
    padding: Callable[[], int | None] = lambda: None,
) -> Architecture:
    """The shape of model that the settings describe, and the tensors and the tokenizer's padding where they are given;
    of a sentence encoder where there are modules of one."""
    architecture = family.read(settings)
    if tensors is not None:
        architecture = family.adapt(architecture, tensors, settings.where)
    architecture = padded(architecture, padding)
    return architecture if modules is None else read_sentence_encoder(architecture, modules, settings.where)


def read_source(folder: str | os.PathLike) -> Source:
    """The checkpoint in a folder, in a GGUF file, or of a name on a hub.

    Raises:
        ValueError: If there is none.
    """
    folder = folder_of(folder)
    where = f"'{folder}'"
    if folder.is_file():
        if folder.suffix != ".gguf":
            raise ValueError(f"{where} is a file. load_model takes a folder with config.json, or a .gguf file.")
        config, tensors, fields = read_gguf(folder)
        return Source(where, config, None, None, lambda: tensors, fields)
    if not (folder / "config.json").is_file():
        raise ValueError(f"{where} is no folder of a checkpoint: it has no config.json.")
    generation = folder / "generation_config.json"
    generation = read_json(generation) if generation.is_file() else None
    modules = read_modules(folder)
    return Source(
        where,
        read_json(folder / "config.json"),
        generation,
        modules,
        lambda: {**find(folder), **module_tensors(folder, modules or {})},
        padding=lambda: padding_of(folder),
    )


def family_of(config: dict, where: str) -> Family:
    """The family of a checkpoint, by its `model_type`.

    Raises:
        ValueError: If it is not known.
    """
    kind = Settings(config, where).get("model_type")
    if kind not in FAMILIES:
        code = " The file names code of its own to run (auto_map), which is never done." if "auto_map" in config else ""
        raise ValueError(
            f"{where} holds a model of the type {kind!r}, which is not known here; known are "
            f"{', '.join(sorted(FAMILIES))}.{code}"
        )
    return FAMILIES[kind]
