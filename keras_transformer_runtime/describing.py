"""What there is to know of an export without running it: `keras-transformer describe`."""

import importlib.util
from pathlib import Path

from keras_transformer_runtime.description import read_export
from keras_transformer_runtime.packages import PACKAGES

BUNDLE = "LiteRT-LM"
RUN_BY = {"SavedModel": "tensorflow", "LiteRT": "ai_edge_litert", BUNDLE: "ai_edge_litert", "ONNX": "onnxruntime"}
TEXT_OPERATIONS = (b"TFText>", b"WordpieceTokenize", b"SentencepieceOp", b"RegexSplit")  # of TensorFlow Text
SHOWN = 4  # inputs of a signature


def describe(path: str | Path) -> dict:
    """What an export says of itself, its size, and what it takes to run it, as JSON has it.

    Raises:
        ValueError: If there is none at `path`, or it was not written by this package.
    """
    path = Path(path)
    kind_of_file, description, _ = read_export(path)
    kind_of_file = BUNDLE if description["layout"] == "bundle" else kind_of_file
    return {
        "path": str(path),
        "format": kind_of_file,
        "size": sum(x.stat().st_size for x in _files(path)),
        "needs": [
            {"package": PACKAGES[x][0], "installed": _is_there(x)} for x in _needs(path, kind_of_file, description)
        ],
        "description": {name: value for name, value in description.items() if value is not None},
    }


def as_text(facts: dict) -> str:
    """The same for a person."""
    description = facts["description"]
    written = f"written by keras_transformer {description['keras_transformer']}"
    lines = [f"{heading(facts, description['kind'])}, {written}"]

    def add(name: str, value) -> None:
        lines.append(f"  {name:<12}{value}")

    if description["kind"] == "generator":
        add("strategy", _strategy(description))
        ends = description["end_tokens"]
        special = {"start": description.get("start_token"), "end": ", ".join(map(str, ends)) if ends else None}
        special["padding"] = description.get("padding_id")
        add(
            "tokens",
            f"{description['vocabulary_size']} ids; " + ", ".join(f"{x} {_or_none(y)}" for x, y in special.items()),
        )
    for x in description["inputs"]:
        add("input", _input(x))
    for x in description.get("outputs") or ():
        add("output", f"{x['name']} {_shape(x['shape'])}")
    if description.get("batch_size"):
        length = description.get("source_length")
        add("shapes", f"{description['batch_size']} rows at a time" + (f", of up to {length} ids" if length else ""))
    for side in ("source", "target"):
        if tokenizer := description.get(f"{side}_tokenizer"):
            add("tokenizer", f"of the {side}: {tokenizer['kind']}")
    for name, inputs in (description.get("signatures") or {}).items():
        more = [f"and {len(inputs) - SHOWN} more"] if len(inputs) > SHOWN else []
        add("signature", f"{name}({', '.join([*map(_input, inputs[:SHOWN]), *more])})")
    for x in facts["needs"]:
        add("needs", x["package"] + ("" if x["installed"] else f", which is not installed: pip install {x['package']}"))
    return "\n".join(lines)


def heading(facts: dict, kind: str) -> str:
    """An export in a few words."""
    return f"{facts['path']}: a {kind} as {facts['format']}, {_readable(facts['size'])}"


def _strategy(description: dict) -> str:
    parts = [description["strategy"], f"up to {description['max_length']} tokens"]
    if description["num_return"] > 1:
        parts.append(f"{description['num_return']} sequences a row")
    if description["takes_seed"]:
        seed = description.get("seed")
        parts.append(f"seed {'another one for each call' if seed is None else seed}")
    return ", ".join(parts)


def _input(x: dict) -> str:
    parts = [x["name"], x.get("dtype") or "", _shape(x.get("shape"))]
    size = x.get("vocabulary_size")
    return " ".join(filter(None, parts)) + (f", ids from 0 to {size - 1}" if size else "")


def _shape(shape: list | None) -> str:
    return "" if shape is None else f"({', '.join('any' if size is None else str(size) for size in shape)})"


def _or_none(value) -> str:
    return "none" if value is None else str(value)


def _readable(size: int) -> str:
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _files(path: Path) -> list[Path]:
    return [x for x in path.rglob("*") if x.is_file()] if path.is_dir() else [path]


def _needs(path: Path, kind_of_file: str, description: dict) -> list[str]:
    """The names by which packages are imported."""
    found = [RUN_BY[kind_of_file]]
    if kind_of_file == "SavedModel":
        graph = (path / "saved_model.pb").read_bytes()
        found += ["tensorflow_text"] if any(name in graph for name in TEXT_OPERATIONS) else []
    kinds = {(description.get(f"{side}_tokenizer") or {}).get("kind") for side in ("source", "target")}
    return [*found, *(["sentencepiece"] if "sentencepiece" in kinds else [])]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # it was taken out of sys.modules
        return False
