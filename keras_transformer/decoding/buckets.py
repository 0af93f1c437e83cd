"""Few shapes for many inputs: every new shape costs a compilation, so arrays are padded to sizes from a short list."""

import logging
from functools import cached_property

import numpy as np

from keras_transformer.decoding.graph import Graph
from keras_transformer.decoding.inputs import Request
from keras_transformer.decoding.verification import padding_is_ignored, takes_sources

logger = logging.getLogger("keras_transformer")
MANY = 40  # shapes: more than prompts and rows of the list's sizes make


def bucket(size: int, smallest: int = 1) -> int:
    """The least of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is neither below `size` nor below `smallest`.

    At most half of an array is padding, and there are two sizes for every doubling.

    Example:

    >>> [bucket(size) for size in (1, 2, 5, 9, 13, 100)]
    [1, 2, 6, 12, 16, 128]
    """
    size = max(size, smallest)
    power = 1 << max(0, size - 1).bit_length()
    return power * 3 // 4 if power >= 4 and size <= power * 3 // 4 else power


def pad_request(request: Request, max_length: int, fill: int) -> Request:
    """The request with more rows (copies of the last) and longer prompts, in a shape from the list."""
    batch, length = request.prompts.shape
    rows = bucket(batch) - batch if batch else 0
    width = min(bucket(length), max_length) - length
    prompts = np.pad(request.prompts, ((0, 0), (0, width)), constant_values=fill)
    return Request(
        {slot: repeat_last(source, rows) for slot, source in request.sources.items()},
        repeat_last(prompts, rows),
        repeat_last(request.lengths, rows),
    )


class SourcePadding:
    """Pads sources of ids to lengths from the list, where that changes nothing and the encoder takes them so long.

    Args:
        graph: The model.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._taken = {}  # by shapes

    @cached_property
    def _paddable(self) -> dict[int, int]:
        """The padding ids of sources that may be padded, by slot."""
        padding = {slot: self.graph.padding_id(slot) for slot in padding_is_ignored(self.graph)}
        return {slot: id for slot, id in padding.items() if id is not None}

    def may_pad(self, slot: int) -> bool:
        """Whether the source in a slot may be padded without any effect."""
        return slot in self._paddable

    def pad(self, sources: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """The sources, padded or as they are."""
        if not sources:
            return sources
        padded = dict(sources)
        for slot, padding_id in self._paddable.items():
            width = bucket(sources[slot].shape[1], 8) - sources[slot].shape[1]
            padded[slot] = np.pad(sources[slot], ((0, 0), (0, width)), constant_values=padding_id)
        if all(x.shape == sources[slot].shape for slot, x in padded.items()):
            return sources
        shapes = tuple((slot, x.shape[1:]) for slot, x in padded.items())
        if shapes not in self._taken:
            self._taken[shapes] = takes_sources(self.graph, padded)
        return padded if self._taken[shapes] else sources


def repeat_last(x: np.ndarray, times: int) -> np.ndarray:
    """`x` with its last row `times` times more."""
    return x if not times else np.concatenate([x, np.repeat(x[-1:], times, axis=0)])


class CompileLog:
    """Tells, through `logging`, each time a function meets shapes that it has to be compiled for."""

    def __init__(self, name: str):
        self.name = name
        self.seen = set()

    def note(self, **shapes) -> bool:
        """Log `shapes` unless they were seen before; whether they are new."""
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        if key in self.seen:
            return False
        self.seen.add(key)
        described = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
        logger.info("Compiling %s for %s (shape %d of this generator).", self.name, described, len(self.seen))
        if len(self.seen) == MANY:
            logger.warning(
                "This generator has compiled %s for %d shapes, the last of them %s, and keeps them all. Sources whose "
                "padding the model does not mask are compiled for each of their lengths: pad them to few lengths.",
                self.name,
                MANY,
                described,
            )
        return True
