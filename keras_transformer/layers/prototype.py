"""A layer that was given for others to be made of."""

import keras


class Prototype:
    """The class and the configuration of a layer, of which an owner makes a copy in each place that it has for one.

    (Not the layer itself: Keras would take it for a part of the owner, and save it.)

    Args:
        layer: The layer. Only its configuration counts; if it has weights, they are not copied.
    """

    def __init__(self, layer: keras.layers.Layer):
        self.kind, self.config = type(layer), layer.get_config()
        serialized = keras.saving.serialize_keras_object(layer)
        self.serialized = {key: value for key, value in serialized.items() if key != "build_config"}

    @classmethod
    def of(cls, given):
        """The prototype for a layer or the configuration of one; anything else as it is."""
        if isinstance(given, dict):
            given = keras.saving.deserialize_keras_object(given)
        return cls(given) if isinstance(given, keras.layers.Layer) else given

    @staticmethod
    def serialize(given):
        """What a configuration holds of what `of` returned."""
        return given.serialized if isinstance(given, Prototype) else given

    def copy(self, **options) -> keras.layers.Layer:
        """Another layer like it, with options of its own."""
        return self.kind.from_config({**self.config, **options})

    def __repr__(self):
        return f"{self.kind.__name__}(...)"
