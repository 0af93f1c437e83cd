"""What the last operation of a model says about its output: probabilities, logits, or nothing.

Compiled steps have no values to be looked at, and only TensorFlow's keep what made a tensor. The model is the same.
"""

import keras

from keras_transformer._keras import is_functional, is_keras_op, judged_model, producing_call

PROBABILITIES, LOGITS = "probabilities", "logits"
# What hands the kind of its input on.
_PASS_ON = (keras.layers.Activation, keras.layers.Identity, keras.layers.Reshape)
_PASS_ON_OPS = {"Cast", "Copy", "ExpandDims", "Identity", "Reshape", "Squeeze", "StopGradient"}
_LINEAR = (keras.layers.Dense, keras.layers.EinsumDense)


def kind_of_predictions(y_pred) -> str | None:
    """Of what `fit` or `evaluate` of a functional model hands to a loss or metric. None: it cannot be told."""
    model = judged_model(y_pred)
    if model is None or not is_functional(model) or len(model.outputs) != 1:
        return None
    return _kind_of(model.outputs[0])


def _kind_of(tensor) -> str | None:
    call = producing_call(tensor)
    if call is None:
        return None
    operation = call.operation
    if is_functional(operation):
        return _kind_of(operation.outputs[0]) if len(operation.outputs) == 1 else None
    while isinstance(operation, keras.layers.TimeDistributed):
        operation = operation.layer
    name, activation = type(operation).__name__, getattr(operation, "activation", None)
    if name == "Softmax" or activation is keras.activations.softmax:
        return PROBABILITIES if getattr(operation, "axis", -1) in (-1, 2) else None
    if activation not in (None, keras.activations.linear):
        return None
    if isinstance(operation, _LINEAR) or call.kwargs.get("reverse") is True:
        return LOGITS
    passes_on = isinstance(operation, _PASS_ON) or (is_keras_op(operation) and name in _PASS_ON_OPS)
    return _kind_of(call.inputs[0]) if passes_on and len(call.inputs) == 1 else None
