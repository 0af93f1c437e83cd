"""The functional models of the builders, which do not lose what is packed with the tokens."""

import keras

from keras_transformer._keras import is_functional, is_optional, make_optional

FURTHER = ("segment_ids", "positions")  # how the names of inputs end that packed sequences need


@keras.saving.register_keras_serializable("keras_transformer")
class PackableModel(keras.Model):
    """A functional model that takes the inputs of packed sequences, or refuses them.

    Keras hands a functional model those entries of a dict that it has inputs for, and drops the others without a word.
    Without the segment ids of packed sequences each would look at those before it, so such a model raises an error.
    One that has those inputs may be called without them, as any other: `model(tokens)`, `model([source, target])`.

    Raises:
        ValueError: If a dict has segment ids or positions that the model does not take, or some of those that it takes
            and not the others.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> model = kt.models.language_model(11, num_layers=1, dim=8, num_heads=2, packed=True)
    >>> tokens, segments = np.array([[7, 3, 5, 2]]), np.array([[1, 1, 2, 2]])
    >>> tuple(model({"tokens": tokens, "segment_ids": segments, "positions": np.array([[0, 1, 0, 1]])}).shape)
    (1, 4, 11)
    >>> tuple(model(tokens).shape)
    (1, 4, 11)
    """

    def __init__(self, inputs, outputs, name=None, **kwargs):
        super().__init__(inputs, outputs, name=name, **kwargs)
        for x in self.inputs:
            if x.name.endswith(FURTHER):  # keras.models.clone_model forgets it (Keras 3.15.1)
                make_optional(x)

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self._arrange(inputs), *args, **kwargs)

    def stateless_call(self, trainable_variables, non_trainable_variables, inputs, *args, **kwargs):
        inputs = self._arrange(inputs)
        return super().stateless_call(trainable_variables, non_trainable_variables, inputs, *args, **kwargs)

    def compute_output_spec(self, inputs, *args, **kwargs):
        # Keras takes the shape of what is left out; the shapes of the outputs do not depend on it.
        values = inputs if isinstance(inputs, list | tuple) else [inputs]
        if any(x is None for x in values):
            inputs = [own if x is None else x for own, x in zip(self.inputs, values, strict=True)]
        return super().compute_output_spec(inputs, *args, **kwargs)

    def _arrange(self, inputs):
        """The inputs in the model's order, None for those of packed sequences that are left out."""
        if isinstance(inputs, list | tuple) and any(isinstance(x, list | tuple | int) for x in inputs):
            raise ValueError(
                f"The model '{self.name}' takes arrays, got a list of lists. Make an array of it: "
                "`keras.utils.pad_sequences(ids, padding='post')`."
            )
        names = [x.name for x in self.inputs]
        needed = [name for name in names if not name.endswith(FURTHER)]
        if isinstance(inputs, dict):
            lost = sorted(name for name in inputs if name.endswith(FURTHER) and name not in names)
            if lost:
                raise ValueError(
                    f"The model '{self.name}' takes {names}, and was given {lost} of packed sequences, too. Without "
                    "them each sequence of a row would look at those before it. Build a model that takes them, with "
                    "packed=True (kt.models.language_model, kt.models.transformer), or take kt.training.TokenBatches "
                    "in place of PackedBatches."
                )
            given = inputs
        elif len(needed) == len(names):
            return inputs
        else:
            values = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
            given = dict(zip(names if len(values) == len(names) else needed, values, strict=True))
        if len(needed) == len(names):
            return inputs
        missing = [name for name in names if given.get(name) is None]
        if set(missing) & set(needed) or (missing and len(missing) < len(names) - len(needed)):
            raise ValueError(
                f"The model '{self.name}' takes {needed}, and for packed sequences all of {names}; "
                f"{missing} are missing."
            )
        return [given.get(name) for name in names]


def unpacked(model: keras.Model, names: tuple[str, ...] = ("",)) -> keras.Model:
    """The same layers without the inputs that may be left out, or the model itself if there are none. Only those go
    whose names end with one of `names`."""

    def goes(x) -> bool:
        return is_optional(x) and x.name.endswith(names)

    if not is_functional(model) or not any(map(goes, model.inputs)):
        return model
    inputs = [None if goes(x) else keras.Input(x.shape[1:], dtype=x.dtype, name=x.name) for x in model.inputs]
    needed = [x for x in inputs if x is not None]
    outputs = model.call(keras.tree.pack_sequence_as(model.input, inputs))
    return keras.Model(needed[0] if len(needed) == 1 else needed, outputs, name=model.name)
