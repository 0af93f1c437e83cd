"""A configuration file as it is read: each setting counts as read or not, and what nobody read is no secret."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from keras_transformer.pretrained.kinds import check_kind

# Settings that change nothing about what a model computes: notes about the file, what `transformers` returns or keeps
# besides, how generation goes (generation_config.json has that), how weights were initialized and other heads trained.
HARMLESS = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path _num_labels architectures
    attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id cache_implementation
    chunk_size_feed_forward classifier_dropout decoder_start_token_id diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
    forced_bos_token_id forced_decoder_ids forced_eos_token_id gradient_checkpointing id2label init_std
    initializer_factor initializer_range is_llama_config keys_to_ignore_at_inference label2id length_penalty
    max_length max_position_embeddings min_length model_type n_ctx name_or_path no_repeat_ngram_size num_beam_groups
    num_beams num_labels num_return_sequences output_attentions output_hidden_states output_past
    output_router_logits output_scores pad_token_id prefix pretraining_tp problem_type remove_invalid_values
    repetition_penalty return_dict return_dict_in_generate router_aux_loss_coef sep_token_id summary_activation
    summary_first_dropout summary_proj_to_labels summary_type summary_use_proj suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_last_hidden_states tokenizer_class top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
    """.split()
)
# Harmless where they have this value, which says that there is no such thing.
ABSENT = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": (False, True),
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_mrope": False,
}


class Settings(Mapping):
    """The settings of a file, of which each that is asked for counts as read, and has to be of the kind of its name
    (`kinds`).

    A setting of None is one that is not set. Dicts within are settings of their own, and count with the whole.

    Args:
        values: The settings by name.
        where: What error messages call them.
        tensors: The names of the tensors beside them, where that is known.

    Example:

    >>> from keras_transformer.pretrained.config import Settings
    >>> settings = Settings({"hidden_size": 8, "shiny": True}, "config.json")
    >>> settings.get("hidden_size"), settings.get("hidden_act", "silu"), settings.unread()
    (8, 'silu', ['shiny'])
    """

    def __init__(self, values: Mapping, where: str, tensors: Iterable[str] = ()):
        self.where = where
        self._tensors = frozenset(tensors)
        self._values = {
            name: Settings(value, where) if isinstance(value, Mapping) else value for name, value in values.items()
        }
        self._read = set()

    def __getitem__(self, name: str):
        """A setting that has to be there.

        Raises:
            ValueError: If it is not.
        """
        value = self.get(name)
        if value is None:
            raise ValueError(f"{self.where} has no setting '{name}', which the model cannot be made without.")
        return value

    def __contains__(self, name):
        return name in self._values

    def __iter__(self):
        return iter(self._values)

    def __len__(self):
        return len(self._values)

    def get(self, name: str, default=None):
        """A setting, or `default` where it is not set.

        Raises:
            ValueError: If it is of another kind than its name asks for.
        """
        value = self._take(name)
        check_kind(self.where, name, value)
        return default if value is None else value

    def _take(self, name: str):
        self._read.add(name)
        return self._values.get(name)

    def optional(self, name: str, default):
        """A setting that may be None, which says that there is none: `default` only where the file does not have it."""
        return self.get(name) if name in self else self.get(name, default)

    def only(self, name: str, *supported, why: str = "") -> None:
        """Read a setting of which only some values are supported, the first of which is the default.

        Raises:
            ValueError: If it has another one.
        """
        value = self._take(name)
        value = supported[0] if value is None else value
        if value not in supported:
            known = " or ".join(repr(x) for x in supported)
            raise ValueError(f"{self.where} has {name}={value!r}; {known} is supported{why and f', {why}'}.")

    def has_tensor(self, ending: str) -> bool:
        """Whether there is a tensor whose name ends so: there are parts of which no setting tells."""
        return any(f".{name}".endswith(f".{ending}") for name in self._tensors)

    def skip(self, *names: str) -> None:
        """Let settings count as read, with all that is in them: nothing here depends on them."""
        for name in names:
            inner = self._take(name)
            if isinstance(inner, Settings):
                inner.skip(*inner)

    def unread(self) -> list[str]:
        """The names of settings that nobody read, those within others behind a dot."""
        names = []
        for name, value in self._values.items():
            if isinstance(value, Settings) and name in self._read:
                names += [f"{name}.{inner}" for inner in value.unread()]
            elif name not in self._read and value is not None:
                names.append(name)
        return names

    def check(self, harmless=HARMLESS) -> None:
        """Raise ValueError if a setting was not read and is not known to be harmless."""
        unknown = list(self._unknown(harmless))
        if unknown:
            found = ", ".join(f"{name}={self.plain(name)!r}" for name in unknown)
            raise ValueError(
                f"{self.where} has settings that are not known here, so the model might compute something else than "
                f"was trained: {found}. If they change nothing, take them out of the file."
            )

    def _unknown(self, harmless) -> Iterator[str]:
        for name, value in self._values.items():
            if isinstance(value, Settings) and name in self._read:
                yield from (f"{name}.{inner}" for inner in value._unknown(harmless))
            elif name not in self._read and value is not None and name not in harmless and not self._is_absent(name):
                yield name

    def plain(self, name: str):
        """A setting as the file has it, by its name or, of one within another, by both; it does not count as read."""
        value = self._values
        for part in [name] if name in self._values else name.split("."):
            value = (value._values if isinstance(value, Settings) else value).get(part)
        return value.as_dict() if isinstance(value, Settings) else value

    def as_dict(self) -> dict:
        """All settings as the file has them."""
        return {name: self.plain(name) for name in self._values}

    def _is_absent(self, name: str) -> bool:
        allowed, value = ABSENT.get(name, ...), self.plain(name)
        return allowed is not ... and (value in allowed if isinstance(allowed, tuple) else value == allowed)


def read_json(path: Path) -> dict:
    """The object in a JSON file.

    Raises:
        ValueError: If the file is none, or holds something else.
    """
    return parse_json(path.read_bytes(), f"'{path}'", dict)


def read_json_list(path: Path) -> list:
    """The list in a JSON file.

    Raises:
        ValueError: If the file is none, or holds something else or nothing.
    """
    values = parse_json(path.read_bytes(), f"'{path}'", list)
    if not values:
        raise ValueError(f"'{path}' holds an empty list.")
    return values


def parse_json(text: bytes, where: str, kind: type):
    """What a JSON text holds, an object (dict) or a list.

    Raises:
        ValueError: If it is none, or holds something else.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON: {error}.") from error
    if not isinstance(values, kind):
        raise ValueError(f"{where} holds a {type(values).__name__} where a {kind.__name__} was expected.")
    return values
