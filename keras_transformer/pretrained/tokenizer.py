"""The tokenizer of a folder that holds a checkpoint."""

import json
import os
import pathlib
from collections.abc import Iterable, Mapping

from keras_transformer.pretrained.config import read_json
from keras_transformer.pretrained.gguf import read_fields
from keras_transformer.pretrained.gguf_tokenizer import tokenizer_arguments
from keras_transformer.pretrained.hub import folder_of
from keras_transformer.pretrained.kinds import COUNT, OF_TOKENIZERS, TOKEN_FLAGS, check_kind
from keras_transformer.pretrained.marian_files import MARIAN, MarianFiles
from keras_transformer.pretrained.padding import padding_of_model
from keras_transformer.pretrained.sentence_texts import text_options
from keras_transformer.pretrained.sentencepiece_file import FILES, SentencePieceFile
from keras_transformer.pretrained.tokenizer_switches import with_switches
from keras_transformer.pretrained.vocabulary_files import VOCABULARIES, definition_of, roles_of
from keras_transformer.text.definition import as_fast, as_text, by_id
from keras_transformer.text.pretrained import PretrainedTokenizer
from keras_transformer.text.pretrained_sentencepiece import PretrainedSentencePieceTokenizer

_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_MEDIA = ("image_token", "boi_token", "eoi_token", "audio_token", "boa_token", "eoa_token", "video_token")


def load_tokenizer(
    folder: str | os.PathLike,
    *,
    vocabulary_size: int | None = None,
    file: str | None = None,
    target: bool = False,
    **kwargs,
) -> PretrainedTokenizer | PretrainedSentencePieceTokenizer:
    """The tokenizer of a checkpoint, with the checkpoint's own ids.

    Read is the first of these that the folder has:

    - `tokenizer.json`, of any family;
    - a SentencePiece model: of Llama, Mistral and Gemma (BPE), T5 and XLM-R (unigram: a
      `PretrainedSentencePieceTokenizer`, the ids of which are those of the sentencepiece package; those of the same
      checkpoint's tokenizer.json differ in odd texts, where `tokenizers` normalizes otherwise);
    - `source.spm`, `target.spm` and `vocab.json` of Marian;
    - `vocab.txt` of BERT, DistilBERT and MPNet; `vocab.json` and `merges.txt` of GPT-2, OPT, RoBERTa, BART and CLIP.

    Besides these: of `tokenizer_config.json`, or `special_tokens_map.json` and `added_tokens.json` in older folders,
    which tokens have a role, and which were added; `chat_template.jinja` and `additional_chat_templates/`, or the
    templates in `tokenizer_config.json`. A switch that `tokenizer_config.json` names counts, as in transformers, where
    tokenizer.json says otherwise: `do_lower_case`, `strip_accents` and `tokenize_chinese_chars` of BERT's tokenizers,
    `add_prefix_space` of GPT-2's, and what `added_tokens_decoder` says of white space at added tokens. Code that a
    folder may hold is never run. Texts come back as the file's decoder has them: `clean_up_tokenization_spaces`, by
    which transformers takes spaces out in front of punctuation, those of the text, too, is left alone. Where no file
    names a padding token, rows are padded with the id that the model in the folder hides.

    In the folder of a sentence encoder (`modules.json`) texts are prepared as sentence-transformers does it: the
    default prompt of `config_sentence_transformers.json` is put in front, white space at the edges is taken away, and
    `sentence_bert_config.json` says how many ids count (`max_seq_length`) and whether letters become small ones. What
    the caller gives counts instead: `max_length`, `prompt`, `strip`, `lowercase`.

    Args:
        folder: A folder, as `save_pretrained` of transformers writes it; a `.gguf` file that holds byte-level BPE; or
            the name of a model on a hub, as of `load_model`.
        vocabulary_size: Number of ids of the model. Tokens that stand for images or sounds and have no row in the
            model's embedding are left out; others are an error.
        file: The name of the file to read, if not the first of them: "spiece.model", say, which runs in a SavedModel
            where the tokenizer.json beside it does not.
        target: Whether the texts are targets of a translation, where a checkpoint (Marian's) cuts these by a model of
            their own.
        **kwargs: `add_start`, `add_end`, `special_tokens`, `max_length`, `prompt`, `strip`, `lowercase`, `name` of
            `PretrainedTokenizer`.

    Raises:
        ValueError: If the folder is not there, or holds no tokenizer that can be read; if a token has no id in the
            model's vocabulary, or another one than the folder says elsewhere.

    Example:

    ```python
    tokenizer = kt.pretrained.load_tokenizer("SmolLM2-135M-Instruct")
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    ```
    """
    folder = folder_of(folder)
    if folder.suffix == ".gguf":
        arguments = tokenizer_arguments(read_fields(folder), f"'{folder}'")
        return PretrainedTokenizer(**arguments, vocabulary_size=vocabulary_size, **kwargs)
    path = tokenizer_file(folder) if file is None else folder / file
    if path is None or not path.is_file():
        raise ValueError(_no_file(folder, file))
    config, of_model = _settings(folder), _json(folder / "config.json")
    model_type, kwargs = of_model.get("model_type"), {**text_options(folder, of_model, config), **kwargs}
    named = {role: _content(token) for role, token in config.items() if role.endswith("_token") and _content(token)}
    if path.name == "tokenizer.json":
        switches = _json(folder / "tokenizer_config.json")
        definition = with_switches(path.read_text(encoding="utf-8"), switches, model_type, f"'{path}'")
    elif path.name in (MARIAN, *FILES):
        source = MarianFiles(folder, target) if path.name == MARIAN else SentencePieceFile(path, model_type, config)
        named, config = {**source.roles, **named}, {**source.roles, **config}
        if isinstance(source, MarianFiles) or source.is_unigram:
            return _of_sentencepiece(source, config, named, vocabulary_size, str(path), kwargs)
        definition = as_text(source.definition())
    else:
        content, roles = definition_of(path, model_type, config)
        definition, config = as_text(content), {**config, **roles}
        named |= {role: _content(token) for role, token in roles.items()}
    definition = _with_tokens(definition, config, named, str(path))
    if vocabulary_size is not None:
        definition = _without_media(definition, {named[role] for role in _MEDIA if role in named}, vocabulary_size)
    if "pad_token" not in named:
        named |= _padding(definition, of_model, str(path))
    return PretrainedTokenizer(
        definition,
        named_tokens=named,
        chat_template=_chat_templates(folder, config),
        vocabulary_size=vocabulary_size,
        **kwargs,
    )


def tokenizer_file(folder: pathlib.Path) -> pathlib.Path | None:
    """The file of a folder that a tokenizer is read from, if there is one."""
    names = ("tokenizer.json", *FILES, MARIAN, *VOCABULARIES)
    return next((file for name in names if (file := folder / name).is_file()), None)


def padding_of(folder: pathlib.Path) -> int | None:
    """The id that the tokenizer of a folder pads with, without making the tokenizer. None if there is none, or if it is
    also a token that stands around texts: then a model cannot tell by ids what is padding."""
    path = tokenizer_file(folder)
    if path is None:
        return None
    config = _settings(folder)
    if path.name in VOCABULARIES:
        config = {**config, **roles_of(path, _json(folder / "config.json").get("model_type"), config)}
    token = _content(config.get("pad_token", "<pad>" if path.name == MARIAN else None))
    if token in (None, *(_content(config.get(role)) for role in ("bos_token", "eos_token", "cls_token", "sep_token"))):
        return None
    ids = {_content(token): int(id) for id, token in config.get("added_tokens_decoder", {}).items()}
    if token in ids or path.name in FILES:
        return ids.get(token)
    if path.name == "tokenizer.json":
        content = _json(path)
        vocabulary = content.get("model", {}).get("vocab", {})
        if isinstance(vocabulary, list):  # of a unigram model, with scores
            vocabulary = {piece: id for id, (piece, _) in enumerate(vocabulary)}
        return {**vocabulary, **{x["content"]: x["id"] for x in content.get("added_tokens", ())}}.get(token)
    if path.name == "vocab.txt":
        pieces = path.read_text(encoding="utf-8").split("\n")
        return next((id for id, piece in enumerate(pieces) if piece.rstrip() == token), None)
    return _json(folder / "vocab.json").get(token)


def _padding(definition: str, config: Mapping, owner: str) -> dict[str, str]:
    """The padding token of a tokenizer that names none: the one that the model hides, if it does."""
    id = padding_of_model(config)
    token = None if id is None else as_fast(definition, owner).id_to_token(id)
    return {} if token is None else {"pad_token": token}


def _of_sentencepiece(source, config: Mapping, named: Mapping[str, str], size: int | None, owner: str, kwargs: Mapping):
    """The tokenizer that a SentencePiece model and a vocabulary are, with what the configuration adds."""
    tokens, listed = _tokens(config, named)
    cut = {token["content"]: token for token in source.added if token["special"]}
    cut |= {content: token for content, token in tokens.items() if content not in cut}
    ids = {token: id for id, token in enumerate(source.vocabulary) if token}
    for content in cut:
        ids.setdefault(content, 1 + max(ids.values()))
    _check_ids(listed, ids.get, owner)
    return PretrainedSentencePieceTokenizer(
        source.model,
        by_id(ids, size, owner),
        named_tokens=named,
        added_tokens=[
            {name: token.get(name, False) for name in ("content", "lstrip", "rstrip")} for token in cut.values()
        ],
        start=source.start,
        end=source.end,
        language_codes=source.language_codes,
        **kwargs,
    )


def _tokens(config: Mapping, named: Mapping[str, str]) -> tuple[dict[str, dict], dict]:
    """The tokens that the configuration has, by content, and those of them that it gives an id, by id."""
    listed = {int(id): token for id, token in config.get("added_tokens_decoder", {}).items()}
    others = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    others = others.values() if isinstance(others, Mapping) else others
    tokens = {_content(token): _added(token) for _, token in sorted(listed.items())}
    roles = [config[role] for role in (*_ROLES, *sorted(set(named) - set(_ROLES))) if role in named]
    for token in (*roles, *others):
        tokens.setdefault(_content(token), _added(token, special=True))
    return tokens, listed


def _check_ids(listed: Mapping, id_of, owner: str) -> None:
    """ValueError unless tokens have the ids that the configuration gives them."""
    for id, token in listed.items():
        if id_of(_content(token)) != id:
            raise ValueError(
                f"{owner} gives the token {_content(token)!r} the id {id_of(_content(token))}, tokenizer_config.json "
                f"the id {id}. One of the files is of another checkpoint."
            )


def _with_tokens(definition: str, config: Mapping, named: Mapping[str, str], owner: str) -> str:
    """The definition with the tokens that only the configuration has, special ones."""
    from tokenizers import AddedToken

    fast = as_fast(definition, owner)
    there = {token.content: id for id, token in fast.get_added_tokens_decoder().items()}
    tokens, listed = _tokens(config, named)
    missing = [token for content, token in tokens.items() if content not in there]
    if missing:
        fast.add_tokens([AddedToken(**token) for token in missing])
        definition = fast.to_str()
    _check_ids(listed, fast.token_to_id, owner)
    return definition


def _settings(folder: pathlib.Path) -> dict:
    """What tokenizer_config.json says, or what older folders say in its place."""
    config = _json(folder / "tokenizer_config.json", OF_TOKENIZERS)
    if "added_tokens_decoder" in config:
        return config
    config = {**config, **_json(folder / "special_tokens_map.json", OF_TOKENIZERS)}
    special = {_content(token) for role, token in config.items() if role.endswith("_token")}
    special |= {_content(token) for token in config.get("additional_special_tokens") or []}
    ids = _json(folder / "added_tokens.json", ())
    if not all(map(COUNT.fits, ids.values())):
        raise ValueError(f"'{folder / 'added_tokens.json'}' has other than tokens and their ids: {ids}.")
    added = {
        id: {"content": token, "special": token in special, "normalized": token not in special}
        for token, id in ids.items()
    }
    return {**config, "added_tokens_decoder": added} if added else config


def _without_media(definition: str, media: set[str], vocabulary_size: int) -> str:
    """The definition without tokens that stand for images or sounds, where a text model has no such ids."""
    content = json.loads(definition) if media else {}
    beyond = [x for x in content.get("added_tokens", ()) if x["content"] in media and x["id"] >= vocabulary_size]
    if not beyond:
        return definition
    content["added_tokens"] = [x for x in content["added_tokens"] if x not in beyond]
    return json.dumps(content, ensure_ascii=False)


def _chat_templates(folder: pathlib.Path, config: Mapping) -> str | dict[str, str] | None:
    """The templates in files of their own, or else those of the configuration."""
    files = {"default": folder / "chat_template.jinja"}
    files |= {path.stem: path for path in sorted((folder / "additional_chat_templates").glob("*.jinja"))}
    templates = {name: path.read_text(encoding="utf-8") for name, path in files.items() if path.is_file()}
    if not templates:
        templates = config.get("chat_template")
        if isinstance(templates, list):
            templates = {x["name"]: x["template"] for x in templates}
    return templates["default"] if isinstance(templates, dict) and list(templates) == ["default"] else templates


def _content(token) -> str | None:
    """The string of a token, which is written as a string or as a dict."""
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else None


def _added(token, special: bool = False) -> dict:
    """The arguments of a token that is added."""
    if isinstance(token, str):
        return {"content": token, "special": special, "normalized": False}
    flags = {flag: token[flag] for flag in TOKEN_FLAGS if flag in token}
    return {"content": token["content"], "special": special, **flags}


def _json(path: pathlib.Path, names: Iterable[str] = ("max_position_embeddings", "model_type")) -> dict:
    """The settings in a file, those of the names of the kinds that they have to be; none where there is no file."""
    content = read_json(path) if path.is_file() else {}
    for name in names:
        check_kind(f"'{path}'", name, content.get(name))
    return content


def _no_file(folder: pathlib.Path, file: str | None) -> str:
    there = sorted(path.name for path in folder.iterdir())[:20]
    wanted = "tokenizer.json, no SentencePiece model and no vocabulary" if file is None else file
    return (
        f"'{folder}' holds no {wanted}, but {there}. With transformers, AutoTokenizer.from_pretrained(folder)"
        ".save_pretrained(folder) writes a tokenizer.json."
    )
