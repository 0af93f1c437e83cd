"""Contrastive search: the token that is probable and yet says something new."""

from dataclasses import dataclass

from keras import ops

from keras_transformer.decoding.decoder import gather_rows
from keras_transformer.decoding.settings import is_number, read_counts
from keras_transformer.decoding.strategies import Strategy, append, argmax, begin_sequences, token_at
from keras_transformer.ops.exact import FORBIDDEN


@dataclass(frozen=True)
class ContrastiveSearch(Strategy):
    """Chooses among the k most probable tokens one whose representation is unlike all earlier ones.

    x_t = argmax over v in top-k of (1 - alpha) p(v) - alpha max over j < t of cos(h_v, h_j)
    ("A Contrastive Framework for Neural Text Generation", https://arxiv.org/abs/2202.06417, equation 5),

    where h is what the model makes its logits from. The k candidates of a row are read in one step, as k beams.

    Args:
        top_k: Number of candidates k.
        penalty: alpha, in [0, 1]. 0 is greedy search.

    Raises:
        ValueError: If `top_k` is not a positive integer or is above the size of the vocabulary, `penalty` is not in
            [0, 1], or the model shows no vectors that its logits are made from.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> tokens = keras.Input((None,), dtype="int32", name="tokens")
    >>> x = kt.DecoderLayer(2, 16)(kt.PositionalEncoding()(kt.TokenEmbedding(11, 8)(tokens)))
    >>> model = keras.Model(tokens, keras.layers.Dense(11)(x))
    >>> generator = kt.Generator(model, max_length=7, end_token=3, strategy=kt.ContrastiveSearch(top_k=4))
    >>> generator(np.array([[2, 5, 4], [2, 9, 0]]))["tokens"].shape
    (2, 1, 7)
    """

    top_k: int = 4
    penalty: float = 0.6

    def __post_init__(self):
        read_counts(self, "top_k")
        if not (is_number(self.penalty) and 0 <= self.penalty <= 1):
            raise ValueError(f"ContrastiveSearch takes a penalty in [0, 1], got {self.penalty!r}.")

    def check(self, decoder):
        if self.top_k > decoder.vocabulary_size:
            raise ValueError(
                f"ContrastiveSearch has top_k={self.top_k}, more than the {decoder.vocabulary_size} tokens of the "
                "model's vocabulary. Take fewer."
            )
        if decoder.graph.features is None:
            raise ValueError(
                f"ContrastiveSearch compares the vectors that logits are made from; in the model "
                f"'{decoder.graph.model.name}' one layer makes logits of tokens and shows no such vectors. Take "
                "another strategy, or build the model of its parts: keras.Model(tokens, head(decoder(tokens)))."
            )

    def begin(self, decoder, memory, prompts, lengths):
        state, memory, features = decoder.begin(memory, prompts, lengths, beams=self.top_k, features=True)
        sequences = begin_sequences(decoder, prompts, lengths)
        last = ops.expand_dims(lengths - 1, 1)  # (B, 1)
        current = token_at(sequences["tokens"], last)
        candidates = ops.zeros((1, self.top_k), "int32")
        ancestry = ops.zeros_like(sequences["tokens"])  # (B, L), one for all candidates
        logits, new, state, _ = decoder.step(
            current + candidates,
            last + candidates,
            state,
            memory,
            beams=self.top_k,
            ancestry=self._with_own(ancestry, last),
        )
        known = _unit(features)
        width = known.shape[-1]
        known = ops.pad(known, [[0, 0], [0, decoder.max_length - ops.shape(known)[1]], [0, 0]])
        known = ops.reshape(known, (-1, decoder.max_length, width))  # (B, L, D)
        carry = {
            **sequences,
            "state": state,
            "ancestry": ancestry,
            "known": _put(known, last, _unit(new[:, :1])),
            "logits": logits[:, 0],
        }
        return carry, memory

    def advance(self, decoder, carry, memory):
        count, lengths, tokens = self.top_k, carry["lengths"], carry["tokens"]
        log_probabilities = decoder.log_probabilities(carry["logits"])  # (B, V)
        allowed = decoder.allowed(log_probabilities, tokens, lengths)
        best, candidates = ops.top_k(allowed, count)  # (B, k)
        candidates = ops.cast(candidates, "int32")
        normalizer = ops.logsumexp(allowed, axis=-1, keepdims=True)

        position = ops.minimum(ops.expand_dims(lengths, 1), decoder.max_length - 1)  # (B, 1)
        logits, features, state, _ = decoder.step(
            candidates,
            position + ops.zeros((1, count), "int32"),
            carry["state"],
            memory,
            beams=count,
            ancestry=self._with_own(carry["ancestry"], position),
        )
        features = _unit(features)  # (B, k, D)
        similarity = ops.matmul(features, ops.swapaxes(carry["known"], 1, 2))  # (B, k, L)
        slots = ops.expand_dims(ops.arange(decoder.max_length, dtype="int32"), 0)
        is_earlier = ops.expand_dims(slots < position, 1)
        similarity = ops.max(ops.where(is_earlier, similarity, -1.0), axis=-1)  # (B, k)
        value = (1 - self.penalty) * ops.exp(best - normalizer) - self.penalty * similarity
        value = ops.where(best > FORBIDDEN / 2, value, FORBIDDEN)
        winner = ops.expand_dims(argmax(value), 1)  # (B, 1)

        chosen = gather_rows(candidates, winner)[:, 0]
        gained = ops.take_along_axis(log_probabilities, ops.expand_dims(chosen, 1), axis=1)[:, 0]
        return {
            **append(decoder, carry, chosen, gained),
            "state": state,
            "ancestry": ops.where(slots == position, winner, carry["ancestry"]),
            "known": _put(carry["known"], position, gather_rows(features, winner)),
            "logits": gather_rows(logits, winner)[:, 0],
        }

    def _with_own(self, ancestry, position):
        """Ancestry (B, k, L): that of the sequence, and at `position` (B, 1) each candidate's own."""
        slots = ops.reshape(ops.arange(ancestry.shape[1], dtype="int32"), (1, 1, -1))
        own = ops.reshape(ops.arange(self.top_k, dtype="int32"), (1, -1, 1))
        return ops.where(slots == ops.expand_dims(position, 1), own, ops.expand_dims(ancestry, 1))


def _unit(x):
    """`x` divided by its norm along the last axis, float32."""
    x = ops.cast(x, "float32")
    return x / ops.maximum(ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True)), 1e-12)


def _put(known, position, new):
    """`known` (B, L, D) with `new` (B, 1, D) at `position` (B, 1)."""
    slots = ops.expand_dims(ops.arange(known.shape[1], dtype="int32"), 0)
    return ops.where(ops.expand_dims(slots == position, 2), new, known)
