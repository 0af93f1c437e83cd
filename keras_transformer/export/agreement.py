"""Whether an export gives what Python gives, decided at export time."""

import keras
import numpy as np
from keras import ops

from keras_transformer.decoding import Generator

TIE = 1e-3  # two tokens whose log-probabilities differ by less are equal to the precision of float32


class ExportMismatchError(ValueError):
    """An export was written, tried, and found to differ from Python."""


def python_answers(generator: Generator, inputs: list[np.ndarray]) -> dict:
    """What Python generates from the inputs of an exported signature."""
    return generator(inputs if len(inputs) > 1 else inputs[0])


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
    graph = generator.graph
    slots = [slot for slot in range(len(graph.input_names)) if slot != graph.target]
    memory = graph.encode({slot: ops.convert_to_tensor(x) for slot, x in zip(slots, inputs, strict=False)})
    prefix = ops.convert_to_tensor(ours[None, :position])
    logits = graph.decode(prefix, memory)[graph.output][:, -1]
    log_probabilities = ops.convert_to_numpy(generator.decoder.log_probabilities(logits))[0]
    return abs(float(log_probabilities[ours[position]] - log_probabilities[theirs[position]]))


def check_outputs(model: keras.Model, expected: dict, exported: dict, what: str) -> None:
    """Raise ExportMismatchError unless the outputs of a plain model are the same to 1e-4 of their size."""
    for name, value in expected.items():
        value, other = np.asarray(ops.convert_to_numpy(value)), np.asarray(exported[name])
        difference = np.abs(value.astype("float64") - other.astype("float64")).max(initial=0)
        if not difference <= 1e-4 * max(1.0, np.abs(value).max(initial=0)):
            raise ExportMismatchError(
                f"The {what} of '{model.name}' differs from Python in '{name}' by {difference:.2e}."
            )
