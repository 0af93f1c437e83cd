"""Few shapes for many inputs: every new shape costs a compilation, so arrays are padded to sizes from a short list."""

import logging

import numpy as np

from keras_transformer.decoding.inputs import Request

logger = logging.getLogger("keras_transformer")


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


def pad_request(request: Request, max_length: int) -> Request:
    """The request with more rows (copies of the last) and longer prompts, in a shape from the list."""
    batch, length = request.prompts.shape
    rows = bucket(batch) - batch if batch else 0
    prompts = np.pad(request.prompts, ((0, 0), (0, min(bucket(length), max_length) - length)))
    return Request(
        {slot: repeat_last(source, rows) for slot, source in request.sources.items()},
        repeat_last(prompts, rows),
        repeat_last(request.lengths, rows),
    )


def pad_sources(sources: dict[int, np.ndarray], paddable: set[int]) -> dict[int, np.ndarray]:
    """The sources with those of token ids that are `paddable` padded with 0 to a length from the list."""
    padded = dict(sources)
    for slot in paddable:
        width = bucket(sources[slot].shape[1], 8) - sources[slot].shape[1]
        padded[slot] = np.pad(sources[slot], ((0, 0), (0, width)))
    return padded


def repeat_last(x: np.ndarray, times: int) -> np.ndarray:
    """`x` with its last row `times` times more."""
    return x if not times else np.concatenate([x, np.repeat(x[-1:], times, axis=0)])


class CompileLog:
    """Tells, through `logging`, each time a function meets shapes that it has to be compiled for."""

    def __init__(self, name: str):
        self.name = name
        self.seen = set()

    def note(self, **shapes) -> None:
        """Log `shapes` unless they were seen before."""
        key = tuple(sorted((name, tuple(shape)) for name, shape in shapes.items()))
        if key not in self.seen:
            self.seen.add(key)
            described = ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items())
            logger.info("Compiling %s for %s (shape %d of this generator).", self.name, described, len(self.seen))
