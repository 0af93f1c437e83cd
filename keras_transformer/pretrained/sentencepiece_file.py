"""A SentencePiece model file: which ids its pieces have in the families that are known; BPE as a `tokenizer.json`."""

import base64
import pathlib
from collections.abc import Mapping, Sequence

from keras_transformer_runtime.packages import needed

FILES = ("tokenizer.model", "spiece.model", "sentencepiece.model", "sentencepiece.bpe.model")
_DECODERS = ("llama", "mistral", "mixtral", "gemma", "gemma2", "gemma3", "gemma3_text")
_METASPACE = {"type": "Metaspace", "replacement": "\u2581"}
_EXTRA_IDS = {"t5": 100, "mt5": 0, "umt5": 0}  # sentinels behind the pieces, the last one first
_FAIRSEQ = ("xlm-roberta",)  # special tokens in an order of their own, the pieces behind them, and a mask
_KNOWN = (*_DECODERS, *_EXTRA_IDS, *_FAIRSEQ)
_APART = ("CONTROL", "UNKNOWN", "USER_DEFINED")  # pieces that stand for themselves
_ROLES = ("bos", "eos", "unk", "pad")


class SentencePieceFile:
    """A SentencePiece model, and which id its pieces have in the checkpoint.

    Args:
        path: The file; or, with `content`, what it was taken from.
        model_type: That of `config.json`.
        config: The content of `tokenizer_config.json`: `legacy`, `add_bos_token`, `add_eos_token`, `extra_ids`.
        content: The bytes of the model, where there is no such file.

    Attributes:
        is_unigram: Whether pieces are chosen by their probability; else they are merged.
        vocabulary: The tokens by id.
        roles: Tokens that have a role, "eos_token" and so on.
        added: Tokens that are cut out of a text before, as a `tokenizer.json` has them.
        start, end: Tokens around a text.
        model: The file's bytes.

    Raises: ValueError if the file is no model, or if the family's ids are not known.
    """

    language_codes = False

    def __init__(self, path: pathlib.Path | str, model_type: str | None, config: Mapping, content: bytes | None = None):
        if model_type not in _KNOWN:
            raise ValueError(
                f"'{path}': which ids a model of the type {model_type!r} gives to the pieces is not known here (known "
                f"are {[*_KNOWN]}). With transformers, AutoTokenizer.from_pretrained(folder).save_pretrained(folder) "
                "writes a tokenizer.json."
            )
        self.model = pathlib.Path(path).read_bytes() if content is None else content
        model = self._model = _read(self.model, path)
        self._config = config
        self.is_unigram = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type) == "UNIGRAM"
        names = [piece.piece for piece in model.pieces]
        kinds = [piece.Type.Name(piece.type) for piece in model.pieces]
        special = {name: kind != "USER_DEFINED" for name, kind in zip(names, kinds, strict=True) if kind in _APART}
        ids = {f"{role}_token": getattr(model.trainer_spec, f"{role}_id") for role in _ROLES}
        self.roles = {role: names[id] for role, id in ids.items() if id >= 0}
        self.vocabulary = names
        if model_type in _EXTRA_IDS:
            sentinels = range(int(config.get("extra_ids", _EXTRA_IDS[model_type])))
            self.vocabulary = [*names, *(f"<extra_id_{number}>" for number in reversed(sentinels))]
            special |= dict.fromkeys(self.vocabulary[len(names) :], True)
        if model_type in _FAIRSEQ:
            if not self.is_unigram or names[:3] != ["<unk>", "<s>", "</s>"]:
                raise ValueError(f"'{path}' is no model of the type {model_type!r}: it begins with {names[:3]}.")
            self.vocabulary = ["<s>", "<pad>", "</s>", "<unk>", *names[3:], "<mask>"]
            self.roles = {**self.roles, "pad_token": "<pad>", "mask_token": "<mask>"}
            special |= {"<pad>": True, "<mask>": True}
        has_start, has_end = model_type not in _EXTRA_IDS, model_type not in _DECODERS
        around = (
            ("bos_token", config.get("add_bos_token", has_start)),
            ("eos_token", config.get("add_eos_token", has_end)),
        )
        self.start, self.end = ([self.roles[role]] if wanted and role in self.roles else [] for role, wanted in around)
        found = {name: id for id, name in enumerate(self.vocabulary)}
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        self.added = [
            {"id": found[name], "content": name, "special": is_special, **flags, "lstrip": name == "<mask>"}
            for name, is_special in special.items()
        ]

    def definition(self) -> dict:
        """The content of a `tokenizer.json` of a BPE model."""
        parts = _bpe(self._model, self._config)
        ids = {name: id for id, name in enumerate(self.vocabulary)}
        return {
            "version": "1.0",
            "added_tokens": self.added,
            "normalizer": _normalizer(self._model),
            **parts,
            "post_processor": template(self.start, self.end, ids),
        }


def _read(content: bytes, path: pathlib.Path | str):
    needed("sentencepiece", f"'{path}'")
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    try:
        model = sentencepiece_model_pb2.ModelProto.FromString(content)
    except DecodeError as error:
        raise ValueError(f"'{path}' is no SentencePiece model, or is damaged: {error}") from error
    kind = model.trainer_spec.ModelType.Name(model.trainer_spec.model_type)
    if not model.pieces or kind not in ("BPE", "UNIGRAM") or model.trainer_spec.treat_whitespace_as_suffix:
        raise ValueError(f"'{path}' is no SentencePiece model of type BPE or UNIGRAM with spaces in front of words.")
    return model


def _normalizer(model) -> dict | None:
    spec = model.normalizer_spec
    steps: list[dict] = []
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
    decoders: list[dict] = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}]
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


def template(start: Sequence[str], end: Sequence[str], ids: Mapping[str, int]) -> dict:
    """A post-processor that puts tokens around a text."""
    around = [[{"SpecialToken": {"id": name, "type_id": 0}} for name in names] for names in (start, end)]
    single = [*around[0], {"Sequence": {"id": "A", "type_id": 0}}, *around[1]]
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}, *around[1]]
    tokens = {name: {"id": name, "ids": [ids[name]], "tokens": [name]} for name in (*start, *end)}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": tokens}
