"""A SavedModel out of signatures, for TensorFlow to serve and for LiteRT to be converted from."""

from collections.abc import Iterator, Sequence

import keras

from keras_transformer.export.signatures import Signature


def write_archive(folder: str, signatures: dict[str, Signature], parts: Sequence[keras.layers.Layer]) -> None:
    """Write a SavedModel with each weight in it once.

    Keras' archive finds the variables that the signatures use by itself. Of a layer that it is told to track, it saves
    all variables a second time (Keras 3.15), so it is told of those without any, for the tables that they may own.

    Args:
        folder: Where to write, a folder that is not there or empty.
        signatures: By name.
        parts: The models and tokenizers that the signatures run.
    """
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    for part in parts:
        for layer in _without_variables(part):
            if not layer.built:  # Keras tracks layers that have been called only
                layer(tf.constant(["a"]))
            archive.track(layer)
    for name, signature in signatures.items():
        specifications = [tf.TensorSpec(shape, dtype, name=key) for key, shape, dtype in signature.inputs]
        archive.add_endpoint(name, signature.function, specifications)
    archive.write_out(folder, verbose=False)


def _without_variables(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layer, or those of its layers that have no variables."""
    if not layer.variables:
        yield layer
    else:
        for inner in getattr(layer, "layers", []):
            yield from _without_variables(inner)
