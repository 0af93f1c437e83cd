"""What changes the log-probabilities before a token is chosen; composes with every strategy.

A processor is a function of tensors,

    processor(log_probabilities (R, V), tokens (R, L), lengths (R,)) -> log-probabilities (R, V)

for R sequences, of which `lengths` tokens each are there, prompt and all. It may have a method `check(decoder)` that
raises a ValueError if it does not suit the model. Scores that a Generator reports are the model's own. Where processors
forbid every token, the sequence ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from keras import ops

from keras_transformer.decoding.decoder import Decoder
from keras_transformer.decoding.settings import is_integer, is_number, read_counts, read_ids
from keras_transformer.decoding.strategies import forbid, token_at
from keras_transformer.ops.exact import FORBIDDEN


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes tokens that the sequence has already less probable: log p(v) times `penalty` ("CTRL", section 4.1).

    The paper divides logits, which depends on their zero point; log-probabilities are never above 0.

    Args:
        penalty: Above 1 discourages repetition, below 1 encourages it.

    Raises:
        ValueError: If `penalty` is not positive.
    """

    penalty: float = 1.2

    def __post_init__(self):
        if not (is_number(self.penalty) and 0 < self.penalty < float("inf")):
            raise ValueError(f"RepetitionPenalty takes a positive penalty, got {self.penalty!r}.")

    def __call__(self, log_probabilities, tokens, lengths):
        places = ops.arange(tokens.shape[-1], dtype="int32")
        seen = _mark(tokens, places < ops.expand_dims(lengths, 1), log_probabilities.shape[-1])
        seen = ops.logical_and(seen, log_probabilities > FORBIDDEN / 2)  # what is forbidden stays so
        return ops.where(seen, log_probabilities * self.penalty, log_probabilities)


@dataclass(frozen=True)
class NoRepeatNGram:
    """Forbids the token that would complete an n-gram which the sequence has already (https://arxiv.org/abs/1705.04304,
    section 2.5).

    Args:
        size: n; 1 forbids every repetition.

    Raises:
        ValueError: If `size` is not a positive integer.
    """

    size: int = 3

    def __post_init__(self):
        read_counts(self, "size")

    def __call__(self, log_probabilities, tokens, lengths):
        width = tokens.shape[-1]
        if self.size > width:
            return log_probabilities
        lengths = ops.expand_dims(lengths, 1)
        before = self.size - 1
        ends = ops.arange(width, dtype="int32")  # where an n-gram ends
        repeated = ops.logical_and(ends >= before, ends < lengths)  # (R, L)
        recent = token_at(tokens, ops.maximum(lengths - before + ops.arange(before, dtype="int32"), 0))  # (R, n - 1)
        for place in range(before):
            shifted = ops.pad(tokens[:, : width - before + place], [[0, 0], [before - place, 0]])
            repeated = ops.logical_and(repeated, shifted == recent[:, place : place + 1])
        repeated = ops.logical_and(repeated, lengths >= before)
        return forbid(log_probabilities, _mark(tokens, repeated, log_probabilities.shape[-1]))


@dataclass(frozen=True)
class MinimumLength:
    """Forbids the end while a sequence, prompt and end token included, would be shorter than `length`.

    Args:
        length: Counted as `max_length` is.
        end_token: The id, or ids, that are forbidden until then.

    Raises:
        ValueError: If `length` is not a positive integer, or above the generator's `max_length`.
    """

    length: int
    end_token: int | Sequence[int]

    def __post_init__(self):
        read_counts(self, "length")
        if is_integer(self.end_token):
            object.__setattr__(self, "end_token", int(self.end_token))
        else:
            object.__setattr__(self, "end_token", read_ids(self, "end_token", self.end_token))

    def check(self, decoder: Decoder) -> None:
        if self.length > decoder.max_length:
            raise ValueError(
                f"MinimumLength asks for {self.length} tokens, the generator's max_length is {decoder.max_length}."
            )
        _check_tokens(self, np.ravel(self.end_token).tolist(), decoder)

    def __call__(self, log_probabilities, tokens, lengths):
        is_end = np.isin(np.arange(log_probabilities.shape[-1]), self.end_token)
        too_short = ops.expand_dims(lengths + 1 < self.length, 1)
        return forbid(log_probabilities, ops.logical_and(ops.convert_to_tensor(is_end), too_short))


class ForbiddenTokens:
    """Forbids tokens, altogether or at some positions.

    Args:
        tokens: Their ids.
        start, stop: The first position where they are forbidden, and the first behind it where they are not, counted
            from 0, the prompt included. Default: everywhere.

    Raises:
        ValueError: If an id is no integer, or not in the model's vocabulary, or none is left; or if a position is no
            integer, or `stop` is not behind `start`.
    """

    def __init__(self, tokens: Sequence[int], *, start: int = 0, stop: int | None = None):
        self.tokens = read_ids(self, "tokens", tokens)
        self.start, *stops = read_ids(self, "start and stop", [start] if stop is None else [start, stop])
        self.stop = stops[0] if stops else None
        if self.start < 0 or (stops and self.stop <= self.start):
            raise ValueError(f"ForbiddenTokens takes 0 <= start < stop, got start={start} and stop={stop}.")

    def __repr__(self):
        start = f", start={self.start}" if self.start else ""
        stop = "" if self.stop is None else f", stop={self.stop}"
        return f"ForbiddenTokens({list(self.tokens)}{start}{stop})"

    def check(self, decoder: Decoder) -> None:
        _check_tokens(self, self.tokens, decoder)
        if len({*self.tokens, *_never(decoder)}) >= decoder.vocabulary_size:
            raise ValueError(f"ForbiddenTokens forbids all {decoder.vocabulary_size} tokens of the model.")

    def __call__(self, log_probabilities, tokens, lengths):
        forbidden = ops.convert_to_tensor(np.isin(np.arange(log_probabilities.shape[-1]), self.tokens))
        if self.start:
            forbidden = ops.logical_and(forbidden, ops.expand_dims(lengths >= self.start, 1))
        if self.stop is not None:
            forbidden = ops.logical_and(forbidden, ops.expand_dims(lengths < self.stop, 1))
        return forbid(log_probabilities, forbidden)


class ForcedTokens:
    """Forces the tokens at given positions, a language code after the start token, say.

    Args:
        tokens: Ids by position, counted from 0, the prompt included. Several for a position: one of them.

    Raises:
        ValueError: If an id or a position is no integer, an id is not in the model's vocabulary, or a position is not
            below `max_length`.
    """

    def __init__(self, tokens: Mapping[int, int | Sequence[int]]):
        if not isinstance(tokens, Mapping):
            raise ValueError(f"ForcedTokens takes a dict of ids by position, got {tokens!r}.")
        self.tokens = {}
        for position, ids in zip(read_ids(self, "positions", tokens.keys()), tokens.values(), strict=True):
            several = isinstance(ids, list | tuple)
            found = read_ids(self, "tokens", ids if several else [ids])
            self.tokens[position] = found if several else found[0]

    def __repr__(self):
        return f"ForcedTokens({self.tokens})"

    def check(self, decoder: Decoder) -> None:
        _check_tokens(self, [id for ids in self.tokens.values() for id in np.ravel(ids).tolist()], decoder)
        for position in self.tokens:
            if not 0 < position < decoder.max_length:
                raise ValueError(
                    f"ForcedTokens takes positions from 1 to {decoder.max_length - 1}, below the generator's "
                    f"max_length, got {position}."
                )

    def __call__(self, log_probabilities, tokens, lengths):
        ids = np.arange(log_probabilities.shape[-1])
        for position, forced in self.tokens.items():
            others = ops.convert_to_tensor(~np.isin(ids, forced))
            others = ops.logical_and(ops.expand_dims(lengths == position, 1), others)
            log_probabilities = forbid(log_probabilities, others)
        return log_probabilities


def _check_tokens(processor, tokens, decoder) -> None:
    never = _never(decoder)
    for token in tokens:
        if isinstance(token, bool) or token in never or not 0 <= token < decoder.vocabulary_size:
            raise ValueError(
                f"{type(processor).__name__} takes ids from 0 to {decoder.vocabulary_size - 1}, the model's "
                f"vocabulary{''.join(f', but for {id}, which is padding' for id in never)}, got {token!r}."
            )


def _never(decoder) -> set[int]:
    """The padding id, where there is one that is not generated."""
    return {decoder.padding_id} - {None, *decoder.end_tokens}


def _mark(tokens, wanted, size: int):
    """Which ids occur in each row of `tokens` (R, L) at places that are `wanted` (R, L), (R, V)."""
    rows = ops.expand_dims(ops.arange(ops.shape(tokens)[0], dtype="int32"), 1) + ops.zeros_like(tokens)
    # One more takes the others, and ids that are read but never generated.
    columns = ops.where(ops.logical_and(wanted, tokens < size), tokens, size)
    indices = ops.reshape(ops.stack([rows, columns], axis=-1), (-1, 2))
    marks = ops.zeros((ops.shape(tokens)[0], size + 1), "int32")
    return ops.scatter_update(marks, indices, ops.ones_like(indices[:, 0]))[:, :size] > 0
