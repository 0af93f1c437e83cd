"""What a user hands to a Generator, checked: sources by slot, prompts and their lengths."""

from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.decoding.graph import Graph
from keras_transformer.layers.checks import describe


class Request(NamedTuple):
    """Arrays ready to generate from."""

    sources: dict[int, np.ndarray]  # by slot
    prompts: np.ndarray  # (B, P), int32, padded on the right
    lengths: np.ndarray  # (B,), int32, at least 1


class InputReader:
    """Reads inputs for a graph.

    Args:
        graph: The model.
        max_length: Longest sequence.
        start_token: Id that stands in for a prompt that is missing or empty, or None.
    """

    def __init__(self, graph: Graph, max_length: int, start_token: int | None):
        self.graph = graph
        self.max_length = max_length
        self.start_token = start_token

    def read(self, inputs, prompts) -> Request:
        """Sources and prompts, however they were given; ValueError if something is missing or does not fit."""
        slots = {name: slot for slot, name in enumerate(self.graph.input_names) if slot != self.graph.target}
        named, prompts = self._name(inputs, prompts, list(slots))
        sources = self._read_sources(named, slots)
        batch = len(next(iter(sources.values()))) if sources else None
        return Request(sources, *self._read_prompts(prompts, batch))

    def read_sequences(self, inputs, tokens, prompt_lengths):
        """Sources, whole sequences (B, N, T) to judge, their prompts' lengths (B, N), and the shape of the answer."""
        slots = {name: slot for slot, name in enumerate(self.graph.input_names) if slot != self.graph.target}
        named, tokens = self._name(inputs, tokens, list(slots))
        if tokens is None:
            raise ValueError(f"score takes the sequences to judge, as '{self.graph.input_names[self.graph.target]}'.")
        sources = self._read_sources(named, slots)
        tokens = np.asarray(tokens)
        if tokens.ndim not in (2, 3) or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(
                "score takes sequences of shape (batch, length) or (batch, beams, length), integers padded on the "
                f"right with 0, got shape {tokens.shape} of {tokens.dtype}."
            )
        if sources and len(next(iter(sources.values()))) != len(tokens):
            raise ValueError(f"There are {len(tokens)} sequences for {len(next(iter(sources.values())))} sources.")
        self._check_ids(self.graph.target, "The sequence", tokens)
        if _has_inner_padding(tokens):
            raise ValueError("score takes sequences that are padded on the right only; there is a 0 before a token.")
        shape = tokens.shape[:-1]
        prompt_lengths = np.asarray(prompt_lengths)
        if not np.issubdtype(prompt_lengths.dtype, np.integer) or prompt_lengths.shape not in ((), shape[:1], shape):
            raise ValueError(
                f"score takes as prompt_lengths an integer or integers of shape {shape[:1]} or {shape}, got shape "
                f"{prompt_lengths.shape} of {prompt_lengths.dtype}."
            )
        if prompt_lengths.size and prompt_lengths.min() < 1:
            raise ValueError(
                f"score takes prompt_lengths of at least 1, got {prompt_lengths.min()}: the first token has nothing "
                "before it to be judged by."
            )
        tokens = tokens[:, None] if tokens.ndim == 2 else tokens
        if prompt_lengths.ndim == 1:
            prompt_lengths = prompt_lengths[:, None]
        prompt_lengths = np.broadcast_to(prompt_lengths, tokens.shape[:2])
        return sources, tokens.astype("int32"), prompt_lengths.astype("int32"), shape

    def _name(self, inputs, prompts, names: list[str]) -> tuple[dict, object]:
        """The sources by name, and the prompts."""
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

    def _read_sources(self, named: dict, slots: dict[str, int]) -> dict[int, np.ndarray]:
        if set(named) != set(slots):
            raise ValueError(f"The model takes the sources {list(slots)}, got {sorted(named)}.")
        sources = {slots[name]: np.asarray(source) for name, source in named.items()}
        for slot, source in sources.items():
            self._check_source(slot, source)
        batches = {len(source) for source in sources.values()}
        if len(batches) > 1:
            raise ValueError(f"The sources differ in their number of rows: {sorted(batches)}.")
        return sources

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
        if _has_inner_padding(prompts):
            raise ValueError("Generator takes prompts that are padded on the right only; there is a 0 before a token.")
        prompts = prompts[:, : lengths.max(initial=1)]
        if prompts.shape[1] > self.max_length:
            raise ValueError(
                f"A prompt has {prompts.shape[1]} tokens; max_length, {self.max_length}, counts them, too."
            )
        self._check_ids(self.graph.target, "The prompt", prompts)
        return prompts.astype("int32"), lengths.astype("int32")


def _has_inner_padding(tokens: np.ndarray) -> bool:
    """Whether a token follows a 0 somewhere in sequences (..., T)."""
    return bool(((tokens[..., :-1] == 0) & (tokens[..., 1:] != 0)).any())
