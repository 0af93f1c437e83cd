"""A `tokenizer.json`: read by the `tokenizers` package, and what it says of ids, special tokens and its template."""

import json
from collections.abc import Mapping, Sequence

import numpy as np

from keras_transformer.text.special import SPACE
from keras_transformer_runtime.packages import needed

BYTE_SPACES = "\u0120\u010a\u0109"  # a space, a line end and a tab, as byte-level models spell them


def as_text(definition: str | Mapping) -> str:
    """A definition as JSON."""
    return definition if isinstance(definition, str) else json.dumps(definition, ensure_ascii=False)


def as_fast(definition: str, owner: str):
    """The `tokenizers.Tokenizer` of a definition, without the padding and truncation that the file may have."""
    tokenizers = needed("tokenizers", owner)

    try:
        fast = tokenizers.Tokenizer.from_str(definition)
    except Exception as error:  # the package raises nothing more exact
        raise ValueError(
            f"{owner}: this is no tokenizer.json that tokenizers {tokenizers.__version__} can read: {error}. "
            f"Received: {definition[:80]!r}"
        ) from error
    fast.no_padding()
    fast.no_truncation()
    return fast


def vocabulary(fast, size: int | None, owner: str) -> tuple[str, ...]:
    """The tokens of a `tokenizers.Tokenizer` by id; see `by_id`."""
    return by_id(fast.get_vocab(with_added_tokens=True), size, owner)


def by_id(ids: Mapping[str, int], size: int | None, owner: str) -> tuple[str, ...]:
    """The tokens by id, "" where an id is none; ValueError for ids that are not below `size`."""
    tokens = {id: token for token, id in ids.items()}
    if size is None:
        size = 1 + max(tokens, default=-1)
    beyond = {token: id for id, token in sorted(tokens.items()) if id >= size}
    if beyond:
        some = [f"{token!r} is {id}" for token, id in beyond.items()]
        some = ", ".join(some[:8] + ["..."] * (len(some) > 8))
        raise ValueError(
            f"{owner}: the model has {size} ids, 0 to {size - 1}, but {len(beyond)} tokens have others: {some}. "
            "It is another model's tokenizer, or tokens were added to it and the model's embedding was not made larger."
        )
    return tuple(tokens.get(id, "") for id in range(size))


def begins_word(definition: str, tokens: Sequence[str], owner: str) -> np.ndarray:
    """Which of the tokens of a definition begin a word, (V,)."""
    model = json.loads(definition)["model"]
    if model.get("end_of_word_suffix"):
        raise ValueError(
            f"{owner} marks where words end, by {model['end_of_word_suffix']!r}, and not where they begin. Take "
            "whole_words=False."
        )
    if suffix := model.get("continuing_subword_prefix"):
        return np.array([not token.startswith(suffix) for token in tokens])
    if model["type"] == "WordLevel":
        return np.ones(len(tokens), bool)
    marks = BYTE_SPACES if '"ByteLevel"' in definition else SPACE
    return np.array([token.startswith(tuple(marks)) for token in tokens])


def special_ids(fast) -> set[int]:
    """The ids of the tokens that are no part of a text."""
    return {id for id, token in fast.get_added_tokens_decoder().items() if token.special}


def template(fast) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that the file's template puts in front of a text, and those behind it."""
    for probe in ("a", "1", "."):
        encoded = fast.encode(probe)
        of_text = [place for place, sequence in enumerate(encoded.sequence_ids) if sequence is not None]
        if of_text:
            return tuple(encoded.ids[: of_text[0]]), tuple(encoded.ids[of_text[-1] + 1 :])
    return tuple(fast.encode("").ids), ()


def part_of_frame(argument: str, wanted: bool | None, ids: tuple[int, ...], own: int | None, owner: str) -> tuple:
    """The ids on one side of a text: those of the template, or none, or, where the template has none, the one that is
    asked for."""
    if wanted is None or (wanted and ids):
        return ids
    if not wanted:
        return ()
    if own is None:
        role = "bos_token" if argument == "add_start" else "eos_token"
        raise ValueError(f"{owner}: {argument}=True, but the checkpoint has no such token. Name one: {role}.")
    return (own,)


def first(*values):
    """The first value that is not None, if there is one."""
    return next((value for value in values if value is not None), None)


def chosen_template(own, other: str | None, tools: Sequence | None, owner: str) -> str:
    """The chat template to use: another one, or the tokenizer's own; of several the one that is named, or the one for
    tools, or the default."""
    several = own if isinstance(own, Mapping) else {}
    if other is not None:
        return several.get(other, other)
    if isinstance(own, str):
        return own
    name = "tool_use" if tools is not None and "tool_use" in several else "default"
    if name not in several:
        known = f"has several and none is the default: {sorted(several)}" if several else "has none"
        raise ValueError(f"{owner}: a chat template is needed, and this checkpoint {known}. Give chat_template=...")
    return several[name]
