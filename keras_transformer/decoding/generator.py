"""Generation from any functional model: prompt in, tokens out, one compiled loop over one step function."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding.buckets import CompileLog, bucket, pad_request, pad_sources
from keras_transformer.decoding.compiling import compiled
from keras_transformer.decoding.decoder import Decoder
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.inputs import InputReader, Request
from keras_transformer.decoding.scoring import score_sequences
from keras_transformer.decoding.strategies import Greedy, Strategy, generate
from keras_transformer.decoding.verification import padding_is_ignored, takes_sources, verify_cached, verify_causal


class Generator:
    """Generates token sequences from a functional model, with a key/value cache and a compiled loop.

    The model maps token ids (and, for an encoder-decoder, sources) to logits of shape (B, T, V). Nothing has to be
    written for the cache: the layers of this package take part in decoding by themselves. When it is made, the
    generator runs the model once in full and once token by token, and compares; a layer that cannot be decoded so is
    named in the error. Token 0 is padding and is never generated.

    Args:
        model: A functional `keras.Model`. It may go on training; the generator reads its current weights.
        max_length: Longest sequence, prompt and new tokens together.
        end_token: Id after which a sequence ends.
        start_token: Id that a sequence begins with where no prompt is given.
        strategy: How sequences are found: `Greedy()` (default), `Sampling(...)`, `BeamSearch(...)`,
            `ContrastiveSearch(...)` or `Speculative(...)`.
        target_input: Name of the input that takes the tokens generated so far. Default: the last.
        from_logits: Whether the model gives logits; if not, probabilities.
        cache: Whether to keep keys and values. Without, the full causal model runs at every step.
        processors: What changes the log-probabilities before a token is chosen: `RepetitionPenalty(...)`,
            `NoRepeatNGram(...)`, `MinimumLength(...)`, `ForbiddenTokens(...)`, `ForcedTokens(...)` or a function of
            your own, `function(log_probabilities (R, V), tokens (R, L), lengths (R,)) -> (R, V)`, of tensors.
            They act in the order given.
        jit_compile: Whether TensorFlow compiles with XLA, which makes generation several times as fast. Without, it
            starts sooner, and a model may use operations that XLA lacks. JAX always compiles.

    Raises:
        ValueError: If the model is not functional, is not causal, or has a layer that cannot be decoded token by
            token; if a token is out of the vocabulary; if `max_length` is not positive; if the strategy or a
            processor does not suit the model.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> tokens = keras.Input((None,), dtype="int32", name="tokens")
    >>> x = kt.DecoderLayer(2, 16)(kt.PositionalEncoding()(kt.TokenEmbedding(11, 8)(tokens)))
    >>> model = keras.Model(tokens, keras.layers.Dense(11)(x))
    >>> generator = kt.Generator(model, max_length=7, end_token=3)
    >>> result = generator(np.array([[2, 5, 4], [2, 9, 0]]))
    >>> result["tokens"].shape, result["lengths"].shape, result["scores"].shape
    ((2, 1, 7), (2, 1), (2, 1))
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        max_length: int,
        end_token: int,
        start_token: int | None = None,
        strategy: Strategy | None = None,
        target_input: str | None = None,
        from_logits: bool = True,
        cache: bool = True,
        processors: Sequence[Callable] = (),
        jit_compile: bool = True,
    ):
        self.graph = Graph(model, target_input)
        self.model = model
        self.max_length = max_length
        self.end_token = end_token
        self.start_token = start_token
        self.strategy = Greedy() if strategy is None else strategy
        self.from_logits = from_logits
        self.cache = cache
        self.processors = tuple(processors)
        self.jit_compile = jit_compile
        self._check_arguments()
        self.decoder = Decoder(
            self.graph,
            max_length,
            end_token=end_token,
            from_logits=from_logits,
            cache=cache,
            processors=self.processors,
        )
        self.strategy.check(self.decoder)
        for processor in self.processors:
            getattr(processor, "check", lambda decoder: None)(self.decoder)
        self._sources_taken = {}  # by shapes
        self._reader = InputReader(self.graph, max_length, start_token)
        if cache:
            verify_cached(self.graph, max_length)
        else:
            verify_causal(self.graph, max_length)

    def _check_arguments(self) -> None:
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int) or self.max_length < 1:
            raise ValueError(f"Generator takes a positive integer as max_length, got {self.max_length!r}.")
        if not isinstance(self.strategy, Strategy):
            raise ValueError(f"Generator takes a strategy such as Greedy(), got {self.strategy!r}.")
        for processor in self.processors:
            if not callable(processor):
                raise ValueError(f"Generator takes functions as processors, got {processor!r}.")
        for name, token in (("end_token", self.end_token), ("start_token", self.start_token)):
            if token is None and name == "start_token":
                continue
            is_integer = isinstance(token, int | np.integer) and not isinstance(token, bool)
            if not is_integer or not 0 < token < self.graph.vocabulary_size:
                raise ValueError(
                    f"Generator takes an id from 1 to {self.graph.vocabulary_size - 1} as {name} "
                    f"(the model's vocabulary; 0 is padding), got {token!r}."
                )

    # What a user calls

    def __call__(self, inputs=None, prompts=None) -> dict[str, np.ndarray]:
        """Generate.

        Sequences are padded to one of a few shapes, since each new shape is compiled anew. Every compilation is logged
        (`logging.getLogger("keras_transformer")`, level INFO).

        Args:
            inputs: For a model with one input, the prompts: (B, P) ids, shorter ones padded on the right with 0.
                For others, the sources: an array, a list in the order of the model's inputs, or a dict by name.
            prompts: (B, P) ids that the target sequences begin with (forced prefixes), padded on the right.
                Default: `start_token`.

        Returns:
            tokens: (B, N, L) int32, the prompt, the new tokens with the end token, then 0; N sequences a row, best
                first, L = `max_length`. lengths: (B, N) int32, without the padding. scores: (B, N) float32, the
                summed log-probability of the new tokens, divided by the length penalty for beam search.

        Raises:
            ValueError: If a prompt is empty and there is no start token, is longer than `max_length`, or has padding
                inside; an id is out of its vocabulary; an input is missing; or the model gives NaN.
        """
        batch, request = self._read(inputs, prompts)
        if not batch:
            return self._nothing()
        self._log["generation"].note(**_shapes(request))
        outputs = self._compiled(*_tensors(request))
        outputs = {name: ops.convert_to_numpy(x)[:batch] for name, x in outputs.items()}
        self._check_numbers(outputs["scores"])
        return outputs

    def stream(self, inputs=None, prompts=None) -> Iterator[np.ndarray]:
        """Generate, and hand out tokens as they come: a Python loop over the compiled step.

        Args:
            inputs, prompts: As of a call.

        Yields:
            (B,) int32, the next token of each row; 0 for a row that has ended. (With speculative decoding rows
            run ahead of each other: a row's tokens come in order, zeros between them mean nothing.)

        Raises:
            ValueError: As a call does; or if the strategy chooses among whole sequences, as beam search does.
        """
        if not self.strategy.returns_final_tokens:
            raise ValueError(
                f"{type(self.strategy).__name__} knows the first token only when the last is found, so there is "
                "nothing to stream. Use Greedy(), Sampling(...), ContrastiveSearch(...) or Speculative(...)."
            )
        return self._stream(*self._read(inputs, prompts))

    def _stream(self, batch: int, request: Request) -> Iterator[np.ndarray]:
        self._log["streaming"].note(**_shapes(request))
        carry, memory = self._compiled_begin(*_tensors(request))
        lengths = request.lengths[:batch]
        while not ops.convert_to_numpy(carry["finished"]).all():
            carry = self._compiled_advance(carry, memory)
            self._check_numbers(ops.convert_to_numpy(carry["scores"])[:batch, None])
            tokens = ops.convert_to_numpy(carry["tokens"])[:batch]
            before, lengths = lengths, ops.convert_to_numpy(carry["lengths"])[:batch]
            for offset in range(int((lengths - before).max(initial=0))):
                position = before + offset
                new = tokens[np.arange(batch), np.minimum(position, self.max_length - 1)]
                yield np.where(position < lengths, new, 0)

    def score(self, inputs=None, tokens=None, *, prompt_lengths=1) -> np.ndarray:
        """What generation would report for given sequences: their log-probability, behind their prompts.

        Args:
            inputs: The sources, as of a call; for a model with one input, the sequences.
            tokens: (B, T) or (B, N, T) ids, the target sequences with their prompts (the start token) and end tokens,
                padded on the right with 0.
            prompt_lengths: How many tokens each sequence begins with that are given, not judged: an integer, (B,) or
                (B, N).

        Returns:
            (B,) or (B, N) float32: the summed log-probability, divided by the length penalty for beam search.

        Raises:
            ValueError: If a shape or an id does not fit, or the model gives NaN.
        """
        sources, tokens, prompt_lengths, shape = self._reader.read_sequences(inputs, tokens, prompt_lengths)
        batch, beams, length = tokens.shape
        if not batch * beams:
            return np.zeros(shape, "float32")
        if length <= self.max_length:
            tokens = np.pad(tokens, ((0, 0), (0, 0), (0, min(bucket(length), self.max_length) - length)))
        sources = self._pad_sources(sources)
        self._log["scoring"].note(tokens=tokens.shape, **{f"source_{slot}": x.shape for slot, x in sources.items()})
        sources = {slot: ops.convert_to_tensor(x) for slot, x in sources.items()}
        scores = ops.convert_to_numpy(self._compiled_score(sources, tokens, prompt_lengths))
        self._check_numbers(scores)
        return scores.reshape(shape)

    def _nothing(self) -> dict[str, np.ndarray]:
        """The answer to a call without rows."""
        shape = (0, self.strategy.num_return)
        return {
            "tokens": np.zeros((*shape, self.max_length), "int32"),
            "lengths": np.zeros(shape, "int32"),
            "scores": np.zeros(shape, "float32"),
        }

    def _read(self, inputs, prompts) -> tuple[int, Request]:
        """The number of rows asked for, and the request in a shape from the list."""
        request = self._reader.read(inputs, prompts)
        request = request._replace(sources=self._pad_sources(request.sources))
        return len(request.prompts), pad_request(request, self.max_length)

    def _pad_sources(self, sources: dict) -> dict:
        """The sources, padded where that changes nothing and the encoder takes sequences so long."""
        padded = pad_sources(sources, self._paddable_sources) if sources else sources
        shapes = tuple((slot, x.shape[1:]) for slot, x in padded.items())
        if all(x.shape == sources[slot].shape for slot, x in padded.items()):
            return sources
        if shapes not in self._sources_taken:
            self._sources_taken[shapes] = takes_sources(self.graph, padded)
        return padded if self._sources_taken[shapes] else sources

    def _check_numbers(self, scores: np.ndarray) -> None:
        if np.isnan(scores).any():
            rows = np.flatnonzero(np.isnan(scores.reshape(len(scores), -1)).any(axis=1))
            raise ValueError(f"The model '{self.model.name}' gives NaN logits for the rows {rows.tolist()}.")

    @cached_property
    def _paddable_sources(self) -> set[int]:
        """The sources, by slot, that may be padded with 0 without any effect."""
        return padding_is_ignored(self.graph)

    @cached_property
    def _log(self) -> dict[str, CompileLog]:
        return {name: CompileLog(name) for name in ("generation", "streaming", "scoring")}

    # Pure functions of tensors: compiled here, exported by `kt.export`

    def generate(self, sources: dict, prompts, lengths, seed=None) -> dict:
        """Generate from tensors: the whole loop, as `__call__` compiles it and `kt.export` writes it.

        Args:
            sources: A tensor for each source, by its place among the model's inputs.
            prompts: (B, P), int32, padded on the right; P at most `max_length`.
            lengths: (B,), int32. Tokens in each prompt, at least one.
            seed: int32 scalar. Of the random numbers, in place of the strategy's own.

        Returns:
            What `__call__` returns, as tensors.
        """
        strategy = self.strategy if seed is None else self.strategy.with_seed(seed)
        return generate(strategy, self.decoder, sources, prompts, lengths)

    def _compile(self, function: Callable) -> Callable:
        return compiled(function, [*self.model.variables, *self.strategy.variables], self.jit_compile)

    @cached_property
    def _compiled(self) -> Callable:
        return self._compile(lambda *request: self.generate(*request))

    @cached_property
    def _compiled_begin(self) -> Callable:
        def begin(sources, prompts, lengths):
            return self.strategy.begin(self.decoder, self.strategy.encode(self.decoder, sources), prompts, lengths)

        return self._compile(begin)

    @cached_property
    def _compiled_advance(self) -> Callable:
        return self._compile(lambda carry, memory: self.strategy.advance(self.decoder, carry, memory))

    @cached_property
    def _compiled_score(self) -> Callable:
        return self._compile(lambda *request: score_sequences(self.strategy, self.decoder, *request))


def _tensors(request: Request) -> tuple:
    sources = {slot: ops.convert_to_tensor(x) for slot, x in request.sources.items()}
    return sources, ops.convert_to_tensor(request.prompts), ops.convert_to_tensor(request.lengths)


def _shapes(request: Request) -> dict[str, tuple]:
    sources = {f"source_{slot}": x.shape for slot, x in request.sources.items()}
    return {"prompts": request.prompts.shape, **sources}
