"""How tensors of a checkpoint and variables of a model hold the same numbers: functions that have an inverse."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """A function from tensors to a variable, and its inverse.

    Attributes:
        read: From a list of arrays, the tensors, to an array.
        write: The way back. It has to do with views of any array, also one that repeats a single number: so are the
            shapes of tensors found that a variable of some shape wants.
    """

    read: Callable[[list[np.ndarray]], np.ndarray]
    write: Callable[[np.ndarray], list[np.ndarray]]

    def shapes(self, shape: Sequence[int]) -> list[tuple[int, ...]]:
        """The shapes of the tensors that a variable of that shape is made of."""
        return [x.shape for x in self.write(np.broadcast_to(np.int8(0), tuple(shape)))]


class Entry(NamedTuple):
    """A variable and the tensors that it is made of.

    Attributes:
        path: Of the variable, as `variable.path` has it, without the name of the model.
        tensors: Names of tensors.
        layout: From the one to the other.
        copies: Names of tensors that may be there, too, and then hold the same as the only one.
    """

    path: str
    tensors: tuple[str, ...]
    layout: Layout
    copies: tuple[str, ...] = ()


SAME = Layout(lambda tensors: tensors[0], lambda x: [x])
TRANSPOSED = Layout(lambda tensors: tensors[0].T, lambda x: [x.T])  # PyTorch's Linear is (outputs, inputs)

TWICE = Layout(lambda tensors: tensors[0], lambda x: [x, x])  # the second one is not used


def shaped(*shape: int) -> Layout:
    """A tensor of the same numbers in another shape, -1 for one size.

    Example:

    >>> from keras_transformer.pretrained.layouts import shaped
    >>> shaped(1, 1, -1).shapes((1, 5))
    [(1, 1, 5)]
    """
    return Layout(lambda tensors: tensors[0].reshape(-1, tensors[0].shape[-1]), lambda x: [x.reshape(shape)])


CONVOLUTION = Layout(lambda tensors: tensors[0].transpose(2, 3, 1, 0), lambda x: [x.transpose(3, 2, 0, 1)])


def dense(path: str, name: str, kernel: Layout = TRANSPOSED, bias: Layout = SAME) -> list[Entry]:
    """The entries of a projection."""
    return [Entry(f"{path}/kernel", (f"{name}.weight",), kernel), Entry(f"{path}/bias", (f"{name}.bias",), bias)]


def layer_norm(path: str, name: str) -> list[Entry]:
    """The entries of a layer normalization."""
    return [Entry(f"{path}/gamma", (f"{name}.weight",), SAME), Entry(f"{path}/beta", (f"{name}.bias",), SAME)]


def of_decoder(
    num_layers: int, outer: dict[str, str], parts: dict[str, str], *, kernel: Layout = TRANSPOSED, fused=None
) -> tuple[Entry, ...]:
    """The entries of a decoder of layer norms and projections.

    Args:
        num_layers: Number of layers.
        outer: Names of tensors by the paths of variables outside of layers.
        parts: Those in a layer, "{i}" in place of its number.
        kernel: The layout of the matrices of projections.
        fused: That of the matrix and the bias of queries, keys and values, where it is another one.
    """
    names = dict(outer)
    for i in range(num_layers):
        names |= {f"decoder_{i}/{path}": name.format(i=i) for path, name in parts.items()}
    found = []
    for path, name in names.items():
        if path in ("embedding", "position"):
            copies = (f"{outer['logits']}.weight",) if path == "embedding" else ()
            found.append(Entry(f"{path}/embeddings", (f"{name}.weight",), SAME, copies))
        elif path.endswith("norm"):
            found += layer_norm(path, name)
        elif path.endswith("query_key_value") and fused is not None:
            found += dense(path, name, fused, fused)
        else:
            found += dense(path, name, TRANSPOSED if path == "logits" else kernel)
    return tuple(found)


def joined(*sizes: int, transpose: bool = True) -> Layout:
    """Matrices (outputs, inputs), or vectors, of which the outputs stand side by side in the variable.

    Args:
        sizes: The numbers of outputs of each.
        transpose: Whether matrices are transposed, as those of PyTorch's Linear have to be.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.pretrained.layouts import joined
    >>> joined(2, 3).read([np.ones((2, 5)), np.ones((3, 5))]).shape
    (5, 5)
    >>> joined(2, 3).shapes((7, 5))
    [(2, 7), (3, 7)]
    """
    borders = np.cumsum(sizes)[:-1]

    def turned(x):
        return x.T if transpose else x

    return Layout(
        lambda tensors: np.concatenate([turned(x) for x in tensors], axis=-1),
        lambda x: [turned(part) for part in np.split(x, borders, axis=-1)],
    )


def partly(*sizes: int, left_out: int) -> Layout:
    """Vectors that stand side by side in the variable, with zeros in one place for which there is no tensor.

    Args:
        sizes: Of all places.
        left_out: The number of that place. What becomes of the zeros there is not given back.
    """
    borders = np.cumsum(sizes)[:-1]

    def read(tensors):
        zeros = np.zeros(sizes[left_out], tensors[0].dtype)
        return np.concatenate([*tensors[:left_out], zeros, *tensors[left_out:]])

    def write(x):
        parts = np.split(x, borders)
        return parts[:left_out] + parts[left_out + 1 :]

    return Layout(read, write)


def interleaved(groups: int, *counts: int, head_dim: int) -> Layout:
    """One matrix (outputs, inputs), or vector, whose outputs are groups of heads: in each group `counts` of queries,
    keys and values one after the other. In the variable all queries come first, then all keys, then all values.

    Args:
        groups: Number of groups.
        counts: Numbers of query, key and value heads in a group.
        head_dim: Width of a head.
    """
    borders = np.cumsum(counts)[:-1]

    def read(tensors):
        rows = tensors[0].reshape(groups, sum(counts), head_dim, *tensors[0].shape[1:])
        parts = [x.reshape(-1, *tensors[0].shape[1:]) for x in np.split(rows, borders, axis=1)]
        return np.concatenate(parts).T

    def write(x):
        x = x.T
        ends = np.cumsum([groups * count * head_dim for count in counts])[:-1]
        parts = [
            part.reshape(groups, count, head_dim, *x.shape[1:])
            for part, count in zip(np.split(x, ends), counts, strict=True)
        ]
        return [np.concatenate(parts, axis=1).reshape(x.shape)]

    return Layout(read, write)
