"""What an export answers to: the pure functions behind its signatures, and samples to try them on."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding import Generator
from keras_transformer.decoding.graph import Program
from keras_transformer.decoding.verification import sample_sources


class Input(NamedTuple):
    """One input of a signature."""

    name: str
    shape: tuple
    dtype: str


class Signature(NamedTuple):
    """A function of the tensors `inputs` to a dict of tensors."""

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


def ids_signature(generator: Generator) -> Signature:
    """Ids in, `tokens`, `lengths` and `scores` out. A decoder-only model takes prompts, others their sources."""
    graph = generator.graph
    slots = [slot for slot in range(len(graph.input_names)) if slot != graph.target] or [graph.target]
    tensors = [graph.model.inputs[slot] for slot in slots]
    inputs = [
        Input(graph.input_names[slot], tuple(tensor.shape), keras.backend.standardize_dtype(tensor.dtype))
        for slot, tensor in zip(slots, tensors, strict=True)
    ]

    def generate(*values):
        if slots == [graph.target]:
            return generator.generate({}, *_prompts(generator, values[0]))
        rows = ops.shape(values[0])[0]
        prompts = ops.full((rows, 1), generator.start_token, dtype="int32")
        return generator.generate(dict(zip(slots, values, strict=True)), prompts, ops.ones((rows,), dtype="int32"))

    if slots != [graph.target] and generator.start_token is None:
        raise ValueError("To export an encoder-decoder, make the Generator with a start_token.")
    return Signature(inputs, generate)


def _prompts(generator: Generator, prompts):
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
        for (name, shape, _), value in zip(signature.inputs, values, strict=True):
            if len(shape) > 1 and shape[1] is None:
                message = f"'{name}' has more ids than the {longest} that this model was exported for"
                check = tf.debugging.assert_less_equal(tf.shape(value)[1], longest, message, summarize=1)
                with tf.control_dependencies([check]):
                    value = tf.identity(value)
            checked.append(value)
        return signature.function(*checked)

    return Signature(signature.inputs, function)


def sample_inputs(target: Generator | keras.Model, signature: Signature, length: int, batch: int) -> list[np.ndarray]:
    """Random inputs for a signature, with a padded row where there is more than one."""
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
