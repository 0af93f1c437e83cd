"""Vocabularies in files of their own, as older folders have them, as a `tokenizer.json`."""

import pathlib
from collections.abc import Mapping

from keras_transformer.pretrained.sentencepiece_file import template
from keras_transformer_runtime.packages import needed

VOCABULARIES = ("vocab.txt", "merges.txt")
_BERT = {
    "unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]",
}  # fmt: skip
_ROBERTA = {
    "bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>",
    "pad_token": "<pad>", "mask_token": {"content": "<mask>", "lstrip": True, "normalized": False},
}  # fmt: skip
_TEXT_END = "<|endoftext|>"
_GPT2 = {"bos_token": _TEXT_END, "eos_token": _TEXT_END, "unk_token": _TEXT_END}
_OPT = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
_CLIP = {**_GPT2, "bos_token": "<|startoftext|>", "pad_token": _TEXT_END}
_ROLES: dict[str, dict] = {
    "vocab.txt": {"bert": _BERT, "distilbert": _BERT, "mpnet": {**_ROBERTA, "unk_token": "[UNK]"}},
    "merges.txt": {
        "gpt2": _GPT2, "opt": _OPT, "roberta": _ROBERTA, "bart": _ROBERTA, "clip": _CLIP, "clip_text_model": _CLIP,
    },
}  # fmt: skip
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def definition_of(path: pathlib.Path, model_type: str | None, config: Mapping) -> tuple[dict, dict]:
    """The content of a `tokenizer.json`, and the tokens that have a role.

    Args:
        path: `vocab.txt`; or `merges.txt`, beside which `vocab.json` lies.
        model_type: That of `config.json`.
        config: The content of `tokenizer_config.json`: roles, `do_lower_case`, `strip_accents`,
            `tokenize_chinese_chars`, `add_prefix_space`, `add_bos_token`.

    Raises: ValueError if a file cannot be read, or if it is not known what the family does with a text.
    """
    roles = roles_of(path, model_type, config)
    if not roles:
        families = _ROLES[path.name]
        raise ValueError(
            f"'{path}': what a model of the type {model_type!r} does with a text is not known here (known are "
            f"{[*families]}). With transformers, AutoTokenizer.from_pretrained(folder).save_pretrained(folder) writes "
            "a tokenizer.json."
        )
    names = {role: token["content"] if isinstance(token, Mapping) else token for role, token in roles.items()}
    content = _word_pieces(path, names["unk_token"], config) if path.name == "vocab.txt" else None
    content = content or _byte_pairs(path, model_type, names, config)
    start, end = names.get("cls_token"), names.get("sep_token")
    if model_type in ("clip", "clip_text_model"):
        start, end = names["bos_token"], names["eos_token"]
    if model_type in ("gpt2", "opt"):
        start = names["bos_token"] if config.get("add_bos_token", model_type == "opt") else None
    ids = content["model"]["vocab"]
    missing = sorted({token for token in (start, end) if token} - set(ids))
    if missing:
        raise ValueError(f"'{path}' belongs to a vocabulary that lacks {missing}, which stands around each text.")
    content["post_processor"] = template([start] if start else [], [end] if end else [], ids)
    return {"version": "1.0", "added_tokens": [], **content}, roles


def roles_of(path: pathlib.Path, model_type: str | None, config: Mapping) -> dict:
    """The tokens that have a role in such a file: those of the configuration, or else the family's own."""
    return {role: _chosen(config.get(role), token) for role, token in _ROLES[path.name].get(model_type, {}).items()}


def _chosen(given, own):
    """A token of the configuration, or else the family's own; white space beside it is taken as the family does."""
    if isinstance(given, str) and isinstance(own, Mapping):
        return {**own, "content": given}
    return given or own


def _word_pieces(path: pathlib.Path, unknown: str, config: Mapping) -> dict:
    """BERT's: a token a line, by id."""
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"'{path}' is no vocabulary, a token a line, in UTF-8: {error}") from error
    vocabulary = {token.rstrip(): id for id, token in enumerate(tokens)}
    if unknown not in vocabulary:
        raise ValueError(f"'{path}' lacks the unknown token {unknown!r}.")
    return {
        "model": {
            "type": "WordPiece", "vocab": vocabulary, "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "normalizer": {
            "type": "BertNormalizer", "clean_text": True, "strip_accents": config.get("strip_accents"),
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
            "lowercase": config.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }  # fmt: skip


def _byte_pairs(path: pathlib.Path, model_type: str, names: Mapping[str, str], config: Mapping) -> dict:
    """GPT-2's: the ids in one file, the merges in order in another."""
    tokenizers = needed("tokenizers", f"'{path}'")
    vocabulary = path.with_name("vocab.json")
    try:
        ids, merges = tokenizers.models.BPE.read_file(str(vocabulary), str(path))
    except Exception as error:  # the package raises nothing more exact
        raise ValueError(f"'{vocabulary}' and '{path.name}' cannot be read: {error}") from error
    lacking = sorted({x for pair in merges for x in (*pair, "".join(pair))} - set(ids))
    if lacking:
        raise ValueError(f"'{path}' has merges of pieces that vocab.json lacks: {lacking[:8]}.")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": ids, "merges": [list(pair) for pair in merges], "fuse_unk": False}
    parts = {"model": model, "decoder": byte_level, "normalizer": None}
    if model_type not in ("clip", "clip_text_model"):
        words = {**byte_level, "add_prefix_space": bool(config.get("add_prefix_space", False))}
        return {**parts, "pre_tokenizer": words}
    one_space = {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    split = {"type": "Split", "pattern": {"Regex": _CLIP_WORDS}, "behavior": "Removed", "invert": True}
    return {
        "model": {**model, "end_of_word_suffix": "</w>", "unk_token": names["unk_token"]},
        "decoder": byte_level,
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, one_space, {"type": "Lowercase"}]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
    }
