"""From a model back to a folder that `transformers` loads."""

import json
import os
from pathlib import Path

import keras

from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.layouts import Entry
from keras_transformer.pretrained.loading import family_of, read_architecture
from keras_transformer.pretrained.model import PretrainedModel
from keras_transformer.pretrained.variables import as_dtype, by_path, of_model, values
from keras_transformer.pretrained.weights import CODES, SHARD_SIZE, write


def save_model(
    model: keras.Model, folder: str | os.PathLike, *, dtype: str | None = None, shard_size: int = SHARD_SIZE
) -> None:
    """Write the weights of a model that came from a checkpoint back, as `transformers` and `load_model` read them.

    What has not been trained since is bit for bit what it was where the model's variables hold the file's numbers: in
    float32, the default, those of float16 and bfloat16 files, too. Numbers that were loaded as another type, say those
    of a float32 or bfloat16 file with `dtype="float16"`, come back in the file's type as that other type rounded them.
    LoRA is added to the weights. The tokenizer's files are not the model's: copy them.

    Args:
        model: What `kt.pretrained.load_model` returned, trained or not, or loaded again from a `.keras` file.
        folder: Where to. What is there of a model is replaced.
        dtype: Type of the tensors, such as "bfloat16". Default: that of each in the checkpoint that was loaded.
        shard_size: In bytes; what is larger is written as several files and an index.

    Raises:
        ValueError: If the model is another one, has been quantized, or the folder cannot be written to.
    """
    checkpoint = getattr(model, "checkpoint", None)
    if isinstance(model, PretrainedModel) and not checkpoint:
        raise ValueError(
            f"The PretrainedModel '{model.name}' has lost its checkpoint, which keras.models.clone_model does not hand "
            "on. Copy a model by `copy = type(model).from_config(model.get_config())` and "
            "`copy.set_weights(model.get_weights())`."
        )
    if not isinstance(model, PretrainedModel):
        raise ValueError(
            f"save_model takes a model that kt.pretrained.load_model returned, got the {type(model).__name__} "
            f"'{getattr(model, 'name', model)}', of which no checkpoint is known. Use model.save('model.keras')."
        )
    if dtype is not None and as_dtype(dtype) not in CODES:
        raise ValueError(f"save_model takes the dtype of tensors, such as 'bfloat16', or None, got {dtype!r}.")
    config = dict(checkpoint["config"])
    settings = Settings(config, "the model's configuration")
    architecture = read_architecture(family_of(config, "the model"), settings, checkpoint.get("modules"))
    entries = of_model(model, architecture.entries, checkpoint["prefix"])
    stored = checkpoint.get("stored_as", {})
    entries = [entry._replace(tensors=tuple(stored.get(entry.path, entry.tensors))) for entry in entries]
    folder = Path(folder)
    places = {entry.tensors[0].rpartition("/")[0] for entry in entries}
    try:
        for place in sorted(places):
            here = [entry for entry in entries if entry.tensors[0].rpartition("/")[0] == place]
            _write_tensors(model, here, folder / place, dtype, shard_size)
    except OSError as error:
        raise ValueError(f"'{folder}' cannot be written: {error}") from error
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    _write_json(folder / "config.json", config)
    if checkpoint["generation_config"] is not None:
        _write_json(folder / "generation_config.json", checkpoint["generation_config"])
    for name, content in (checkpoint.get("modules") or {}).items():
        _write_json(folder / name, content)


def _write_tensors(model: PretrainedModel, entries: list[Entry], folder: Path, dtype: str | None, shard_size: int):
    """Write the tensors of entries into a folder, by the last part of their names."""
    checkpoint, paths = model.checkpoint, by_path(model)
    tensors = {}
    for entry in entries:
        for name, shape in zip(entry.tensors, entry.layout.shapes(paths[entry.path].shape), strict=True):
            kept = checkpoint["dtypes"].get(name, checkpoint["dtype"])
            tensors[name] = as_dtype(dtype or kept), tuple(shape)
    folder.mkdir(parents=True, exist_ok=True)
    dtypes = {name: x for name, (x, _) in tensors.items()}
    here = {name.rpartition("/")[2]: x for name, x in tensors.items()}
    write(folder, here, values(model, entries, dtypes), shard_size)


def _write_json(path: Path, values: dict | list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
