"""The base of layers that tell the shape of what they will put out."""

import keras

from keras_transformer.layers.checks import check_dense


class Shaped(keras.layers.Layer):
    """A layer that tells the shape of its output from that of its input, as wrappers such as
    `keras.layers.TimeDistributed` ask it.

    `call`, or `compute_output_spec` where a layer has one of its own, is the only place where shapes are made.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)

    def __call__(self, *args, **kwargs):
        check_dense(self, (*args, *kwargs.values()), "Pad the ids, before the embedding: `ids.to_tensor(padding_id)`.")
        return super().__call__(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        args, kwargs = keras.tree.map_structure(_dense, (args, kwargs))
        return keras.Operation.compute_output_spec(self, *args, **kwargs)  # Keras would ask for the shape first

    def compute_output_shape(self, *shapes):
        inputs = [keras.KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes]
        if self.built:
            outputs = self.compute_output_spec(*inputs)
        else:
            outputs = type(self).from_config(self.get_config())(*inputs)
        return keras.tree.map_structure(lambda x: tuple(x.shape), outputs)


def _dense(x):
    """A symbolic tensor that is not sparse: for Keras (3.15.1) the product of a tensor and a Python number is."""
    if isinstance(x, keras.KerasTensor) and x.sparse:
        return keras.KerasTensor(x.shape, dtype=x.dtype, name=x.name)
    return x
