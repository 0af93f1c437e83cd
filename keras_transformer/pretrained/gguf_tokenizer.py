"""The tokenizer in a GGUF file, as a `tokenizer.json`."""

import json
from collections.abc import Mapping

from keras_transformer.pretrained.config import Settings
from keras_transformer.pretrained.sentencepiece_file import SentencePieceFile, template
from keras_transformer_runtime.packages import needed

# Words of byte-level BPE, by the names that llama.cpp gives to them: regular expressions whose matches are words, one
# after the other, and whether GPT-2's words are taken of what is left.
_DIGITS = {"type": "Digits", "individual_digits": True}
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS: dict[str, tuple[list, bool]] = {
    "default": ([], True),
    "gpt-2": ([], True),
    "smollm": ([_DIGITS], True),
    "llama-bpe": ([rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"], False),
    "qwen2": ([rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"], False),
}
_NORMALIZERS = {"qwen2": {"type": "NFC"}}
_WHOLE_WORDS = ("llama-bpe",)  # a word that is a token is that token, whatever the merges make of it
_STARTS = ("llama-bpe",)  # the start is put in front unless the file says otherwise
_CONTROL, _USER_DEFINED, _UNKNOWN = 3, 4, 2  # llama.cpp's types of tokens
_ROLES = {
    "bos": "bos_token",
    "eos": "eos_token",
    "unknown": "unk_token",
    "padding": "pad_token",
    "seperator": "sep_token",  # as the format spells it
    "cls": "cls_token",
    "mask": "mask_token",
}


def has_tokenizer(fields: Mapping) -> bool:
    """Whether a file says what its ids mean."""
    return bool(fields.get("tokenizer.ggml.tokens"))


def tokenizer_arguments(fields: Mapping, where: str) -> dict:
    """The arguments of a `PretrainedTokenizer`: a `tokenizer.json`, the tokens that have a role, the chat template.

    Args:
        fields: What the file says beside its tensors.
        where: What error messages call it.

    Raises:
        ValueError: If the file has no tokenizer, or one of a kind that is not known here.
    """
    if not has_tokenizer(fields):
        raise ValueError(f"{where} holds no tokenizer.")
    fields = Settings({name.removeprefix("tokenizer."): value for name, value in fields.items()}, where)
    tokens = fields["ggml.tokens"]
    ids = {role: fields.get(f"ggml.{name}_token_id") for name, role in _ROLES.items()}
    for name in ("scores", "token_type"):
        count = len(fields.get(f"ggml.{name}", tokens))
        if count != len(tokens):
            raise ValueError(f"{where} has {len(tokens)} tokens and {count} numbers in tokenizer.ggml.{name}.")
    beyond = {role: id for role, id in ids.items() if id is not None and not 0 <= id < len(tokens)}
    if beyond:
        raise ValueError(f"{where} has {len(tokens)} tokens; there are none of these ids: {beyond}.")
    named = {role: tokens[id] for role, id in ids.items() if id is not None}
    kind = fields.get("ggml.model")
    if "huggingface.json" in fields:
        definition = fields["huggingface.json"]
    elif kind == "gpt2":
        definition = json.dumps(_byte_level(fields, named, where), ensure_ascii=False)
    elif kind == "llama":
        definition = json.dumps(_sentencepiece(fields, where).definition(), ensure_ascii=False)
    else:
        raise ValueError(f"{where} holds a tokenizer of the kind {kind!r}; known in GGUF files are 'gpt2' and 'llama'.")
    return {"definition": definition, "named_tokens": named, "chat_template": fields.get("chat_template")}


def _sentencepiece(fields: Settings, where: str) -> SentencePieceFile:
    """The SentencePiece model, BPE, that was written into the file."""
    needed("sentencepiece", where)
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    for token, score, kind in zip(
        *(fields[f"ggml.{name}"] for name in ("tokens", "scores", "token_type")), strict=True
    ):
        model.pieces.add(piece=token, score=score, type=kind)  # llama.cpp's types have SentencePiece's numbers
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = any(piece.type == piece.BYTE for piece in model.pieces)
    for name, role in (("bos", "bos_id"), ("eos", "eos_id"), ("unknown", "unk_id"), ("padding", "pad_id")):
        setattr(model.trainer_spec, role, fields.get(f"ggml.{name}_token_id", 0 if name == "unknown" else -1))
    model.normalizer_spec.add_dummy_prefix = fields.get("ggml.add_space_prefix", True)
    model.normalizer_spec.remove_extra_whitespaces = False
    around = {f"add_{x}_token": fields.get(f"ggml.add_{x}_token", x == "bos") for x in ("bos", "eos")}
    return SentencePieceFile(where, "llama", around, model.SerializeToString())


def _byte_level(fields: Settings, named: Mapping[str, str], where: str) -> dict:
    """The content of a `tokenizer.json`: byte-level BPE."""
    words = fields.get("ggml.pre", "default")
    if words not in _WORDS:
        raise ValueError(
            f"{where} cuts texts into words of the kind {words!r}; known in GGUF files are {', '.join(_WORDS)}."
        )
    tokens, types = fields["ggml.tokens"], fields.get("ggml.token_type") or []
    vocabulary = {token: id for id, token in enumerate(tokens)}
    steps, by_gpt2 = _WORDS[words]
    split = {"type": "Split", "behavior": "Isolated", "invert": False}
    steps = [step if isinstance(step, dict) else {**split, "pattern": {"Regex": step}} for step in steps]
    space = bool(fields.get("ggml.add_space_prefix", False))
    by_bytes = {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": by_gpt2}
    starts = fields.get("ggml.add_bos_token", words in _STARTS) and "bos_token" in named
    ends = fields.get("ggml.add_eos_token", False) and "eos_token" in named
    start, end = [named["bos_token"]] if starts else [], [named["eos_token"]] if ends else []
    return {
        "version": "1.0",
        "added_tokens": [
            _added(id, tokens[id], kind != _USER_DEFINED)
            for id, kind in enumerate(types)
            if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN)
        ],
        "normalizer": _NORMALIZERS.get(words),
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, by_bytes]},
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [merge.split(" ") for merge in fields["ggml.merges"]],
            "ignore_merges": words in _WHOLE_WORDS,
        },
        "post_processor": template(start, end, vocabulary) if start or end else None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }


def _added(id: int, token: str, special: bool) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": token, "special": special, **flags}
