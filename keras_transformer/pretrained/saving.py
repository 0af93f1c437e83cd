"""From a model back to a folder that `transformers` loads."""

import json
import os
from pathlib import Path

import keras

from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.loading import family_of
from keras_transformer.pretrained.model import PretrainedModel
from keras_transformer.pretrained.variables import as_dtype, of_model, values
from keras_transformer.pretrained.weights import CODES, SHARD_SIZE, write


def save_model(
    model: keras.Model, folder: str | os.PathLike, *, dtype: str | None = None, shard_size: int = SHARD_SIZE
) -> None:
    """Write the weights of a model that came from a checkpoint back, as `transformers` and `load_model` read them.

    What has not been trained since is bit for bit what it was. LoRA is added to the weights. The tokenizer's files are
    not the model's: copy them.

    Args:
        model: What `kt.pretrained.load_model` returned, trained or not, or loaded again from a `.keras` file.
        folder: Where to. What is there of a model is replaced.
        dtype: Type of the tensors, such as "bfloat16". Default: that of each in the checkpoint that was loaded.
        shard_size: In bytes; what is larger is written as several files and an index.

    Raises:
        ValueError: If the model is another one, has been quantized, or the folder cannot be written to.
    """
    checkpoint = getattr(model, "checkpoint", None)
    if not isinstance(model, PretrainedModel) or not checkpoint:
        raise ValueError(
            f"save_model takes a model that kt.pretrained.load_model returned, got the {type(model).__name__} "
            f"'{getattr(model, 'name', model)}', of which no checkpoint is known. Use model.save('model.keras')."
        )
    if dtype is not None and as_dtype(dtype) not in CODES:
        raise ValueError(f"save_model takes the dtype of tensors, such as 'bfloat16', or None, got {dtype!r}.")
    config = dict(checkpoint["config"])
    architecture = family_of(config, "the model").read(Settings(config, "the model's configuration"))
    entries = of_model(model, architecture.entries, checkpoint["prefix"])
    paths = {variable.path: variable for variable in model.weights}
    tensors = {}
    for entry in entries:
        for name, shape in zip(entry.tensors, entry.layout.shapes(paths[entry.path].shape), strict=True):
            kept = checkpoint["dtypes"].get(name, checkpoint["dtype"])
            tensors[name] = as_dtype(dtype or kept), tuple(shape)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, tensors, values(model, entries, {name: x for name, (x, _) in tensors.items()}), shard_size)
    except OSError as error:
        raise ValueError(f"'{folder}' cannot be written: {error}") from error
    if dtype is not None:
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    _write_json(folder / "config.json", config)
    if checkpoint["generation_config"] is not None:
        _write_json(folder / "generation_config.json", checkpoint["generation_config"])


def _write_json(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
