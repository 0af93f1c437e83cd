"""What sentence-transformers does to a text before it is tokenized, as arguments of a tokenizer."""

from collections.abc import Mapping
from pathlib import Path

from keras_transformer.pretrained.config import Settings, read_json

MODULES = "modules.json"
ENCODER_FILES = (  # the first, or, in older folders, one of the others
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_xlm-roberta_config.json",
)
PROMPTS = "config_sentence_transformers.json"


def text_options(folder: Path, config: Mapping, tokenizer_config: Mapping) -> dict:
    """The arguments of a tokenizer that do to texts what `encode` of sentence-transformers does: the default prompt in
    front, no white space at the edges, small letters if the file asks for them, so many ids at most. None of them where
    the folder holds no sentence encoder.

    Args:
        folder: Where the files are.
        config: That of the model.
        tokenizer_config: That of the tokenizer.

    Raises:
        ValueError: If a file has a setting that is not known, or names a prompt that it does not have.
    """
    if not (folder / MODULES).is_file():
        return {}
    file = next((file for name in ENCODER_FILES if (file := folder / name).is_file()), None)
    s = Settings({} if file is None else _without_nothing(read_json(file)), f"'{file}'")
    length = s.get("max_seq_length")
    if length is None and "max_position_embeddings" in config:
        length = min(config["max_position_embeddings"], tokenizer_config.get("model_max_length") or float("inf"))
    options = {"max_length": length, "strip": True, "lowercase": s.get("do_lower_case", False)}
    s.only("transformer_task", "feature-extraction")
    s.only("module_output_name", "token_embeddings")
    s.check({"modality_config"})
    return {**options, "prompt": _default_prompt(folder / PROMPTS)}


def _default_prompt(file: Path) -> str:
    """The prompt that stands in front of each text unless another one is asked for."""
    settings = Settings(read_json(file) if file.is_file() else {}, f"'{file}'")
    name, prompts = settings.get("default_prompt_name"), settings.get("prompts", {})
    if name is None:
        return ""
    if name not in prompts:
        raise ValueError(f"'{file}' has default_prompt_name={name!r}; its prompts are {', '.join(prompts) or 'none'}.")
    return prompts.get(name, "")


def _without_nothing(settings: Mapping) -> dict:
    return {name: value for name, value in settings.items() if value not in (None, {})}
