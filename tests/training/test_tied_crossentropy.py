"""TiedCrossentropy against PyTorch in float64, and against the plain model with SequenceCrossentropy."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.training import Perplexity, SequenceCrossentropy, TiedCrossentropy, TokenAccuracy
from keras_transformer.training.projected import projected_crossentropy

BATCH, LENGTH, WIDTH, VOCABULARY = 5, 7, 3, 23
random = np.random.default_rng(1)
IDS = np.where(
    np.arange(LENGTH) < np.array([[7], [3], [1], [0], [5]]), random.integers(1, VOCABULARY, (BATCH, LENGTH)), 0
).astype("int32")
HIDDEN = random.normal(size=(BATCH, LENGTH, WIDTH)).astype("float32")
TABLE = random.normal(size=(VOCABULARY, WIDTH)).astype("float32")
BIAS = random.normal(size=VOCABULARY).astype("float32")
WEIGHTS = random.uniform(0, 2, (BATCH, LENGTH)).astype("float32")


def oracle(label_smoothing=0.0, ids=IDS, weights=WEIGHTS):
    """Sum of the weighted losses, its gradients of hidden, table and bias, and the losses, by PyTorch in float64."""
    torch = pytest.importorskip("torch")
    hidden, table, bias = (torch.tensor(x.astype("float64"), requires_grad=True) for x in (HIDDEN, TABLE, BIAS))
    losses = torch.nn.functional.cross_entropy(
        (hidden @ table.T + bias).reshape(-1, VOCABULARY),
        torch.tensor(ids.reshape(-1).astype("int64")),
        ignore_index=0,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    total = (losses * torch.tensor(weights.reshape(-1))).sum()
    total.backward()
    return total.item(), [x.grad.numpy() for x in (hidden, table, bias)], losses.detach().numpy()


def value_and_gradients(function, *arrays, jit_compile=False):
    """`function(*tensors)`, a scalar and more, and the scalar's gradients; in a graph of unknown batch and length."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec([None, None, *x.shape[2:]] if i == 0 else x.shape) for i, x in enumerate(arrays)]

        @tf.function(input_signature=signature, autograph=False, jit_compile=jit_compile)
        def step(*tensors):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                value, more = function(*tensors)
            return value, more, tape.gradient(value, tensors)

        return step(*arrays)
    if backend == "jax":
        import jax

        step = jax.value_and_grad(function, argnums=tuple(range(len(arrays))), has_aux=True)
        (value, more), gradients = jax.jit(step)(*arrays)
        return value, more, gradients
    import torch

    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    value, more = function(*tensors)
    value.backward()
    return value.detach(), ops.stop_gradient(more), [x.grad for x in tensors]


@pytest.mark.parametrize("block", [1, 4, 35, 100])
@pytest.mark.parametrize("axes", ["vd", "dv"])
@pytest.mark.parametrize(
    "label_smoothing, training, jit_compile", [(0.0, True, False), (0.1, True, True), (0.1, False, False)]
)
def test_equals_the_definition(label_smoothing, training, jit_compile, axes, block, assert_close):
    labels = np.where(IDS == 0, -1, IDS).reshape(-1)

    def loss(hidden, matrix, bias):
        total, known = projected_crossentropy(
            ops.reshape(hidden, (-1, WIDTH)), matrix, bias, ops.convert_to_tensor(labels),
            ops.convert_to_tensor(WEIGHTS.reshape(-1)), axes=axes, label_smoothing=label_smoothing,
            training=training, block=block,
        )  # fmt: skip
        return 3 * total, known

    matrix = TABLE if axes == "vd" else TABLE.T
    value, known, gradients = value_and_gradients(loss, HIDDEN, matrix, BIAS, jit_compile=jit_compile)
    total, expected, losses = oracle(label_smoothing)
    assert_close(value, 3 * total)
    assert_close(ops.convert_to_numpy(known)[0], losses)
    logits = HIDDEN @ TABLE.T + BIAS
    np.testing.assert_array_equal(ops.convert_to_numpy(known)[2], ((logits.argmax(-1) == IDS) & (IDS != 0)).reshape(-1))
    expected[1] = expected[1] if axes == "vd" else expected[1].T
    for gradient, one in zip(gradients, expected, strict=True):
        assert_close(gradient, 3 * one)


@pytest.mark.parametrize("head", ["embedding", "embedding with bias", "dense", "dense without bias"])
def test_the_layer_adds_the_mean_over_real_tokens(head, assert_close):
    if head.startswith("embedding"):
        with_bias = head == "embedding with bias"
        embedding = kt.TokenEmbedding(VOCABULARY, WIDTH, scale=True, output_bias=with_bias, weights=TABLE)
        if with_bias:
            embedding.bias.assign(BIAS)
        logits = embedding(HIDDEN, reverse=True)
    else:
        embedding = keras.layers.Dense(VOCABULARY, use_bias=head == "dense")
        logits = embedding(HIDDEN)
    layer = TiedCrossentropy(embedding, label_smoothing=0.1, block_size=4)
    losses = layer(HIDDEN, IDS)
    peer = SequenceCrossentropy(label_smoothing=0.1)
    assert_close(layer.losses[0], peer(IDS, logits))
    assert_close(losses, peer.call(ops.convert_to_tensor(IDS), logits))
    layer(HIDDEN, IDS, sample_weight=WEIGHTS)
    assert_close(layer.losses[0], peer(IDS, logits, WEIGHTS))
    layer(HIDDEN, IDS, sample_weight=WEIGHTS[:, 0])
    assert_close(layer.losses[0], peer(IDS, logits, WEIGHTS[:, 0]))


def test_padding_alone_gives_zero_and_a_wrong_label_nan():
    layer = TiedCrossentropy(kt.TokenEmbedding(VOCABULARY, WIDTH))
    losses = layer(HIDDEN, np.zeros_like(IDS), training=True)
    assert float(layer.losses[0]) == 0 and not np.any(ops.convert_to_numpy(losses))
    for wrong in (-1, VOCABULARY):
        labels = IDS.copy()
        labels[0, 0] = wrong
        losses = ops.convert_to_numpy(layer(HIDDEN, labels))
        assert np.isnan(float(layer.losses[0]))
        assert np.isnan(losses).sum() == 1 and np.isnan(losses[0, 0])
    layer = TiedCrossentropy(kt.TokenEmbedding(VOCABULARY, WIDTH), ignore_id=-100)
    layer(HIDDEN, np.where(IDS == 0, -100, IDS))
    assert np.isfinite(float(layer.losses[0]))


def models(**options):
    """A model of logits, the model that trains it with labels as inputs, and their numbers of the same seed."""
    keras.utils.set_random_seed(3)
    model = kt.models.language_model(
        VOCABULARY, num_layers=1, dim=12, num_heads=2, intermediate_dim=14, dropout=0.0, name="logits"
    )
    labels = keras.Input((None,), dtype="int32", name="labels")
    loss = TiedCrossentropy(model.get_layer("embedding"), name="loss", block_size=6, **options)
    return model, keras.Model([model.input, labels], loss(model.get_layer("decoder_norm").output, labels))


INPUTS, LABELS = np.roll(IDS, 1, 1), IDS


@pytest.mark.long
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=[pytest.mark.torch_compile, pytest.mark.slow])]
)
def test_fit_and_evaluate_equal_the_plain_way(jit_compile, assert_close):
    model, trained = models(label_smoothing=0.1)
    trained.compile(keras.optimizers.SGD(0.5), jit_compile=jit_compile)
    history = trained.fit([INPUTS, LABELS], epochs=2, batch_size=3, shuffle=False, verbose=0).history
    plain, _ = models()
    plain.compile(
        keras.optimizers.SGD(0.5),
        SequenceCrossentropy(label_smoothing=0.1),
        metrics=[Perplexity(), TokenAccuracy()],
        jit_compile=jit_compile,
    )
    expected = plain.fit(INPUTS, LABELS, epochs=2, batch_size=3, shuffle=False, verbose=0).history
    assert set(history) == {"loss", "perplexity", "token_accuracy"}
    assert_close(history, expected)
    assert_close(model.get_weights(), plain.get_weights())
    assert_close(
        trained.evaluate([INPUTS, LABELS], batch_size=3, verbose=0, return_dict=True),
        plain.evaluate(INPUTS, LABELS, batch_size=3, verbose=0, return_dict=True),
    )
    losses = trained.predict([INPUTS, LABELS], verbose=0)
    np.testing.assert_array_equal(losses != 0, LABELS != 0)


@pytest.mark.long
@pytest.mark.parametrize("policy", ["mixed_bfloat16", pytest.param("mixed_float16", marks=pytest.mark.slow)])
def test_half_precision_learns_as_float32_does(policy):
    keras.config.set_dtype_policy(policy)
    _, trained = models()
    trained.compile(keras.optimizers.Adam(0.03))
    history = trained.fit([INPUTS, LABELS], epochs=12, verbose=0).history["loss"]
    keras.config.set_dtype_policy("float32")
    _, peer = models()
    peer.compile(keras.optimizers.Adam(0.03))
    expected = peer.fit([INPUTS, LABELS], epochs=12, verbose=0).history["loss"]
    assert history[0] == pytest.approx(expected[0], rel=0.01)
    assert history[-1] == pytest.approx(expected[-1], rel=0.1)
    assert trained.get_layer("loss").compute_dtype == policy.removeprefix("mixed_")


def test_saved_and_loaded(tmp_path, assert_close):
    _, trained = models(label_smoothing=0.1)
    trained.compile("adam")
    trained.fit([INPUTS, LABELS], verbose=0)
    trained.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("loss").embedding is loaded.get_layer("embedding")
    assert len(loaded.trainable_variables) == len(trained.trainable_variables)
    configs = [json.dumps(model.get_layer("loss").get_config()) for model in (loaded, trained)]
    assert configs[0] == configs[1]
    assert_close(loaded.predict([INPUTS, LABELS], verbose=0), trained.predict([INPUTS, LABELS], verbose=0))


@pytest.mark.long
def test_generates_with_the_weights_that_were_trained():
    model, trained = models()
    trained.compile(keras.optimizers.Adam(0.05))
    sentence = np.array([[2, 5, 9, 4, 3]])
    trained.fit([sentence[:, :-1], sentence[:, 1:]], epochs=30, verbose=0)
    generator = kt.Generator(model, max_length=5, end_token=3)
    assert generator([[2]])["tokens"].ravel().tolist() == [2, 5, 9, 4, 3]


@pytest.mark.long
def test_a_frozen_table_and_lora(assert_close):
    model, trained = models()
    embedding = model.get_layer("embedding")
    embedding.enable_lora(2)
    before = ops.convert_to_numpy(embedding._embeddings), ops.convert_to_numpy(embedding.lora_embeddings_b)
    trained.compile(keras.optimizers.SGD(0.1))
    trained.fit([INPUTS, LABELS], verbose=0)
    assert_close(embedding._embeddings, before[0], tolerance=0)
    assert np.any(ops.convert_to_numpy(embedding.lora_embeddings_b) != before[1])
    assert_close(
        trained.evaluate([INPUTS, LABELS], verbose=0, return_dict=True)["loss"],
        SequenceCrossentropy()(LABELS, model(INPUTS)),
    )
    model, trained = models()
    embedding = model.get_layer("embedding")
    embedding.trainable = False
    before = model.get_weights()
    trained.compile(keras.optimizers.SGD(0.1))
    trained.fit([INPUTS, LABELS], verbose=0)
    assert_close(embedding.get_weights(), before[:1], tolerance=0)
    assert np.any(model.get_weights()[-1] != before[-1])


def test_losses_of_tokens_have_no_gradient():
    layer = TiedCrossentropy(kt.TokenEmbedding(VOCABULARY, WIDTH))
    with pytest.raises((ValueError, RuntimeError), match="no gradient"):
        value_and_gradients(lambda hidden: (ops.sum(layer(hidden, IDS)), ops.zeros(())), HIDDEN)


def test_what_does_not_fit_is_refused():
    embedding = kt.TokenEmbedding(VOCABULARY, WIDTH)
    with pytest.raises(ValueError, match="takes as `embedding`.*Received: 7"):
        TiedCrossentropy(7)
    with pytest.raises(ValueError, match=r"`label_smoothing` in \[0, 1\). Received: 1"):
        TiedCrossentropy(embedding, label_smoothing=1)
    with pytest.raises(ValueError, match="`ignore_id`"):
        TiedCrossentropy(embedding, ignore_id="0")
    with pytest.raises(ValueError, match="positive integer as block_size, got 0"):
        TiedCrossentropy(embedding, block_size=0)
    with pytest.raises(ValueError, match="without an activation"):
        TiedCrossentropy(keras.layers.Dense(VOCABULARY, activation="softmax"))
    layer = TiedCrossentropy(embedding)
    with pytest.raises(ValueError, match=r"labels of shape \(batch, length\), of hidden \(5, 7\), got \(5, 1\)"):
        layer(HIDDEN, IDS[:, :1])
    with pytest.raises(ValueError, match="width 3, got width 2"):
        layer(HIDDEN[..., :2], IDS)
    with pytest.raises(ValueError, match="integer ids as `labels`. Received: bfloat16"):
        layer(HIDDEN, ops.cast(IDS, "bfloat16"))
    embedding.quantize("int8")
    with pytest.raises(ValueError, match="is quantized to int8. Train before"):
        layer(HIDDEN, IDS)


MIRRORED = """
import json
import keras, numpy as np, tensorflow as tf
import keras_transformer as kt

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
random = np.random.default_rng(1)
lengths = np.array([11, 11, 11, 2, 1, 0] * 2)
ids = np.where(np.arange(11) < lengths[:, None], random.integers(1, 13, (12, 11)), 0).astype("int32")
data = tf.data.Dataset.from_tensor_slices(((ids, ids),)).batch(6)

def train(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(7)
        model = kt.models.language_model(13, num_layers=1, dim=10, num_heads=2, intermediate_dim=7, dropout=0.0)
        labels = keras.Input((None,), dtype="int32")
        loss = kt.training.TiedCrossentropy(model.get_layer("embedding"), label_smoothing=0.1)
        trained = keras.Model([model.input, labels], loss(model.get_layer("decoder_norm").output, labels))
        trained.compile(keras.optimizers.SGD(0.5, momentum=0.5))
    history = trained.fit(data, epochs=2, shuffle=False, verbose=0).history
    results = trained.evaluate(data, verbose=0, return_dict=True)
    return {"history": history, "evaluate": results, "weights": [w.tolist() for w in trained.get_weights()]}

class Decayed(keras.layers.Dense):
    def call(self, x):
        self.add_loss(0.3 * keras.ops.sum(self.kernel**2))
        return super().call(x)

def train_with_another_loss(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(7)
        model = keras.Sequential([keras.layers.Embedding(13, 3), Decayed(13)])
        model.compile(keras.optimizers.SGD(0.5), kt.training.SequenceCrossentropy())
    history = model.fit(data.map(lambda pair: pair), epochs=2, shuffle=False, verbose=0).history
    return {"history": history, "weights": [w.tolist() for w in model.get_weights()]}

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert mirrored.num_replicas_in_sync == 2
print(json.dumps([[one(strategy) for one in (train, train_with_another_loss)]
                  for strategy in (tf.distribute.get_strategy(), mirrored)]))
"""


@pytest.mark.slow
@pytest.mark.tensorflow
def test_two_replicas_equal_one_device(fresh_process, assert_close):
    one, two = json.loads(fresh_process(MIRRORED).splitlines()[-1])
    assert_close(two, one)
