"""Generation from any functional model: prompt in, tokens out, one compiled loop over one step function."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import EllipsisType

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding.buckets import bucket, pad_request
from keras_transformer.decoding.compiling import compiled
from keras_transformer.decoding.inputs import Request
from keras_transformer.decoding.loop import Loop
from keras_transformer.decoding.settings import Setting, is_integer
from keras_transformer.decoding.strategies import Greedy, Strategy
from keras_transformer.decoding.streaming import new_texts
from keras_transformer.models.packable import unpacked
from keras_transformer.ops.random import as_seed
from keras_transformer_runtime.streaming import new_tokens


class Generator(Loop):
    """Generates token sequences from a functional model, with a key/value cache and a compiled loop.

    The model maps token ids (and, for an encoder-decoder, sources) to logits of shape (B, T, V). Nothing has to be
    written for the cache: the layers of this package take part in decoding by themselves. When it is made, the
    generator runs the model once in full and once token by token, and compares; a layer that cannot be decoded so is
    named in the error.

    The model may go on training: the generator reads its current weights. If something else about it changes (an
    adapter, quantization, a layer's settings), the next call verifies and compiles anew. The generator's own settings
    are fixed. A copy (`copy.deepcopy`, pickle) has a model of its own.

    Args:
        model: A functional `keras.Model`.
        max_length: Longest sequence, prompt and new tokens together.
        end_token: Id after which a sequence ends, or several, any of which ends it, or None: then it ends at
            `max_length` only.
        start_token: Id that a sequence begins with where no prompt is given.
        padding_id: Id that stands behind the end of a sequence, and is never generated unless it is an end token, too.
            None: every id is a token, and only lengths tell where a sequence ends; 0 stands behind it. Default: that of
            the `TokenEmbedding` which reads the tokens, or 0 where another layer does.
        strategy: How sequences are found: `Greedy()` (default), `Sampling(...)`, `BeamSearch(...)`,
            `ContrastiveSearch(...)` or `Speculative(...)`.
        target_input: Name of the input that takes the tokens generated so far. Default: the one whose sequence the
            logits are, as the graph shows; of several, "target" or "tokens", else the last.
        from_logits: Whether the model gives logits; if not, probabilities.
        cache: Whether to keep keys and values. Without, the full causal model runs at every step.
        processors: What changes the log-probabilities before a token is chosen: `RepetitionPenalty(...)`,
            `NoRepeatNGram(...)`, `MinimumLength(...)`, `ForbiddenTokens(...)`, `ForcedTokens(...)` or a function of
            your own, `function(log_probabilities (R, V), tokens (R, L), lengths (R,)) -> (R, V)`, of tensors.
            They act in the order given.
        source_tokenizer, target_tokenizer: Texts in place of ids: layers of `kt.text`, tokenizers of KerasHub, or, for
            the source, any function of a list of strings that gives ids (`keras.layers.TextVectorization`). A
            decoder-only model needs the target's only.
        jit_compile: Whether TensorFlow compiles with XLA, which makes generation several times as fast. Without, it
            starts sooner, and a model may use operations that XLA lacks. JAX always compiles.

    Raises:
        ValueError: If the model is not functional, is not causal, has a layer that cannot be decoded token by token, or
            gives probabilities where logits are expected, or the reverse; if a token is out of the vocabulary; if
            `max_length` is not positive; if the strategy, a processor or a tokenizer does not suit the model.

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

    model = Setting("The model that generates.")
    max_length = Setting("Longest sequence.")
    end_token = Setting("Id after which a sequence ends, a tuple of several, or None.")
    start_token = Setting("Id that a sequence begins with, or None.")
    padding_id = Setting("Id behind the end of a sequence, or None where every id is a token.")
    strategy = Setting("How sequences are found.")
    target_input = Setting("Name of the input that takes the tokens, if it was given.")
    from_logits = Setting("Whether the model gives logits.")
    cache = Setting("Whether keys and values are kept.")
    processors = Setting("What changes the log-probabilities, a tuple.")
    source_tokenizer = Setting("What makes ids of source texts, or None.")
    target_tokenizer = Setting("What makes texts of generated ids, or None.")
    jit_compile = Setting("Whether TensorFlow compiles with XLA.")

    def __init__(
        self,
        model: keras.Model,
        *,
        max_length: int,
        end_token: int | Sequence[int] | None,
        start_token: int | None = None,
        padding_id: int | EllipsisType | None = ...,
        strategy: Strategy | None = None,
        target_input: str | None = None,
        from_logits: bool = True,
        cache: bool = True,
        processors: Sequence[Callable] = (),
        source_tokenizer=None,
        target_tokenizer=None,
        jit_compile: bool = True,
    ):
        self._settings = {
            "model": unpacked(model),
            "max_length": max_length,
            "end_token": end_token,
            "start_token": start_token,
            "padding_id": padding_id,
            "strategy": Greedy() if strategy is None else strategy,
            "target_input": target_input,
            "from_logits": from_logits,
            "cache": cache,
            "processors": processors,
            "source_tokenizer": source_tokenizer,
            "target_tokenizer": target_tokenizer,
            "jit_compile": jit_compile,
        }
        self._padding_id = padding_id
        _check_length("max_length", max_length)
        if not isinstance(self.strategy, Strategy):
            raise ValueError(f"Generator takes a strategy such as Greedy(), got {self.strategy!r}.")
        if not isinstance(processors, Iterable):
            raise ValueError(f"Generator takes a list of functions as processors, got {processors!r}.")
        self._settings["processors"] = tuple(processors)
        for processor in self.processors:
            if not callable(processor):
                raise ValueError(f"Generator takes functions as processors, got {processor!r}.")
        self._prepare()

    def __repr__(self):
        special = {name: self._settings[name] for name in ("max_length", "start_token", "end_token", "padding_id")}
        if not self.cache:
            special["cache"] = False
        if self.processors:
            special["processors"] = self.processors
        tokenizers = {name: self._settings[name] for name in ("source_tokenizer", "target_tokenizer")}
        special.update({name: x for name, x in tokenizers.items() if x is not None})
        settings = ", ".join(f"{name}={value!r}" for name, value in special.items())
        return f"Generator({self.model.name!r}, {settings}, strategy={self.strategy!r})"

    def __reduce__(self):
        return _make, (type(self), {**self._settings, "padding_id": self._padding_id})

    # What a user calls

    def __call__(self, inputs=None, prompts=None, *, lengths=None, seed=None, max_length=None) -> dict:
        """Generate.

        Sequences are padded to one of a few shapes, since each new shape is compiled anew. Every compilation is logged
        (`logging.getLogger("keras_transformer")`, level INFO).

        Args:
            inputs: For a model with one input, the prompts. For others, the sources: one, a list in the order of the
                model's inputs, or a dict by name. Ids are an array (B, T), padded on the right, or a list of lists (or
                a ragged tensor), which may differ in length; with a tokenizer they may be a list of strings.
            prompts: Ids or strings that the target sequences begin with (forced prefixes). Default: `start_token`.
            lengths: (B,) integers. How many ids of each row of the prompts count. Default: as many as the row's list
                has, or, in an array, all but the padding at its end. (Neither does the padding id count at the end of a
                list, where it is no token: where it neither starts nor ends sequences.)
            seed: Of the random numbers, any integer. Default: that of the strategy.
            max_length: Longest sequence, if not the generator's own, which is the most it can be.

        Returns:
            A dictionary. "tokens", (B, N, L) int32: the prompt, the new tokens with the end token, then padding; N
            sequences a row, best first, L = `max_length`. "lengths", (B, N) int32, without the padding. "scores",
            (B, N) float32, the summed log-probability of the new tokens, divided by the length penalty for beam search.
            With a target tokenizer also "texts", a list of B lists of N strings.

        Raises:
            ValueError: If a prompt is empty and there is no start token, is longer than `max_length`, or has padding
                inside; an id is out of its vocabulary; rows of sources differ in length and the model does not mask
                their padding; an input is missing; or the model gives NaN.
        """
        self._follow()
        batch, request, _ = self._read(inputs, prompts, lengths, max_length)
        if not batch:
            return self._answer(self._nothing(), max_length)
        is_new = self._log["generation"].note(**_shapes(request))
        outputs = self._compiled(*_tensors(request), *self._numbers(seed, max_length))
        if is_new:
            self._structure = self._read_structure()  # what tracing did to layers is no change of theirs
        outputs = {name: ops.convert_to_numpy(x)[:batch] for name, x in outputs.items()}
        self._check_numbers(outputs["scores"])
        return self._answer(outputs, max_length)

    def stream(
        self, inputs=None, prompts=None, *, lengths=None, seed: int | None = None, max_length: int | None = None
    ) -> Iterator:
        """Generate, and hand out tokens as they come: a Python loop over the compiled step.

        Args:
            inputs, prompts, lengths, seed, max_length: As of a call.

        Yields:
            (B,) int32, the next token of each row, or (B, N) of a strategy that returns N; padding for a row that has
            ended, or -1 where padding is a token that can be generated. (With speculative decoding rows run ahead of
            each other: a row's tokens come in order, and padding between them means nothing.) Given strings, and with
            a target tokenizer: a list of B strings (or lists of N), what the text of each row has more; together
            they are the text behind the prompt.

        Raises:
            ValueError: As a call does; or if the strategy chooses among whole sequences, as beam search does.
        """
        if not self.strategy.returns_final_tokens:
            raise ValueError(
                f"{type(self.strategy).__name__} knows the first token only when the last is found, so there is "
                "nothing to stream. Use Greedy(), Sampling(...), ContrastiveSearch(...) or Speculative(...)."
            )
        self._follow()
        batch, request, has_text = self._read(inputs, prompts, lengths, max_length)
        carries = self._stream(batch, request, self._numbers(seed, max_length))
        if has_text and self.target_tokenizer is not None:
            return new_texts(carries, self.strategy.num_return, self._texts)
        return new_tokens(carries, self.strategy.num_return, self.special.nothing)

    def _stream(self, batch: int, request: Request, numbers: tuple) -> Iterator[dict[str, np.ndarray]]:
        """The carry before the first step and after each: tokens (B N, L), lengths and finished (B N,)."""
        rows = batch * self.strategy.num_return
        is_new = self._log["streaming"].note(**_shapes(request))
        carry, memory = self._compiled_begin(*_tensors(request), *numbers)
        yield {name: ops.convert_to_numpy(carry[name])[:rows] for name in ("tokens", "lengths", "finished")}
        while not ops.convert_to_numpy(carry["finished"]).all():
            carry = self._compiled_advance(carry, memory, *numbers)
            if is_new:
                self._structure, is_new = self._read_structure(), False
            self._check_numbers(ops.convert_to_numpy(carry["scores"])[:rows].reshape(batch, -1))
            yield {name: ops.convert_to_numpy(carry[name])[:rows] for name in ("tokens", "lengths", "finished")}

    def score(self, inputs=None, tokens=None, *, prompt_lengths=1, lengths=None) -> np.ndarray:
        """What generation would report for given sequences: their log-probability, behind their prompts.

        Args:
            inputs: The sources, as of a call; for a model with one input, the sequences.
            tokens: (B, T) or (B, N, T) ids, the target sequences with their prompts (the start token) and end tokens,
                padded on the right, or lists, which may differ in length.
            prompt_lengths: How many tokens each sequence begins with that are given, not judged: an integer, (B,) or
                (B, N).
            lengths: (B,) or (B, N) integers. How many ids of each sequence count. Default: as of a call's prompts.

        Returns:
            (B,) or (B, N) float32: the summed log-probability, divided by the length penalty for beam search.

        Raises:
            ValueError: If a shape or an id does not fit, or the model gives NaN.
        """
        self._follow()
        given, shape = self._reader.read_sequences(inputs, tokens, prompt_lengths, lengths)
        batch, beams, length = given.tokens.shape
        if not batch * beams:
            return np.zeros(shape, "float32")
        width = max(1, min(bucket(length), self.max_length)) - length
        tokens = np.pad(given.tokens, ((0, 0), (0, 0), (0, max(width, 0))), constant_values=self.special.fill)
        sources = self.source_padding.pad(given.sources)
        is_new = self._log["scoring"].note(
            tokens=tokens.shape, **{f"source_{slot}": x.shape for slot, x in sources.items()}
        )
        sources = {slot: ops.convert_to_tensor(x) for slot, x in sources.items()}
        scores = ops.convert_to_numpy(self._compiled_score(sources, tokens, given.prompt_lengths, given.lengths))
        if is_new:
            self._structure = self._read_structure()
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

    def _read(self, inputs, prompts, lengths, max_length) -> tuple[int, Request, bool]:
        """The number of rows asked for, the request in a shape from the list, and whether there were texts."""
        if max_length is not None:
            _check_length("max_length", max_length, self.max_length)
        longest = self.max_length if max_length is None else int(max_length)
        request, has_text = self._reader.read(inputs, prompts, lengths, longest)
        request = request._replace(sources=self.source_padding.pad(request.sources))
        return len(request.prompts), pad_request(request, self.max_length, self.special.fill), has_text

    def _numbers(self, seed, max_length) -> tuple:
        """Seed and length limit of a call, as tensors: arguments of what is compiled once for all of them."""
        if seed is None:
            seed = self.strategy.seed if self.strategy.is_random else 0
        seed = ops.convert_to_numpy(seed) if ops.is_tensor(seed) else seed
        limit = self.max_length if max_length is None else max_length
        return ops.convert_to_tensor(as_seed(seed), "int32"), ops.convert_to_tensor(int(limit), "int32")

    def _answer(self, outputs: dict, max_length) -> dict:
        """Outputs as a call returns them."""
        if max_length is not None:
            outputs["tokens"] = outputs["tokens"][..., :max_length]
        if self.target_tokenizer is not None:
            batch, count, length = outputs["tokens"].shape
            texts = self._texts.decode(outputs["tokens"].reshape(-1, length), outputs["lengths"].ravel())
            outputs["texts"] = [texts[row * count : (row + 1) * count] for row in range(batch)]
        return outputs

    def _compile(self, function: Callable) -> Callable:
        return compiled(function, [*self.model.variables, *self.strategy.variables], self.jit_compile)

    def _check_numbers(self, scores: np.ndarray) -> None:
        if np.isnan(scores).any():
            rows = np.flatnonzero(np.isnan(scores.reshape(len(scores), -1)).any(axis=1))
            raise ValueError(f"The model '{self.model.name}' gives NaN logits for the rows {rows.tolist()}.")


def _make(kind: type, settings: dict) -> Generator:
    """A generator of its settings: what copying and pickling do."""
    return kind(**settings)


def _check_length(name: str, value, most: int | None = None) -> None:
    if not is_integer(value) or value < 1:
        raise ValueError(f"Generator takes a positive integer as {name}, got {value!r}.")
    if most is not None and value > most:
        raise ValueError(f"A call takes at most the generator's own {name}, {most}, got {value!r}.")


def _tensors(request: Request) -> tuple:
    sources = {slot: ops.convert_to_tensor(x) for slot, x in request.sources.items()}
    return sources, ops.convert_to_tensor(request.prompts), ops.convert_to_tensor(request.lengths)


def _shapes(request: Request) -> dict[str, tuple]:
    sources = {f"source_{slot}": x.shape for slot, x in request.sources.items()}
    return {"prompts": request.prompts.shape, **sources}
