"""The step of decoding as pure functions of tensors, which every strategy and every export is built from.

encode: sources  ->  memory
begin:  memory, prompts  ->  state, memory
step:   new tokens, state, memory  ->  logits, state
"""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_transformer.context import Decoding, Recording, active
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.samples import BATCH
from keras_transformer.decoding.verification import SOURCE_LENGTHS, sample_sources, takes_sources
from keras_transformer.ops.exact import FORBIDDEN

BLOCK = 512  # tokens of a prompt that are read in one pass


class Begun(NamedTuple):
    """What is known once the prompts have been read, but for their last tokens."""

    state: dict
    memory: dict
    features: object  # (B, P - 1, D), only where asked for


class Stepped(NamedTuple):
    """What a step gives for each of its tokens."""

    logits: object  # (B, T, V)
    features: object  # (B, T, D): what the logits are made from; None where that is no sequence of vectors
    state: dict
    attention: object  # (B, T, S), to the memory, the mean over layers and heads; None without a memory


class Decoder:
    """Runs the target side of a model on new tokens only, or, without a cache, on all tokens at each step.

    A step takes T tokens a row: T successive tokens of one sequence, or one token of each of N beams. Either way
    it is given (B, T) tokens at (B, T) positions, so the code that calls it does not care how they are computed.

    Args:
        graph: The model, split.
        max_length: Longest sequence L.
        end_token: Id, or ids, after any of which a sequence ends; None for no end.
        padding_id: Id that stands behind the end and is not generated, unless it ends sequences, too; None if every id
            is a token: then it is 0 that stands there.
        from_logits: Whether the model gives logits; if not, probabilities.
        cache: Whether to keep keys and values.
        processors: Functions that change log-probabilities, see `kt.decoding.processors`.

    Attributes:
        limit: The length at which a sequence ends in any case, `max_length` or, after `limited`, a tensor.
        drafter: The decoder of a draft model, for a strategy that has one.
    """

    drafter = None

    def __init__(
        self,
        graph: Graph,
        max_length: int,
        *,
        end_token: int | Sequence[int] | None,
        padding_id: int | None = 0,
        from_logits: bool = True,
        cache: bool = True,
        processors=(),
    ):
        self.graph = graph
        self.max_length = self.limit = max_length
        self.end_tokens = () if end_token is None else tuple(np.ravel(end_token).tolist())
        self.padding_id = padding_id
        self.from_logits = from_logits
        self.cache = cache
        self.processors = tuple(processors)
        self.vocabulary_size = graph.vocabulary_size

    def limited(self, limit) -> "Decoder":
        """The same decoder of sequences of at most `limit` tokens, int32 scalar. What it makes has the same shapes."""
        other = copy.copy(self)
        other.limit = limit
        return other

    @property
    def fill(self) -> int:
        """The id that stands behind the end of a row."""
        return 0 if self.padding_id is None else self.padding_id

    def is_end(self, tokens):
        """Which of `tokens` end a sequence."""
        ended = ops.zeros_like(tokens, "bool")
        for place, token in enumerate(self.end_tokens):
            ended = tokens == token if place == 0 else ops.logical_or(ended, tokens == token)
        return ended

    def encode(self, sources: dict) -> dict:
        """The memory: what the target side needs of the sources, tensors by slot."""
        return self.graph.encode(sources)

    def begin(self, memory: dict, prompts, lengths, *, beams: int = 1, lookahead: int = 0, features: bool = False):
        """Read the prompts but for their last tokens, which the first step reads.

        The logits of this pass are not used, and every compiler leaves them out.

        Args:
            memory: What `encode` gave. What is projected of it is added, for the steps to find.
            prompts: (B, P), int32, padded on the right; (B, P, C) of a model that takes values.
            lengths: (B,), int32. Tokens in each prompt, at least one.
            beams: How many beams the steps will have.
            lookahead: How many tokens of a step may be taken back.
            features: Whether to return what the logits of the prompts would be made from.
        """
        if not self.cache:
            return self._begin_uncached(prompts, memory, beams, features)
        width = ops.shape(prompts)[1]
        length = max(width - 1, 1) if isinstance(width, int) else ops.maximum(width - 1, 1)

        def read(start, count, state, memory):
            columns = start + ops.arange(count, dtype="int32")
            tokens = ops.take(prompts, columns, axis=1)
            positions = ops.zeros_like(ops.expand_dims(lengths, 1)) + columns  # (B, count)
            ends = ops.minimum(lengths - 1, start + count)
            context = Decoding(
                state, memory, positions, self.max_length, lengths=ends, beams=beams, lookahead=lookahead
            )
            with active(context):
                values = self.graph.decode(tokens, memory)
            return context, values.get(self.graph.features)

        if prompts.shape[1] == 1 and not features:  # nothing is read yet: the state stays what it was, and the
            context, _ = read(0, 1, {}, memory)  # compiler leaves out what would change it
            return Begun(context.initial, context.memory, None)
        if not isinstance(length, int) or length <= BLOCK or features:
            context, known = read(0, length, {}, memory)
            return Begun(context.state, context.memory, known)
        context, _ = read(0, BLOCK, {}, memory)
        state, memory = context.state, context.memory
        names = sorted(state)

        def read_block(start, *values):
            context, _ = read(start, BLOCK, dict(zip(names, values, strict=True)), memory)
            return start + BLOCK, *(context.state[name] for name in names)

        blocks = length // BLOCK
        if blocks > 1:
            _, *values = ops.while_loop(
                lambda start, *values: start < blocks * BLOCK,
                read_block,
                (ops.convert_to_tensor(BLOCK, "int32"), *(state[name] for name in names)),
            )
            state = dict(zip(names, values, strict=True))
        if length % BLOCK:
            context, _ = read(blocks * BLOCK, length % BLOCK, state, memory)
            state = context.state
        return Begun(state, memory, None)

    def step(
        self, tokens, positions, state: dict, memory: dict, *, beams: int = 1, ancestry=None, lookahead: int = 0
    ) -> Stepped:
        """Logits behind the new `tokens` (B, T) at `positions` (B, T), and the new state.

        With `beams`, T = N, and `ancestry` (B, N, L) tells which beam wrote the token at each position of each.
        """
        if not self.cache:
            return self._step_uncached(tokens, positions, state, memory, beams, ancestry)
        context = Decoding(
            state, memory, positions, self.max_length, beams=beams, ancestry=ancestry, lookahead=lookahead
        )
        with active(context), active(Recording()) as recording:
            values = self.graph.decode(tokens, memory)
        logits, features = values[self.graph.output], values.get(self.graph.features)
        return Stepped(logits, features, context.state, attention_to_memory(recording))

    def no_attention(self, prompts, memory: dict):
        """Zeros in the shape (B, 1, S) of the attention to the memory; None if there is no or more than one memory."""
        tokens = ops.concatenate([prompts[:, :1]] * 2, axis=1)  # Keras warns of a softmax over one token
        with active(Recording()) as recording:
            self.graph.decode(tokens, memory)
        attention = attention_to_memory(recording)
        return None if attention is None else ops.zeros_like(attention[:, :1])

    @cached_property
    def attends_to_one_memory(self) -> bool:
        """Whether the model has cross-attention, and all of it to one source."""
        names = [name for slot, name in enumerate(self.graph.input_names) if slot != self.graph.target]
        for length in SOURCE_LENGTHS:  # another one for each source, to tell whose attention it is
            sources = sample_sources(self.graph, {name: length + place for place, name in enumerate(names)})
            if takes_sources(self.graph, sources):
                break
        return self.no_attention(ops.ones((BATCH, 1), "int32"), self.graph.encode(sources)) is not None

    def pad(self, prompts, lengths=None):
        """Prompts (B, P), padded to (B, L), from their lengths (B,) on if given."""
        padded = ops.pad(prompts, [[0, 0], [0, self.max_length - ops.shape(prompts)[1]]], constant_values=self.fill)
        padded = ops.reshape(padded, (-1, self.max_length))
        if lengths is None:
            return padded
        slots = ops.arange(self.max_length, dtype="int32")
        return ops.where(slots < ops.expand_dims(lengths, 1), padded, self.fill)

    def log_probabilities(self, logits):
        """Log-probabilities, float32, of what the model gives."""
        logits = ops.cast(logits, "float32")
        if self.from_logits:
            return ops.log_softmax(logits)
        return ops.log(ops.maximum(logits, 1e-37))

    def allowed(self, log_probabilities, histories, lengths):
        """Log-probabilities to choose by: changed by the processors, and padding made impossible. Where that forbids
        every token, the first end token is allowed, or, if there is none, what the processors were given.

        Args:
            log_probabilities: (..., V), float32.
            histories: (..., L), int32. The tokens so far.
            lengths: (...), int32. How many they are.
        """
        size = self.vocabulary_size
        ids = ops.arange(size, dtype="int32")
        forbidden = ops.cast(FORBIDDEN, "float32")

        def without_padding(x):
            if self.padding_id is None or self.padding_id in self.end_tokens:
                return x
            return x + ops.where(ids == self.padding_id, forbidden, 0.0)  # adding is a pass less than selecting

        if not self.processors:
            return without_padding(log_probabilities)
        shape = ops.shape(log_probabilities)
        processed = ops.reshape(log_probabilities, (-1, size))
        histories, lengths = ops.reshape(histories, (-1, self.max_length)), ops.reshape(lengths, (-1,))
        for processor in self.processors:
            processed = processor(processed, histories, lengths)
        processed = without_padding(ops.reshape(processed, shape))
        stuck = ops.max(processed, axis=-1, keepdims=True) <= forbidden / 2
        if not self.end_tokens:
            return ops.where(stuck, without_padding(log_probabilities), processed)
        return ops.where(ops.logical_and(stuck, ids == self.end_tokens[0]), 0.0, processed)

    # Without a cache the state is the tokens themselves, one row of L for each beam.

    def _begin_uncached(self, prompts, memory: dict, beams: int, features: bool) -> Begun:
        batch, length = ops.shape(prompts)[0], ops.shape(prompts)[1]
        tokens = ops.expand_dims(self.pad(prompts), 1)  # (B, 1, L)
        unused = ops.zeros((batch, beams - 1, self.max_length), "int32")
        values = self.graph.decode(tokens[:, 0], memory) if features else {}
        known = values[self.graph.features][:, : length - 1] if features else None
        return Begun({"tokens": ops.concatenate([tokens, unused], axis=1)}, memory, known)

    def _step_uncached(self, tokens, positions, state: dict, memory: dict, beams: int, ancestry) -> Stepped:
        batch, count = ops.shape(tokens)[0], tokens.shape[1]
        slots = ops.expand_dims(ops.arange(self.max_length, dtype="int32"), 0)  # (1, L)
        written = state["tokens"]  # (B, N, L)
        if ancestry is None:
            for new in range(count):
                here = ops.expand_dims(slots == positions[:, new : new + 1], 1)
                written = ops.where(here, ops.expand_dims(tokens[:, new : new + 1], 1), written)
            histories = written[:, 0]  # (B, L)
        else:
            here = slots == ops.expand_dims(positions, 2)  # (B, N, L)
            written = ops.where(here, ops.expand_dims(tokens, 2), written)
            histories = ops.reshape(ops.take_along_axis(written, ancestry, axis=1), (-1, self.max_length))  # (B N, L)
            memory = {name: ops.repeat(value, beams, axis=0) for name, value in memory.items()}
            positions = ops.reshape(positions, (-1, 1))
        with active(Recording()) as recording:
            values = self.graph.decode(histories, memory)
        index = ops.expand_dims(positions, 2)

        def at_new(x):
            """Of (B or B N, L, X), what stands at the new tokens, (B, T, X)."""
            return None if x is None else ops.reshape(
                ops.take_along_axis(x, index, axis=1), (batch, count, ops.shape(x)[-1])
            )  # fmt: skip

        logits, features = at_new(values[self.graph.output]), at_new(values.get(self.graph.features))
        return Stepped(logits, features, {"tokens": written}, at_new(attention_to_memory(recording)))


def attention_to_memory(recording: Recording):
    """The mean (B, T, S) over all cross-attention layers and heads of a run; None if there are none."""
    weights = [ops.mean(ops.cast(recording.scores[name], "float32"), axis=1) for name in recording.to_memory]
    return sum(weights) / len(weights) if weights and len({x.shape[-1] for x in weights}) == 1 else None


def gather_rows(x, index):
    """Of each row, the entries (B, M, ...) of `x` (B, N, ...) that `index` (B, M) names."""
    batch, count, *rest = ops.shape(x)
    flat = ops.reshape(x, (-1, *rest))
    rows = ops.expand_dims(ops.arange(batch, dtype="int32") * count, 1)
    return ops.reshape(ops.take(flat, rows + index, axis=0), (batch, ops.shape(index)[1], *rest))
