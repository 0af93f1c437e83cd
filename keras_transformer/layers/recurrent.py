"""Recurrent decoders that take part in decoding as attention does: the context keeps the state from step to step."""

from functools import partial
from typing import Unpack

import keras
from keras import ops

from keras_transformer.context import decoding, record
from keras_transformer.layers.checks import check_choice, check_positive, check_sequence, describe, floats
from keras_transformer.layers.projection import Projecting, WeightOptions
from keras_transformer.layers.scan import scan
from keras_transformer.layers.sequence import SequenceLayer
from keras_transformer.ops.attention import additive_attention
from keras_transformer.ops.exact import exact_attention
from keras_transformer.ops.masks import checked

CELLS = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}


@keras.saving.register_keras_serializable("keras_transformer")
class RecurrentDecoderLayer(SequenceLayer, Projecting):
    """One layer of a recurrent decoder, alone, with a fixed context vector or with additive attention.

    s_t = cell([x_t; c_t], s_{t-1}), where what it is called with as memory decides on the context vector c_t:

    - nothing: there is none ("Sequence to Sequence Learning with Neural Networks",
      https://arxiv.org/abs/1409.3215).
    - one vector (B, M): c_t is that vector at every step ("Learning Phrase Representations using RNN Encoder-Decoder",
      https://arxiv.org/abs/1406.1078).
    - a sequence (B, S, M): c_t = sum over j of a_tj h_j, a_t = softmax over j of v^T tanh(W s_{t-1} + U h_j + b)
      ("Neural Machine Translation by Jointly Learning to Align and Translate", https://arxiv.org/abs/1409.0473).

    The cell is Keras' own, and without attention so is the loop: cuDNN's, where there is a GPU to train on.

    Args:
        units: Width U of the state.
        cell: "rnn" (`keras.layers.SimpleRNN`), "lstm" or "gru".
        attention_dim: Width A in which states and memory are compared. Default: U.
        recurrent_initializer, recurrent_regularizer, recurrent_constraint: Of the cell's recurrent kernel, as in
            `keras.layers.GRU`.
        kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer, kernel_constraint,
            bias_constraint: Of the cell's other kernel and of attention.

    Call arguments:
        inputs: (B, T, D), float.
        memory: (B, M) or (B, S, M), float, or None.
        initial_state: (B, U) tensors, what the encoder ended with: two for "lstm", one for the others. Default: zeros.
        mask, memory_mask: (B, T) and (B, S), bool, the padding masks; Keras fills them in. A padded position leaves
            the state as it is.

    Output shape: (B, T, U), the states s_t; with a memory also (B, T, M), the context vectors c_t. The padding mask of
        `inputs` passes through.

    Raises:
        ValueError: If a size is not positive, the cell is unknown, an input has not the shape that the layer was built
            with, or there are more or fewer initial states than the cell has.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> layer = kt.RecurrentDecoderLayer(7, "gru")
    >>> states, contexts = layer(np.ones((2, 3, 8)), np.ones((2, 5, 6)), initial_state=[np.ones((2, 7))])
    >>> tuple(states.shape), tuple(contexts.shape)
    ((2, 3, 7), (2, 3, 6))
    """

    def __init__(
        self,
        units: int,
        cell: str = "gru",
        *,
        attention_dim: int | None = None,
        recurrent_initializer="orthogonal",
        recurrent_regularizer=None,
        recurrent_constraint=None,
        **kwargs: Unpack[WeightOptions],
    ):
        super().__init__(**kwargs)
        check_choice(self, "cell", cell, CELLS)
        check_positive(self, units=units)
        if attention_dim is not None:
            check_positive(self, attention_dim=attention_dim)
        self.units = units
        self.cell = cell
        self.attention_dim = attention_dim
        self.num_states = 2 if cell == "lstm" else 1
        self.recurrent_initializer = keras.initializers.get(recurrent_initializer)
        self.recurrent_regularizer = keras.regularizers.get(recurrent_regularizer)
        self.recurrent_constraint = keras.constraints.get(recurrent_constraint)
        self.rnn = self.make(
            CELLS[cell],
            "rnn",
            units=units,
            return_sequences=True,
            return_state=True,
            recurrent_initializer=self.recurrent_initializer,
            recurrent_regularizer=self.recurrent_regularizer,
            recurrent_constraint=self.recurrent_constraint,
            **self.weight_options,
        )

    def build(self, inputs_shape, memory_shape=None, initial_state_shape=None):
        check_sequence(self, "inputs", inputs_shape)
        if memory_shape is not None and (len(memory_shape) not in (2, 3) or memory_shape[-1] is None):
            raise ValueError(
                f"{describe(self)} takes a memory of shape (batch, width), the same at every step, or (batch, length, "
                f"width), to attend to, got {tuple(memory_shape)}."
            )
        self._width = inputs_shape[-1]
        self._memory_shape = None if memory_shape is None else (None,) * (len(memory_shape) - 1) + (memory_shape[-1],)
        self.rnn.build((None, None, self._width + (0 if memory_shape is None else memory_shape[-1])))
        if memory_shape is not None and len(memory_shape) == 3:
            dim = self.attention_dim or self.units
            self.query = self.project(dim, "query", self.units, use_bias=False)
            self.key = self.project(dim, "key", memory_shape[-1])
            self.score = self.add_weight(
                name="score",
                shape=(dim, 1),
                initializer=self.weight_options["kernel_initializer"],
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )

    def call(self, inputs, memory=None, initial_state=None, mask=None, inputs_mask=None, memory_mask=None):
        self._check(inputs, memory, initial_state)
        given = inputs_mask if mask is None else mask
        mask = self.token_mask(inputs, "mask", given)
        if initial_state is None:
            initial_state = self.rnn.get_initial_state(ops.shape(inputs)[0])
        states = [ops.cast(state, self.compute_dtype) for state in _as_list(initial_state)]
        if memory is not None and len(memory.shape) == 3:
            outputs = self._attend(inputs, memory, states, mask, memory_mask)
        elif memory is None:
            outputs = self._recur(inputs, states, mask, self._step)
        else:
            contexts = ops.expand_dims(memory, 1) + ops.zeros_like(inputs[:, :, :1])  # (B, T, M)
            outputs = self._recur(ops.concatenate([inputs, contexts], axis=-1), states, mask, self._step), contexts
        return keras.tree.map_structure(lambda x: checked(x, given, memory_mask), outputs)

    def _attend(self, inputs, memory, states, mask, memory_mask):
        """The states and the context vectors of a recurrence that attends at every step."""
        memory_mask = self.token_mask(memory, "memory_mask", memory_mask)
        context = decoding()
        key, value = (self.key(memory), memory) if context is None else context.keep(
            self, lambda: (self.key(memory), memory)
        )  # fmt: skip

        def step(inputs, states):
            vectors, weights = additive_attention(self.query(states[0]), key, value, self.score, memory_mask)
            outputs, states = self._step(ops.concatenate([inputs, vectors], axis=-1), states)
            return ops.concatenate([outputs, vectors, weights], axis=-1), states

        outputs = self._recur(inputs, states, mask, step)  # (B, T, U + M + S)
        end = self.units + memory.shape[-1]
        record(self, ops.expand_dims(outputs[:, :, end:], 1), to_memory=True)
        return outputs[:, :, : self.units], outputs[:, :, self.units : end]

    def _step(self, inputs, states):
        """The outputs (B, N, U) and the states of N cells side by side, from inputs (B, N, D) and states (B, N, U)."""
        count = ops.shape(inputs)[1]
        flat = [ops.reshape(state, (-1, self.units)) for state in states]
        output, flat = self.rnn.cell(ops.reshape(inputs, (-1, inputs.shape[-1])), flat)
        output, *states = (ops.reshape(x, (-1, count, self.units)) for x in (output, *_as_list(flat)))
        return output, states

    def _recur(self, inputs, states, mask, step):
        """The outputs (B, T, O) of `step` from one token to the next."""
        context = decoding()
        if context is not None:
            return context.recur(self, inputs, states, step, partial(scan, step, dtype=self.dtype_policy))
        if step == self._step:
            return self.rnn(inputs, initial_state=states, mask=mask)[0]
        return scan(step, inputs, states, mask, dtype=self.dtype_policy)[0]

    def compute_mask(self, inputs, previous_mask=None):
        return previous_mask if self._memory_shape is None or previous_mask is None else (previous_mask, previous_mask)

    def compute_output_spec(
        self, inputs, memory=None, initial_state=None, mask=None, inputs_mask=None, memory_mask=None
    ):
        self._check(inputs, memory, initial_state)
        states = keras.KerasTensor((*inputs.shape[:2], self.units), dtype=self.compute_dtype)
        if memory is None:
            return states
        return states, keras.KerasTensor((*inputs.shape[:2], memory.shape[-1]), dtype=self.compute_dtype)

    def _check(self, inputs, memory, initial_state) -> None:
        check_sequence(self, "inputs", inputs.shape, self._width)
        shape = None if memory is None else (None,) * (len(memory.shape) - 1) + (memory.shape[-1],)
        if shape != self._memory_shape:
            raise ValueError(
                f"{describe(self)} was built with {_named(self._memory_shape)} and is called with {_named(shape)}."
            )
        if initial_state is not None:
            shapes = [tuple(state.shape) for state in _as_list(initial_state)]
            if len(shapes) != self.num_states or any(shape[1:] != (self.units,) for shape in shapes):
                raise ValueError(
                    f"{describe(self)} takes as initial_state {self.num_states} of shape (batch, {self.units}), as its "
                    f"cell '{self.cell}' has them, got {shapes}."
                )

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "cell": self.cell,
            "attention_dim": self.attention_dim,
            "recurrent_initializer": keras.initializers.serialize(self.recurrent_initializer),
            "recurrent_regularizer": keras.regularizers.serialize(self.recurrent_regularizer),
            "recurrent_constraint": keras.constraints.serialize(self.recurrent_constraint),
        }


@keras.saving.register_keras_serializable("keras_transformer")
class DotAttention(SequenceLayer, Projecting):
    """Attention to a memory behind a recurrent decoder.

    h~_t = tanh(W [c_t; h_t]), c_t = sum over j of a_tj m_j, a_t = softmax over j of h_t . m_j
    ("Effective Approaches to Attention-based Neural Machine Translation", https://arxiv.org/abs/1508.04025, sections
    3 and 3.1: global attention, score "dot").

    Args:
        units: Width U of the output.
        kernel_initializer, kernel_regularizer, kernel_constraint, ...: Of W, as in `keras.layers.Dense`.

    Call arguments:
        inputs: (B, T, D), float. The states h.
        memory: (B, S, D), float, of the same width.
        mask, memory_mask: (B, T) and (B, S), bool, the padding masks; Keras fills them in.

    Output shape: (B, T, U). The padding mask of `inputs` passes through.

    Raises:
        ValueError: If `units` is not positive, or the widths of `inputs` and `memory` differ.

    Example:

    >>> import numpy as np, keras_transformer as kt
    >>> tuple(kt.DotAttention(7)(np.ones((2, 3, 8)), np.ones((2, 5, 8))).shape)
    (2, 3, 7)
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        check_positive(self, units=units)
        self.units = units

    def build(self, inputs_shape, memory_shape):
        check_sequence(self, "inputs", inputs_shape)
        check_sequence(self, "memory", memory_shape, inputs_shape[-1])
        self._width = inputs_shape[-1]
        self.output_projection = self.project(self.units, "output", 2 * self._width, activation="tanh", use_bias=False)

    def call(self, inputs, memory, mask=None, inputs_mask=None, memory_mask=None):
        check_sequence(self, "inputs", inputs.shape, self._width)
        check_sequence(self, "memory", memory.shape, self._width)
        inputs, memory = checked(floats(self, inputs), memory_mask), floats(self, memory)
        memory_mask = self.token_mask(memory, "memory_mask", memory_mask)
        allowed = None if memory_mask is None else ops.expand_dims(ops.expand_dims(memory_mask, 1), 1)
        query, memory = ops.expand_dims(inputs, 1), ops.expand_dims(memory, 1)  # one head
        vectors, weights = exact_attention(query, memory, memory, mask=allowed, scale=1.0)
        record(self, weights, to_memory=True)
        return self.output_projection(ops.concatenate([vectors[:, 0], inputs], axis=-1))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def _as_list(states) -> list:
    return list(states) if isinstance(states, list | tuple) else [states]


def _named(memory_shape) -> str:
    return "no memory" if memory_shape is None else f"a memory of shape {memory_shape}"
