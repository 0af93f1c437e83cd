"""What decides of a training and is in no variable of the model, or is replaced by one: told where it changed."""

import warnings
from pathlib import Path

import keras

from keras_transformer._keras import layers_within
from keras_transformer.training.processes import whole


def layer_settings(model: keras.Model) -> list[dict]:
    """What of each layer's configuration is a plain value; without its name, which Keras numbers."""
    return [
        {name: value for name, value in _config(layer).items() if name != "name" and _is_plain(value)}
        for layer in model.layers
    ]


def _config(layer) -> dict:
    try:
        return layer.get_config()
    except NotImplementedError:  # how Keras says that a layer cannot be saved; its weights can
        return {}


def _is_plain(value) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def warn_of_other_layers(saved: list[dict], model: keras.Model, path: Path) -> None:
    """Where the layers had other settings, as numbers of heads, which leave no trace in the variables."""
    for layer, there, here in zip(model.layers, saved, layer_settings(model), strict=False):
        for name in sorted(there.keys() & here.keys()):
            if there[name] != here[name] and "seed" not in name:
                warnings.warn(
                    f"The checkpoint '{path}' is of a model whose layer '{layer.name}' had {name}={there[name]!r}; now "
                    f"it is {here[name]!r}. The weights fit, but what they were trained for may not.",
                    stacklevel=4,
                )
                return


def warn_of_unsaved_dropout(model: keras.Model) -> None:
    """Where dropout draws from what no checkpoint holds."""
    # Keras 3.15: on PyTorch, dropout without a seed of its own draws from PyTorch's generator, not from the layer's.
    for layer in layers_within(model) if keras.backend.backend() == "torch" else ():
        if type(layer) is keras.layers.Dropout and layer.rate and layer.seed is None:
            warnings.warn(
                f"The layer '{layer.name}' draws its dropout from PyTorch's own generator, which is in no checkpoint: "
                "what follows is not what it would have been. Give it a seed: keras.layers.Dropout(rate, seed=...).",
                stacklevel=4,
            )
            return


def optimizer_settings(model: keras.Model) -> dict:
    """What of the optimizer's configuration is a plain value, of its schedule too; its learning rates, which are
    variables, left out."""
    return dict(_plain_values(model.optimizer.get_config(), ""))


def _plain_values(config: dict, prefix: str):
    for name, value in config.items():
        if isinstance(value, dict):  # a schedule, or an optimizer within this one
            yield from _plain_values(value, prefix if name == "config" else f"{prefix}{name}.")
        elif _is_plain(value) and name not in ("name", "learning_rate", "module", "registered_name"):
            yield f"{prefix}{name}", value


def warn_of_another_optimizer(saved: dict, model: keras.Model, path: Path) -> None:
    """Where the optimizer or its schedule was made with other settings, which leave no trace in the variables."""
    here = optimizer_settings(model)
    changed = [name for name in sorted(saved.keys() | here.keys()) if saved.get(name) != here.get(name)]
    if saved and changed:
        told = ", ".join(f"{name}={saved.get(name)!r} and now {here.get(name)!r}" for name in changed[:3])
        warnings.warn(
            f"The training of '{path}' was with an optimizer of {told}. It goes on with what the model is compiled "
            "with now.",
            stacklevel=4,
        )


def learning_rates(model: keras.Model) -> list[float]:
    """Those that are variables of the optimizer, and no schedules."""
    return [float(whole(variable)) for variable in model.optimizer.variables if variable.name == "learning_rate"]


def warn_of_other_rates(saved: list[float], compiled: list[float], model: keras.Model, path: Path) -> None:
    """Where the learning rate of `compile` was changed, and that of the checkpoint has taken its place."""
    if saved != compiled:
        warnings.warn(
            f"The model is compiled with the learning rate {_spell(compiled)}, and the training of '{path}' was with "
            f"{_spell(saved)}. The checkpoint's, now {_spell(learning_rates(model))}, replaces it. To go on with "
            "another, set `model.optimizer.learning_rate` after `resume`.",
            stacklevel=4,
        )


def _spell(rates: list[float]) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)
