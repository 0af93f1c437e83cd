"""What a tokenizer_config.json says otherwise than the tokenizer.json beside it."""

import json
import warnings
from collections.abc import Iterator, Mapping

# Classes of `transformers` that make such parts by their settings, and the models that have them if no class is named.
WORD_PIECES = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer", "MPNetTokenizer")
BYTES = ("BartTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "RobertaTokenizer", "WhisperTokenizer")
OF_MODELS = {
    "bart": "BartTokenizer",
    "bert": "BertTokenizer",
    "distilbert": "DistilBertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "llama": "LlamaTokenizer",
    "mpnet": "MPNetTokenizer",
    "opt": "GPT2Tokenizer",
    "roberta": "RobertaTokenizer",
    "whisper": "WhisperTokenizer",
}
OF_NORMALIZER = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")


def with_switches(definition: str, config: Mapping, model_type: str | None, owner: str) -> str:
    """The definition as the configuration has it, where that names a switch: letters, accents and Chinese characters of
    WordPiece, the space in front of a text of byte-level BPE, and the flags of added tokens.

    Args:
        definition: The text of the tokenizer.json.
        config: The tokenizer_config.json.
        model_type: That of the model.
        owner: What error messages call the definition.

    Raises:
        ValueError: If special tokens within a text are to be cut as any text.

    Warns: If LLaMA's space in front of a text is another one; the definition's is taken.
    """
    if config.get("split_special_tokens"):
        raise ValueError(
            f"'tokenizer_config.json' beside {owner} has split_special_tokens=True. A special token within a text is "
            "one id here; take the setting out of the file if that is what you want."
        )
    try:
        content = json.loads(definition)
        parts = {name: content.get(name) for name in ("normalizer", "pre_tokenizer", "added_tokens")}
    except (AttributeError, ValueError):  # no definition, which whoever reads it says
        return definition
    before = json.dumps(parts)
    kind = (config.get("tokenizer_class") or OF_MODELS.get(model_type, "")).removesuffix("Fast")
    if kind in WORD_PIECES:
        given = {key: config[switch] for switch, key in OF_NORMALIZER.items() if switch in config}
        for part in _parts(content.get("normalizer"), "BertNormalizer"):
            part.update(given)
    space = config.get("add_prefix_space")
    if kind in BYTES and space is not None:
        for part in _parts(content.get("pre_tokenizer"), "ByteLevel"):
            part["add_prefix_space"] = space
    if kind == "LlamaTokenizer" and space is not None and _has_space(content) == (not space):
        warnings.warn(
            f"'tokenizer_config.json' has add_prefix_space={space}, {owner} beside it {not space}, which is taken.",
            stacklevel=3,
        )
    listed = [token for token in config.get("added_tokens_decoder", {}).values() if isinstance(token, Mapping)]
    listed = {token["content"]: token for token in listed}
    for token in content.get("added_tokens") or ():
        other = listed.get(token["content"], {})
        token.update({flag: other[flag] for flag in FLAGS if flag in other})
    return definition if json.dumps(parts) == before else json.dumps(content, ensure_ascii=False)


def _parts(step: dict | None, kind: str) -> Iterator[dict]:
    """The steps of a kind within a step of a definition."""
    if step is None:
        return
    for further in (*step.get("normalizers", ()), *step.get("pretokenizers", ())):
        yield from _parts(further, kind)
    if step.get("type") == kind:
        yield step


def _has_space(content: Mapping) -> bool | None:
    """Whether a text gets a space in front where pieces are SentencePiece's BPE; None where they are others."""
    if not content.get("model", {}).get("byte_fallback"):
        return None
    schemes = [part.get("prepend_scheme", "always") for part in _parts(content.get("pre_tokenizer"), "Metaspace")]
    return any(x != "never" for x in schemes) or any(_parts(content.get("normalizer"), "Prepend"))
