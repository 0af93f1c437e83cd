"""Settings that are fixed once an object is made."""


class Setting:
    """An attribute that is read from the object's `_settings`, a dict, and cannot be set.

    Args:
        doc: What it is.
    """

    def __init__(self, doc: str):
        self.__doc__ = doc

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner=None):
        return self if instance is None else instance._settings[self.name]

    def __set__(self, instance, value):
        kind = type(instance).__name__
        raise AttributeError(
            f"{self.name} of a {kind} is fixed when it is made, since compiled functions depend on it. Make another "
            f"one of the same model: {kind}(model, {self.name}={value!r}, ...)."
        )
