"""The padding masks that Keras carries on tensors: which layers make them, and where they are not the right ones."""

import keras

from keras_transformer._keras import Call, get_mask, producing_call
from keras_transformer.layers.spectrogram import LogMelSpectrogram


def makes_masks(layer) -> bool:
    """Whether a layer gives what it puts out a padding mask that was not there before."""
    if hasattr(layer, "padding_id"):  # of a TokenEmbedding
        return layer.padding_id is not None
    may = isinstance(layer, keras.layers.Embedding | LogMelSpectrogram)
    return isinstance(layer, keras.layers.Masking) or (may and layer.mask_zero)


def wrongly_masked(tensor):
    """The tensor from which this one has its mask, if that is not the right one there (Keras 3.15.1).

    `keras.layers.Concatenate` of features takes a position for real that is so in any of its inputs, and in one without
    a mask all are; a recurrent layer that goes backwards puts out its states in reverse, under the mask as it was.
    """
    mask, call = get_mask(tensor), producing_call(tensor)
    while call is not None:
        if isinstance(call.operation, keras.layers.Concatenate):
            return None if is_along_time(call) or all(get_mask(x) is not None for x in call.inputs) else tensor
        if is_backwards(call.operation):
            return tensor
        tensor = next((x for x in call.inputs if get_mask(x) is mask), None)
        call = None if tensor is None else producing_call(tensor)
    return None


def is_along_time(call: Call) -> bool:
    """Whether a call of `keras.layers.Concatenate` joins sequences one after the other."""
    return call.operation.axis % len(call.inputs[0].shape) == 1


def is_backwards(layer) -> bool:
    """Whether a layer puts out a sequence in reverse."""
    return isinstance(layer, keras.layers.RNN) and layer.go_backwards and layer.return_sequences
