"""Whether an export gives what Python gives, decided at export time."""

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding import Generator

TIE = 1e-3  # two tokens whose log-probabilities differ by less are equal to the precision of float32


class ExportMismatchError(ValueError):
    """An export was written, tried, and found to differ from Python."""


def python_answers(generator: Generator, values: list[np.ndarray], seed: int | np.integer | None = None) -> dict:
    """What Python generates from the inputs that a generation begins with."""
    if len(generator.graph.input_names) == 1:
        prompts, *lengths = values
        return generator(prompts, lengths=lengths[0] if lengths else None, seed=seed)
    return generator(values if len(values) > 1 else values[0], seed=seed)


def agreement(expected: dict, exported: dict) -> float:
    """Share of the sequences (B, N, L) that are equal, token for token."""
    return float((expected["tokens"] == exported["tokens"]).all(axis=-1).mean())


def check_generated(generator: Generator, inputs: list[np.ndarray], expected: dict, exported: dict, what: str) -> None:
    """Raise ExportMismatchError unless `exported` holds the tokens `expected` that Python generates from `inputs`.

    Where two tokens, or two sequences of a beam search, are equally probable to the precision of float32, runtimes
    may break the tie differently; such a row counts as equal up to there.
    """
    if np.array_equal(expected["tokens"], exported["tokens"]):
        return
    for row, beam in np.argwhere((expected["tokens"] != exported["tokens"]).any(axis=-1)):
        ours, theirs = expected["tokens"][row, beam], exported["tokens"][row, beam]
        scores = expected["scores"][row, beam], exported["scores"][row, beam]
        if not generator.strategy.returns_final_tokens and np.isclose(*scores, rtol=TIE, atol=TIE):
            continue  # two whole sequences are equally probable
        position = int(np.flatnonzero(ours != theirs)[0])
        margin = _margin(generator, [x[row : row + 1] for x in inputs], ours, theirs, position)
        if margin > TIE:
            raise ExportMismatchError(
                f"The {what} differs from Python in row {row} at position {position}: it gives token "
                f"{theirs[position]}, Python {ours[position]}, whose log-probability is higher by {margin:.4f}. "
                f"Python: {ours.tolist()}; {what}: {theirs.tolist()}."
            )


def _margin(generator: Generator, inputs, ours, theirs, position: int) -> float:
    """How far apart, in log-probability, the two tokens are that were chosen after a common prefix."""
    slots = [slot for slot in range(len(generator.graph.input_names)) if slot != generator.graph.target]
    sources = {slot: ops.convert_to_tensor(x) for slot, x in zip(slots, inputs, strict=False)}
    log_probabilities = _next(generator, sources, ours[:position])
    return abs(float(log_probabilities[ours[position]] - log_probabilities[theirs[position]]))


def margin_at(generator: Generator, prefix) -> float:
    """How far the best token behind `prefix`, ids of a decoder-only model, is above all others that may come."""
    prefix = np.asarray(prefix, "int32")
    history = np.zeros((1, generator.max_length), "int32")
    history[0, : len(prefix)] = prefix
    scores = ops.convert_to_tensor(_next(generator, {}, prefix)[None])
    *_, second, first = np.sort(ops.convert_to_numpy(generator.decoder.allowed(scores, history, [len(prefix)]))[0])
    return float(first - second)


def _next(generator: Generator, sources: dict, prefix: np.ndarray) -> np.ndarray:
    """The log-probabilities (V,) of what comes behind a prefix."""
    graph = generator.graph
    logits = graph.decode(ops.convert_to_tensor(prefix[None]), graph.encode(sources))[graph.output][:, -1]
    return ops.convert_to_numpy(generator.decoder.log_probabilities(logits))[0]


def check_outputs(model: keras.Model, expected: dict, exported: dict, what: str) -> None:
    """Raise ExportMismatchError unless a plain model's outputs are the expected ones, name for name.

    Whole numbers, truth values and strings are equal, real numbers to 1e-4, in each entry: of the entry itself or of
    what is usual in its output, so that a few huge entries (a -1e9 that masks) do not hide the others.
    """
    if set(exported) != set(expected):
        raise ExportMismatchError(
            f"The {what} of '{model.name}' has the outputs {sorted(exported)}, Python {sorted(expected)}."
        )
    for name, value in expected.items():
        value, other = _array(value), _array(exported[name])
        if value.shape != other.shape:
            raise ExportMismatchError(
                f"The {what} of '{model.name}' gives '{name}' in shape {other.shape}, Python in {value.shape}."
            )
        wrong = differs(value, other)
        if wrong.any():
            place = tuple(int(x) for x in np.argwhere(wrong)[0])
            raise ExportMismatchError(
                f"The {what} of '{model.name}' differs from Python in '{name}', in {wrong.mean():.1%} of its entries: "
                f"at {place} it gives {other[place]}, Python {value[place]}."
            )


def _array(value) -> np.ndarray:
    return value if isinstance(value, np.ndarray) else np.asarray(ops.convert_to_numpy(value))


def differs(value: np.ndarray, other: np.ndarray) -> np.ndarray:
    """In which entries two arrays of one shape differ by more than rounding does."""
    if value.dtype.kind in "biuOSU":
        return value != other
    precision = 1e-4 if value.dtype.itemsize > 2 else 1e-2
    value, other = value.astype("float64"), other.astype("float64")
    sizes = np.abs(value[np.isfinite(value) & (value != 0)])
    usual = 10 * np.quantile(sizes, 0.25) if sizes.size else 0.0  # of normal ones 3 standard deviations
    with np.errstate(invalid="ignore"):
        close = np.abs(value - other) <= precision * np.maximum(np.abs(value), usual) + 1e-5
    return ~(close & np.isfinite(value)) & ~(np.isinf(value) & (value == other))
