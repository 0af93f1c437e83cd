"""What tokenizers of checkpoints have in common: all ids are the checkpoint's own."""

import functools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from keras_transformer.text.definition import first, part_of_frame
from keras_transformer.text.tokenizer import Tokenizer


class CheckpointTokenizer(Tokenizer):
    """Base of the tokenizers of checkpoints.

    Args:
        vocabulary: The tokens by id, "" where an id is no token.
        ids: The ids of the tokens that have a role, such as "bos_token"; None for one that is no token.
        template: The ids that stand in front of a text and behind it unless `add_start` and `add_end` say otherwise.
        controls: Ids of other tokens that are no part of a text.
        add_start, add_end: Whether a row starts and ends with these, or else with the start or the end token. None: as
            the template does.
        **kwargs: Of `Tokenizer`.
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
        **kwargs,
    ):
        name = kwargs.get("name") or type(self).__name__
        start, end = map(tuple, template)
        self.start_id = first(ids.get("bos_token"), ids.get("cls_token"), *start)
        self.end_id = first(ids.get("eos_token"), ids.get("sep_token"), *end)
        self.pad_id, self.mask_id = ids.get("pad_token"), ids.get("mask_token")
        self._unk_id = ids.get("unk_token")
        self._frame = (
            part_of_frame("add_start", add_start, start, self.start_id, name),
            part_of_frame("add_end", add_end, end, self.end_id, name),
        )
        self._vocabulary = tuple(vocabulary)
        self._controls = {*controls, *ids.values(), *start, *end} - {None}
        super().__init__(add_start=bool(self._frame[0]), add_end=bool(self._frame[1]), **kwargs)
        self.built = True

    @property
    def frame(self):
        return self._frame

    @property
    def unk_id(self) -> int | None:
        return self._unk_id

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
