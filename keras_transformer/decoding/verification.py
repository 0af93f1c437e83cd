"""Proof, when a Generator is made, that decoding step by step gives what the full model gives."""

import keras
import numpy as np
from keras import ops

from keras_transformer.context import Decoding, active
from keras_transformer.decoding.compiling import evaluate
from keras_transformer.decoding.graph import Graph
from keras_transformer.layers.checks import describe

BATCH, LENGTH, SOURCE_LENGTH = 2, 19, 7  # 19 tokens: long enough to see a dilated convolution reach back


def sample_sources(
    graph: Graph, lengths: int | dict[str, int] = SOURCE_LENGTH, batch: int = BATCH, seed: int = 0
) -> dict:
    """Random inputs for every source, the last row's token ids padded on the right."""
    random = np.random.default_rng(seed)
    limits = graph.vocabulary_limits()
    sources = {}
    for slot, tensor in enumerate(graph.model.inputs):
        if slot == graph.target:
            continue
        length = lengths.get(tensor.name, SOURCE_LENGTH) if isinstance(lengths, dict) else lengths
        shape = (batch, *(length if dim is None else dim for dim in tensor.shape[1:]))
        if "int" in keras.backend.standardize_dtype(tensor.dtype):
            padding = graph.padding_id(slot)
            ids = sample_ids(random, max(2, limits.get(slot, (None, 2))[1]), shape, padding)
            if tensor.shape[1:] == (None,) and padding is not None:
                ids[-1, shape[1] - shape[1] // 3 :] = padding
            sources[slot] = ops.convert_to_tensor(ids, tensor.dtype)
        else:
            sources[slot] = ops.convert_to_tensor(random.normal(size=shape), tensor.dtype)
    return sources


def sample_ids(random, size: int, shape: tuple, padding_id: int | None = None) -> np.ndarray:
    """Random ids below `size`, none of them padding."""
    if padding_id is None or size < 2:
        return random.integers(0, size, shape)
    ids = random.integers(0, size - 1, shape)
    return ids + (ids >= padding_id)


def verify_cached(graph: Graph, max_length: int) -> np.ndarray:
    """Raise ValueError unless the model decodes step by step as it does in full, naming the layer that does not; return
    what it gave in full."""
    length = min(LENGTH, max_length)
    tokens = _sample_tokens(graph, length)
    sources = sample_sources(graph)
    starts = sorted({0, max(0, length - 2), length - 1})  # a prompt at once, then two tokens one by one

    def run_both():
        memory = graph.encode(sources)
        full = graph.decode(ops.convert_to_tensor(tokens), memory)
        state, parts = {}, []
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            positions = ops.convert_to_tensor(np.tile(np.arange(start, end, dtype="int32"), (BATCH, 1)))
            ends = ops.full((BATCH,), end, dtype="int32")
            with active(Decoding(state, memory, positions, max_length, lengths=ends)) as context:
                parts.append(graph.decode(ops.convert_to_tensor(tokens[:, start:end]), memory))
            state, memory = context.state, context.memory
        return full, parts

    try:
        full, parts = evaluate(run_both, graph.model.variables)
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(
            f"The model '{graph.model.name}' cannot be decoded token by token: {error}\n{_REMEDY}"
        ) from error
    _check_numbers(graph, full[graph.output])
    if _equal(full[graph.output], [part[graph.output] for part in parts]):
        return _as_floats(full[graph.output])
    for instruction in graph.decoder:
        for slot in instruction.outputs:
            if not _equal(full[slot], [part.get(slot) for part in parts]):
                raise ValueError(
                    f"The layer {describe(instruction.operation)} of the model '{graph.model.name}' mixes time steps "
                    "and keeps nothing of the earlier ones while decoding: token by token it gives another output "
                    f"than on the whole sequence. {_REMEDY}"
                )


_REMEDY = (
    "In the path of the target tokens, let only keras_transformer's layers look at other positions: attention with "
    "causal=True, and RecurrentDecoderLayer in place of Keras' recurrent layers. Or use Generator(..., cache=False), "
    "which runs the full causal model at every step."
)


def verify_causal(graph: Graph, max_length: int) -> np.ndarray:
    """Raise ValueError if the logits of earlier positions depend on a later token; return the logits."""
    length = min(LENGTH, max_length)
    tokens = _sample_tokens(graph, length)
    changed = tokens.copy()
    changed[:, -1] = (tokens[:, -1] + 1) % graph.vocabulary_size
    rest = ((0, 0), (0, max_length - length))  # as the tokens to come are padded at every step
    padding = graph.padding_id(graph.target) or 0
    tokens, changed = (np.pad(x, rest, constant_values=padding) for x in (tokens, changed))
    sources = sample_sources(graph)

    def run_both():
        memory = graph.encode(sources)
        return [graph.decode(ops.convert_to_tensor(x), memory)[graph.output] for x in (tokens, changed)]

    before, after = evaluate(run_both, graph.model.variables)
    _check_numbers(graph, before)
    if not _equal(before[:, : length - 1], [after[:, : length - 1]]):
        raise ValueError(
            f"The model '{graph.model.name}' is not causal: its logits depend on later tokens, so no text can be "
            "generated from it. Use DecoderLayer or MultiHeadSelfAttention(..., causal=True) on the target side."
        )
    return _as_floats(before)


def padding_is_ignored(graph: Graph) -> set[int]:
    """The sources of ids, by slot, that give the same logits when they are padded on the right."""
    sources = sample_sources(graph)
    slots = [
        slot
        for slot, x in sources.items()
        if graph.model.inputs[slot].shape[1:] == (None,)
        and "int" in keras.backend.standardize_dtype(x.dtype)
        and graph.padding_id(slot) is not None
    ]
    if not slots:
        return set()
    tokens = ops.convert_to_tensor(_sample_tokens(graph, 3))

    def run_both():
        padded = {
            slot: ops.pad(x, [[0, 0], [0, 3]], constant_values=graph.padding_id(slot)) if slot in slots else x
            for slot, x in sources.items()
        }
        return [graph.decode(tokens, graph.encode(x))[graph.output] for x in (sources, padded)]

    try:
        before, after = evaluate(run_both, graph.model.variables)
    except (ValueError, TypeError, RuntimeError, ArithmeticError):  # sources that must be of one length
        return set()
    return set(slots) if _equal(before, [after]) else set()


def takes_sources(graph: Graph, sources: dict) -> bool:
    """Whether the model encodes sources of these shapes: a table of positions may be too short for them."""
    rows = {slot: ops.convert_to_tensor(x[:1]) for slot, x in sources.items()}
    try:
        evaluate(lambda: graph.encode(rows), graph.model.variables)
    except (ValueError, TypeError, RuntimeError, ArithmeticError):
        return False
    return True


def _as_floats(logits) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(logits, "float32"))


def _check_numbers(graph: Graph, logits) -> None:
    if not np.isfinite(ops.convert_to_numpy(ops.cast(logits, "float32"))).all():
        raise ValueError(f"The model '{graph.model.name}' gives NaN or infinite logits. Are its weights finite?")


def _sample_tokens(graph: Graph, length: int) -> np.ndarray:
    limit = graph.vocabulary_limits().get(graph.target, (None, graph.vocabulary_size))[1]
    limit = min(limit, graph.vocabulary_size)
    random = np.random.default_rng(1)
    return sample_ids(random, max(2, limit), (BATCH, length), graph.padding_id(graph.target)).astype("int32")


def _equal(whole, parts) -> bool:
    """Whether `parts`, one after the other in time, are `whole`, to the precision of its type."""
    whole = ops.convert_to_numpy(whole)
    parts = [ops.convert_to_numpy(part) for part in parts]
    if any(part.ndim < 2 or part.ndim != whole.ndim for part in parts):
        return whole.ndim == 0 or all(np.array_equal(part, whole) for part in parts)
    if sum(part.shape[1] for part in parts) != whole.shape[1]:
        return False
    stepwise = np.concatenate(parts, axis=1)
    if not np.issubdtype(whole.dtype, np.floating) and whole.dtype.name != "bfloat16":
        return np.array_equal(whole, stepwise)
    tolerance = 1e-3 if whole.dtype.name in ("float32", "float64") else 0.1
    whole, stepwise = whole.astype("float64"), stepwise.astype("float64")
    return bool(np.abs(whole - stepwise).max(initial=0) <= tolerance * max(1.0, np.abs(whole).max(initial=0)))
