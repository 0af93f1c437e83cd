"""What an export answers to: the pure functions behind its signatures."""

from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.decoding import Generator
from keras_transformer.decoding.program import Program
from keras_transformer.decoding.scoring import score_sequences
from keras_transformer.export.names import input_names, output_names, structure_of
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

    A decoder-only model takes prompts, and their `lengths` (B,) if no id is padding; others take their sources. A
    strategy that draws takes a scalar `seed`, too.
    """
    sources, inputs = beginning(generator)
    if generator.strategy.is_random:
        inputs = [*inputs, Input("seed", (), "int32")]

    def generate(*values):
        values, seed = (values[:-1], values[-1]) if generator.strategy.is_random else (values, None)
        return generator.generate(by_slot(generator, values) if sources else {}, *prompts_of(generator, values), seed)

    return Signature(inputs, generate)


def beginning(generator: Generator) -> tuple[list[Input], list[Input]]:
    """The sources, and all inputs that a generation begins with."""
    require_start_token(generator)
    taken = sorted({"seed", "lengths", "prompts", "prompt_lengths"}.intersection(input_names(generator.model)))
    if taken:
        raise ValueError(
            f"The model's inputs {taken} have names of what an export of a generator takes beside them; call them "
            "something else: keras.Input(..., name=...)."
        )
    sources = source_inputs(generator)
    if sources:
        return sources, sources
    return [], [target_input(generator), *_lengths(generator)]


def _lengths(generator: Generator) -> list[Input]:
    """The input that tells how long target sequences are, where no padding does."""
    return [Input("lengths", (None,), "int32")] if generator.padding_id is None else []


def prompts_of(generator: Generator, values):
    """Prompts (B, P) and their lengths (B,) from the values of what a generation begins with: start tokens where there
    are sources, else what is given; an empty prompt becomes the start token, if there is one."""
    if len(generator.graph.input_names) > 1:
        rows = ops.shape(values[0])[0]
        return ops.full((rows, 1), generator.start_token, dtype="int32"), ops.ones((rows,), dtype="int32")
    prompts = ops.cast(values[0], "int32")
    places = ops.arange(ops.shape(prompts)[1], dtype="int32")
    lengths = ops.cast(values[1], "int32") if len(values) > 1 else _count(generator, prompts)
    prompts = ops.where(places < ops.expand_dims(lengths, 1), prompts, generator.special.fill)
    if generator.start_token is not None:
        empty = ops.expand_dims(ops.equal(lengths, 0), 1)
        prompts = ops.where(ops.logical_and(empty, ops.equal(places, 0)), generator.start_token, prompts)
    return prompts, ops.maximum(lengths, 1)


def _count(generator: Generator, tokens):
    """The lengths (B,) of sequences (B, T) without the padding that they end with."""
    places = ops.arange(1, ops.shape(tokens)[1] + 1, dtype="int32")
    real = ops.cast(ops.not_equal(tokens, generator.padding_id), "int32")
    return ops.max(ops.pad(real * places, [[0, 0], [0, 1]]), axis=1)


def inputs_of_model(target: Generator | keras.Model, signature: Signature) -> list[Input]:
    """The inputs of a signature that the model has, too: no seed, and no lengths of sequences."""
    names = input_names(target.model if isinstance(target, Generator) else target)
    return [x for x in signature.inputs if x.name in names]


def fixed_rows(target: Generator | keras.Model, default: int) -> int:
    """The number of rows that a model takes, where it takes no other."""
    model = target.model if isinstance(target, Generator) else target
    return next((x.shape[0] for x in model.inputs if x.shape[0] is not None), default)


def input_paddings(target: Generator | keras.Model, signature: Signature) -> list[int | None]:
    """The id that pads each input of a signature of ids, None where every id is a token, and for a seed or lengths."""
    program = target.graph if isinstance(target, Generator) else Program(target)
    slots = {name: slot for slot, name in enumerate(input_names(program.model))}
    paddings = {name: program.padding_id(slot) for name, slot in slots.items()}
    if isinstance(target, Generator):
        paddings[input_names(program.model)[target.graph.target]] = target.padding_id
    return [paddings.get(x.name) for x in signature.inputs]


def score_signature(generator: Generator) -> Signature:
    """Sequences in, `scores` (B,) out: their log-probabilities, as `Generator.score` gives them.

    An encoder-decoder takes its sources and the target sequences; a decoder-only model takes the sequences and
    `prompt_lengths` (B,), the number of tokens of each that are given, not judged. If no id is padding, either takes
    the sequences' `lengths` (B,), too.
    """
    sources = source_inputs(generator)
    given = [] if sources else [Input("prompt_lengths", (None,), "int32")]
    inputs = [*sources, target_input(generator), *given, *_lengths(generator)]

    def score(*values):
        values, (tokens, *rest) = values[: len(sources)], values[len(sources) :]
        tokens = ops.cast(tokens, "int32")
        prompt_lengths = rest[0] if given else ops.ones((ops.shape(tokens)[0],), "int32")
        if generator.padding_id is None:
            lengths = rest[-1]
        else:  # where padding also ends a sequence, its first one counts
            lengths = _count(generator, tokens) + int(generator.padding_id in generator.special.ends)
        scores = score_sequences(
            generator.strategy,
            generator.decoder,
            by_slot(generator, values),
            ops.expand_dims(tokens, 1),
            ops.expand_dims(prompt_lengths, 1),
            ops.expand_dims(lengths, 1),
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
    for name, count in (("source_length", source_length), ("batch_size", batch_size)):
        if count is not None and (type(count) is not int or count < 1):
            raise ValueError(f"{what} has static shapes: {name} is a positive integer, got {count!r}.")
    if source_length is None and any(dim is None for x in signature.inputs for dim in x.shape[1:]):
        raise ValueError(
            f"{what} has static shapes: give source_length, the length of the inputs "
            f"{[x.name for x in signature.inputs]}; shorter ones are padded on the right."
        )
    if isinstance(target, Generator) and len(target.model.inputs) == 1 and source_length > target.max_length:
        raise ValueError(
            f"source_length is the length of the prompts here, {source_length}; the generator's max_length, "
            f"{target.max_length}, counts them, too."
        )
    if fixed_rows(target, batch_size) != batch_size:
        raise ValueError(
            f"The model takes batches of {fixed_rows(target, batch_size)} rows, by the shapes of its inputs; "
            f"batch_size={batch_size} is another."
        )
    return signature._replace(
        inputs=[
            x._replace(shape=(batch_size, *(source_length if dim is None else dim for dim in x.shape[1:])))
            if x.shape
            else x
            for x in signature.inputs
        ]
    )


def model_signature(model: keras.Model) -> Signature:
    """The model's inputs by name in, its outputs by name out."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise ValueError(
            f"An export takes a Generator or a functional keras.Model, got {type(model).__name__}. "
            "Wrap a subclassed model: keras.Model(inputs, model(inputs))."
        )
    outputs = output_names(model)

    def predict(*values):
        arguments = keras.tree.pack_sequence_as(structure_of(model, "input"), list(values))
        return dict(zip(outputs, keras.tree.flatten(model(arguments, training=False)), strict=True))

    return Signature(_inputs(model), predict)


def _inputs(model: keras.Model) -> list[Input]:
    return [
        Input(name, tuple(x.shape), keras.backend.standardize_dtype(x.dtype))
        for name, x in zip(input_names(model), model.inputs, strict=True)
    ]


def refusing_empty(generator: Generator, signature: Signature) -> Signature:
    """The signature with an error in place of an answer to prompts that are empty, where no start token begins them."""
    import tensorflow as tf

    if len(generator.graph.input_names) > 1 or generator.start_token is not None:
        return signature

    def function(*values):
        lengths = _count(generator, values[0]) if generator.padding_id is not None else values[1]
        message = "A prompt is empty, and there is no start_token to begin with"
        with tf.control_dependencies([tf.debugging.assert_positive(lengths, message, summarize=1)]):
            return signature.function(*map(tf.identity, values))

    return Signature(signature.inputs, function)


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


def _source_slots(generator: Generator) -> list[int]:
    return [slot for slot in range(len(generator.graph.input_names)) if slot != generator.graph.target]


def source_inputs(generator: Generator) -> list[Input]:
    """The sources, in the order of the model's inputs."""
    inputs = _inputs(generator.model)
    return [inputs[slot] for slot in _source_slots(generator)]


def target_input(generator: Generator) -> Input:
    """The input that takes the tokens generated so far."""
    return _inputs(generator.model)[generator.graph.target]


def by_slot(generator: Generator, values) -> dict:
    """Values of the sources by their places among the model's inputs."""
    return dict(zip(_source_slots(generator), values, strict=True))


def require_start_token(generator: Generator) -> None:
    """Raise ValueError where sequences have nothing to begin with."""
    if _source_slots(generator) and generator.start_token is None:
        raise ValueError("To export an encoder-decoder, make the Generator with a start_token.")
