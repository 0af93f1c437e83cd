"""What tokenizers of checkpoints have in common: all ids are the checkpoint's own."""

import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from keras_transformer.text.definition import first, part_of_frame
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer_runtime.packages import needed

# White space, as Python's `str.strip` has it, at the edges of a text.
_SPACE = r"\t-\r\x{1C}-\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_NO_CHARACTER = "\ufdd0"  # of Unicode's, for uses of one's own
_EDGES = f"^[{_SPACE}]+|[{_SPACE}]+$"


class CheckpointTokenizer(Tokenizer):
    """Base of the tokenizers of checkpoints.

    Args:
        vocabulary: The tokens by id, "" where an id is no token.
        ids: The ids of the tokens that have a role, such as "bos_token"; None for one that is no token.
        template: The ids that stand in front of a text and behind it unless `add_start` and `add_end` say otherwise.
        controls: Ids of other tokens that are no part of a text.
        add_start, add_end: Whether a row starts and ends with these, or else with the start or the end token. None: as
            the template does.
        prompt: What is put in front of each text.
        strip: Whether white space at the edges of a text, the prompt included, is taken away.
        lowercase: Whether all letters of a text, the prompt included, become small ones.
        **kwargs: Of `Tokenizer`.

    Raises:
        ValueError: If the prompt is no string.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        ids: Mapping[str, int | None],
        template: tuple[Sequence[int], Sequence[int]],
        controls: Iterable[int],
        *,
        add_start: bool | None = None,
        add_end: bool | None = None,
        prompt: str = "",
        strip: bool = False,
        lowercase: bool = False,
        **kwargs,
    ):
        name = kwargs.get("name") or type(self).__name__
        start, end = map(tuple, template)
        self.start_id = first(ids.get("bos_token"), ids.get("cls_token"), *start)
        self.end_id = first(ids.get("eos_token"), ids.get("sep_token"), *end)
        self.pad_id, self.mask_id = ids.get("pad_token"), ids.get("mask_token")
        self.unk_id = ids.get("unk_token")
        self._frame = (
            part_of_frame("add_start", add_start, start, self.start_id, name),
            part_of_frame("add_end", add_end, end, self.end_id, name),
        )
        self._vocabulary = tuple(vocabulary)
        self._controls = {*controls, *ids.values(), *start, *end} - {None}
        if not isinstance(prompt, str):
            raise ValueError(f"{name} takes a string as prompt, got {prompt!r}.")
        self.prompt, self.strip, self.lowercase = prompt, bool(strip), bool(lowercase)
        super().__init__(add_start=bool(self._frame[0]), add_end=bool(self._frame[1]), **kwargs)
        self.built = True

    @property
    def frame(self):
        return self._frame

    def tokenize(self, strings):
        return super().tokenize(self._prepared(strings))

    def tokenize_ragged(self, strings):
        return super().tokenize_ragged(self._prepared(strings))

    def _prepared(self, strings):
        """Texts as they are tokenized, by the same operations in Python and in a graph."""
        tf = needed("tensorflow", self.name)

        strings = self._string_tensor(strings)
        if self.prompt:
            strings = tf.strings.join([self.prompt, strings])
        if self.strip:
            strings = tf.strings.regex_replace(strings, _EDGES, "")
        if self.lowercase:  # of a text with a NUL in it, TensorFlow would drop the rest
            strings = tf.strings.regex_replace(strings, r"\x{0}", _NO_CHARACTER)
            strings = tf.strings.regex_replace(tf.strings.lower(strings, "utf-8"), _NO_CHARACTER, tf.constant("\0"))
        return strings

    def get_vocabulary(self) -> list[str]:
        """The tokens by id, as the checkpoint spells them; "" where an id is no token."""
        return [*self._vocabulary, *self.special_tokens]

    @property
    def vocabulary_size(self) -> int:
        return len(self._vocabulary) + len(self.special_tokens)

    def is_control(self):
        return self._is_control

    @functools.cached_property
    def _is_control(self) -> np.ndarray:  # asked at each step of a stream
        ids = np.arange(self.vocabulary_size)
        return np.isin(ids, list(self._controls)) | (ids >= self.first_special_id)

    def hidden_ids(self, skip_special_tokens: bool) -> np.ndarray:
        if skip_special_tokens:
            return self.is_control()
        return np.isin(np.arange(self.vocabulary_size), [*self.stop_ids(), *self.frame[0]])

    def graph_problem(self) -> str | None:
        """What of the tokenizer cannot be done in a TensorFlow graph, and so not in a SavedModel; None if all can."""
        return None

    def get_config(self):
        own = {name: getattr(self, name) for name in ("prompt", "strip", "lowercase")}
        return {**super().get_config(), **own}
