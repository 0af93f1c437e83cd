"""A tokenizer as a LiteRT-LM bundle has it: a SentencePiece model, or a `tokenizer.json`."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from keras_transformer.layers.checks import describe
from keras_transformer.text import (
    ByteTokenizer,
    CharacterTokenizer,
    PretrainedSentencePieceTokenizer,
    PretrainedTokenizer,
    SentencePieceTokenizer,
    WordPieceTokenizer,
)
from keras_transformer.text.checkpoint import CheckpointTokenizer
from keras_transformer.text.tokenizer import SPECIAL_PIECES, Tokenizer


class BundledTokenizer(NamedTuple):
    """One section of a bundle."""

    suffix: str  # of the file that it is written from: ".model" or ".json"
    content: bytes


def bundled(tokenizer: Tokenizer) -> BundledTokenizer:
    """The tokenizer without what it puts around a text, which is the runtime's to add.

    Raises:
        ValueError: If the two forms cannot do what it does.
    """
    if isinstance(tokenizer, CheckpointTokenizer):
        changed = [name for name in ("prompt", "strip", "lowercase") if getattr(tokenizer, name)]
        if changed:
            raise ValueError(
                f"{describe(tokenizer)} changes texts by {changed} before it reads them, which a bundle has no place "
                "for. Do that to the texts before they go in, and make the tokenizer without."
            )
    for kind, make in _KINDS.items():
        if isinstance(tokenizer, kind):
            return make(tokenizer)
    raise ValueError(
        f"A bundle holds a SentencePiece model or a tokenizer.json, and {type(tokenizer).__name__} is neither: take "
        f"one of {[kind.__name__ for kind in _KINDS]}."
    )


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> BundledTokenizer:
    if not tokenizer.special_tokens:
        return BundledTokenizer(".model", tokenizer.model)
    return _with_pieces(tokenizer.model, tokenizer.get_vocabulary())


def _pretrained_sentencepiece(tokenizer: PretrainedSentencePieceTokenizer) -> BundledTokenizer:
    if tokenizer.language_codes:
        raise ValueError(f"{describe(tokenizer)} reads language codes, which a bundle has no place for.")
    return _with_pieces(tokenizer.model, tokenizer.get_vocabulary())


def _with_pieces(model: bytes, vocabulary: Sequence[str]) -> BundledTokenizer:
    """The SentencePiece model, with the tokens that a vocabulary has behind the model's pieces as pieces that are never
    cut."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    own = [piece.piece for piece in proto.pieces]
    shared = min(len(own), len(vocabulary))
    other = next((id for id in range(shared) if vocabulary[id] not in ("", own[id])), None)
    if other is not None:
        raise ValueError(
            f"A SentencePiece model has its pieces in the order of their ids: id {other} is {own[other]!r} in the "
            f"model, {vocabulary[other]!r} in the vocabulary. Take the checkpoint's tokenizer.json: "
            "kt.pretrained.load_tokenizer(folder, file=...)."
        )
    if len(vocabulary) < len(own):
        raise ValueError(f"The SentencePiece model has {len(own)} pieces, the vocabulary {len(vocabulary)}.")
    for id in range(len(own), len(vocabulary)):
        token = vocabulary[id] or f"<unused_{id}>"
        proto.pieces.add(piece=token, score=0.0, type=sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED)
    return BundledTokenizer(".model", proto.SerializeToString())


def _pretrained(tokenizer: PretrainedTokenizer) -> BundledTokenizer:
    definition = json.loads(tokenizer.definition)
    own = {token["content"] for token in definition.get("added_tokens") or ()}
    first = tokenizer.first_special_id
    definition["added_tokens"] = [
        *(definition.get("added_tokens") or ()),
        *(_added(first + n, token) for n, token in enumerate(tokenizer.special_tokens) if token not in own),
    ]
    return _json(definition | {"post_processor": None, "padding": None, "truncation": None})


def _wordpiece(tokenizer: WordPieceTokenizer) -> BundledTokenizer:
    pieces = tokenizer.get_vocabulary()[: tokenizer.first_special_id]
    words = {"type": "WordPiece", "vocab": {piece: id for id, piece in enumerate(pieces)}, "unk_token": "<unk>"}
    return _json(
        {
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": False,
                "handle_chinese_chars": True,
                "strip_accents": False,
                "lowercase": tokenizer.fold_case,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "model": {**words, "continuing_subword_prefix": "##", "max_input_chars_per_word": 2**30},
            "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": False},
            "added_tokens": _added_tokens(tokenizer),
        }
    )


def _character(tokenizer: CharacterTokenizer) -> BundledTokenizer:
    vocabulary = {piece: id for id, piece in enumerate([*SPECIAL_PIECES, *tokenizer.characters])}
    unknown = {"type": "Replace", "pattern": {"String": "<unk>"}, "content": "\ufffd"}
    cut = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
    return _json(
        {
            "pre_tokenizer": cut,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"},
            "decoder": {"type": "Sequence", "decoders": [unknown, {"type": "Fuse"}]},
            "added_tokens": _added_tokens(tokenizer),
        }
    )


def _byte(tokenizer: ByteTokenizer) -> BundledTokenizer:
    vocabulary = {piece: id for id, piece in enumerate(SPECIAL_PIECES)}
    vocabulary |= {letter: len(SPECIAL_PIECES) + byte for byte, letter in enumerate(_byte_letters())}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return _json(
        {
            "pre_tokenizer": level,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "unk_token": None},
            "decoder": level,
            "added_tokens": _added_tokens(tokenizer),
        }
    )


def _byte_letters() -> list[str]:
    """What stands for the 256 bytes in byte-level BPE: printable letters for themselves, for others U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def _added_tokens(tokenizer: Tokenizer) -> list[dict]:
    special = enumerate(tokenizer.special_tokens, tokenizer.first_special_id)
    return [_added(id, token) for id, token in special]


def _added(id: int, token: str) -> dict:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": token, **flags, "special": True}


def _json(definition: dict) -> BundledTokenizer:
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    whole = {"version": "1.0", **empty, "added_tokens": [], **definition}
    return BundledTokenizer(".json", json.dumps(whole, ensure_ascii=False).encode())


_KINDS = {
    SentencePieceTokenizer: _sentencepiece,
    PretrainedSentencePieceTokenizer: _pretrained_sentencepiece,
    PretrainedTokenizer: _pretrained,
    WordPieceTokenizer: _wordpiece,
    CharacterTokenizer: _character,
    ByteTokenizer: _byte,
}
