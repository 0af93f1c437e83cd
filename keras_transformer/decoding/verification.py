"""Trust in a model, when a Generator is made of it: what its operations are, and then what it gives.

Each operation between target tokens and logits is judged for what it is (`inspection.py`). Then the whole model is run
in full and as it will be decoded, and the logits are compared.
"""

import numpy as np
from keras import ops

from keras_transformer.context import Decoding, active
from keras_transformer.decoding.comparison import agree, as_array, precision
from keras_transformer.decoding.compiling import evaluate, failures
from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.inspection import REMEDY, Inspection, Seen
from keras_transformer.decoding.samples import (
    BATCH,
    SOURCE_LENGTH,
    as_tensors,
    random_weights,
    sample_ids,
    sample_inputs,
)
from keras_transformer.layers.checks import describe

LENGTH = 19
PADDING = (125, 3)  # of sources that are padded: the first that the source side takes
SOURCE_LENGTHS = (SOURCE_LENGTH, 3, 1, 16, 64, 256)  # the first that the source side takes


def sample_sources(
    graph: Graph, lengths: int | dict[str, int] = SOURCE_LENGTH, batch: int = BATCH, seed: int = 0
) -> dict:
    """Random inputs for every source, as tensors, the last row's token ids padded on the right."""
    sources = sample_inputs(graph, lengths, batch, seed)
    del sources[graph.target]
    for slot in _padded_ids(graph):
        length, padding = sources[slot].shape[1], graph.padding_id(slot)
        if padding is not None:
            sources[slot][-1, length - length // 3 :] = padding
    return as_tensors(sources)


def _padded_ids(graph: Graph) -> list[int]:
    """The sources of ids that may have any length."""
    return [
        slot
        for slot, shape in enumerate(graph.shapes)
        if slot < len(graph.input_names) and slot != graph.target and shape[1:] == (None,)
        and ("int" in graph.input_dtypes[slot] or slot in graph.vocabulary_limits())
    ]  # fmt: skip


def verify_cached(graph: Graph, max_length: int) -> np.ndarray:
    """Raise ValueError unless the model decodes token by token as it does in full, naming what does not; return logits
    that it gave in full."""
    check_vocabulary(graph)
    length = min(LENGTH, max_length)
    tokens = _sample_tokens(graph, length)
    seen = _look(graph, tokens)
    if max_length > 1:
        Inspection(graph, max_length, seen, cached=True).run()
    starts = sorted({0, max(0, length - 2), length - 1})  # a prompt at once, then two tokens one by one

    def run_in_parts():
        memory, state, parts = seen.encoded, {}, []
        for start, end in zip(starts, [*starts[1:], length], strict=True):
            positions = ops.convert_to_tensor(np.tile(np.arange(start, end, dtype="int32"), (BATCH, 1)))
            ends = ops.full((BATCH,), end, dtype="int32")
            with active(Decoding(state, memory, positions, max_length, lengths=ends)) as context:
                parts.append(graph.decode(ops.convert_to_tensor(tokens[:, start:end]), memory))
            state, memory = context.state, context.memory
        return parts

    try:
        parts = evaluate(run_in_parts, graph.model.variables)
    except failures() as error:
        raise ValueError(
            f"The model '{graph.model.name}' cannot be decoded token by token: {_told(error)}\n{REMEDY}"
        ) from error
    if _equal(graph, seen, graph.output, parts):
        return as_array(seen.values[graph.output])
    for instruction in graph.decoder:
        for slot in instruction.outputs:
            if not _equal(graph, seen, slot, parts):
                raise ValueError(
                    f"The layer {describe(instruction.operation)} of the model '{graph.model.name}' mixes time steps "
                    "and keeps nothing of the earlier ones while decoding: token by token it gives another output "
                    f"than on the whole sequence. {REMEDY}"
                )
    raise AssertionError("The logits are what the last operation puts out.")


def verify_causal(graph: Graph, max_length: int) -> np.ndarray:
    """Raise ValueError if the logits of earlier positions depend on a later token, or are not one for each token;
    return the logits."""
    check_vocabulary(graph)
    length = min(LENGTH, max_length)
    tokens = _sample_tokens(graph, length)
    changed = tokens.copy()
    changed[:, -1] = (tokens[:, -1] + 1) % _vocabulary(graph)
    rest = ((0, 0), (0, max_length - length))  # as the tokens to come are padded at every step
    padding = graph.padding_id(graph.target) or 0
    tokens, changed = (np.pad(x, rest, constant_values=padding) for x in (tokens, changed))
    seen = _look(graph, tokens)
    if max_length > 1:
        Inspection(graph, max_length, seen, cached=False).run()
    after = evaluate(
        lambda: graph.decode(ops.convert_to_tensor(changed), seen.encoded)[graph.output], graph.model.variables
    )
    before, after = as_array(seen.values[graph.output]), as_array(after)
    if not agree(before[:, : length - 1], after[:, : length - 1], _precision(graph)):
        raise ValueError(
            f"The model '{graph.model.name}' is not causal: its logits depend on later tokens, so no text can be "
            "generated from it. Use DecoderLayer or MultiHeadSelfAttention(..., causal=True) on the target side."
        )
    return before


def check_vocabulary(graph: Graph) -> None:
    """Raise ValueError if the model can generate an id that it cannot read: its embedding has no vector for it."""
    layer, size = graph.vocabulary_limits().get(graph.target, (None, None))
    if size is not None and size < graph.vocabulary_size:
        makers = {slot: x.operation for x in graph.decoder for slot in x.outputs}
        raise ValueError(
            f"The model '{graph.model.name}' gives logits of {graph.vocabulary_size} ids (by "
            f"{describe(makers[graph.output])}), but {describe(layer)}, which reads what was generated, knows the ids "
            f"from 0 to {size - 1} only. Make both of one size."
        )


def _look(graph: Graph, tokens: np.ndarray) -> Seen:
    """Run the whole model on tokens, with sources of the first length that it takes."""
    seen = Seen()

    def run_whole():
        memory = graph.encode(sources)
        values = graph.decode(ops.convert_to_tensor(tokens), memory)
        seen.look(values)
        return memory, values

    lengths = SOURCE_LENGTHS if len(graph.input_names) > 1 else SOURCE_LENGTHS[:1]
    for length in lengths:
        sources = sample_sources(graph, length)
        try:
            seen.encoded, values = evaluate(run_whole, graph.model.variables)
            if _is_told(as_array(values[graph.output])):  # JAX reads NaN where a table ends
                break
        except failures() as error:
            if length == lengths[-1] or takes_sources(graph, sources):
                raise ValueError(
                    f"The model '{graph.model.name}' cannot be run on {tokens.shape[1]} tokens: {_told(error)}"
                ) from error
    else:
        raise ValueError(
            f"The model '{graph.model.name}' gives logits that are NaN or infinite. Are its weights finite?"
        )
    seen.memory = graph.recall(seen.encoded)
    seen.values = values
    return seen


def _is_told(logits: np.ndarray) -> bool:
    """Whether logits are numbers; some may be -inf, of ids that the model itself forbids."""
    largest = logits.max(axis=-1)
    return bool(np.isfinite(largest).all()) and not np.isnan(logits).any()


def _told(error: Exception) -> str:
    """What went wrong, and where."""
    return " ".join([str(error), *getattr(error, "__notes__", [])])


def padding_is_ignored(graph: Graph) -> set[int]:
    """The sources of ids, by slot, that give the same logits when they are padded on the right.

    It is tried with random weights: whatever the weights are or become, the answer stays.
    """
    slots = [slot for slot in _padded_ids(graph) if graph.padding_id(slot) is not None]
    if not slots:
        return set()
    tokens = ops.convert_to_tensor(_sample_tokens(graph, 3))
    variables, values = random_weights([x.operation for x in graph.instructions])

    def logits(sources: dict) -> np.ndarray | None:
        try:
            found = evaluate(
                lambda: graph.decode(tokens, graph.encode(sources))[graph.output], variables, values=values
            )
        except failures():  # sources that must be of one length, or no longer than some table
            return None
        found = as_array(found)
        return found if _is_told(found) else None  # beyond the end of a table, on JAX

    def ignores(slot: int, sources: dict, before: np.ndarray) -> bool:
        """Much padding shows what looks far."""
        for count in PADDING:
            more = ops.pad(sources[slot], [[0, 0], [0, count]], constant_values=graph.padding_id(slot))
            after = logits({**sources, slot: more})
            if after is not None:
                return agree(before, after, _precision(graph))
        return False

    for length in SOURCE_LENGTHS:
        sources = sample_sources(graph, length)
        before = logits(sources)
        ignoring = set() if before is None else {slot for slot in slots if ignores(slot, sources, before)}
        if ignoring:
            return ignoring
    return set()


def takes_sources(graph: Graph, sources: dict) -> bool:
    """Whether the model encodes sources of these shapes: a table of positions may be too short for them."""
    rows = {slot: ops.convert_to_tensor(x[:1]) for slot, x in sources.items()}
    try:
        memory = evaluate(lambda: graph.encode(rows), graph.model.variables)
    except failures():
        return False
    arrays = [as_array(x) for x in memory.values()]
    return not any(np.isnan(x).any() for x in arrays if np.issubdtype(x.dtype, np.floating))


def _vocabulary(graph: Graph) -> int:
    """How many ids may come in and go out."""
    limit = graph.vocabulary_limits().get(graph.target, (None, graph.vocabulary_size))[1]
    return min(limit, graph.vocabulary_size)


def _sample_tokens(graph: Graph, length: int) -> np.ndarray:
    random = np.random.default_rng(1)
    if graph.takes_values:
        return random.normal(size=(BATCH, length, graph.shapes[graph.target][2])).astype("float32")
    return sample_ids(random, _vocabulary(graph), (BATCH, length), graph.padding_id(graph.target)).astype("int32")


def _precision(graph: Graph) -> float:
    return precision([x.operation for x in graph.instructions])


def _equal(graph: Graph, seen: Seen, slot: int, parts: list[dict]) -> bool:
    """Whether a value, in parts one after the other in time, is what it is in full."""
    whole, parts = as_array(seen.values[slot]), [as_array(part[slot]) for part in parts]
    if any(part.ndim < 2 or part.ndim != whole.ndim for part in parts):
        return whole.ndim == 0 or all(np.array_equal(part, whole) for part in parts)
    if sum(part.shape[1] for part in parts) != whole.shape[1]:
        return False
    return agree(whole, np.concatenate(parts, axis=1), _precision(graph))
