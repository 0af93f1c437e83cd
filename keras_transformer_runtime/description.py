"""What an export says of itself, a JSON file in it, read with the mistrust that files from elsewhere ask for."""

import hashlib
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

NAME = "keras_transformer.json"
EXTRA = "assets.extra"  # where TensorFlow leaves room in a SavedModel for files of one's own
FORMAT = 2
LARGEST = 2**28  # bytes of a description with its files
# What reading something else ends in.
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    RuntimeError,
)


def read_folder(folder: Path) -> tuple[dict, dict[str, bytes]]:
    """The description in a folder, and the contents of the files that it names.

    Raises:
        ValueError: If there is none, or it is not what this package writes.
    """

    def read(name: str) -> bytes:
        path = folder / Path(name).name
        if path.stat().st_size > LARGEST:
            raise ValueError(f"'{name}' has {path.stat().st_size} bytes")
        return path.read_bytes()

    try:
        return _read(read)
    except DAMAGE as error:
        raise ValueError(f"'{folder}' has no description by keras_transformer: {error}.") from error


def read_archive(path: Path) -> tuple[dict, dict[str, bytes]]:
    """The description in the zip archive at the end of a file, and the contents of the files that it names.

    Raises:
        ValueError: If there is none, it is not what this package writes, or what stands before it was changed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # They are stored uncompressed, so their sizes tell, before anything is read, what is no archive of ours.
            packed, room = sum(member.file_size for member in archive.infolist()), path.stat().st_size
            if packed > min(room, LARGEST):
                raise ValueError(f"{packed} bytes are packed in a file of {room}")
            description, files = _read(archive.read)
        content = description.get("content")
        if content is not None and checksum(path, content["size"]) != content:
            raise ValueError("it was changed after it was written: its checksum is another")
    except DAMAGE as error:
        raise ValueError(
            f"'{path}' was not written by kt.export.litert or kt.export.litertlm, or is cut off or damaged: {error}."
        ) from error
    return description, files


def read_export(path: Path) -> tuple[str, dict, dict[str, bytes]]:
    """The format of an export, "SavedModel", "LiteRT", "LiteRT-LM" or "ONNX", its description, and the files that this
    names; of none of them more than that is read, so none of the packages that run them is needed.

    Raises:
        ValueError: If there is nothing at `path`, or it was not written by this package.
    """
    if not path.exists():
        raise ValueError(
            f"There is nothing at '{path}': an export is a SavedModel folder, a .tflite or .litertlm file, or ONNX."
        )
    if path.is_dir():
        is_onnx = (path / NAME).exists()
        return ("ONNX", *read_folder(path)) if is_onnx else ("SavedModel", *read_folder(path / EXTRA))
    if path.suffix == ".onnx":
        return "ONNX", read_onnx(path), {}
    return "LiteRT-LM" if path.suffix == ".litertlm" else "LiteRT", *read_archive(path)


def read_onnx(path: Path) -> dict:
    """The description in an ONNX file: of a ModelProto, the entry of its `metadata_props` that has our name.

    Raises:
        ValueError: If there is none, or the file is no ONNX file.
    """
    try:
        with open(path, "rb") as file:
            for entry in _fields(file, path.stat().st_size, METADATA_PROPS):
                parts = {number: part for number in (1, 2) for part in _fields(io.BytesIO(entry), len(entry), number)}
                if parts.get(1) == NAME.encode():
                    return parse(parts.get(2, b""))
        raise ValueError(f"there is no {NAME} in it")
    except DAMAGE as error:
        raise ValueError(f"'{path}' was not written by kt.export.onnx, or is damaged: {error}.") from error


METADATA_PROPS = 14  # the number of this field of an ONNX ModelProto


def _fields(file: BinaryIO, size: int, wanted: int) -> Iterator[bytes]:
    """The values of the fields of one number, which have a length, in a message of protobuf; others are passed over."""

    def varint() -> int:
        value = 0
        for place in range(10):
            (byte,) = file.read(1)
            value |= (byte & 127) << 7 * place
            if byte < 128:
                return value
        raise ValueError("it is no message of protobuf")

    while file.tell() < size:
        number, kind = divmod(varint(), 8)
        if kind == 0:
            varint()
            continue
        if kind not in (1, 2, 5):
            raise ValueError("it is no message of protobuf")
        length = varint() if kind == 2 else {1: 8, 5: 4}[kind]
        if length > size - file.tell() or (number == wanted and length > LARGEST):
            raise ValueError(f"a field of {length} bytes is in a file of {size}")
        if number == wanted and kind == 2:
            yield file.read(length)
        else:
            file.seek(length, 1)


def checksum(path: Path, size: int) -> dict:
    """What a description says of the first `size` bytes of its file."""
    digest, left = hashlib.sha256(), size
    with open(path, "rb") as file:
        while left and (block := file.read(min(left, 2**20))):
            digest.update(block)
            left -= len(block)
    return {"size": size - left, "sha256": digest.hexdigest()}


def parse(content: bytes) -> dict:
    """The description in the form of today, whichever version wrote it.

    Raises:
        ValueError: If a version to come wrote it, or something is missing or of another kind.
    """
    description = json.loads(content)
    if not isinstance(description, dict) or not _is_count(description.get("format")):
        raise ValueError(f"{NAME} is no description of an export")
    if description["format"] > FORMAT:
        raise ValueError(
            f"keras_transformer {description.get('keras_transformer')} wrote it, in format {description['format']}; "
            f"this version reads up to {FORMAT}"
        )
    if description["format"] == 1:
        try:
            description = _from_format_1(description)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{NAME} is no description of an export: {error!r}") from error
    fields = {**_FIELDS, **(_GENERATOR if description.get("kind") == "generator" else {})}
    for name, check in fields.items():
        if not check(description.get(name)):
            raise ValueError(f"{NAME} has as '{name}' {str(description.get(name, 'nothing'))[:99]}")
    return {**dict.fromkeys(fields), **description}


def _read(read: Callable[[str], bytes]) -> tuple[dict, dict[str, bytes]]:
    description = parse(read(NAME))
    tokenizers = [description.get(f"{side}_tokenizer") or {"files": {}} for side in ("source", "target")]
    return description, {name: read(name) for tokenizer in tokenizers for name in tokenizer["files"].values()}


def _from_format_1(description: dict) -> dict:
    """Id 0 was padding, and there was one end token."""
    is_generator = "strategy" in description
    new = {**description, "kind": "generator" if is_generator else "model"}
    if is_generator:
        target = {"name": description.get("target"), "vocabulary_size": description.get("vocabulary_size")}
        new["inputs"] = [{"name": name} for name in description.get("sources") or ()] or [target]
        new |= {"padding_id": 0, "hides_padding": True, "end_tokens": [description.get("end_token")], "seed": 0}
    else:
        signatures = description.get("signatures") or {}
        new["inputs"] = [{"name": x["name"]} for x in signatures.get("serving_default", ())]
    return new


def _is_count(value) -> bool:
    return type(value) is int and value > 0


def _is_id(value) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is(kind: type) -> Callable:
    return lambda value: type(value) is kind


def _or_none(check: Callable) -> Callable:
    return lambda value: value is None or check(value)


def _list_of(check: Callable) -> Callable:
    return lambda value: type(value) is list and all(map(check, value))


def _dict_of(check: Callable) -> Callable:
    return lambda value: type(value) is dict and all(map(check, value.values()))


def _record(**fields: Callable) -> Callable:
    return lambda value: type(value) is dict and all(check(value.get(name)) for name, check in fields.items())


_shape = _list_of(_or_none(_is_id))
_tokenizer = _record(
    kind=_is(str),
    files=_dict_of(_is(str)),
    pad_id=_or_none(_is_id),
    unk_id=_or_none(_is_id),
    start_id=_or_none(_is_id),
    end_id=_or_none(_is_id),
    special_tokens=_or_none(_dict_of(_is_id)),
    max_length=_or_none(_is_count),
    add_start=_is(bool),
    add_end=_is(bool),
)
_FIELDS = {
    "kind": lambda value: value in ("generator", "model"),
    "keras_transformer": _is(str),
    "inputs": _list_of(
        _record(
            name=_is(str),
            shape=_or_none(_shape),
            dtype=_or_none(_is(str)),
            vocabulary_size=_or_none(_is_count),
            padding_id=_or_none(_is_id),
            padded=_or_none(_is(bool)),
        )
    ),
    "outputs": _or_none(_list_of(_record(name=_is(str), shape=_shape))),
    "source_tokenizer": _or_none(_tokenizer),
    "target_tokenizer": _or_none(_tokenizer),
    "layout": lambda value: value in (None, "generate", "step", "model", "bundle"),
    "batch_size": _or_none(_is_count),
    "source_length": _or_none(_is_count),
    "signatures": _or_none(_dict_of(_list_of(_record(name=_is(str), shape=_shape, dtype=_is(str))))),
    "model": _or_none(_record(offset=_is_count, size=_is_count)),
    "in_place": _or_none(_list_of(_is(str))),
    "content": _or_none(_record(size=_is_count, sha256=_is(str))),
}
_GENERATOR = {
    "strategy": _is(str),
    "num_return": _is_count,
    "streams": _is(bool),
    "takes_seed": _is(bool),
    "seed": _or_none(_is(int)),
    "max_length": _is_count,
    "vocabulary_size": _is_count,
    "padding_id": _or_none(_is_id),
    "hides_padding": _is(bool),
    "start_token": _or_none(_is_id),
    "end_tokens": _list_of(_is_id),
    "sources": _list_of(_is(str)),
    "target": _is(str),
}
