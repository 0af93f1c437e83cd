"""Marian's tokenizer: two SentencePiece models, of sources and of targets, and a vocabulary of their pieces."""

import json
import pathlib

MARIAN = "source.spm"


class MarianFiles:
    """`source.spm` or `target.spm`, and `vocab.json`; or `target_vocab.json`, where the two have vocabularies apart.

    Attributes: Those of `SentencePieceFile`. Punctuation is as it is in the text; transformers leaves it so, too.

    Raises: ValueError if a file is missing or cannot be read, or lacks an unknown or an end token.
    """

    is_unigram = True
    language_codes = True  # ">>fra<<", in models with several targets
    start = ()
    end = ("</s>",)

    def __init__(self, folder: pathlib.Path, target: bool):
        names = ("target.spm", "target_vocab.json") if target else (MARIAN, "vocab.json")
        path, vocabulary = (folder / name for name in names)
        if not vocabulary.is_file():
            vocabulary = folder / "vocab.json"
        missing = [file.name for file in (path, vocabulary) if not file.is_file()]
        if missing:
            raise ValueError(f"'{folder}' has the files of a Marian tokenizer, but no {missing}.")
        self.model = path.read_bytes()
        try:
            ids = json.loads(vocabulary.read_text(encoding="utf-8"))
            tokens = {int(id): token for token, id in ids.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"'{vocabulary}' is no vocabulary, tokens and their ids: {error}") from error
        self.vocabulary = [tokens.get(id, "") for id in range(1 + max(tokens, default=-1))]
        self.roles = {role: token for role, token in _ROLES.items() if token in ids}
        if not {"unk_token", "eos_token"} <= set(self.roles):
            raise ValueError(f"'{vocabulary}' is no vocabulary of Marian: it lacks '<unk>' or '</s>'.")
        self.added = [{"content": token, "special": True} for token in self.roles.values()]


_ROLES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
