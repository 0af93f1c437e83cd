"""How sequences are found, as small objects that a Generator is given: the loop, and one token after another."""

from dataclasses import dataclass

import keras
from keras import ops

from keras_transformer.decoding.decoder import Decoder
from keras_transformer.ops.exact import FORBIDDEN
from keras_transformer.ops.runtime import is_without_xla


class Strategy:
    """Four pure functions of tensors that a loop is made of, and what a Generator has to know besides.

    `encode` makes the memory from the sources; `begin` completes it, after which it does not change, and makes the
    carry, a dict of (nested) tensors of fixed shapes, with `tokens`, `lengths` and `finished` (B,) among them;
    `advance` takes the carry one step further; `finish` turns it into the answer. The loop runs while a row is not
    finished. A row that is finished must not change any more, so that no row depends on the others.
    """

    is_random = False  # whether it draws random numbers, and so takes a seed
    returns_final_tokens = True  # whether a token once chosen stays, so that it can be streamed
    num_return = 1  # sequences for each row; the carry has them one after the other, (B N, ...)

    def check(self, decoder: Decoder) -> None:
        """Raise ValueError if the strategy does not suit the model; give the decoder what else it needs."""

    @property
    def models(self) -> list:
        """Models that the strategy runs besides the generator's own."""
        return []

    @property
    def variables(self) -> list:
        """Variables that the strategy reads besides the model's own."""
        return [variable for model in self.models for variable in model.variables]

    def with_seed(self, seed) -> "Strategy":
        """The same strategy with other random numbers; itself, if it needs none."""
        return self

    def encode(self, decoder: Decoder, sources: dict) -> dict:
        """The memory, from sources by slot."""
        return decoder.encode(sources)

    def begin(self, decoder: Decoder, memory: dict, prompts, lengths) -> tuple[dict, dict]:
        """The carry and the whole memory, from `encode`'s memory, prompts (B, P) and their lengths (B,)."""
        raise NotImplementedError

    def advance(self, decoder: Decoder, carry: dict, memory: dict) -> dict:
        """The carry one step later."""
        raise NotImplementedError

    def finish(self, decoder: Decoder, carry: dict) -> dict:
        """`tokens` (B, N, L), `lengths` (B, N) and `scores` (B, N)."""
        answer = {name: carry[name] for name in ("tokens", "lengths", "scores")}
        if self.num_return == 1:
            return {name: ops.expand_dims(x, 1) for name, x in answer.items()}
        return {name: ops.reshape(x, (-1, self.num_return, *x.shape[1:])) for name, x in answer.items()}

    def penalize(self, scores, new_tokens, coverage=None):
        """Summed log-probabilities as the strategy reports them, given the number of new tokens."""
        return scores


def generate(strategy: Strategy, decoder: Decoder, sources: dict, prompts, lengths) -> dict:
    """The whole loop: what a Generator compiles and `kt.export` writes."""
    carry, memory = strategy.begin(decoder, strategy.encode(decoder, sources), prompts, lengths)

    def advance(carry):
        new = strategy.advance(decoder, carry, memory)
        return (keras.tree.map_structure(in_shape, new, carry),)

    (carry,) = ops.while_loop(
        lambda carry: ops.logical_not(ops.all(carry["finished"])),
        advance,
        (carry,),
        maximum_iterations=decoder.max_length,
    )
    return strategy.finish(decoder, carry)


def in_shape(x, other):
    """`x` in the shape of `other`, which it has but may not tell: of texts that the model itself turns to ids,
    TensorFlow does not know how many there are, and of one row and unknown ones not even that they are one."""
    is_lost = any(size is None and known is not None for size, known in zip(x.shape, other.shape, strict=True))
    return ops.reshape(x, ops.shape(other)) if is_lost else x


class TokenByToken(Strategy):
    """One sequence a row, one token a step, chosen by `select`."""

    def select(self, log_probabilities, positions):
        """The next token of each row.

        Args:
            log_probabilities: (B, V), float32; tokens that must not be chosen have a very low one.
            positions: (B,), int32. Where the tokens will stand.

        Returns:
            (B,), int32.
        """
        raise NotImplementedError

    def begin(self, decoder, memory, prompts, lengths):
        state, memory, _ = decoder.begin(memory, prompts, lengths)
        carry = {**begin_sequences(decoder, prompts, lengths), "state": state}
        return repeat_rows(carry, self.num_return), repeat_rows(memory, self.num_return)

    def advance(self, decoder, carry, memory):
        tokens, lengths = carry["tokens"], carry["lengths"]
        last = ops.expand_dims(lengths - 1, 1)  # (B, 1)
        logits, _, state, _ = decoder.step(token_at(tokens, last), last, carry["state"], memory)
        log_probabilities = decoder.log_probabilities(logits[:, 0])  # (B, V)
        chosen = self.select(decoder.allowed(log_probabilities, tokens, lengths), lengths)
        gained = ops.take_along_axis(log_probabilities, ops.expand_dims(chosen, 1), axis=1)[:, 0]
        return {**append(decoder, carry, chosen, gained), "state": state}


@dataclass(frozen=True)
class Greedy(TokenByToken):
    """The most probable token at each step; the lower id where two are equal.

    Example:

    >>> import numpy as np
    >>> np.array(Greedy().select(np.log([[0.2, 0.5, 0.3]]), positions=np.array([1]))).tolist()
    [1]
    """

    def select(self, log_probabilities, positions):
        return argmax(log_probabilities)


def begin_sequences(decoder: Decoder, prompts, lengths) -> dict:
    """Tokens (B, L), lengths (B,), scores (B,) and whether each row is finished (B,), before the first step."""
    return {
        "tokens": decoder.pad(prompts, lengths),
        "lengths": lengths,
        "scores": ops.zeros_like(lengths, "float32"),
        "finished": lengths >= decoder.limit,
    }


def repeat_rows(tensors, times: int):
    """Nested tensors with each row as often as given, one after the other."""
    if times == 1:
        return tensors
    return keras.tree.map_structure(lambda x: ops.repeat(x, times, axis=0), tensors)


def append(decoder: Decoder, carry: dict, chosen, gained) -> dict:
    """Tokens, lengths, scores and finished with one more token (B,) of log-probability `gained` (B,), where a row is
    not finished."""
    tokens, lengths, finished = carry["tokens"], carry["lengths"], carry["finished"]
    slots = ops.expand_dims(ops.arange(decoder.max_length, dtype="int32"), 0)  # (1, L)
    here = ops.logical_and(slots == ops.expand_dims(lengths, 1), ops.expand_dims(ops.logical_not(finished), 1))
    longer = ops.where(finished, lengths, lengths + 1)
    ended = ops.logical_or(decoder.is_end(chosen), longer >= decoder.limit)
    return {
        "tokens": ops.where(here, ops.expand_dims(chosen, 1), tokens),
        "lengths": longer,
        "scores": ops.where(finished, carry["scores"], carry["scores"] + gained),
        "finished": ops.logical_or(finished, ended),
    }


def token_at(tokens, positions):
    """The tokens (..., T) at `positions` (..., T) of sequences (..., L)."""
    slots = ops.arange(tokens.shape[-1], dtype="int32")
    here = slots == ops.expand_dims(positions, -1)  # (..., T, L)
    return ops.sum(ops.where(here, ops.expand_dims(tokens, -2), 0), axis=-1)


def forbid(scores, condition):
    """`scores` where `condition` is False, and one that is never chosen where it is True."""
    return ops.where(condition, ops.cast(FORBIDDEN, scores.dtype), scores)


def argmax(x):
    """Index of the first largest element along the last axis, int32.

    Written with max, comparison and min, which every runtime has and which agree on ties: `ops.argmax` of floats
    has no builtin LiteRT op, and `ops.top_k` sorts (benchmarks/decoding_choices.py). TensorFlow's own operation, which
    is one pass, is taken where neither XLA nor LiteRT will run it.
    """
    x = ops.convert_to_tensor(x)
    if is_without_xla():
        import tensorflow as tf

        return tf.argmax(x, axis=-1, output_type="int32")
    size = x.shape[-1]
    largest = ops.max(x, axis=-1, keepdims=True)
    indices = ops.where(x >= largest, ops.arange(size, dtype="int32"), size)
    return ops.minimum(ops.min(indices, axis=-1), size - 1)  # NaN compares with nothing
