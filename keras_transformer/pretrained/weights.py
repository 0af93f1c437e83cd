"""Tensors in safetensors files, read one at a time: each is mapped into memory and let go."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from keras_transformer.pretrained.config import parse_json, read_json
from keras_transformer.pretrained.kinds import INTEGERS

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
SHARD_SIZE = 5 * 10**9  # bytes


class Tensor(NamedTuple):
    """Where a tensor lies.

    Attributes:
        path: The file.
        dtype: Of its elements.
        shape: Its shape.
        offset: Of its first byte in the file.
    """

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The tensor, mapped: it takes memory as it is read, until the array is let go."""
        count = math.prod(self.shape)
        if not count:
            return np.empty(self.shape, self.dtype)
        raw = np.memmap(self.path, "uint8", "r", self.offset, (count * self.dtype.itemsize,))
        return np.asarray(raw).view(self.dtype).reshape(self.shape)


def find(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder by name, from one safetensors file or from several with an index.

    Raises:
        ValueError: If there is no such file, a shard is missing, or one is damaged.
    """
    if (folder / SINGLE).is_file():  # an index beside it is what an older save left
        return read_header(folder / SINGLE)
    if (folder / INDEX).is_file():
        return _of_shards(folder)
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise ValueError(
            f"'{folder}' has its weights in {', '.join(pickles[:3])}, a pickle, which may run any code when it is "
            "read, and so is not read here. Convert it where you trust it: transformers' "
            "`AutoModel.from_pretrained(folder).save_pretrained(new_folder)` writes safetensors."
        )
    raise ValueError(f"'{folder}' has no weights: neither {SINGLE} nor {INDEX} is there.")


def _of_shards(folder: Path) -> dict[str, Tensor]:
    files = read_json(folder / INDEX).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ValueError(f"'{folder / INDEX}' has no 'weight_map' from the names of tensors to those of files.")
    tensors = {}
    for name in sorted(set(files.values())):
        if Path(name).name != name:
            raise ValueError(f"'{folder / INDEX}' names a file that lies elsewhere: {name!r}.")
        if not (folder / name).is_file():
            lost = [tensor for tensor, file in files.items() if file == name]
            raise ValueError(
                f"'{folder}' lacks the file {name}, which holds {len(lost)} tensors, {lost[0]} among them."
            )
        shard = read_header(folder / name)
        missing = [tensor for tensor, file in files.items() if file == name and tensor not in shard]
        if missing:
            raise ValueError(f"'{folder / name}' lacks tensors that the index promises: {listed(missing)}.")
        tensors.update({tensor: x for tensor, x in shard.items() if files.get(tensor, name) == name})
    return tensors


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    The file begins with the length of a JSON header, 8 bytes; offsets in the header count from its end. Behind it lie
    the tensors, one after the other, and nothing else.

    Raises:
        ValueError: If the file is truncated or no such file, a tensor has a type that NumPy lacks, two overlap, or
            there are bytes that belong to none.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(LARGEST_HEADER, size - 8):
            raise ValueError(
                f"'{path}' is no safetensors file, or a truncated one: of {size} bytes the header would be {length}."
            )
        header = parse_json(file.read(length), f"'{path}' is no safetensors file: its header", dict)
    tensors, places = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not _is_entry(entry):
            raise ValueError(f"'{path}' says nothing sensible of the tensor {name}: {entry!r}.")
        code, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if code not in DTYPES:
            raise ValueError(
                f"'{path}' has the tensor {name} in the type {code}; known are {', '.join(DTYPES)}. Quantized weights "
                "have to be dequantized first."
            )
        needed = math.prod(shape) * DTYPES[code].itemsize
        if end - start != needed:
            raise ValueError(
                f"'{path}' has {end - start} bytes for the tensor {name}, which takes {needed}: {code} {shape}."
            )
        if 8 + length + end > size:
            raise ValueError(
                f"'{path}' is truncated: the tensor {name} ends at byte {8 + length + end}, the file at {size}."
            )
        tensors[name] = Tensor(path, DTYPES[code], shape, 8 + length + start)
        places.append((start, end, name))
    filled, before = 0, "the header"
    for start, end, name in [*sorted(places), (size - 8 - length, size, "the end of the file")]:
        if start != filled:
            overlap = f"the tensor {name} begins within {before}"
            unknown = f"there are {start - filled} bytes between {before} and {name} that belong to no tensor"
            raise ValueError(f"'{path}' is damaged: {overlap if start < filled else unknown}.")
        filled, before = end, name
    return tensors


def _is_entry(entry) -> bool:
    """Whether a header may have this of a tensor."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    return INTEGERS.fits(shape) and INTEGERS.fits(offsets) and len(offsets) == 2 and min(*shape, *offsets, 0) == 0


def write(
    folder: Path, tensors: Mapping[str, tuple[np.dtype, tuple[int, ...]]], values: Iterable[np.ndarray], shard_size: int
) -> None:
    """Write tensors, one at a time, into one safetensors file or, above `shard_size` bytes, into several.

    Args:
        folder: Where to. Files of the same kind in it are replaced or removed, at the very end.
        tensors: Types and shapes by name.
        values: The tensors in that order.
        shard_size: In bytes; a single tensor may be larger.
    """
    shards = [[]]
    total = filled = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and filled + size > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled, total = filled + size, total + size
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    values = iter(values)
    temporary = [folder / f".{name}.writing" for name in names]
    try:
        for path, shard in zip(temporary, shards, strict=True):
            _write_file(path, {name: tensors[name] for name in shard}, values)
        old = [path for path in folder.iterdir() if re.fullmatch(r"model(-\d+-of-\d+)?\.safetensors", path.name)]
        for path, name in zip(temporary, names, strict=True):
            path.replace(folder / name)
        for path in old:
            if path.name not in names:
                path.unlink()
        (folder / INDEX).unlink(missing_ok=True)
        if count > 1:
            files = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
            index = {"metadata": {"total_size": total}, "weight_map": files}
            (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _write_file(path: Path, tensors: Mapping, values: Iterator[np.ndarray]) -> None:
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}  # transformers asks for the format
    offset = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for dtype, _ in tensors.values():
            value = np.ascontiguousarray(next(values), dtype)
            file.write(value.reshape(-1).view("uint8").data if value.size else b"")


def listed(names: Iterable[str], most: int = 5) -> str:
    """Names for an error message, the first few of many."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
