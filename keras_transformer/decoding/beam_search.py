"""Beam search: the most probable whole sequences, instead of the most probable next token."""

from dataclasses import dataclass

from keras import ops

from keras_transformer.decoding.decoder import gather_rows
from keras_transformer.decoding.settings import is_number, read_counts
from keras_transformer.decoding.strategies import Strategy, token_at
from keras_transformer.ops.exact import FORBIDDEN

NOTHING = FORBIDDEN  # the score of a beam that is not there
DEAD = FORBIDDEN / 2  # below it, a score is that of a beam that is not there, or of a forbidden token


@dataclass(frozen=True)
class BeamSearch(Strategy):
    """Keeps the N most probable beginnings, and among the sequences that end the N best.

    A sequence Y of |Y| new tokens, the end token included, with source X, is ranked by
    ("Google's Neural Machine Translation System", https://arxiv.org/abs/1609.08144, equation 14)

        score(Y) = log P(Y | X) / lp(Y) + cp(X; Y)
        lp(Y) = ((k + |Y|) / (k + 1))^length_penalty, k = length_offset, 5 in the paper
        cp(X; Y) = coverage_penalty * sum over i of log(min(sum over j of a[j, i], 1))

    where a[j, i] is the attention of target token j to source token i, the mean over all cross-attention layers and
    heads. A finished sequence competes no more; the search ends when no beginning can overtake the worst one that is to
    be returned, whatever follows. All of the row's beams read one memory, and one cache in which nothing is ever
    reordered.

    Args:
        num_beams: N, at most the size of the vocabulary.
        length_penalty: 0 ranks by probability alone, which prefers short sequences; 0.6 to 1 is usual.
        coverage_penalty: 0 for none; 0.2 is usual. For encoder-decoders.
        length_offset: k. 0 divides by |Y|^length_penalty, as `transformers` does.
        num_return: How many sequences a row to return, best first.
        early_stopping: Whether to end as soon as N sequences are finished.

    A row with fewer possible sequences than asked for has empty ones behind: length 0, score -1e30.

    Raises:
        ValueError: If `num_beams` is not positive or above the size of the vocabulary, `num_return` is not between 1
            and `num_beams`, or a coverage penalty is asked of a model without cross-attention.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> tokens = keras.Input((None,), dtype="int32", name="tokens")
    >>> x = kt.DecoderLayer(2, 16)(kt.PositionalEncoding()(kt.TokenEmbedding(11, 8)(tokens)))
    >>> model = keras.Model(tokens, keras.layers.Dense(11)(x))
    >>> generator = kt.Generator(model, max_length=7, end_token=3, strategy=kt.BeamSearch(4, num_return=2))
    >>> generator(np.array([[2, 5, 4], [2, 9, 0]]))["tokens"].shape
    (2, 2, 7)
    """

    num_beams: int = 4
    length_penalty: float = 0.0
    coverage_penalty: float = 0.0
    num_return: int = 1
    early_stopping: bool = False
    length_offset: float = 5.0

    returns_final_tokens = False

    def __post_init__(self):
        read_counts(self, "num_beams", "num_return")
        if self.num_return > self.num_beams:
            raise ValueError(
                f"BeamSearch finds num_beams={self.num_beams} sequences and cannot return num_return={self.num_return}."
            )
        if not is_number(self.length_penalty):
            raise ValueError(f"BeamSearch takes a number as length_penalty, got {self.length_penalty!r}.")
        if not (is_number(self.length_offset) and self.length_offset >= 0):
            raise ValueError(f"BeamSearch takes a length_offset of 0 or more, got {self.length_offset!r}.")
        if not (is_number(self.coverage_penalty) and self.coverage_penalty >= 0):
            raise ValueError(f"BeamSearch takes a coverage_penalty of 0 or more, got {self.coverage_penalty!r}.")

    def check(self, decoder):
        if self.num_beams > decoder.vocabulary_size:
            raise ValueError(
                f"BeamSearch has num_beams={self.num_beams}, more than the {decoder.vocabulary_size} tokens of the "
                "model's vocabulary. Take fewer."
            )
        if self.coverage_penalty and not decoder.attends_to_one_memory:
            raise ValueError(
                "BeamSearch counts what of the source was attended to for its coverage_penalty, but the model "
                f"'{decoder.graph.model.name}' has no cross-attention, or to several sources. Set it to 0."
            )

    def begin(self, decoder, memory, prompts, lengths):
        beams = self.num_beams
        state, memory, _ = decoder.begin(memory, prompts, lengths, beams=beams)
        tokens = decoder.pad(prompts, lengths)
        per_beam = ops.expand_dims(ops.zeros_like(lengths, "float32"), 1) + ops.zeros((1, beams))  # (B, N)
        first = ops.expand_dims(ops.arange(beams, dtype="int32") == 0, 0)
        finished = ops.expand_dims(lengths >= decoder.limit, 1)  # a prompt of full length is its own continuation
        beam_tokens = ops.repeat(ops.expand_dims(tokens, 1), beams, axis=1)  # (B, N, L)
        carry = {
            "state": state,
            "tokens": beam_tokens,
            "ranks": ops.where(first, per_beam, NOTHING),  # by which beams are chosen: processors included
            "sums": per_beam,  # log-probabilities
            "ancestry": ops.zeros_like(beam_tokens),
            "lengths": lengths,
            "prompt_lengths": lengths,
            "finished": finished[:, 0],
            "best_tokens": beam_tokens,
            "best_ranks": ops.where(ops.logical_and(first, finished), per_beam, NOTHING),
            "best_sums": per_beam,
            "best_lengths": ops.expand_dims(lengths, 1) + ops.zeros_like(per_beam, "int32"),
            "is_nan": ops.zeros_like(lengths, "bool"),
        }
        if self.coverage_penalty:
            carry["coverage"] = ops.repeat(decoder.no_attention(prompts, memory), beams, axis=1)
        return carry, memory

    def advance(self, decoder, carry, memory):
        beams, size, length = self.num_beams, decoder.vocabulary_size, decoder.max_length
        lengths, prompt_lengths, finished = carry["lengths"], carry["prompt_lengths"], carry["finished"]
        batch = ops.shape(lengths)[0]
        position = ops.reshape(ops.minimum(lengths, length) - 1, (-1, 1))  # (B, 1)
        positions = position + ops.zeros((1, beams), "int32")  # (B, N)
        slots = ops.reshape(ops.arange(length, dtype="int32"), (1, 1, -1))
        here = slots == ops.expand_dims(position, 1)  # (B, 1, L)
        own = ops.reshape(ops.arange(beams, dtype="int32"), (1, -1, 1))
        ancestry = ops.where(here, own, carry["ancestry"])
        current = token_at(carry["tokens"], ops.expand_dims(positions, 2))[..., 0]  # (B, N)
        logits, _, state, attention = decoder.step(
            current, positions, carry["state"], memory, beams=beams, ancestry=ancestry
        )

        # With E ends the (E + 1) N most probable continuations, of which at most E N end: at least N go on.
        count = (len(decoder.end_tokens) + 1) * beams
        log_probabilities = decoder.log_probabilities(logits)  # (B, N, V)
        allowed = decoder.allowed(log_probabilities, carry["tokens"], positions + 1)
        best_of_each, ids = ops.top_k(allowed, min(count, size))  # (B, N, M)
        candidates = ops.shape(ids)[-1]
        sums_of_each = ops.take_along_axis(log_probabilities, ids, axis=-1)
        ranks = ops.reshape(ops.expand_dims(carry["ranks"], 2) + best_of_each, (-1, beams * candidates))
        sums = ops.reshape(ops.expand_dims(carry["sums"], 2) + sums_of_each, (-1, beams * candidates))
        ranks, index = ops.top_k(ranks, min(count, beams * candidates))  # (B, M)
        parents = index // candidates
        chosen = gather_rows(ops.reshape(ids, (-1, beams * candidates)), index)
        sums = gather_rows(sums, index)
        here = slots == ops.reshape(lengths, (-1, 1, 1))
        tokens = ops.where(here, ops.expand_dims(chosen, 2), gather_rows(carry["tokens"], parents))  # (B, M, L)
        longer = ops.expand_dims(lengths + 1, 1)  # (B, 1)
        new_tokens = longer - ops.expand_dims(prompt_lengths, 1)
        coverage = carry["coverage"] + attention if self.coverage_penalty else None  # (B, N, S)
        ends = ops.logical_or(decoder.is_end(chosen), longer >= decoder.limit)
        ends = ops.logical_and(ends, ranks > DEAD)

        # What ends competes with what has ended before.
        covered = None if coverage is None else gather_rows(coverage, parents)
        final = ops.where(ends, self.penalize(ranks, new_tokens, covered), NOTHING)
        merged_ranks, index = ops.top_k(ops.concatenate([carry["best_ranks"], final], axis=1), beams)

        def merge(old, new):
            merged = gather_rows(ops.concatenate([old, new], axis=1), index)
            return ops.where(ops.reshape(finished, (-1, *[1] * (len(old.shape) - 1))), old, merged)

        best_ranks = ops.where(ops.expand_dims(finished, 1), carry["best_ranks"], merged_ranks)
        best = {
            "best_ranks": best_ranks,
            "best_tokens": merge(carry["best_tokens"], tokens),
            "best_sums": merge(carry["best_sums"], self.penalize(sums, new_tokens, covered)),
            "best_lengths": merge(carry["best_lengths"], longer + ops.zeros_like(chosen)),
        }

        # The best of what goes on are the new beams.
        ranks, index = ops.top_k(ops.where(ends, NOTHING, ranks), beams)
        parents = gather_rows(parents, index)
        lengths = ops.where(finished, lengths, lengths + 1)
        is_nan = ops.any(ops.isnan(ops.reshape(log_probabilities, (batch, -1))), axis=-1)
        if coverage is not None:
            best["coverage"] = gather_rows(coverage, parents)
        return {
            **best,
            "state": state,
            "tokens": gather_rows(tokens, index),
            "ranks": ranks,
            "sums": gather_rows(sums, index),
            "ancestry": gather_rows(ancestry, parents),
            "lengths": lengths,
            "prompt_lengths": prompt_lengths,
            "finished": finished | is_nan | self._is_over(best_ranks, ranks, lengths, prompt_lengths, decoder.limit),
            "is_nan": carry["is_nan"] | is_nan,
        }

    def _is_over(self, best_ranks, ranks, lengths, prompt_lengths, limit):
        """Whether nothing that follows can change what is returned, (B,)."""
        leader = ops.max(ranks, axis=1)  # of what goes on
        over = ops.logical_or(leader <= DEAD, lengths >= limit)
        if self.early_stopping:
            return ops.logical_or(over, best_ranks[:, -1] > DEAD)
        # Each further token lowers the sum and moves the divisor; the best that may come is at one end.
        bounds = [self._divide(leader, length - prompt_lengths) for length in (lengths + 1, limit)]
        return ops.logical_or(over, ops.maximum(*bounds) <= best_ranks[:, self.num_return - 1])

    def finish(self, decoder, carry):
        count = self.num_return
        found = carry["best_ranks"][:, :count] > DEAD
        scores = ops.where(found, carry["best_sums"][:, :count], NOTHING)
        return {
            "tokens": ops.where(ops.expand_dims(found, 2), carry["best_tokens"][:, :count], decoder.fill),
            "lengths": ops.where(found, carry["best_lengths"][:, :count], 0),
            "scores": ops.where(ops.expand_dims(carry["is_nan"], 1), float("nan"), scores),
        }

    def penalize(self, scores, new_tokens, coverage=None):
        scores = self._divide(scores, new_tokens)
        if self.coverage_penalty:
            # Padding is never attended to, a real token always is, if ever so little.
            attended = ops.log(ops.minimum(ops.maximum(coverage, 1e-30), 1.0))
            scores = scores + self.coverage_penalty * ops.sum(ops.where(coverage > 0, attended, 0.0), axis=-1)
        return scores

    def _divide(self, scores, new_tokens):
        if not self.length_penalty:
            return scores
        lengths = ops.maximum(self.length_offset + ops.cast(new_tokens, "float32"), 1.0)  # of no tokens the sum is 0
        return scores / (lengths / (self.length_offset + 1.0)) ** self.length_penalty
