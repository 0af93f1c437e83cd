"""What an export answers to: the pure functions behind its signatures, and samples to try them on."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding import Generator
from keras_transformer.decoding.graph import Program
from keras_transformer.decoding.scoring import score_sequences
from keras_transformer.decoding.verification import sample_sources
from keras_transformer_runtime.distribution import DISTRIBUTION


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
            "model.save('model.keras') here, load it in a process with KERAS_BACKEND=tensorflow and `import "
            f"keras_transformer`, and export it there; {DISTRIBUTION}[tensorflow] brings TensorFlow."
        )


def generate_signature(generator: Generator) -> Signature:
    """Ids in, `tokens`, `lengths` and `scores` out.

    A decoder-only model takes prompts, others their sources; a strategy that draws takes a scalar `seed`, too.
    """
    require_start_token(generator)
    sources = source_inputs(generator)
    inputs = sources or [target_input(generator)]
    if generator.strategy.is_random:
        inputs = [*inputs, Input("seed", (), "int32")]

    def generate(*values):
        values, seed = (values[:-1], values[-1]) if generator.strategy.is_random else (values, None)
        if not sources:
            return generator.generate({}, *read_prompts(generator, values[0]), seed)
        rows = ops.shape(values[0])[0]
        prompts = ops.full((rows, 1), generator.start_token, dtype="int32")
        return generator.generate(by_slot(generator, values), prompts, ops.ones((rows,), dtype="int32"), seed)

    return Signature(inputs, generate)


def score_signature(generator: Generator) -> Signature:
    """Sequences in, `scores` (B,) out: their log-probabilities, as `Generator.score` gives them.

    An encoder-decoder takes its sources and the target sequences; a decoder-only model takes the sequences and
    `prompt_lengths` (B,), the number of tokens of each that are given, not judged.
    """
    sources = source_inputs(generator)
    inputs = [*sources, target_input(generator)]
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
            by_slot(generator, values),
            ops.expand_dims(ops.cast(tokens, "int32"), 1),
            ops.expand_dims(prompt_lengths, 1),
        )
        return {"scores": ops.reshape(scores, (-1,))}

    return Signature(inputs, score)


def encode_signature(generator: Generator) -> Signature:
    """Sources in; out come the encoder's outputs that the decoder reads, `memory` (numbered where there are more
    than one), and their padding masks, `memory_mask`."""

    def encode(*values):
        memory = generator.graph.encode(by_slot(generator, values))
        slots = [name for name in memory if not name.endswith("/mask")]
        outputs = {}
        for place, name in enumerate(slots):
            key = "memory" if len(slots) == 1 else f"memory_{place}"
            outputs[key] = memory[name]
            if f"{name}/mask" in memory:
                outputs[f"{key}_mask"] = memory[f"{name}/mask"]
        return outputs

    return Signature(source_inputs(generator), encode)


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


def source_inputs(generator: Generator) -> list[Input]:
    """The sources, in the order of the model's inputs."""
    return [_input(generator, slot) for slot in _source_slots(generator)]


def target_input(generator: Generator) -> Input:
    """The input that takes the tokens generated so far."""
    return _input(generator, generator.graph.target)


def by_slot(generator: Generator, values) -> dict:
    """Values of the sources by their places among the model's inputs."""
    return dict(zip(_source_slots(generator), values, strict=True))


def require_start_token(generator: Generator) -> None:
    """Raise ValueError where sequences have nothing to begin with."""
    if _source_slots(generator) and generator.start_token is None:
        raise ValueError("To export an encoder-decoder, make the Generator with a start_token.")
