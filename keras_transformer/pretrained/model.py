"""The model that a checkpoint becomes: a functional model that remembers where it comes from."""

import keras

from keras_transformer._keras import make_optional
from keras_transformer.models.packable import PackableModel

TYPES = "token_types"  # the input that may be left out


@keras.saving.register_keras_serializable("keras_transformer")
class PretrainedModel(PackableModel):
    """A functional model with what `kt.pretrained.save_model` needs to give it back.

    An input "token_types" may be left out: `model(tokens)`. A dict of inputs may hold those of the model only.

    Attributes:
        checkpoint: A dict of plain values. `config`: the configuration file as it was; `generation_config`: that of
            generation, or None; `modules`: by name, the files of a sentence encoder, or None; `prefix`: what the names
            of tensors begin with; `dtype`: the type of the tensors; `dtypes`: by name, those that have another one;
            `stored_as`, if any: by the path of a variable, the name that its tensor has in the file, of several that it
            may have. It is in the configuration of the model, and so in `.keras` files.

    Example:

    >>> import keras, keras_transformer as kt
    >>> from keras_transformer.pretrained.model import PretrainedModel
    >>> tokens = keras.Input((None,), dtype="int32", name="tokens")
    >>> model = PretrainedModel(tokens, kt.TokenEmbedding(11, 8)(tokens), checkpoint={"config": {"model_type": "x"}})
    >>> PretrainedModel.from_config(model.get_config()).checkpoint["config"]["model_type"]
    'x'
    """

    def __init__(self, inputs, outputs, name=None, *, checkpoint: dict | None = None, **kwargs):
        super().__init__(inputs, outputs, name=name, **kwargs)
        self._checkpoint = checkpoint or {}
        for x in self.inputs:
            if x.name == TYPES:  # keras.models.clone_model forgets it (Keras 3.15.1)
                make_optional(x)

    def _arrange(self, inputs):
        """The inputs in the model's order, None for kinds of tokens that are left out."""
        names = [x.name for x in self.inputs]
        unknown = sorted(set(inputs) - set(names)) if isinstance(inputs, dict) else []
        if unknown:  # Keras would drop them without a word
            raise ValueError(
                f"The model '{self.name}' takes {names}, got {unknown}, too. Kinds of tokens are '{TYPES}', where a "
                "model tells them apart; there is no input for a mask, as padding is found by its id."
            )
        if TYPES not in names:
            return super()._arrange(inputs)
        if isinstance(inputs, dict):
            given = inputs
        else:
            values = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
            if len(values) > len(names) or any(isinstance(x, list | tuple | int) for x in values):
                raise ValueError(
                    f"The model '{self.name}' takes arrays, {names}, or a dict of them, got {len(values)} values of "
                    f"types {sorted({type(x).__name__ for x in values})}."
                )
            given = dict(zip(names, values, strict=False))
        missing = [name for name in names if name != TYPES and given.get(name) is None]
        if missing:
            raise ValueError(f"The model '{self.name}' takes {names}; {missing} are missing.")
        return [given.get(name) for name in names]

    @property
    def checkpoint(self) -> dict:
        return self._checkpoint

    def get_config(self):
        return {**super().get_config(), "checkpoint": self._checkpoint}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        checkpoint = config.pop("checkpoint", None)
        model = super().from_config(config, custom_objects=custom_objects)
        model._checkpoint = checkpoint or {}
        return model
