"""Recurrent decoder layers compute the formulas of their papers, whatever lies under padding."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer._keras import get_mask

from .helpers import BATCH, DIM, KEYS, LENGTH, MASK, MEMORY, MEMORY_DIM, MEMORY_MASK, X, as_numpy, randomize

UNITS, COMPARED = 11, 19
CELLS = ["rnn", "lstm", "gru"]
MEMORIES = {"alone": None, "fixed context": MEMORY[:, 0], "attention": MEMORY}


def states_of(cell, seed=0):
    random = np.random.default_rng(seed)
    return [random.normal(size=(BATCH, UNITS)).astype("float32") for _ in range(2 if cell == "lstm" else 1)]


def build(cell, memory, **arguments):
    layer = kt.RecurrentDecoderLayer(UNITS, cell, attention_dim=COMPARED, **arguments)
    layer(X, memory)
    randomize(layer)
    return layer


# The oracle: float64, one token of one row at a time


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def cell_oracle(cell, weights, x, states):
    """The states after `x`, by the formulas that Keras documents: gates i, f, c, o of an LSTM, z, r, h of a GRU."""
    kernel, recurrent, bias = weights
    if cell == "rnn":
        return [np.tanh(x @ kernel + states[0] @ recurrent + bias)]
    if cell == "lstm":
        i, f, c, o = np.split(x @ kernel + states[0] @ recurrent + bias, 4)
        carry = sigmoid(f) * states[1] + sigmoid(i) * np.tanh(c)
        return [sigmoid(o) * np.tanh(carry), carry]
    z, r, h = np.split(x @ kernel + bias[0], 3)
    from_z, from_r, from_h = np.split(states[0] @ recurrent + bias[1], 3)
    z, r = sigmoid(z + from_z), sigmoid(r + from_r)
    return [z * states[0] + (1 - z) * np.tanh(h + r * from_h)]


def softmax(scores, allowed):
    exponentials = np.where(allowed, np.exp(scores - scores.max()), 0)
    return exponentials / exponentials.sum()


def layer_oracle(layer, x, memory, states, mask, memory_mask):
    """States (B, T, U), context vectors (B, T, M) and attention weights (B, T, S), NaN where the mask is False."""
    rnn = [as_numpy(w).astype("float64") for w in layer.rnn.weights]
    found = [np.full((BATCH, LENGTH, size), np.nan) for size in (UNITS, MEMORY_DIM, KEYS)]
    for row in range(BATCH):
        state = [s[row].astype("float64") for s in states]
        for t in np.flatnonzero(mask[row]):
            step = x[row, t].astype("float64")
            if memory is not None:
                context = memory[row].astype("float64")
                if context.ndim == 2:
                    query = state[0] @ as_numpy(layer.query.kernel)
                    key = context @ as_numpy(layer.key.kernel) + as_numpy(layer.key.bias)
                    scores = np.tanh(query + key) @ as_numpy(layer.score)[:, 0]
                    found[2][row, t] = softmax(scores, memory_mask[row])
                    context = found[2][row, t] @ context
                found[1][row, t] = context
                step = np.concatenate([step, context])
            state = cell_oracle(layer.cell, rnn, step, state)
            found[0][row, t] = state[0]
    return found


@pytest.mark.parametrize("kind", MEMORIES)
@pytest.mark.parametrize("cell", CELLS)
def test_layer_is_its_formula_at_every_real_position(cell, kind, assert_close):
    memory = MEMORIES[kind]
    layer = build(cell, memory)
    states = states_of(cell)
    memory_mask = MEMORY_MASK if kind == "attention" else None
    states_found, contexts_found, _ = layer_oracle(layer, X, memory, states, MASK, MEMORY_MASK)
    outputs = layer(X, memory, initial_state=states, mask=MASK, memory_mask=memory_mask)
    outputs = [outputs] if memory is None else list(outputs)
    for output, expected in zip(outputs, (states_found, contexts_found), strict=False):
        assert_close(as_numpy(output)[MASK], expected[MASK])
    assert len(outputs) == (1 if memory is None else 2)


def test_without_initial_states_it_starts_from_zeros(assert_close):
    layer = build("lstm", MEMORY)
    zeros = [np.zeros((BATCH, UNITS), "float32")] * 2
    assert_close(layer(X, MEMORY), layer(X, MEMORY, initial_state=zeros))


def test_dot_attention_is_its_formula_and_gives_its_weights(assert_close):
    memory = MEMORY[..., :DIM]
    inputs, source = keras.Input((None, DIM)), keras.Input((None, DIM))
    mask = keras.Input((None,), dtype="bool")
    layer = kt.DotAttention(UNITS, name="attention")
    model = keras.Model([inputs, source, mask], layer(inputs, source, memory_mask=mask))
    randomize(layer)
    scores = np.einsum("btd,bsd->bts", X.astype("float64"), memory)
    weights = np.array([[softmax(s, MEMORY_MASK[row]) for s in scores[row]] for row in range(BATCH)])
    expected = np.tanh(np.concatenate([weights @ memory, X], axis=-1) @ as_numpy(layer.output_projection.kernel))
    assert_close(model([X, memory, MEMORY_MASK]), expected)
    maps = kt.attention_weights(model, [X, memory, MEMORY_MASK])
    assert list(maps) == ["attention"]
    assert_close(maps["attention"], weights[:, None])


def test_additive_attention_gives_its_weights_out_of_the_recurrence(assert_close):
    inputs, source = keras.Input((None, DIM)), keras.Input((None, MEMORY_DIM))
    mask, state = keras.Input((None,), dtype="bool"), keras.Input((UNITS,))
    layer = kt.RecurrentDecoderLayer(UNITS, "gru", name="decoder")
    model = keras.Model([inputs, source, mask, state], layer(inputs, source, initial_state=state, memory_mask=mask))
    randomize(layer)
    states = states_of("gru")
    maps = kt.attention_weights(model, [X, MEMORY, MEMORY_MASK, *states])
    *_, weights = layer_oracle(layer, X, MEMORY, states, np.ones_like(MASK), MEMORY_MASK)
    assert_close(maps["decoder"], weights[:, None])


def test_what_is_under_padding_changes_nothing(assert_close):
    layer = build("gru", MEMORY)
    x = np.where(MASK[..., None], X, 97).astype("float32")
    memory = np.where(MEMORY_MASK[..., None], MEMORY, -97).astype("float32")
    for output, disturbed in zip(
        layer(X, MEMORY, mask=MASK, memory_mask=MEMORY_MASK),
        layer(x, memory, mask=MASK, memory_mask=MEMORY_MASK),
        strict=True,
    ):
        assert_close(as_numpy(disturbed)[MASK], as_numpy(output)[MASK])


def test_a_memory_of_padding_alone_gives_zeros():
    layer = build("gru", MEMORY)
    _, contexts = layer(X, MEMORY, memory_mask=MEMORY_MASK & np.array([[True], [False], [True]]))
    assert not as_numpy(contexts)[1].any() and as_numpy(contexts)[[0, 2]].all()


@pytest.mark.long
@pytest.mark.parametrize("kind", MEMORIES)
def test_output_spec_and_masks_are_what_comes_out_in_half_precision(kind, assert_close):
    memory = MEMORIES[kind]
    layer, exact = build("lstm", memory, dtype="mixed_bfloat16"), build("lstm", memory)
    symbols = [None if x is None else keras.KerasTensor((None, None, x.shape[-1])[-x.ndim :]) for x in (X, memory)]
    specs = keras.tree.flatten(layer(*symbols))
    embedded = keras.layers.Masking(97.0)(np.where(MASK[..., None], X, 97.0))
    outputs, expected = (keras.tree.flatten(x(embedded, memory)) for x in (layer, exact))
    for spec, output, other in zip(specs, outputs, expected, strict=True):
        assert spec.shape == (None, None, output.shape[-1])
        assert spec.dtype == keras.backend.standardize_dtype(output.dtype) == "bfloat16"
        assert_close(as_numpy(output)[MASK], as_numpy(other)[MASK], 0.05)
        assert (as_numpy(get_mask(output)) == MASK).all()


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: kt.RecurrentDecoderLayer(7, "mgu"), r"one of \['gru', 'lstm', 'rnn'\] as cell, got 'mgu'"),
        (lambda: kt.RecurrentDecoderLayer(0), "positive integer as units, got 0"),
        (lambda: kt.RecurrentDecoderLayer(7, attention_dim=-1), "positive integer as attention_dim, got -1"),
        (lambda: kt.RecurrentDecoderLayer(7)(X, MEMORY[:, None]), r"\(batch, length, width\), to attend to, got"),
        (lambda: build("gru", None)(X, MEMORY), r"built with no memory and is called with a memory of shape"),
        (lambda: build("gru", MEMORY)(X, MEMORY[:, 0]), r"built with a memory of shape \(None, None, 17\) and"),
        (lambda: build("lstm", None)(X, initial_state=states_of("gru")), "takes as initial_state 2 of shape"),
        (lambda: build("gru", None)(X, initial_state=[ops.zeros((3, 7))]), r"\(batch, 11\).*got \[\(3, 7\)\]"),
        (lambda: build("gru", None)(X[..., 1:]), "inputs of width 13, got width 12"),
        (lambda: kt.DotAttention(7)(X, MEMORY), "memory of width 13, got width 17"),
        (lambda: kt.DotAttention(0), "positive integer as units, got 0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
