"""Tokenizers outside the graph: strings to ids and back, with the same result as the layers of `kt.text`."""

import re

from keras_transformer_runtime.packages import needed


def make_tokenizer(settings: dict | None, files: dict[str, bytes]) -> "Tokenizer | None":
    """The tokenizer that an export describes; None if it describes none.

    Args:
        settings: Of the description: its `kind`, special ids, `files`.
        files: Contents by name.
    """
    if settings is None:
        return None
    kinds = {"sentencepiece": SentencePiece, "character": Characters, "byte": Bytes}
    if settings["kind"] not in kinds:
        raise ValueError(f"The export has a tokenizer of the kind {settings['kind']!r}; known are {sorted(kinds)}.")
    return kinds[settings["kind"]](settings, {part: files[name] for part, name in settings["files"].items()})


class Tokenizer:
    """What all have in common: start and end, special tokens, truncation, and where a row stops."""

    def __init__(self, settings: dict, files: dict[str, bytes] | None = None):
        self.settings = settings
        self._special = settings.get("special_tokens", {})  # the ids of strings that are never cut
        self._parts = re.compile(f"({'|'.join(map(re.escape, sorted(self._special, key=len, reverse=True)))})")

    def pieces(self, text: str) -> list[int]:
        """Ids of a text alone."""
        raise NotImplementedError

    def text(self, ids: list[int]) -> str:
        """The text of ids that hold no start, end or padding."""
        raise NotImplementedError

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text, with start and end where the settings say so."""
        settings = self.settings
        start, end = [settings["start_id"]] * settings["add_start"], [settings["end_id"]] * settings["add_end"]
        parts = self._parts.split(text) if self._special else [text]
        ids = [id for part in parts for id in self._part(part)]
        if settings["max_length"] is not None:
            ids = ids[: settings["max_length"] - len(start) - len(end)]
        return start + ids + end

    def _part(self, part: str) -> list[int]:
        return [self._special[part]] if part in self._special else self.pieces(part)

    def detokenize(self, ids, *, length: int | None = None) -> str:
        """The text of a row of ids, up to its first end or padding; or, with `length`, of as many ids of it, and ends
        and padding among them are left out."""
        settings = self.settings
        ids = list(map(int, ids))[:length]
        stops = [place for place, token in enumerate(ids) if token in (settings["end_id"], settings["pad_id"])]
        ids = ids[: stops[0]] if stops and length is None else ids
        hidden = {settings["start_id"], settings["end_id"], settings["pad_id"], *self._special.values()}
        return self.text([token for token in ids if token not in hidden])


WORD_START, UNKNOWN_TEXT = "\u2581", " \u2047 "


class SentencePiece(Tokenizer):
    """By the sentencepiece package."""

    def __init__(self, settings: dict, files: dict[str, bytes]):
        super().__init__(settings)
        sentencepiece = needed("sentencepiece", "The export's SentencePiece tokenizer", "or give ids")
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=files["model"])

    def pieces(self, text):
        return self._processor.encode(text)

    def text(self, ids):
        # Not by the package's `decode`: it leaves out all spaces that a text begins with, the graph's operation one.
        return "".join(map(self._surface, ids)).replace(WORD_START, " ").removeprefix(" ")

    def _surface(self, token: int) -> str:
        if not 0 <= token < self._processor.get_piece_size() or self._processor.is_unknown(token):
            return UNKNOWN_TEXT
        return "" if self._processor.is_control(token) else self._processor.id_to_piece(token)


REPLACEMENT = "\ufffd"
SPECIAL = 4  # ids before those of characters and bytes


class Characters(Tokenizer):
    """By a table of characters."""

    def __init__(self, settings: dict, files: dict[str, bytes]):
        super().__init__(settings)
        self._characters = files["characters.txt"].decode()
        self._ids = {character: place + SPECIAL for place, character in enumerate(self._characters)}

    def pieces(self, text):
        return [self._ids.get(character, self.settings["unk_id"]) for character in text]

    def text(self, ids):
        known = range(SPECIAL, SPECIAL + len(self._characters))
        return "".join(self._characters[token - SPECIAL] if token in known else REPLACEMENT for token in ids)


class Bytes(Tokenizer):
    """By the bytes of UTF-8."""

    def pieces(self, text):
        return [byte + SPECIAL for byte in text.encode()]

    def text(self, ids):
        known, unknown = range(SPECIAL, SPECIAL + 256), REPLACEMENT.encode()
        parts = (bytes([token - SPECIAL]) if token in known else unknown for token in ids)
        return b"".join(parts).decode(errors="replace")
