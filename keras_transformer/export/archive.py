"""A SavedModel out of signatures, for TensorFlow to serve and for LiteRT to be converted from."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import keras

from keras_transformer._keras import layers_within
from keras_transformer.export.signatures import Signature


def write_archive(folder: Path, signatures: dict[str, Signature], parts: Sequence[keras.layers.Layer]) -> None:
    """Write a SavedModel with each weight in it once.

    Keras' archive finds the variables that the signatures use by itself. Of a layer that it is told to track, it saves
    all variables a second time (Keras 3.15), so it is told of those without any, for the tables that they may own. Only
    where a layer with variables owns a table, too, it is told of everything.

    Args:
        folder: Where to write, a folder that is not there or empty.
        signatures: By name.
        parts: The models and tokenizers that the signatures run.
    """
    try:
        _write(folder, signatures, [layer for part in parts for layer in _without_variables(part)])
    except AssertionError as error:  # what TensorFlow raises for a table that nothing tracks
        if "untracked" not in str(error):
            raise
        shutil.rmtree(folder, ignore_errors=True)
        _write(folder, signatures, parts)


def _write(folder: Path, signatures: dict[str, Signature], tracked: Sequence[keras.layers.Layer]) -> None:
    import tensorflow as tf

    archive = keras.export.ExportArchive()
    for layer in tracked:
        if not layer.built:  # Keras tracks layers that have been called only
            layer(tf.constant(["a"]))
        archive.track(layer)
    for name, signature in signatures.items():
        specifications = [tf.TensorSpec(shape, dtype, name=key) for key, shape, dtype in signature.inputs]
        archive.add_endpoint(name, signature.function, specifications)
    archive.write_out(str(folder), verbose=False)


def _without_variables(part: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The part itself, or the layers within it, at any depth, that have no variables."""
    if not part.variables:
        yield part
    else:
        yield from (layer for layer in layers_within(part) if not layer.variables and layer.built)
