"""What an export answers to: the pure functions behind its signatures, and samples to try them on."""

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding import Generator
from keras_transformer.decoding.graph import Program
from keras_transformer.decoding.scoring import score_sequences
from keras_transformer.decoding.verification import sample_sources


class Input(NamedTuple):
    """One input of a signature."""

    name: str
    shape: tuple
    dtype: str


class Signature(NamedTuple):
    """A function of the tensors `inputs`, in their order, to a dict of tensors."""

    inputs: list[Input]
    function: Callable


def require_tensorflow(what: str) -> None:
    """Raise ValueError unless Keras runs on TensorFlow."""
    backend = keras.backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"{what} needs the TensorFlow backend of Keras, this is '{backend}'. Save the model with "
            "model.save('model.keras') here, load it in a process with KERAS_BACKEND=tensorflow, and export it there."
        )


def generate_signature(generator: Generator) -> Signature:
    """Ids in, `tokens`, `lengths` and `scores` out.

    A decoder-only model takes prompts, others their sources; a strategy that draws takes a scalar `seed`, too.
    """
    _require_start_token(generator)
    sources = _source_inputs(generator)
    inputs = sources or [_target_input(generator)]
    if generator.strategy.is_random:
        inputs = [*inputs, Input("seed", (), "int32")]

    def generate(*values):
        values, seed = (values[:-1], values[-1]) if generator.strategy.is_random else (values, None)
        if not sources:
            return generator.generate({}, *read_prompts(generator, values[0]), seed)
        rows = ops.shape(values[0])[0]
        prompts = ops.full((rows, 1), generator.start_token, dtype="int32")
        return generator.generate(_by_slot(generator, values), prompts, ops.ones((rows,), dtype="int32"), seed)

    return Signature(inputs, generate)


def score_signature(generator: Generator) -> Signature:
    """Sequences in, `scores` (B,) out: their log-probabilities, as `Generator.score` gives them.

    An encoder-decoder takes its sources and the target sequences; a decoder-only model takes the sequences and
    `prompt_lengths` (B,), the number of tokens of each that are given, not judged.
    """
    sources = _source_inputs(generator)
    inputs = [*sources, _target_input(generator)]
    if not sources:
        inputs.append(Input("prompt_lengths", (None,), "int32"))

    def score(*values):
        if sources:
            *values, tokens = values
            prompt_lengths = ops.ones((ops.shape(tokens)[0],), "int32")
        else:
            (tokens, prompt_lengths), values = values, ()
        scores = score_sequences(
            generator.strategy,
            generator.decoder,
            _by_slot(generator, values),
            ops.expand_dims(ops.cast(tokens, "int32"), 1),
            ops.expand_dims(prompt_lengths, 1),
        )
        return {"scores": ops.reshape(scores, (-1,))}

    return Signature(inputs, score)


def encode_signature(generator: Generator) -> Signature:
    """Sources in; out come the encoder's outputs that the decoder reads, `memory` (numbered where there are more
    than one), and their padding masks, `memory_mask`."""

    def encode(*values):
        memory = generator.graph.encode(_by_slot(generator, values))
        slots = [name for name in memory if not name.endswith("/mask")]
        outputs = {}
        for place, name in enumerate(slots):
            key = "memory" if len(slots) == 1 else f"memory_{place}"
            outputs[key] = memory[name]
            if f"{name}/mask" in memory:
                outputs[f"{key}_mask"] = memory[f"{name}/mask"]
        return outputs

    return Signature(_source_inputs(generator), encode)


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
        for x in _source_inputs(generator)
    ]

    def begin(values, memory, prompts, lengths):
        memory = strategy.encode(decoder, _by_slot(generator, values)) if memory is None else memory
        return strategy.begin(decoder, memory, prompts, lengths)

    def start(length):
        prompts = ops.full((batch_size, length), generator.start_token or 1, dtype="int32")
        return prompts, ops.ones((batch_size,), "int32")

    # One run tells what the carry and the memory are made of.
    samples = [ops.zeros(x.shape, x.dtype) for x in sources]
    carry, memory = begin(samples, None, *start(prefill_lengths[0]))
    carry, memory = _Packing("", carry), _Packing("memory_", memory)

    def encode(*values):
        return memory.pack(begin(values, None, *start(prefill_lengths[0]))[1], values)

    def prefill(*values):
        prompts, lengths = values[-2:]
        given = memory.unpack(values[:-2]) if sources else None
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
    _require_start_token(generator)
    strategy, decoder = generator.strategy, generator.decoder
    seed = [Input("seed", (), "int32")] if strategy.is_random else []
    sources = _source_inputs(generator)
    inputs = sources or [_target_input(generator)]

    def start(*values):
        if sources:
            rows = ops.shape(values[0])[0]
            prompts = ops.full((rows, 1), generator.start_token, dtype="int32"), ops.ones((rows,), dtype="int32")
        else:
            prompts = read_prompts(generator, values[0])
        memory = strategy.encode(decoder, _by_slot(generator, values) if sources else {})
        return strategy.begin(decoder, memory, *prompts)

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


def with_static_shapes(
    target: Generator | keras.Model, signature: Signature, source_length: int | None, batch_size: int, what: str
) -> Signature:
    """The signature with `batch_size` rows and `source_length` in place of every unknown length."""
    if source_length is None and any(dim is None for x in signature.inputs for dim in x.shape[1:]):
        raise ValueError(
            f"{what} has static shapes: give source_length, the length of the inputs "
            f"{[x.name for x in signature.inputs]}; shorter ones are padded on the right with 0."
        )
    if isinstance(target, Generator) and len(target.model.inputs) == 1 and source_length > target.max_length:
        raise ValueError(
            f"source_length is the length of the prompts here, {source_length}; the generator's max_length, "
            f"{target.max_length}, counts them, too."
        )
    return signature._replace(
        inputs=[
            x._replace(shape=(batch_size, *(source_length if dim is None else dim for dim in x.shape[1:])))
            if x.shape
            else x
            for x in signature.inputs
        ]
    )


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


def read_prompts(generator: Generator, prompts):
    """Prompts and their lengths; an empty one becomes the start token, if there is one."""
    prompts = ops.cast(prompts, "int32")
    lengths = ops.sum(ops.cast(prompts != 0, "int32"), axis=1)
    if generator.start_token is not None:
        first = ops.arange(ops.shape(prompts)[1], dtype="int32") == 0
        empty = ops.expand_dims(lengths == 0, 1)
        prompts = ops.where(ops.logical_and(empty, first), generator.start_token, prompts)
    return prompts, ops.maximum(lengths, 1)


def model_signature(model: keras.Model) -> Signature:
    """The model's inputs by name in, its outputs by name out."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            f"An export takes a Generator or a functional keras.Model, got {type(model).__name__}. "
            "Wrap a subclassed model: keras.Model(inputs, model(inputs))."
        )
    inputs = [Input(x.name, tuple(x.shape), keras.backend.standardize_dtype(x.dtype)) for x in model.inputs]

    def predict(*values):
        values = dict(zip((x.name for x in model.inputs), values, strict=True))
        arguments = keras.tree.map_structure(lambda x: values[x.name], model.input)
        outputs = keras.tree.flatten(model(arguments, training=False))
        return dict(zip(model.output_names, outputs, strict=True))

    return Signature(inputs, predict)


def refusing_longer(signature: Signature, longest: int) -> Signature:
    """The signature with an error in place of an answer for inputs longer than `longest`, where they may be any length.

    Attention over T ids takes memory in proportion to the square of T, so one long text could end a server.
    """
    import tensorflow as tf

    def function(*values):
        checked = []
        for (name, shape, dtype), value in zip(signature.inputs, values, strict=True):
            if len(shape) == 2 and shape[1] is None and "int" in dtype:
                message = f"'{name}' has more ids than the {longest} that this model was exported for"
                check = tf.debugging.assert_less_equal(tf.shape(value)[1], longest, message, summarize=1)
                with tf.control_dependencies([check]):
                    value = tf.identity(value)
            checked.append(value)
        return signature.function(*checked)

    return Signature(signature.inputs, function)


def sample_inputs(target: Generator | keras.Model, signature: Signature, length: int, batch: int) -> list[np.ndarray]:
    """Random inputs for the signature of ids, with a padded row where there is more than one."""
    random = np.random.default_rng(0)
    if isinstance(target, Generator):
        graph = target.graph
        sources = sample_sources(graph, length, batch)
        if sources:
            return [np.asarray(ops.convert_to_numpy(x)) for x in sources.values()]
        limit = min(
            graph.vocabulary_limits().get(graph.target, (None, graph.vocabulary_size))[1],
            graph.vocabulary_size,
        )
        prompts = random.integers(1, max(2, limit), (batch, length)).astype("int32")
        prompts[-1, max(1, length - length // 3) :] = 0
        return [prompts]
    limits = Program(target).vocabulary_limits()
    values = []
    for slot, (_, shape, dtype) in enumerate(signature.inputs):
        shape = (batch, *(length if dim is None else dim for dim in shape[1:]))
        if "int" in dtype:
            values.append(random.integers(1, max(2, limits.get(slot, (None, 2))[1]), shape).astype(dtype))
        else:
            values.append(random.normal(size=shape).astype(dtype))
    return values


def as_inputs(samples, signature: Signature) -> list[np.ndarray]:
    """Samples of ids, an array or, for several inputs, a list of them, as a list of arrays."""
    count = sum(x.name != "seed" for x in signature.inputs)
    arrays = [np.asarray(x) for x in samples] if count > 1 else [np.asarray(samples)]
    if len(arrays) != count:
        raise ValueError(f"The samples are {len(arrays)} arrays; the inputs are {[x.name for x in signature.inputs]}.")
    return [x.astype(dtype) for x, (_, _, dtype) in zip(arrays, signature.inputs, strict=False)]


def own_seed(target: Generator | keras.Model) -> list[np.int32]:
    """The seed that Python uses, if there is one to give to a signature."""
    is_random = isinstance(target, Generator) and target.strategy.is_random
    return [np.int32(target.strategy.seed)] if is_random else []


def _source_slots(generator: Generator) -> list[int]:
    return [slot for slot in range(len(generator.graph.input_names)) if slot != generator.graph.target]


def _input(generator: Generator, slot: int) -> Input:
    tensor = generator.graph.model.inputs[slot]
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return Input(generator.graph.input_names[slot], tuple(tensor.shape), dtype)


def _source_inputs(generator: Generator) -> list[Input]:
    return [_input(generator, slot) for slot in _source_slots(generator)]


def _target_input(generator: Generator) -> Input:
    return _input(generator, generator.graph.target)


def _by_slot(generator: Generator, values) -> dict:
    return dict(zip(_source_slots(generator), values, strict=True))


def _require_start_token(generator: Generator) -> None:
    if _source_slots(generator) and generator.start_token is None:
        raise ValueError("To export an encoder-decoder, make the Generator with a start_token.")
