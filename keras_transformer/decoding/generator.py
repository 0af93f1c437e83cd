"""Generation from any functional model: prompt in, tokens out, one compiled loop over one step function."""

from functools import cached_property

import keras
import numpy as np
from keras import ops

from keras_transformer.context import Decoding, active
from keras_transformer.decoding.compiling import compiled
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.strategies import Greedy, Strategy
from keras_transformer.decoding.verification import verify_cached, verify_causal
from keras_transformer.layers.checks import describe
from keras_transformer.ops.attention import FORBIDDEN


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
        strategy: How tokens are chosen, `Greedy()` by default.
        target_input: Name of the input that takes the tokens generated so far. Default: the last.
        from_logits: Whether the model gives logits; if not, probabilities.
        cache: Whether to keep keys and values. Without, the full causal model runs at every step.

    Raises:
        ValueError: If the model is not functional, is not causal, or has a layer that cannot be decoded token by
            token; if a token is out of the vocabulary; if `max_length` is not positive.

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
    ):
        self.graph = Graph(model, target_input)
        self.model = model
        self.max_length = max_length
        self.end_token = end_token
        self.start_token = start_token
        self.strategy = Greedy() if strategy is None else strategy
        self.from_logits = from_logits
        self.cache = cache
        self._check_arguments()
        if cache:
            verify_cached(self.graph, max_length)
        else:
            verify_causal(self.graph, max_length)

    def _check_arguments(self) -> None:
        if isinstance(self.max_length, bool) or not isinstance(self.max_length, int) or self.max_length < 1:
            raise ValueError(f"Generator takes a positive integer as max_length, got {self.max_length!r}.")
        if not isinstance(self.strategy, Strategy):
            raise ValueError(f"Generator takes a strategy such as Greedy(), got {self.strategy!r}.")
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

        Args:
            inputs: For a model with one input, the prompts: (B, P) ids, shorter ones padded on the right with 0.
                For others, the sources: an array, a list in the order of the model's inputs, or a dict by name.
            prompts: (B, P) ids that the target sequences begin with (forced prefixes), padded on the right.
                Default: `start_token`.

        Returns:
            tokens: (B, N, L) int32, the prompt, the new tokens with the end token, then 0; N sequences a row, best
                first, L = `max_length`. lengths: (B, N) int32, without the padding. scores: (B, N) float32, the
                summed log-probability of the new tokens.

        Raises:
            ValueError: If a prompt is empty and there is no start token, is longer than `max_length`, or has padding
                inside; an id is out of its vocabulary; an input is missing; or the model gives NaN.
        """
        sources, prompts = self._read_inputs(inputs, prompts)
        outputs = self._compiled({slot: ops.convert_to_tensor(x) for slot, x in sources.items()}, *prompts)
        outputs = {name: ops.convert_to_numpy(x) for name, x in outputs.items()}
        if np.isnan(outputs["scores"]).any():
            rows = np.flatnonzero(np.isnan(outputs["scores"]).any(axis=1))
            raise ValueError(f"The model '{self.model.name}' gives NaN logits for the rows {rows.tolist()}.")
        return outputs

    @cached_property
    def _compiled(self):
        return compiled(self.generate, self.model.variables)

    def _read_inputs(self, inputs, prompts):
        """Sources by slot, and the prompts with their lengths, all checked."""
        graph = self.graph
        slots = {name: slot for slot, name in enumerate(graph.input_names) if slot != graph.target}
        named, prompts = self._name_inputs(inputs, prompts, list(slots))
        if set(named) != set(slots):
            raise ValueError(f"The model takes the sources {list(slots)}, got {sorted(named)}.")
        sources = {slots[name]: np.asarray(source) for name, source in named.items()}
        for slot, source in sources.items():
            self._check_source(slot, source)
        batches = {len(source) for source in sources.values()}
        if len(batches) > 1:
            raise ValueError(f"The sources differ in their number of rows: {sorted(batches)}.")
        return sources, self._read_prompts(prompts, batches.pop() if batches else None)

    def _name_inputs(self, inputs, prompts, names: list[str]) -> tuple[dict, object]:
        """The sources by name, and the prompts, however they were given."""
        target = self.graph.input_names[self.graph.target]
        if isinstance(inputs, dict):
            named = dict(inputs)
        elif inputs is None:
            named = {}
        elif not names:
            named = {target: inputs}
        else:
            sources = list(inputs) if isinstance(inputs, list | tuple) and len(names) > 1 else [inputs]
            if len(sources) != len(names):
                raise ValueError(f"The model takes {len(names)} sources {names}, got {len(sources)}.")
            named = dict(zip(names, sources, strict=True))
        if target in named and prompts is not None:
            raise ValueError(f"The prompts were given twice, as '{target}' and as prompts.")
        return named, named.pop(target, prompts)

    def _check_source(self, slot: int, source: np.ndarray) -> None:
        name, expected = self.graph.input_names[slot], self.graph.model.inputs[slot].shape
        if source.ndim != len(expected) or any(
            w is not None and w != g for w, g in zip(expected, source.shape, strict=True)
        ):
            raise ValueError(f"The source '{name}' has shape {source.shape}; the model takes {expected}.")
        dtype = keras.backend.standardize_dtype(self.graph.model.inputs[slot].dtype)
        if "int" in dtype and not np.issubdtype(source.dtype, np.integer):
            raise ValueError(f"The source '{name}' holds {source.dtype}; the model takes {dtype}.")
        self._check_ids(slot, f"The source '{name}'", source)

    def _check_ids(self, slot: int, what: str, ids: np.ndarray) -> None:
        layer, size = self.graph.vocabulary_limits().get(slot, (None, None))
        if size is not None and ids.size and (ids.min() < 0 or ids.max() >= size):
            raise ValueError(
                f"{what} has ids from {ids.min()} to {ids.max()}; {describe(layer)} takes ids from 0 to {size - 1}."
            )

    def _read_prompts(self, prompts, batch: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Prompts (B, P) without empty rows and needless columns, and their lengths (B,), int32."""
        if prompts is None:
            if self.start_token is None:
                raise ValueError("Generator was given neither a prompt nor, when it was made, a start_token.")
            prompts = np.full((1 if batch is None else batch, 1), self.start_token)
        prompts = np.asarray(prompts)
        if prompts.ndim != 2 or not np.issubdtype(prompts.dtype, np.integer):
            raise ValueError(
                f"Generator takes prompts of shape (batch, length), integers padded on the right with 0, got shape "
                f"{prompts.shape} of {prompts.dtype}."
            )
        if batch is not None and len(prompts) != batch:
            raise ValueError(f"There are {len(prompts)} prompts for {batch} rows of sources.")
        lengths = (prompts != 0).sum(axis=1)
        if (lengths == 0).any():
            if self.start_token is None:
                rows = np.flatnonzero(lengths == 0).tolist()
                raise ValueError(f"The prompts of the rows {rows} are empty and there is no start_token to begin with.")
            prompts = np.pad(prompts, ((0, 0), (0, int(prompts.shape[1] == 0))))
            prompts[lengths == 0, 0] = self.start_token
            lengths = np.maximum(lengths, 1)
        if ((prompts != 0).argmin(axis=1)[lengths < prompts.shape[1]] != lengths[lengths < prompts.shape[1]]).any():
            raise ValueError("Generator takes prompts that are padded on the right only; there is a 0 before a token.")
        prompts = prompts[:, : lengths.max(initial=1)]
        if prompts.shape[1] > self.max_length:
            raise ValueError(
                f"A prompt has {prompts.shape[1]} tokens; max_length, {self.max_length}, counts them, too."
            )
        self._check_ids(self.graph.target, "The prompt", prompts)
        return prompts.astype("int32"), lengths.astype("int32")

    # Pure functions of tensors: compiled here, exported by `kt.export`

    def generate(self, sources: dict, prompts, lengths) -> dict:
        """Generate from tensors: the whole loop, as `__call__` compiles it and `kt.export` writes it.

        Args:
            sources: A tensor for each source, by its place among the model's inputs.
            prompts: (B, P), int32, padded on the right; P at most `max_length`.
            lengths: (B,), int32. Tokens in each prompt, at least one.

        Returns:
            What `__call__` returns, as tensors.
        """
        batch, prompt_length = ops.shape(prompts)[0], ops.shape(prompts)[1]
        memory = self.graph.encode(sources)
        state, memory = self.start(prompts, memory)
        names = sorted(state)
        slots = ops.expand_dims(ops.arange(self.max_length, dtype="int32"), 0)  # (1, L)
        tokens = _pad_to(prompts, prompt_length, self.max_length)
        zeros = ops.zeros_like(lengths)

        def unfinished(lengths, finished, tokens, scores, *values):
            return ops.logical_not(ops.all(finished))

        def advance(lengths, finished, tokens, scores, *values):
            last = ops.expand_dims(lengths - 1, 1)  # (B, 1)
            current = ops.sum(ops.where(slots == last, tokens, 0), axis=1, keepdims=True)
            logits, state = self.step(current, last, tokens, dict(zip(names, values, strict=True)), memory)
            log_probabilities = self.log_probabilities(logits)  # (B, V)
            chosen = self.strategy.select(log_probabilities + self._never_padding)
            gained = ops.take_along_axis(log_probabilities, ops.expand_dims(chosen, 1), axis=1)[:, 0]
            here = ops.logical_and(slots == ops.expand_dims(lengths, 1), ops.expand_dims(ops.logical_not(finished), 1))
            tokens = ops.where(here, ops.expand_dims(chosen, 1), tokens)
            scores = ops.where(finished, scores, scores + gained)
            lengths = ops.where(finished, lengths, lengths + 1)
            finished = ops.logical_or(finished, ops.logical_or(chosen == self.end_token, lengths >= self.max_length))
            return lengths, finished, tokens, scores, *(state[name] for name in names)

        start = (lengths, lengths >= self.max_length, tokens, ops.cast(zeros, "float32"))
        lengths, _, tokens, scores, *_ = ops.while_loop(
            unfinished,
            advance,
            (*start, *(state[name] for name in names)),
            maximum_iterations=self.max_length,
        )
        return {
            "tokens": ops.reshape(tokens, (batch, 1, self.max_length)),
            "lengths": ops.expand_dims(lengths, 1),
            "scores": ops.expand_dims(scores, 1),
        }

    def start(self, prompts, memory: dict) -> tuple[dict, dict]:
        """Read all of the prompts but their last tokens, in one pass: the state and the memory of the first step.

        The logits of this pass are not used, and every compiler leaves them out.
        """
        if not self.cache:
            return {}, memory
        length = ops.shape(prompts)[1]
        length = max(length - 1, 1) if isinstance(length, int) else ops.maximum(length - 1, 1)
        positions = ops.zeros_like(prompts[:, :length]) + ops.arange(length, dtype="int32")
        with active(Decoding({}, memory, positions, self.max_length)) as context:
            self.graph.decode(prompts[:, :length], memory)
        return context.state, context.memory

    def step(self, current, positions, tokens, state: dict, memory: dict) -> tuple:
        """One step: logits (B, V) behind the `current` tokens (B, 1) at `positions` (B, 1), and the new state."""
        if not self.cache:
            logits = self.graph.decode(tokens, memory)[self.graph.output]
            return ops.take_along_axis(logits, ops.expand_dims(positions, 2), axis=1)[:, 0], state
        with active(Decoding(state, memory, positions, self.max_length)) as context:
            logits = self.graph.decode(current, memory)[self.graph.output]
        return logits[:, 0], context.state

    def log_probabilities(self, logits):
        """Log-probabilities (B, V), float32, of what the model gives."""
        logits = ops.cast(logits, "float32")
        if self.from_logits:
            return ops.log_softmax(logits)
        return ops.log(ops.maximum(logits, 1e-37))

    @cached_property
    def _never_padding(self) -> np.ndarray:
        """What keeps token 0 from being chosen, (V,)."""
        return np.where(np.arange(self.graph.vocabulary_size) == 0, np.float32(FORBIDDEN), np.float32(0))


def _pad_to(prompts, prompt_length, length: int):
    """Prompts (B, P) padded on the right with 0 to (B, L)."""
    return ops.pad(prompts, [[0, 0], [0, length - prompt_length]])
