"""The model that a checkpoint becomes: a functional model that remembers where it comes from."""

import keras

from keras_transformer.models.packable import PackableModel


@keras.saving.register_keras_serializable("keras_transformer")
class PretrainedModel(PackableModel):
    """A functional model with what `kt.pretrained.save_model` needs to give it back.

    Attributes:
        checkpoint: A dict of plain values. `config`: the configuration file as it was; `generation_config`: that of
            generation, or None; `prefix`: what the names of tensors begin with; `dtype`: the type of the tensors;
            `dtypes`: by name, those that have another one. It is in the configuration of the model, and so in `.keras`
            files.

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
