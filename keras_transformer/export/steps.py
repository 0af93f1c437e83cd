"""The loop of a generator in its parts, for a program that runs it itself: what streams from an export."""

import math
import re
from collections.abc import Sequence

import keras
from keras import ops

from keras_transformer.decoding import Generator
from keras_transformer.decoding.strategies import TokenByToken
from keras_transformer.export.samples import sample_inputs
from keras_transformer.export.signatures import (
    Input,
    Signature,
    beginning,
    by_slot,
    prompts_of,
    source_inputs,
)


def step_signatures(
    generator: Generator, source_length: int | None, batch_size: int, prefill_lengths: Sequence[int]
) -> dict[str, Signature]:
    """The loop in its parts, for a program that runs it itself, with static shapes.

    `encode` makes the memory from the sources (if there are any), `prefill_N` the carry from the memory and a prompt
    of up to N tokens, `decode` takes the carry one step further, `finish` turns it into `tokens`, `lengths` and
    `scores`. The carry holds `tokens`, `lengths`, `finished` (0 or 1), the caches and whatever else the strategy keeps.

    Args:
        generator: What is exported.
        source_length: Length of the sources.
        batch_size: Number of rows.
        prefill_lengths: The prompt lengths N.
    """
    strategy, decoder = generator.strategy, generator.decoder
    seed = [Input("seed", (), "int32")] if strategy.is_random else []
    sources = [
        x._replace(shape=(batch_size, *(source_length if dim is None else dim for dim in x.shape[1:])))
        for x in source_inputs(generator)
    ]

    def begin(values, memory, prompts, lengths):
        memory = strategy.encode(decoder, by_slot(generator, values)) if memory is None else memory
        return strategy.begin(decoder, memory, prompts, lengths)

    def start(length):
        prompts = ops.full((batch_size, length), generator.start_token or 0, dtype="int32")
        return prompts, ops.ones((batch_size,), "int32")

    def one_a_row(x):
        """What `begin` takes of the memory, in which it repeats each row for a strategy that returns several."""
        return x[:: x.shape[0] // batch_size] if x.shape and x.shape[0] > batch_size else x

    # One run tells what the carry and the memory are made of.
    samples = [ops.zeros(x.shape, x.dtype) for x in sources]
    carry, memory = begin(samples, None, *start(prefill_lengths[0]))
    carry, memory = _Packing("", carry), _Packing("memory_", memory)

    def encode(*values):
        return memory.pack(begin(values, None, *start(prefill_lengths[0]))[1], values)

    def prefill(*values):
        prompts, lengths = values[-2:]
        given = keras.tree.map_structure(one_a_row, memory.unpack(values[:-2])) if sources else None
        return carry.pack(begin((), given, prompts, lengths)[0], values)

    def decode(*values):
        chosen = strategy.with_seed(values[-1]) if seed else strategy
        held, given = values[: len(carry.inputs)], values[len(carry.inputs) : len(values) - len(seed)]
        return carry.pack(chosen.advance(decoder, carry.unpack(held), memory.unpack(given)), values)

    def finish(*values):
        return strategy.finish(decoder, carry.unpack(values))

    signatures = {"encode": Signature(sources, encode)} if sources else {}
    for length in prefill_lengths:
        prompt = [Input("prompts", (batch_size, length), "int32"), Input("prompt_lengths", (batch_size,), "int32")]
        signatures[f"prefill_{length}"] = Signature([*memory.inputs, *prompt], prefill)
    signatures["decode"] = Signature([*carry.inputs, *memory.inputs, *seed], decode)
    signatures["finish"] = Signature(carry.inputs, finish)
    return signatures


def in_place(generator: Generator, decode: Signature) -> list[str]:
    """The caches that a step may write to where it reads them: input and output of `decode` in one piece of memory.

    Of a strategy that takes one token after another nothing reads the cache of keys or values as it was
    (`keras_transformer/caches.py`). Others may go two ways from one cache.
    """
    if not isinstance(generator.strategy, TokenByToken):
        return []
    return [x.name for x in decode.inputs if re.fullmatch(r"state_.*_(key|value)", x.name)]


def stream_signatures(generator: Generator) -> dict[str, Signature]:
    """The loop in two parts, for a program that hands out tokens as they come, with any number of rows of any length.

    `begin` takes what `generate` takes, but for a seed, and gives the carry, `tokens`, `lengths`, `finished` (0 or 1),
    the caches and whatever else the strategy keeps, and the memory; `advance` takes all of that one step further.
    """
    if not generator.strategy.returns_final_tokens:
        raise ValueError(
            f"{type(generator.strategy).__name__} knows the first token only when the last is found: export without "
            "streaming, or with Greedy() or Sampling(...)."
        )
    strategy, decoder = generator.strategy, generator.decoder
    seed = [Input("seed", (), "int32")] if strategy.is_random else []
    sources, inputs = beginning(generator)

    def start(*values):
        memory = strategy.encode(decoder, by_slot(generator, values) if sources else {})
        return strategy.begin(decoder, memory, *prompts_of(generator, values))

    # Two runs tell what the carry and the memory are made of, and which of their dimensions vary.
    samples = [
        sample_inputs(generator, Signature(inputs, start), min(length, generator.max_length), batch)
        for length, batch in ((5, 2), (7, 3))
    ]
    runs = [start(*map(ops.convert_to_tensor, values)) for values in samples]
    carry, memory = (_Packing(prefix, *parts) for prefix, *parts in zip(("", "memory_"), *runs, strict=True))

    def begin(*values):
        new, kept = start(*values)
        return {**carry.pack(new), **memory.pack(kept)}

    def advance(*values):
        chosen = strategy.with_seed(values[-1]) if seed else strategy
        held, given = values[: len(carry.inputs)], values[len(carry.inputs) : len(values) - len(seed)]
        return carry.pack(chosen.advance(decoder, carry.unpack(held), memory.unpack(given)))

    return {
        "begin": Signature(inputs, begin),
        "advance": Signature([*carry.inputs, *memory.inputs, *seed], advance),
    }


def prefill_lengths(generator: Generator, source_length: int | None) -> list[int]:
    """Powers of four from 8 on, up to the longest prompt there may be."""
    decoder_only = len(generator.model.inputs) == 1
    longest = source_length if decoder_only else generator.max_length
    lengths = [8]
    while lengths[-1] < longest:
        lengths.append(lengths[-1] * 4)
    return sorted({min(length, longest) for length in lengths})


class _Packing:
    """A nested dict of tensors as flat, named inputs and outputs of signatures.

    LiteRT.js (2.5) asks for care. It loads no file that has a boolean at an interface, so these go in and out as
    int32. An output that is also an input, as the lengths of prompts would be, it leaves unwritten, and of two outputs
    that are one tensor it knows one name only. So each is a sum of its own, with a 0 that no converter can foresee;
    but not tensors of rank 4: those are caches and projections, always computed, and large.
    """

    def __init__(self, prefix: str, structure, other=None):
        """`other` is the structure from a run in other sizes: a dimension that differs is one that may vary."""
        self._structure = structure
        paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
        names = [prefix + re.sub(r"\W+", "_", "_".join(path)) for path in paths]
        leaves = keras.tree.flatten(structure)
        self._dtypes = [keras.backend.standardize_dtype(x.dtype) for x in leaves]
        shapes = [
            tuple(size if size == another else None for size, another in zip(x.shape, y.shape, strict=True))
            for x, y in zip(leaves, leaves if other is None else keras.tree.flatten(other), strict=True)
        ]
        self.inputs = [
            Input(name, shape, "int32" if dtype == "bool" else dtype)
            for name, shape, dtype in zip(names, shapes, self._dtypes, strict=True)
        ]

    def pack(self, structure, values=None) -> dict:
        """The structure as outputs of a signature; of one for LiteRT, that was given `values`."""
        if values is None:
            leaves = keras.tree.flatten(structure)
            return {y.name: ops.cast(x, y.dtype) for x, y in zip(leaves, self.inputs, strict=True)}
        smallest = ops.cast(min(values, key=lambda x: math.prod(x.shape)), "float32")
        zero = ops.minimum(ops.sum(ops.square(smallest)), 0.0)
        leaves = [ops.cast(x, y.dtype) for x, y in zip(keras.tree.flatten(structure), self.inputs, strict=True)]
        leaves = [x if len(x.shape) >= 4 else x + ops.cast(i * zero, x.dtype) for i, x in enumerate(leaves, 1)]
        return {y.name: x for x, y in zip(leaves, self.inputs, strict=True)}

    def unpack(self, values):
        leaves = [ops.cast(value, dtype) for value, dtype in zip(values, self._dtypes, strict=True)]
        return keras.tree.pack_sequence_as(self._structure, leaves)
