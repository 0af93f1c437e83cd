"""The private Keras names that the package needs, in one place, with the reason for each.

Keras keeps the padding mask of a tensor in `_keras_mask`, and the call that produced a symbolic tensor in
`_keras_history` and `_inbound_nodes`. Neither has a public reader, and two promises rest on them: a padding mask
that an operation dropped is found again, and any functional model can be split into its source and target parts.
`_flatten_layers` reaches the layers within layers, such as the two of a `Bidirectional`; `Model.layers` does not.
A layer that is frozen counts all its weights as not trainable; those that it was made with as trainable are in
`_trainable_variables`. What a call of a nested model is given (`training`) goes to the layers in it that have such an
argument, `_call_context_args`.
`in_symbolic_scope` tells a trial with made-up values, by which Keras finds shapes on PyTorch, from a real call.
What is called within one outermost call of a layer shares a `CallContext`, in which the masks that were made are noted:
within a subclassed model a tensor has no history.
`DataAdapter` is what `fit` takes as it is, without shuffling it, in any backend; `PyDataset`, its public relative, is
shuffled by default, which no resumed training repeats, and cannot end an epoch early.
`_untrack_variable` takes a variable from a layer, as Keras does with its own when it quantizes one.
What a variable begins with that was made in a `StatelessScope` is in `_initializer`; a checkpoint puts itself there.
Tried on Keras 3.12.0 and 3.15.1.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from keras.src.models.functional import Functional
from keras.src.ops.function import Function
from keras.src.trainers.data_adapters.data_adapter import DataAdapter as DataAdapter
from keras.src.trainers.epoch_iterator import EpochIterator


class Call(NamedTuple):
    """One call of an operation in a functional model: what was called, with what, and what came out."""

    operation: Any
    args: tuple
    kwargs: dict
    inputs: list
    outputs: list


def get_mask(tensor) -> Any:
    """The padding mask that Keras carries on `tensor`, or None."""
    return get_keras_mask(tensor)


def set_mask(tensor, mask) -> None:
    """Put a padding mask on `tensor`, where Keras layers will find it."""
    set_keras_mask(tensor, mask)


def is_trial() -> bool:
    """Whether Keras is finding out shapes: what tensors hold then is made up."""
    return in_symbolic_scope()


def producing_call(tensor) -> Call | None:
    """The call that produced a symbolic tensor, or None for the input of a model."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or history.operation is None:
        return None
    node = history.operation._inbound_nodes[history.node_index]
    return _call(node) if node.input_tensors else None


def _call(node) -> Call:
    return Call(node.operation, node.arguments.args, node.arguments.kwargs, node.input_tensors, node.outputs)


class Run(NamedTuple):
    """A functional model that is running now."""

    model: Any
    inputs: list  # what it was given
    call: Call  # the call in it that is being carried out


def running() -> list[Run]:
    """The functional models that are running now, one within the other: the innermost is the first.

    Read from the stack, because Keras tells a layer neither its place in a model nor the model that it is part of.
    """
    frame, runs = sys._getframe(1), []
    while frame is not None:
        if frame.f_code is Function._run_through_graph.__code__ and frame.f_locals.get("node") is not None:
            model, call = frame.f_locals["self"], _call(frame.f_locals["node"])
            if runs and getattr(call.operation, "_functional", call.operation) is not runs[-1].model:
                break  # it runs within something else, of which nothing is known
            runs.append(Run(model, keras.tree.flatten(frame.f_locals["inputs"]), call))
        frame = frame.f_back
    return runs


def is_entry(model, call) -> bool:
    """Whether a functional model is what was called from outside, or all that a Sequential model consists of is."""
    return call is None or getattr(call.entry_layer, "_functional", call.entry_layer) is model


def is_functional(operation) -> bool:
    """Whether an operation is a graph of calls and nothing more: a functional or a built Sequential model.

    A subclass of either counts, too, unless it has a `call` of its own.
    """
    if isinstance(operation, keras.Sequential):
        return type(operation).call is keras.Sequential.call and operation._functional is not None
    return isinstance(operation, Functional) and type(operation).call is Functional.call


def model_inputs(call: Call) -> list | None:
    """The tensors that a call hands to a functional model, in the order of its inputs. None if the operation is
    something else, or is called in a way that only itself understands."""
    model = call.operation
    if not is_functional(model) or len(call.args) > 1 or not set(call.kwargs) <= {"inputs", "training", "mask"}:
        return None
    inputs = call.args[0] if call.args else call.kwargs["inputs"]
    if isinstance(inputs, dict) and not isinstance(model.input, dict):
        inputs = [inputs.get(x.name) for x in model.inputs]
    inputs = keras.tree.flatten(inputs)
    fits = len(inputs) == len(model.inputs) and all(
        isinstance(given, keras.KerasTensor) and len(given.shape) == len(own.shape)
        for given, own in zip(inputs, model.inputs, strict=True)
    )
    return inputs if fits else None


def outermost_call() -> Any:
    """What all layers share that are called within one call from outside; None outside of any.

    It takes attributes, and `entry_layer` is the layer that was called from outside.
    """
    return get_global_attribute("current_call_ctx")


def is_in_a_graph(layer: keras.layers.Layer) -> bool:
    """Whether a layer was called on symbolic tensors: it is part of a functional model."""
    return bool(layer._inbound_nodes)


def is_keras_op(operation) -> bool:
    """Whether an operation is one of `keras.ops`, all below one private module; the name of its class says which."""
    return type(operation).__module__.startswith("keras.src.ops.")


def takes_training(operation) -> bool:
    """Whether a functional model hands its own argument `training` on to this operation."""
    return "training" in getattr(operation, "_call_context_args", ())


def is_optional(tensor) -> bool:
    """Whether a symbolic tensor is an input of a model that may be left out."""
    return getattr(tensor._keras_history.operation, "optional", False)


def make_optional(tensor) -> None:
    """Let a symbolic tensor, the input of a model, be left out."""
    tensor._keras_history.operation.optional = True


def begin_with(variable: keras.Variable, initializer: Callable) -> None:
    """Have a variable that was made in a `keras.StatelessScope` begin with something else at the end of the scope.

    Assigning to it afterwards would take its memory twice: of what it began with, and of what it is to be.
    """
    variable._initializer = initializer


def layers_within(layer: keras.layers.Layer) -> list:
    """All layers of a model, or within a layer, at any depth."""
    return list(layer._flatten_layers(include_self=False, recursive=True))


class Asking(NamedTuple):
    """Who asks a data adapter or a dataset for data, as far as it is Keras."""

    epochs: EpochIterator | None  # what goes through the epochs of one `fit`, `evaluate` or `predict`
    model: keras.Model | None  # of which that is a method
    arguments: dict  # of the method, if the data is its `x`


def who_asks(data) -> Asking:
    """Read from the stack, because Keras tells an adapter neither the model nor the other arguments of `fit`."""
    frame, epochs = sys._getframe(1), None
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, EpochIterator):
            epochs = owner
        elif isinstance(owner, keras.Model) and epochs is not None:
            return Asking(epochs, owner, frame.f_locals if frame.f_locals.get("x") is data else {})
        frame = frame.f_back
    return Asking(epochs, None, {})


def judged_model(y_pred) -> keras.Model | None:
    """The model whose `fit` or `evaluate`, with Keras' own steps, has a loss or a metric judge its output `y_pred`.

    Read from the stack, because Keras tells neither a loss nor a metric whose output it is given.
    """
    frame = None if is_compiled_by_torch() else sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in ("compute_loss", "compute_metrics"):
            model, kept = frame.f_locals.get("self"), ("train_step", "test_step", "compute_loss", "compute_metrics")
            if isinstance(model, keras.Model) and frame.f_locals.get("y_pred") is y_pred:
                is_own = all(getattr(type(model), name) is getattr(keras.Model, name) for name in kept)
                return model if is_own else None
        frame = frame.f_back
    return None


def input_names(model: keras.Model | None) -> set[str] | None:
    """What the inputs of a functional model are called, in a dict of them. None: what it takes cannot be seen."""
    if not isinstance(model, Functional) and not (isinstance(model, keras.Sequential) and model.built):
        return None
    return set(model.input) if isinstance(model.input, dict) else {tensor.name for tensor in model.inputs}


def dropped_inputs() -> Iterator[tuple[keras.Model, set[str], set[str]]]:
    """The functional models that are being called with a dict: the model, the names in the dict, those that it takes.

    Read from the stack, because Keras drops the others before it calls the first layer.
    """
    frame = None if is_compiled_by_torch() else sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in ("__call__", "stateless_call"):
            args, kwargs = frame.f_locals.get("args"), frame.f_locals.get("kwargs")
            given = args[0] if args else kwargs.get("inputs") if kwargs else None
            if isinstance(given, dict) and isinstance(frame.f_locals.get("self"), Functional):
                model = frame.f_locals["self"]
                yield model, set(given), input_names(model)
        frame = frame.f_back


def is_compiled_by_torch() -> bool:
    """Whether PyTorch is compiling what is called: then there is no stack to be read."""
    if keras.backend.backend() != "torch":
        return False
    import torch

    return torch.compiler.is_compiling()


def untrack(layer: keras.layers.Layer, variable: keras.Variable) -> None:
    """Have a layer forget a variable."""
    layer._untrack_variable(variable)


def learned_variables(layer: keras.layers.Layer) -> list:
    """The variables of a layer, and of those within it, that training changes unless they are frozen."""
    return [variable for part in (layer, *layers_within(layer)) for variable in part._trainable_variables]


def carried_metrics() -> tuple[list, list] | None:
    """While a step of `fit` or `evaluate` calls its model on JAX: the variables of the model's metrics, and a list of
    their values, with which the step goes on. None elsewhere.

    Read from the stack, because Keras gives the call of a model no part in it: what a metric of a layer assigns within
    the call is lost, and the values that it would read are not there (https://github.com/keras-team/keras/issues/21639,
    Keras 3.15.1).
    """
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "compute_loss_and_updates":
            model, values = frame.f_locals.get("self"), frame.f_locals.get("metrics_variables")
            if isinstance(model, keras.Model) and isinstance(values, list):
                return model.metrics_variables, values
        frame = frame.f_back
    return None


@contextlib.contextmanager
def kept_losses() -> Iterator[None]:
    """Keep what layers have added as losses while the other replicas of a `tf.distribute` strategy run.

    Replicas are threads that take turns, where they add up what each has. A layer keeps its losses in one list for all
    of them, and the call of a model empties the lists: without this a replica would go on with the losses of another.
    """
    frame, outermost = sys._getframe(1), None
    while frame is not None:  # the model that is called, or trained
        found = frame.f_locals.get("self")
        outermost = found if isinstance(found, keras.Layer) else outermost
        frame = frame.f_back
    parts = [] if outermost is None else [outermost, *layers_within(outermost)]
    kept = [list(part._losses) for part in parts]
    yield
    for part, losses in zip(parts, kept, strict=True):
        part._losses[:] = losses
