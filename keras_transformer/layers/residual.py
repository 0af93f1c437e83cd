"""The residual around each sub-layer of a block, and where it is normalized."""

from collections.abc import Callable
from typing import TypedDict

import keras

from keras_transformer.allocator import advise
from keras_transformer.layers.checks import check_choice, check_rate, describe, floats
from keras_transformer.layers.dropout import Dropout
from keras_transformer.layers.normalization import check_norm, make_norm
from keras_transformer.layers.projection import Projecting
from keras_transformer.layers.prototype import Prototype
from keras_transformer.layers.sequence import SequenceLayer

PLACEMENTS = ("after", "before", "both", "branch")
FIRST = "self_attention"  # of parallel sub-layers; with one norm, the others read what it reads
EPSILON = 1e-5


class ResidualOptions(TypedDict, total=False):
    """What a block is told of its residuals."""

    dropout: float
    normalize_first: bool
    norm: str | keras.layers.Layer
    norm_placement: str | None
    norm_epsilon: float
    parallel_norms: int | None


class Residual(SequenceLayer, Projecting):
    """A layer of sub-layers f with a residual around each, N and N' being normalizations:

        after   x = N(x + Dropout(f(x)))
        before  x = x + Dropout(f(N(x)))
        both    x = x + Dropout(N'(f(N(x))))
        branch  x = x + Dropout(N(f(x)))

    and, with `parallel_norms`, two that read the same: x = x + Dropout(f(N(x))) + Dropout(g(N'(x))), N = N' with 1.
    """

    def __init__(
        self,
        *,
        dropout: float = 0.0,
        normalize_first: bool = False,
        norm: str | keras.layers.Layer = "layer",
        norm_placement: str | None = None,
        norm_epsilon: float = EPSILON,
        parallel_norms: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_rate(self, dropout=dropout)
        self.dropout = dropout
        self.norm = check_norm(self, norm, **({} if norm_epsilon == EPSILON else {"norm_epsilon": norm_epsilon}))
        self.norm_epsilon = norm_epsilon
        if norm_placement is None:
            norm_placement = "before" if normalize_first or parallel_norms is not None else "after"
        check_choice(self, "norm_placement", norm_placement, PLACEMENTS)
        if normalize_first and norm_placement != "before":
            raise ValueError(
                f"{describe(self)} takes normalize_first=True, which means norm_placement='before', or another "
                f"norm_placement, got both: {norm_placement!r}."
            )
        if parallel_norms not in (None, 1, 2) or isinstance(parallel_norms, bool):
            raise ValueError(
                f"{describe(self)} takes 1 or 2 norms as parallel_norms, or None where sub-layers follow one another, "
                f"got {parallel_norms!r}."
            )
        if parallel_norms is not None and norm_placement != "before":
            raise ValueError(
                f"{describe(self)} normalizes before sub-layers that are parallel, got parallel_norms={parallel_norms} "
                f"and norm_placement={norm_placement!r}. Leave norm_placement out."
            )
        self.norm_placement = norm_placement
        self.normalize_first = norm_placement == "before"
        self.parallel_norms = parallel_norms

    def _build_residual(self, name: str, shape) -> None:
        """Build the normalizations and the dropout that go with the sub-layer of that name."""
        names = [f"{name}_norm", f"{name}_output_norm"] if self.norm_placement == "both" else [f"{name}_norm"]
        for norm_name in names if self._has_norm(name) else ():
            norm = make_norm(self, norm_name, self.norm, self.norm_epsilon)
            norm.build(shape)
            setattr(self, norm_name, norm)
        setattr(self, f"{name}_dropout", self.make(Dropout, f"{name}_dropout", rate=self.dropout))

    def _has_norm(self, name: str) -> bool:
        """Whether the sub-layer of that name is not one that shares the first one's."""
        return self.parallel_norms != 1 or name == FIRST

    def _run(self, x, sublayers: dict[str, Callable], training) -> tuple:
        """x behind all sub-layers, and what each gave beside its output, or None.

        Args:
            sublayers: By name, functions of x that return an output, or a pair of it and anything else.
        """
        if training:
            advise()
        around = self._parallel if self.parallel_norms else self._successive
        return around(floats(self, x), sublayers, training)

    def _successive(self, x, sublayers, training):
        extras, placement = [], self.norm_placement
        for name, sublayer in sublayers.items():
            norm, dropout = getattr(self, f"{name}_norm"), getattr(self, f"{name}_dropout")
            update, extra = _pair(sublayer(norm(x) if placement in ("before", "both") else x))
            if placement in ("both", "branch"):
                update = (norm if placement == "branch" else getattr(self, f"{name}_output_norm"))(update)
            x = x + dropout(update, training=training)
            x = norm(x) if placement == "after" else x
            extras.append(extra)
        return x, *extras

    def _parallel(self, x, sublayers, training):
        extras, total = [], x
        for name, sublayer in sublayers.items():
            if self._has_norm(name):
                normal = getattr(self, f"{name}_norm")(x)
            update, extra = _pair(sublayer(normal))
            total = total + getattr(self, f"{name}_dropout")(update, training=training)
            extras.append(extra)
        return total, *extras

    def get_config(self):
        return {
            **super().get_config(),
            "dropout": self.dropout,
            "normalize_first": self.normalize_first,
            "norm": Prototype.serialize(self.norm),
            "norm_placement": self.norm_placement,
            "norm_epsilon": self.norm_epsilon,
            "parallel_norms": self.parallel_norms,
        }


def _pair(outputs) -> tuple:
    """The output of a sub-layer, and what it gave beside it."""
    return outputs if isinstance(outputs, tuple) else (outputs, None)
