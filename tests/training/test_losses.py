"""SequenceCrossentropy against float64 NumPy and PyTorch, at its edges, and in `fit`."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.training import Perplexity, SequenceCrossentropy, TokenAccuracy

BATCH, LENGTH, VOCABULARY = 5, 7, 11


@pytest.fixture
def ids():
    """Ids (5, 7) of rows with 7, 3, 1, 0 and 5 real tokens."""
    ids = np.random.default_rng(1).integers(1, VOCABULARY, (BATCH, LENGTH))
    return np.where(np.arange(LENGTH) < np.array([[7], [3], [1], [0], [5]]), ids, 0).astype("int32")


@pytest.fixture
def logits():
    return np.random.default_rng(2).normal(0, 3, (BATCH, LENGTH, VOCABULARY)).astype("float32")


def oracle(ids, logits, label_smoothing=0.0, ignore_id=0, weights=1.0):
    """The definition: cross-entropy with (1 - e) onehot + e / V, mean over the real tokens, in float64."""
    logits = logits.astype("float64")
    highest = logits.max(-1, keepdims=True)
    log_probability = logits - highest - np.log(np.exp(logits - highest).sum(-1, keepdims=True))
    vocabulary_size = logits.shape[-1]
    target = (1 - label_smoothing) * np.eye(vocabulary_size)[ids] + label_smoothing / vocabulary_size
    losses = -(target * log_probability).sum(-1) * (ids != ignore_id)
    return (losses * weights).sum() / (ids != ignore_id).sum()


def value_and_gradient(function, array, dtype="float32"):
    """`function(tensor)` and its gradient, on whichever backend Keras runs."""
    tensor = ops.cast(ops.convert_to_tensor(array), dtype)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensor)
            value = function(tensor)
        return value, tape.gradient(value, tensor)
    if backend == "jax":
        import jax

        return jax.value_and_grad(function)(tensor)
    tensor.requires_grad_(True)
    value = function(tensor)
    value.backward()
    return value.detach(), tensor.grad


@pytest.mark.parametrize("ignore_id", [0, 4])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.7])
def test_equals_the_definition(ids, logits, label_smoothing, ignore_id, assert_close):
    loss = SequenceCrossentropy(label_smoothing=label_smoothing, ignore_id=ignore_id)
    assert_close(loss(ids, logits), oracle(ids, logits, label_smoothing, ignore_id))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_value_and_gradient_equal_pytorch(ids, logits, label_smoothing, assert_close):
    torch = pytest.importorskip("torch")
    peer_logits = torch.tensor(logits, requires_grad=True)
    peer = torch.nn.functional.cross_entropy(
        peer_logits.reshape(-1, VOCABULARY),
        torch.tensor(ids.reshape(-1).astype("int64")),
        ignore_index=0,
        label_smoothing=label_smoothing,
        reduction="mean",
    )
    peer.backward()
    loss = SequenceCrossentropy(label_smoothing=label_smoothing)
    value, gradient = value_and_gradient(lambda logits: loss(ids, logits), logits)
    assert_close(value, peer.detach().numpy())
    assert_close(gradient, peer_logits.grad.numpy(), tolerance=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradient_through_padding_is_zero(ids, logits, label_smoothing):
    loss = SequenceCrossentropy(label_smoothing=label_smoothing)
    _, gradient = value_and_gradient(lambda logits: loss(ids, logits), logits)
    used = np.any(ops.convert_to_numpy(gradient) != 0, axis=-1)
    np.testing.assert_array_equal(used, ids != 0)


@pytest.mark.tensorflow
def test_values_may_be_constants_of_a_graph(ids, logits, assert_close):
    import tensorflow as tf

    constant = tf.constant(logits)
    assert_close(tf.function(lambda: SequenceCrossentropy()(ids, constant))(), oracle(ids, logits))


def test_ignore_id_outside_the_vocabulary(ids, logits, assert_close):
    loss = SequenceCrossentropy(label_smoothing=0.1, ignore_id=-100)
    shifted = np.where(ids == 0, -100, ids)
    assert_close(loss(shifted, logits), oracle(ids, logits, 0.1))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_probabilities(ids, logits, label_smoothing, assert_close):
    probabilities = ops.softmax(logits, axis=-1)
    loss = SequenceCrossentropy(label_smoothing=label_smoothing, from_logits=False)
    assert_close(loss(ids, probabilities), oracle(ids, logits, label_smoothing))


def test_sample_weight_scales_losses_but_not_the_divisor(ids, logits, assert_close):
    loss = SequenceCrossentropy(label_smoothing=0.1)
    per_row = np.array([0.5, 2.0, 0.0, 3.0, 1.0], "float32")
    per_token = np.random.default_rng(3).uniform(0, 2, (BATCH, LENGTH)).astype("float32")
    assert_close(loss(ids, logits, per_row), oracle(ids, logits, 0.1, weights=per_row[:, None]))
    assert_close(loss(ids, logits, per_row[:, None]), oracle(ids, logits, 0.1, weights=per_row[:, None]))
    assert_close(loss(ids, logits, per_token), oracle(ids, logits, 0.1, weights=per_token))


def test_weights_of_padding_are_of_no_account(ids, logits, assert_close):
    weights = np.random.default_rng(3).random(ids.shape)
    wrong = np.where(ids == 0, np.nan, weights)
    for judge in (SequenceCrossentropy(), Perplexity(), TokenAccuracy()):
        assert_close(judge(ids, logits, wrong), judge(ids, logits, weights))


def test_call_gives_the_loss_of_each_token(ids, logits, assert_close):
    loss = SequenceCrossentropy(label_smoothing=0.1)
    losses = ops.convert_to_numpy(loss.call(ops.convert_to_tensor(ids), ops.convert_to_tensor(logits)))
    np.testing.assert_array_equal(losses != 0, ids != 0)
    assert_close(losses.sum() / (ids != 0).sum(), oracle(ids, logits, 0.1))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_padding_alone_gives_zero(logits, label_smoothing):
    loss = SequenceCrossentropy(label_smoothing=label_smoothing)
    padding = np.zeros((BATCH, LENGTH), "int32")
    value, gradient = value_and_gradient(lambda logits: loss(padding, logits), logits)
    assert float(value) == 0
    assert not np.any(ops.convert_to_numpy(gradient))


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_extreme_logits_stay_finite(ids, logits, label_smoothing, assert_close):
    loss = SequenceCrossentropy(label_smoothing=label_smoothing)
    extreme = np.where(logits > 0, 1e4, -1e4).astype("float32")
    value, gradient = value_and_gradient(lambda logits: loss(ids, logits), extreme)
    assert_close(value, oracle(ids, extreme, label_smoothing))
    assert np.all(np.isfinite(ops.convert_to_numpy(gradient)))


def test_a_forbidden_id_with_minus_infinity(ids, logits, assert_close):
    logits[..., 0] = -np.inf  # padding is never a target
    value, gradient = value_and_gradient(lambda logits: SequenceCrossentropy()(ids, logits), logits)
    others = np.where(ids == 0, 0, ids - 1)
    expected = oracle(others, logits[..., 1:], ignore_id=-1, weights=ids != 0) * ids.size / (ids != 0).sum()
    assert_close(value, expected)
    assert np.all(np.isfinite(ops.convert_to_numpy(gradient)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_float32(ids, logits, dtype, assert_close):
    loss = SequenceCrossentropy(label_smoothing=0.1)
    rounded = ops.convert_to_numpy(ops.cast(ops.cast(logits, dtype), "float32"))
    value, gradient = value_and_gradient(lambda logits: loss(ids, logits), logits, dtype)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert keras.backend.standardize_dtype(gradient.dtype) == dtype
    assert_close(value, oracle(ids, rounded, 0.1))


@pytest.mark.parametrize("label", [-1, VOCABULARY])
def test_a_label_outside_the_vocabulary_makes_the_loss_nan(ids, logits, label):
    ids[0, 0] = label
    assert np.isnan(float(SequenceCrossentropy()(ids, logits)))


@pytest.mark.parametrize("label", [2.5, 2.0**33 + 2, np.nan])
def test_a_label_that_is_no_integer_of_32_bits_makes_the_loss_nan(ids, logits, label):
    labels = ids.astype("float32")
    assert float(SequenceCrossentropy()(labels, logits)) == float(SequenceCrossentropy()(ids, logits))
    labels[0, 0] = label
    assert np.isnan(float(SequenceCrossentropy()(labels, logits)))


@pytest.mark.parametrize("dtype", ["bool", "float16", "bfloat16"])
def test_labels_of_a_type_that_rounds_them(ids, logits, dtype):
    with pytest.raises(ValueError, match=f"integer ids as `y_true`. Received: {dtype}"):
        SequenceCrossentropy()(ops.cast(ids, dtype), logits)


def test_every_label_counts_where_there_is_no_padding(ids, logits, assert_close):
    assert_close(SequenceCrossentropy(ignore_id=None)(ids, logits), oracle(ids, logits, ignore_id=-1))
    for wrong in (True, 0.5, "0"):
        with pytest.raises(ValueError, match="`ignore_id` the label of padding"):
            SequenceCrossentropy(ignore_id=wrong)


@pytest.mark.tensorflow
def test_ragged_tensors_are_refused_with_a_word(ids, logits):
    import tensorflow as tf

    with pytest.raises(ValueError, match=r"`y_true` is ragged.*labels.to_tensor\(ignore_id\)"):
        SequenceCrossentropy()(tf.RaggedTensor.from_tensor(ids, padding=0), logits)
    with pytest.raises(ValueError, match="`y_pred` is ragged"):
        SequenceCrossentropy()(ids, tf.RaggedTensor.from_tensor(logits))
    model = next_token_model()
    model.compile("sgd", SequenceCrossentropy())
    with pytest.raises(ValueError, match="`y_true` is ragged"):
        model.fit(ids, tf.RaggedTensor.from_tensor(ids, padding=0), verbose=0)


@pytest.mark.parametrize("label_smoothing", [-0.1, 1.0, 7])
def test_label_smoothing_out_of_range(label_smoothing):
    with pytest.raises(ValueError, match=r"SequenceCrossentropy.*\[0, 1\).*Received"):
        SequenceCrossentropy(label_smoothing=label_smoothing)


@pytest.mark.parametrize(
    "ids_shape, logits_shape",
    [((5,), (5, 11)), ((5, 7), (5, 7)), ((5, 7, 1), (5, 7, 11)), ((5, 7), (5, 3, 11)), ((2, 7), (5, 7, 11))],
)
def test_shapes_that_do_not_fit(ids_shape, logits_shape):
    with pytest.raises(ValueError, match="SequenceCrossentropy.*shape.*Received"):
        SequenceCrossentropy()(np.ones(ids_shape, "int32"), np.ones(logits_shape, "float32"))


@pytest.mark.parametrize("shape", [(5, 7, 11), (7,), (1, 7), (7, 5), (5, 3)])
def test_sample_weight_of_a_wrong_shape(ids, logits, shape):
    with pytest.raises(ValueError, match=rf"SequenceCrossentropy.*sample_weight.*\(5, 7\).*\({shape[0]},"):
        SequenceCrossentropy()(ids, logits, np.ones(shape, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_probabilities_are_no_logits_nor_the_other_way_round(ids, logits, dtype, assert_close):
    probabilities = ops.cast(ops.softmax(logits, axis=-1), dtype)
    for loss in (SequenceCrossentropy(), SequenceCrossentropy(label_smoothing=0.1, ignore_id=4)):
        with pytest.raises(ValueError, match="was given probabilities.*from_logits=False"):
            loss(ids, probabilities)
    with pytest.raises(
        ValueError, match=r"SequenceCrossentropy\(from_logits=False\) takes probabilities.*from_logits=True"
    ):
        SequenceCrossentropy(from_logits=False)(ids, logits)
    with pytest.raises(ValueError, match="do not sum to 1"):
        SequenceCrossentropy(from_logits=False)(ids, ops.sigmoid(logits))
    # What stands under padding is of no account, nor is one row that looks like the other kind.
    padded = ops.where(ops.expand_dims(ids == 0, -1), 0 * probabilities, probabilities)
    assert_close(
        SequenceCrossentropy(from_logits=False)(ids, padded), oracle(ids, logits), 1e-5 if dtype == "float32" else 2e-2
    )
    mixed = np.array(logits)
    mixed[0, 0] = np.eye(VOCABULARY)[3]
    assert_close(SequenceCrossentropy()(ids, mixed), oracle(ids, mixed))
    mixed[:, 0] = np.eye(VOCABULARY)[3]  # the first of each row; others show what they are
    assert_close(SequenceCrossentropy()(ids, mixed), oracle(ids, mixed))


OUTPUTS = {
    "softmax": lambda: keras.layers.Dense(VOCABULARY, activation="softmax"),
    "layer": lambda: keras.Sequential([keras.layers.Dense(VOCABULARY), keras.layers.Softmax()]),
    "each step": lambda: keras.layers.TimeDistributed(keras.layers.Dense(VOCABULARY, activation="softmax")),
    "activation": lambda: keras.Sequential([keras.layers.Dense(VOCABULARY), keras.layers.Activation("softmax")]),
    "in a function": lambda: keras.layers.Lambda(
        lambda x: ops.softmax(x @ ops.ones((13, VOCABULARY), x.dtype)), output_shape=(LENGTH, VOCABULARY)
    ),
    "logits": lambda: keras.layers.Dense(VOCABULARY),
}


@pytest.mark.parametrize("policy", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("output", OUTPUTS)
def test_fit_notices_probabilities(ids, output, policy):
    """The wrong `from_logits` raises, or the loss is NaN where nothing tells it to a step; the right one trains."""
    keras.config.set_dtype_policy(policy)

    def make_model():  # on JAX a model whose `fit` has failed has lost its weights
        inputs = keras.Input((LENGTH,), dtype="int32")
        return keras.Model(inputs, OUTPUTS[output]()(keras.layers.Embedding(VOCABULARY, 13)(inputs)))

    for from_logits in (True, False):
        model = make_model()
        model.compile("sgd", SequenceCrossentropy(from_logits=from_logits))
        if from_logits == (output == "logits"):
            assert np.isfinite(model.fit(ids, ids, verbose=0).history["loss"][0])
            continue
        if output == "in a function" and keras.backend.backend() == "jax":
            assert np.isnan(model.fit(ids, ids, verbose=0).history["loss"][0])
            continue
        with pytest.raises(ValueError, match=f"from_logits={not from_logits}"):
            model.fit(ids, ids, verbose=0)
        model = make_model()
        model.compile(
            "sgd", keras.losses.SparseCategoricalCrossentropy(), metrics=[Perplexity(from_logits=from_logits)]
        )
        with pytest.raises(ValueError, match=f"from_logits={not from_logits}"):
            model.evaluate(ids, ids, verbose=0)


def test_what_a_step_of_ones_own_makes_of_the_output_is_not_judged_by_the_model(ids):
    class Logarithms(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            return super().compute_loss(x, y, ops.log(y_pred), sample_weight, training)

    inputs = keras.Input((LENGTH,), dtype="int32")
    embedded = keras.layers.Embedding(VOCABULARY, 13)(inputs)
    model = Logarithms(inputs, keras.layers.Dense(VOCABULARY, activation="softmax")(embedded))
    model.compile("sgd", SequenceCrossentropy())
    assert np.isfinite(model.fit(ids, ids, verbose=0).history["loss"][0])


def test_serialization():
    loss = SequenceCrossentropy(label_smoothing=0.3, from_logits=False, ignore_id=13, name="crossentropy")
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(copy) is SequenceCrossentropy
    assert copy.get_config() == loss.get_config()
    assert copy.get_config() == {
        "label_smoothing": 0.3,
        "from_logits": False,
        "ignore_id": 13,
        "name": "crossentropy",
    }


def next_token_model():
    """Predicts ids from ids; the embedding's mask (input 0) differs from the padding of the labels."""
    inputs = keras.Input((None,), dtype="int32")
    outputs = keras.layers.Embedding(VOCABULARY, 13, mask_zero=True)(inputs)
    return keras.Model(inputs, keras.layers.Dense(VOCABULARY)(outputs))


def test_the_mask_of_predictions_is_not_consulted(ids, assert_close):
    inputs = np.roll(ids, 1, axis=-1)
    assert np.any((inputs == 0) != (ids == 0))
    model = next_token_model()
    model.compile("sgd", SequenceCrossentropy())
    expected = oracle(ids, ops.convert_to_numpy(model(inputs)))
    assert_close(model.evaluate(inputs, ids, verbose=0), expected)


@pytest.mark.parametrize(
    "policy, jit_compile",
    [
        ("float32", False),
        pytest.param("mixed_float16", False, marks=pytest.mark.long),
        ("mixed_bfloat16", False),
        pytest.param("float32", True, marks=pytest.mark.torch_compile),
    ],
)
def test_fit(ids, policy, jit_compile):
    keras.config.set_dtype_policy(policy)
    model = next_token_model()
    model.compile(keras.optimizers.Adam(0.1), SequenceCrossentropy(label_smoothing=0.1), jit_compile=jit_compile)
    history = model.fit(ids, ids, epochs=11, verbose=0).history["loss"]
    assert np.all(np.isfinite(history))
    assert history[-1] < 0.6 * history[0]


def test_weights_of_rows_and_then_of_tokens_on_one_model(ids, assert_close):
    per_row = np.array([0.5, 2.0, 0.0, 3.0, 1.0], "float32")
    per_token = np.random.default_rng(3).uniform(0, 2, ids.shape).astype("float32")
    model = next_token_model()
    model.compile(keras.optimizers.SGD(0.0), SequenceCrossentropy(), weighted_metrics=[TokenAccuracy(), Perplexity()])
    logits = ops.convert_to_numpy(model(ids))
    for weights in (per_row, per_token, per_row[:, None], per_token):
        history = model.fit(ids, ids, sample_weight=weights, verbose=0).history
        full = np.broadcast_to(weights.reshape(5, -1), ids.shape)
        assert_close(history["loss"][0], oracle(ids, logits, weights=full))
        right = (logits.argmax(-1) == ids) * full * (ids != 0)
        assert_close(history["token_accuracy"][0], right.sum() / (full * (ids != 0)).sum())


def test_fit_on_batches_of_several_lengths(ids):
    model = next_token_model()
    model.compile("adam", SequenceCrossentropy())
    batches = ((ids[:, :length], ids[:, :length]) for length in (7, 2))
    history = model.fit(batches, steps_per_epoch=2, shuffle=False, verbose=0).history
    assert np.isfinite(history["loss"][0])


@pytest.mark.long
def test_compiled_model_loads_in_a_fresh_process(ids, tmp_path, fresh_process):
    model = next_token_model()
    model.compile("adam", SequenceCrossentropy(label_smoothing=0.1))
    model.fit(ids, ids, verbose=0)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "ids.npy", ids)
    expected = model.evaluate(ids, ids, verbose=0)
    printed = fresh_process(
        """
        import keras, numpy as np
        import keras_transformer.training
        ids = np.load("ids.npy")
        print(keras.models.load_model("model.keras").evaluate(ids, ids, verbose=0))
        """,
        cwd=tmp_path,
    )
    assert float(printed.split()[-1]) == pytest.approx(expected, abs=1e-6)
