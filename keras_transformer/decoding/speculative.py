"""Speculative decoding: a small model runs ahead, the large one checks several of its tokens in one step."""

import copy

import keras
from keras import ops

from keras_transformer.decoding.decoder import Decoder
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.probabilities import check_scores
from keras_transformer.decoding.sampling import Sampling, draw
from keras_transformer.decoding.settings import read_counts
from keras_transformer.decoding.strategies import (
    Greedy,
    Strategy,
    append,
    argmax,
    begin_sequences,
    repeat_rows,
    token_at,
)
from keras_transformer.decoding.verification import verify_cached, verify_causal
from keras_transformer.models.packable import unpacked

# Independent streams of random numbers for one position.
PROPOSE, ACCEPT, REPLACE = 0x1F3D5B79, 0x2E4C6A88, 0x3D5B7997


class Speculative(Strategy):
    """Lets a draft model propose tokens, of which the model keeps those that it would have chosen itself.

    With `Greedy()` the answer is exactly the model's own greedy output. With `Sampling(...)` it has exactly its
    distribution: a token x drawn from the draft's q is kept with probability min(1, p(x) / q(x)), and replaced by
    one drawn from max(0, p - q) otherwise ("Fast Inference from Transformers via Speculative Decoding",
    https://arxiv.org/abs/2211.17192, algorithm 1). Of n proposed tokens the first k that are kept, and one more of
    the model's own, are gained in a single step of the model.

    Args:
        draft: A functional model of the same vocabulary and the same inputs, smaller and faster.
        num_draft_tokens: How many tokens n it proposes at a time.
        strategy: `Greedy()` or `Sampling(...)`: how the model chooses.

    Raises:
        ValueError: If the draft has another vocabulary or other inputs, cannot be decoded token by token, or
            `num_draft_tokens` is not a positive integer.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> large = kt.models.language_model(11, num_layers=2, dim=16, num_heads=2, intermediate_dim=32)
    >>> small = kt.models.language_model(11, num_layers=1, dim=8, num_heads=2, intermediate_dim=16)
    >>> plain = kt.Generator(large, max_length=9, end_token=3)
    >>> fast = kt.Generator(large, max_length=9, end_token=3, strategy=kt.Speculative(small, 2))
    >>> prompts = np.array([[2, 5, 4], [2, 9, 0]])
    >>> bool((plain(prompts)["tokens"] == fast(prompts)["tokens"]).all())
    True
    """

    def __init__(self, draft: keras.Model, num_draft_tokens: int = 4, *, strategy: Greedy | Sampling | None = None):
        strategy = Greedy() if strategy is None else strategy
        if not isinstance(strategy, Greedy | Sampling):
            raise ValueError(f"Speculative takes Greedy() or Sampling(...) as strategy, got {strategy!r}.")
        self.draft = draft
        self.num_draft_tokens = num_draft_tokens
        read_counts(self, "num_draft_tokens")
        self.strategy = strategy

    def __repr__(self):
        return f"Speculative({self.draft.name!r}, {self.num_draft_tokens}, strategy={self.strategy!r})"

    @property
    def models(self):
        return [self.draft]

    def check(self, decoder):
        graph = Graph(unpacked(self.draft), decoder.graph.input_names[decoder.graph.target])
        if graph.vocabulary_size != decoder.vocabulary_size:
            raise ValueError(
                f"Speculative takes a draft with the model's vocabulary of {decoder.vocabulary_size} tokens; "
                f"'{self.draft.name}' has {graph.vocabulary_size}."
            )
        if graph.input_names != decoder.graph.input_names:
            raise ValueError(
                f"Speculative takes a draft with the model's inputs {decoder.graph.input_names}; '{self.draft.name}' "
                f"has {graph.input_names}."
            )
        scores = (verify_cached if decoder.cache else verify_causal)(graph, decoder.max_length)
        check_scores(self.draft.name, scores, decoder.from_logits)
        decoder.drafter = Decoder(
            graph,
            decoder.max_length,
            end_token=decoder.end_tokens,
            padding_id=decoder.padding_id,
            from_logits=decoder.from_logits,
            cache=decoder.cache,
            processors=decoder.processors,
        )

    @property
    def is_random(self):
        return self.strategy.is_random

    @property
    def seed(self):
        """Of the random numbers of its strategy."""
        return self.strategy.seed

    @property
    def num_return(self):
        return self.strategy.num_return

    def with_seed(self, seed):
        other = copy.copy(self)
        other.strategy = self.strategy.with_seed(seed)
        return other

    def encode(self, decoder, sources):
        return {"model": decoder.encode(sources), "draft": decoder.drafter.encode(sources)}

    def begin(self, decoder, memory, prompts, lengths):
        ahead = self.num_draft_tokens
        begun = decoder.begin(memory["model"], prompts, lengths, lookahead=ahead)
        drafted = decoder.drafter.begin(memory["draft"], prompts, lengths, lookahead=ahead)
        sequences = begin_sequences(decoder, prompts, lengths)
        memory = {"model": begun.memory, "draft": drafted.memory}
        carry = {**sequences, "state": begun.state, "draft": drafted.state}
        return repeat_rows(carry, self.num_return), repeat_rows(memory, self.num_return)

    def advance(self, decoder, carry, memory):
        tokens, lengths = carry["tokens"], carry["lengths"]
        proposed, weights, draft = self._propose(decoder, carry, memory["draft"])

        # One step of the model reads the last token and all proposed ones.
        count = self.num_draft_tokens + 1
        histories = [tokens]
        for place, new in enumerate(proposed):
            histories.append(_put(histories[-1], lengths + place, new))
        last = decoder.max_length - 1
        positions = ops.minimum(ops.expand_dims(lengths - 1, 1) + ops.arange(count, dtype="int32"), last)
        read = ops.stack([token_at(tokens, positions[:, :1])[:, 0], *proposed], axis=1)  # (B, n + 1)
        logits, _, state, _ = decoder.step(
            read, positions, carry["state"], memory["model"], lookahead=self.num_draft_tokens
        )
        log_probabilities = decoder.log_probabilities(logits)  # (B, n + 1, V)

        # Keep what the model agrees with, and its own token where it does not.
        kept = {name: carry[name] for name in ("tokens", "lengths", "scores", "finished")}
        agrees = ops.logical_not(carry["finished"])
        for place in range(count):
            here = log_probabilities[:, place]
            allowed = decoder.allowed(here, histories[place], lengths + place)
            proposal = (proposed[place], weights[place]) if place < count - 1 else None
            chosen, accepted = self._judge(allowed, proposal, lengths + place)
            gained = ops.take_along_axis(here, ops.expand_dims(chosen, 1), axis=1)[:, 0]
            longer = append(decoder, kept, chosen, gained)
            kept = {
                name: ops.where(ops.reshape(agrees, (-1, *[1] * (len(new.shape) - 1))), new, kept[name])
                for name, new in longer.items()
            }
            agrees = ops.logical_and(agrees, accepted)
        return {**kept, "state": state, "draft": draft}

    def _propose(self, decoder, carry, memory):
        """The draft's tokens, a list of (B,), what each was drawn from, (B, V), and the draft's state."""
        drafter = decoder.drafter
        tokens, lengths, state = carry["tokens"], carry["lengths"], carry["draft"]
        last = decoder.max_length - 1
        proposed, weights = [], []
        for place in range(self.num_draft_tokens):
            end = ops.expand_dims(ops.minimum(lengths + place, last + 1), 1)  # (B, 1)
            # The first time, two tokens: of those accepted last, the draft has not read the last but one.
            positions = ops.maximum(end - 2 + ops.arange(2, dtype="int32"), 0) if place == 0 else end - 1
            logits, _, state, _ = drafter.step(
                token_at(tokens, positions), positions, state, memory, lookahead=self.num_draft_tokens
            )
            allowed = drafter.allowed(drafter.log_probabilities(logits[:, -1]), tokens, end[:, 0])
            if isinstance(self.strategy, Sampling):
                weights.append(_normalize(self.strategy.weights(allowed)))
                chosen = draw(weights[-1], self._uniforms(PROPOSE, end[:, 0]))
            else:
                weights.append(None)
                chosen = argmax(allowed)
            proposed.append(chosen)
            tokens = _put(tokens, end[:, 0], chosen)
        return proposed, weights, state

    def _judge(self, allowed, proposal, positions):
        """The token that the model puts at `positions`, (B,), and whether it is the proposed one."""
        if not isinstance(self.strategy, Sampling):
            chosen = argmax(allowed)
            return chosen, ops.ones_like(chosen, "bool") if proposal is None else chosen == proposal[0]
        wanted = _normalize(self.strategy.weights(allowed))  # (B, V)
        if proposal is None:
            chosen = draw(wanted, self._uniforms(REPLACE, positions))
            return chosen, ops.ones_like(chosen, "bool")
        token, offered = proposal
        index = ops.expand_dims(token, 1)
        p, q = (ops.take_along_axis(x, index, axis=1)[:, 0] for x in (wanted, offered))
        accepted = self._uniforms(ACCEPT, positions) * q < p
        excess = ops.maximum(wanted - offered, 0.0)
        excess = ops.where(ops.sum(excess, axis=1, keepdims=True) > 0, excess, wanted)  # where p = q, to rounding
        return ops.where(accepted, token, draw(excess, self._uniforms(REPLACE, positions))), accepted

    def _uniforms(self, stream: int, positions):
        assert isinstance(self.strategy, Sampling)  # greedy choices draw nothing
        return self.strategy.uniforms(positions, stream)


def _normalize(weights):
    return weights / ops.sum(weights, axis=-1, keepdims=True)


def _put(tokens, position, new):
    """`tokens` (B, L) with `new` (B,) at `position` (B,)."""
    slots = ops.expand_dims(ops.arange(tokens.shape[1], dtype="int32"), 0)
    return ops.where(slots == ops.expand_dims(position, 1), ops.expand_dims(new, 1), tokens)
