"""A name on a hub in place of a folder: the files that are needed, downloaded by `huggingface_hub`."""

import os
from pathlib import Path

# Neither pickles nor code: only what is read here.
PATTERNS = ["*.json", "*.safetensors", "*.model", "*.spm", "*.txt", "*.jinja", "*/config.json"]


def folder_of(name: str | os.PathLike) -> Path:
    """The folder that is meant: that one, or, of a name such as "owner/model", the one where its files are kept.

    Raises:
        ValueError: If there is no such folder, and it is no such name, or `huggingface_hub` or what it asks is missing.
    """
    if Path(name).exists():
        return Path(name)
    parts = str(name).split("/")
    if not isinstance(name, str) or len(parts) != 2 or not all(parts) or parts[0] in (".", "..", "~"):
        raise ValueError(f"There is no folder '{name}'. (A name on a hub would be 'owner/model'.)")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise ValueError(
            f"There is no folder '{name}'. For the model of that name on a hub, install huggingface_hub: "
            '`pip install "keras-transformer-layers[pretrained]"`.'
        ) from error
    try:
        return Path(snapshot_download(name, allow_patterns=PATTERNS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"There is no folder '{name}', and no model of that name could be downloaded: {error}"
        ) from error
