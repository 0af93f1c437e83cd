"""The Multi30k data set: 29,000 captions of pictures in English, German and French, lower-cased and tokenized.

Elliott et al., "Multi30K: Multilingual English-German Image Descriptions", https://aclanthology.org/W16-3210. The
images are for non-commercial research and education; the texts are read from where you keep them, or downloaded from
the authors' repository.
"""

import gzip
import urllib.request
from pathlib import Path

SOURCE = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/tok"
SPLITS = {"train": 29_000, "val": 1_014, "test_2016_flickr": 1_000}


def read_multi30k(folder: Path | None, languages: tuple[str, ...]) -> dict[str, list[list[str]]]:
    """The sentences of each split, a list for each language, line by line of one another.

    Args:
        folder: Where files such as train.lc.norm.tok.de or train.lc.norm.tok.de.gz lie, or a folder "tok" with them.
            None downloads them into data/multi30k.
        languages: Such as ("de", "en").

    Raises:
        SystemExit: If a file is missing or has not the lines that the data set has.
    """
    return {
        split: [_read(folder, f"{split}.lc.norm.tok.{language}", lines) for language in languages]
        for split, lines in SPLITS.items()
    }


def _read(folder: Path | None, name: str, lines: int) -> list[str]:
    path = _download(name) if folder is None else _find(folder, name)
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8", newline="\n") as file:
        sentences = [line.rstrip("\r\n") for line in file]
    if len(sentences) != lines:
        raise SystemExit(f"{path} has {len(sentences):,} lines; in the Multi30k data set it has {lines:,}.")
    return sentences


def _find(folder: Path, name: str) -> Path:
    for path in (folder / f"{part}{name}{end}" for part in ("", "tok/") for end in ("", ".gz")):
        if path.exists():
            return path
    raise SystemExit(
        f"There is no {name} or {name}.gz in {folder} or in its folder tok. Give the folder of the Multi30k data set "
        f"(its data/task1/tok) with --data, or no --data to download it from {SOURCE}."
    )


def _download(name: str) -> Path:
    path = Path("data/multi30k") / f"{name}.gz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.part")
        with urllib.request.urlopen(f"{SOURCE}/{path.name}") as answer:
            beside.write_bytes(answer.read())
        beside.replace(path)
    return path
