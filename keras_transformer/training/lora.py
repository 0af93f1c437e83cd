"""Fine-tuning of a few weights: low-rank changes to the matrices of a model, by the names of its layers."""

import re
from collections.abc import Sequence

import keras

from keras_transformer._keras import layers_within, learned_variables
from keras_transformer.layers.quantized import Adaptable

# The projections of attention and of the feed-forward network, by the names that they have in layers of ours.
ATTENTION = ("query_key_value", "query", "key_value", "output")


def enable_lora(
    model: keras.Model,
    rank: int,
    *,
    layers: str | Sequence[str] = ATTENTION,
    alpha: float | None = None,
    train: str | Sequence[str] = (),
) -> list[str]:
    """Train low-rank changes to some matrices, and nothing else ("LoRA", https://arxiv.org/abs/2106.09685).

    A matrix W (D, U) becomes W + (alpha / rank) A B, with A (D, rank) drawn and B (rank, U) zero, so that the model
    computes at first what it did. W and all other weights are frozen, but those of layers in `train`, such as a head
    that is new. The changes are saved with the model; `merge_lora` adds them to the matrices.

    Args:
        model: A model that is built.
        rank: Of the changes.
        layers: Which layers: names, ends of paths such as "decoder_1/self_attention/output", or regular expressions of
            either. Default: the projections of attention. Those of this package's layers can be changed so; a
            `keras.layers.Dense` is for `train`.
        alpha: Factor on the changes, times the rank. Default: `rank`.
        train: Likewise, layers that are trained as they are.

    Returns:
        The paths of the layers that were changed.

    Raises:
        ValueError: If the rank is not positive, the model is not built, a name fits no layer, or none that has a
            matrix that LoRA can change.

    Example:

    >>> import keras_transformer as kt
    >>> model = kt.models.language_model(11, num_layers=1, dim=8, num_heads=2)
    >>> kt.training.enable_lora(model, 2)
    ['decoder_0/self_attention/output', 'decoder_0/self_attention/query_key_value']
    >>> sorted(variable.path.split("/")[-1] for variable in model.trainable_variables)
    ['lora_kernel_a', 'lora_kernel_a', 'lora_kernel_b', 'lora_kernel_b']
    """
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise ValueError(f"enable_lora takes a positive rank, got {rank!r}.")
    if not model.built:
        raise ValueError(f"enable_lora takes a model that is built; '{model.name}' is not. Call it on a batch first.")
    found = [layer for layer in layers_within(model) if layer.path]  # inputs have none
    able = [layer for layer in found if isinstance(layer, Adaptable) and layer.built]
    adapted = _named("layers", layers, able, "layers that LoRA can change")
    whole = _named("train", train, found, "layers")
    kept = {id(part) for layer in whole for part in (layer, *layers_within(layer))}
    for layer in found:
        if not layers_within(layer):  # a layer that is made of others keeps its flag, or would hide theirs
            layer.trainable = id(layer) in kept or layer in adapted
    trained = {id(variable) for layer in whole for variable in learned_variables(layer)}
    for layer in adapted:
        if not layer.lora_enabled:
            before = {id(variable) for variable in learned_variables(layer)}
            layer.enable_lora(rank, alpha)
            trained |= {id(variable) for variable in learned_variables(layer)} - before
        else:
            trained |= {id(variable) for variable in layer.trainable_variables if "lora" in variable.name}
    for variable in learned_variables(model):
        variable.trainable = id(variable) in trained
    return sorted(layer.path for layer in adapted)


def merge_lora(model: keras.Model) -> list[str]:
    """Add the changes of LoRA to the matrices they belong to, in place; the model computes the same with fewer weights.

    Afterwards all weights are trainable, as in a new model. To train on, compile it anew: its optimizer knows the
    weights that are gone.

    Returns:
        The paths of the layers that were changed.

    Example:

    >>> import keras_transformer as kt
    >>> model = kt.models.language_model(11, num_layers=1, dim=8, num_heads=2)
    >>> before = len(model.weights)
    >>> len(kt.training.enable_lora(model, 2)), len(model.weights) - before
    (2, 4)
    >>> len(kt.training.merge_lora(model)), len(model.weights) - before
    (2, 0)
    """
    merged = [layer for layer in layers_within(model) if isinstance(layer, Adaptable) and layer.lora_enabled]
    for layer in merged:
        layer.merge_lora()
    if merged:
        model.trainable = False  # to set True where True stands does nothing on TensorFlow
        model.trainable = True
    return sorted(layer.path for layer in merged)


def _named(argument: str, names, layers: list, what: str) -> list:
    """The layers that the names, or regular expressions, fit."""
    chosen = []
    for name in [names] if isinstance(names, str) else names:
        fitting = [layer for layer in layers if re.fullmatch(rf"(.*/)?(?:{name})", layer.path)]
        if not fitting and names is not ATTENTION:
            there = ", ".join(sorted({layer.name for layer in layers})[:12])
            raise ValueError(
                f"enable_lora finds no {what} for {argument}={name!r}. There are {there}. (A keras.layers.Dense is not "
                "changed so; name it in `train`.)"
            )
        chosen += [layer for layer in fitting if layer not in chosen]
    if not chosen and names is ATTENTION:
        raise ValueError("enable_lora finds no projections of attention. Name layers by `layers`.")
    return chosen
