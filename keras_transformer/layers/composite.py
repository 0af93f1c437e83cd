"""Layers made of layers: what has been set on a part is kept in the configuration of the whole."""

import keras

from keras_transformer.layers.ids import integers
from keras_transformer.layers.prototype import Prototype
from keras_transformer.layers.quantized import Unquantized


class Composite(Unquantized):
    """The base of layers that make other layers, their parts.

    A part is made by its owner, which hands down its dtype policy and whether it is trainable. What has been set on the
    part since, `trainable`, a LoRA rank, a quantization, a dtype policy, a rate, stands in no argument of the owner. So
    the owner's configuration has an entry "parts" with whatever differs, by the names of the parts and at any depth,
    and a layer from that configuration makes its parts so.
    """

    id_arguments = ("segment_ids", "memory_segment_ids")

    def __init__(self, **kwargs):
        parts = kwargs.pop("parts", None)
        super().__init__(**kwargs)
        self._parts = _Parts(parts or {})

    def __call__(self, *args, **kwargs):
        args = tuple(map(self._exact, self.call_signature_parameters, args))
        return super().__call__(*args, **{name: self._exact(name, value) for name, value in kwargs.items()})

    def _exact(self, name: str, value):
        return value if value is None or name not in self.id_arguments else integers(self, name, value)

    def make(self, layer_class: type[keras.layers.Layer], name: str, /, **options) -> keras.layers.Layer:
        """A part of that name, as it would be made here, or as it was when the configuration was taken."""
        options = {"dtype": self.dtype_policy, "trainable": self.trainable, **options, "name": name}
        changes = self._parts.changes.get(name)
        part = layer_class(**options) if changes is None else layer_class.from_config({**options, **changes})
        return self._made(name, part)

    def make_like(self, prototype: Prototype, name: str) -> keras.layers.Layer:
        """A part of that name made like a layer that was given, but for what is handed down."""
        trainable = self.trainable and prototype.config.get("trainable", True)
        options = {"dtype": self.dtype_policy, "trainable": trainable, "name": name}
        return self._made(name, prototype.copy(**{**options, **self._parts.changes.get(name, {})}))

    def _made(self, name: str, part: keras.layers.Layer) -> keras.layers.Layer:
        self._parts.made[name] = part, part.get_config()
        return part

    def adopt(self, name: str, part: keras.layers.Layer) -> keras.layers.Layer:
        """A part that was made elsewhere: its configuration is its own, but where the owner is frozen, so is it."""
        if not self.trainable and part.trainable and not self._parts.changes.get(name, {}).get("trainable"):
            part.trainable = False
        self._parts.adopted[name] = part
        return part

    def get_config(self):
        config = super().get_config()
        parts = self._parts.differences(config)
        return {**config, "parts": parts} if parts else config


class _Parts:
    """The parts of a layer. (Not a dict of layers, which Keras would track and save a second time.)

    Attributes:
        changes: By name, the settings that a configuration gave.
        made: By name, each part that was made and its configuration at that time.
        adopted: By name, each part that was made elsewhere.
    """

    def __init__(self, changes: dict):
        self.changes = changes
        self.made = {}
        self.adopted = {}

    def differences(self, owner: dict) -> dict:
        """By name, the settings in which a part differs from what an owner of that configuration makes."""
        differences = dict(self.changes)
        for name, (part, before) in self.made.items():
            now = part.get_config()
            changed = {key: value for key, value in now.items() if _is_setting(key) and value != before.get(key)}
            settings = {**self.changes.get(name, {}), **changed}
            for key in ("dtype", "trainable", "parts"):
                settings.pop(key, None)
                if key in now and now[key] != owner.get(key):
                    settings[key] = now[key]
            differences[name] = settings
        for name, part in self.adopted.items():
            differences[name] = {"trainable": True} if part.trainable and not owner["trainable"] else {}
        return {name: settings for name, settings in differences.items() if settings}


def _is_setting(key: str) -> bool:
    """Whether a change of it is one of the layer: an initializer has done its work, a position is adopted, an axis is
    spelt anew when a normalization is built."""
    return key not in ("position", "axis") and not key.endswith("_initializer")
