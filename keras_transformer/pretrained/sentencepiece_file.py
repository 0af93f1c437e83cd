"""A SentencePiece model file as a `tokenizer.json`, for folders of families whose ids are those of the file."""

import base64
import pathlib
from collections.abc import Mapping, Sequence

from keras_transformer_runtime.packages import needed

FILES = ("tokenizer.model", "spiece.model", "sentencepiece.model")
_DECODERS = ("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "gemma3_text")
_METASPACE = {"type": "Metaspace", "replacement": "\u2581"}
_EXTRA_IDS = {"t5": 100, "mt5": 0, "umt5": 0}  # sentinels behind the pieces, the last one first


def definition_of(path: pathlib.Path, model_type: str | None, config: Mapping) -> tuple[dict, dict[str, str]]:
    """The content of a `tokenizer.json`, and the tokens that have a role.

    Args:
        path: The model file.
        model_type: That of `config.json`.
        config: The content of `tokenizer_config.json`: `legacy`, `add_bos_token`, `add_eos_token`, `extra_ids`.

    Raises: ValueError if the file is no model, or if the family's ids are not known to be those of the file.
    """
    needed("sentencepiece", f"'{path}'")
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    if model_type not in (*_DECODERS, *_EXTRA_IDS):
        raise ValueError(
            f"'{path}': which ids a model of the type {model_type!r} gives to the pieces is not known here (known are "
            f"{[*_DECODERS, *_EXTRA_IDS]}). With transformers, AutoTokenizer.from_pretrained(folder)"
            ".save_pretrained(folder) writes a tokenizer.json."
        )
    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"'{path}' is no SentencePiece model, or is damaged: {error}") from error
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
    if not model.pieces or kind not in ("BPE", "UNIGRAM") or model.trainer_spec.treat_whitespace_as_suffix:
        raise ValueError(f"'{path}' is no SentencePiece model of type BPE or UNIGRAM with spaces in front of words.")
    names = [piece.piece for piece in model.pieces]
    extra = int(config.get("extra_ids", _EXTRA_IDS.get(model_type, 0)))
    sentinels = [f"<extra_id_{number}>" for number in reversed(range(extra))]
    content = _bpe(model, config) if kind == "BPE" else _unigram(model, sentinels)
    roles = {
        role: names[id]
        for role, id in (
            ("bos_token", model.trainer_spec.bos_id),
            ("eos_token", model.trainer_spec.eos_id),
            ("unk_token", model.trainer_spec.unk_id),
            ("pad_token", model.trainer_spec.pad_id),
        )
        if id >= 0
    }
    types = {"special": ("CONTROL", "UNKNOWN"), "plain": ("USER_DEFINED",)}
    kinds = [piece.Type.Name(piece.type) for piece in model.pieces]
    added = [
        _added(id, name, is_special)
        for id, (name, kind) in enumerate(zip([*names, *sentinels], [*kinds, *["CONTROL"] * extra], strict=True))
        for is_special, those in ((True, types["special"]), (False, types["plain"]))
        if kind in those
    ]
    is_decoder = model_type in _DECODERS
    frame = (
        [roles["bos_token"]] if config.get("add_bos_token", is_decoder) else [],
        [roles["eos_token"]] if config.get("add_eos_token", not is_decoder) else [],
    )
    content = {"version": "1.0", "added_tokens": added, "normalizer": _normalizer(model), **content}
    content["post_processor"] = _template(*frame, {name: id for id, name in enumerate(names)})
    return content, roles


def _added(id: int, name: str, special: bool) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": name, "special": special, **flags}


def _normalizer(model) -> dict | None:
    spec = model.normalizer_spec
    steps = []
    if spec.precompiled_charsmap:
        table = base64.b64encode(spec.precompiled_charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if spec.remove_extra_whitespaces:
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return {"type": "Sequence", "normalizers": steps} if steps else None


def _bpe(model, config: Mapping) -> dict:
    """Model, words and way back of a BPE model: any two pieces that make a piece are a merge, by the piece's score."""
    vocabulary = {piece.piece: id for id, piece in enumerate(model.pieces)}
    normal = {piece.piece for piece in model.pieces if piece.type == piece.NORMAL}
    merges = []
    for piece in model.pieces:
        if piece.type == piece.NORMAL:
            parts = ((piece.piece[:place], piece.piece[place:]) for place in range(1, len(piece.piece)))
            parts = [(left, right) for left, right in parts if left in normal and right in normal]
            parts.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
            merges += [(piece.score, left, right) for left, right in parts]
    merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    prefix = model.normalizer_spec.add_dummy_prefix
    words = {"pre_tokenizer": {**_METASPACE, "prepend_scheme": "first" if prefix else "never", "split": False}}
    if prefix and config.get("legacy", True):  # in front of a space, too, and behind each special token
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
        own = _normalizer(model)["normalizers"] if _normalizer(model) else []
        steps = [*own, {"type": "Prepend", "prepend": "\u2581"}, spaces]
        words = {"pre_tokenizer": None, "normalizer": {"type": "Sequence", "normalizers": steps}}
    decoders = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}]
    decoders += [{"type": "ByteFallback"}, {"type": "Fuse"}]
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] * prefix
    return {
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [[left, right] for _, left, right in merges],
            "unk_token": model.pieces[model.trainer_spec.unk_id].piece,
            "fuse_unk": True,
            "byte_fallback": model.trainer_spec.byte_fallback,
        },
        "decoder": {"type": "Sequence", "decoders": decoders},
        **words,
    }


def _unigram(model, sentinels: Sequence[str]) -> dict:
    """Model, words and way back of a unigram model."""
    scheme = "always" if model.normalizer_spec.add_dummy_prefix else "never"
    metaspace = {**_METASPACE, "prepend_scheme": scheme, "split": True}
    pieces = [[piece.piece, piece.score] for piece in model.pieces] + [[name, 0.0] for name in sentinels]
    return {
        "model": {
            "type": "Unigram",
            "vocab": pieces,
            "unk_id": model.trainer_spec.unk_id,
            "byte_fallback": model.trainer_spec.byte_fallback,
        },
        "pre_tokenizer": metaspace,
        "decoder": metaspace,
    }


def _template(start: Sequence[str], end: Sequence[str], ids: Mapping[str, int]) -> dict:
    around = [[{"SpecialToken": {"id": name, "type_id": 0}} for name in names] for names in (start, end)]
    single = [*around[0], {"Sequence": {"id": "A", "type_id": 0}}, *around[1]]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, *around[1]]
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (*start, *end)}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}
