"""Training on several devices equals training on one, and no variable is left to chance."""

import json
import os
import socket
import textwrap
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import keras_transformer as kt

on_jax = pytest.mark.skipif(keras.backend.backend() != "jax", reason="keras.distribution needs JAX")

# Moments of a gradient that is zero but for rounding, as a key's bias has it, would differ: hence the large epsilon.
MODEL = """
import keras, numpy as np, keras_transformer as kt

random = np.random.default_rng(1)
source = np.where(np.arange(7) < random.integers(0, 8, 316)[:, None], random.integers(1, 16, (316, 7)), 0)
target = np.where(np.arange(6) < random.integers(0, 7, 316)[:, None], random.integers(1, 24, (316, 6)), 0)

def new_model(**options):
    keras.utils.set_random_seed(3)
    model = kt.models.transformer(16, 24, num_layers=1, dim=24, intermediate_dim=20, **options)
    model.compile(keras.optimizers.Adam(0.01, epsilon=1e-3), kt.training.SequenceCrossentropy(label_smoothing=0.1),
                  metrics=[kt.training.TokenAccuracy(), kt.training.Perplexity()])
    return model

def flat(arrays):
    return np.concatenate([array.ravel() for array in arrays]).tolist()
"""

ONE_MACHINE = """
def train(**options):
    model = new_model(**options)
    loss = model.fit([source[:160], target[:160, :-1]], target[:160, 1:], batch_size=8, shuffle=False, verbose=0)
    return model, {"loss": loss.history["loss"], "weights": flat(model.get_weights())}

mesh = keras.distribution.DeviceMesh((2, 4), ["batch", "model"])
results = {}
for name, options in {
    "plain": {"num_heads": 4, "dropout": 0.0},
    "uneven heads, gated, dropout": {"num_heads": 3, "dropout": 0.1, "gated": True, "position": kt.RelativePosition},
}.items():
    results[name] = {"one": train(**options)[1]}
    with keras.distribution.DataParallel().scope():
        results[name]["data"] = train(**options)[1]
    layouts = kt.training.layout_map(mesh)
    with keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch").scope():
        model, results[name]["model"] = train(**options)
    shards = {v.path: v.value.addressable_shards for v in model.weights + model.optimizer.variables}
    results[name]["shards"] = {path: (len(parts), parts[0].data.shape) for path, parts in shards.items()}
    model.save("model.keras")
    results[name]["logits"] = flat(model([source[:8], target[:8]], training=False)[None])
with keras.distribution.ModelParallel(layout_map=kt.training.layout_map(mesh), batch_dim_name="batch").scope():
    try:
        kt.TokenEmbedding(13, 24).build()
    except ValueError as error:
        results["vocabulary of 13"] = str(error)
print(json.dumps(results))
"""

SHARDS = {
    "source_embedding/embeddings": [4, 24],
    "target_embedding/embeddings": [6, 24],
    "encoder_0/self_attention/query_key_value/kernel": [24, 18],
    "encoder_0/self_attention/query_key_value/bias": [18],
    "encoder_0/self_attention/output/kernel": [6, 24],
    "encoder_0/self_attention/output/bias": [24],
    "decoder_0/cross_attention/query/kernel": [24, 6],
    "decoder_0/cross_attention/key_value/kernel": [24, 12],
    "decoder_0/cross_attention/key_value/bias": [12],
    "decoder_0/feed_forward/inner/kernel": [24, 5],
    "decoder_0/feed_forward/inner/bias": [5],
    "decoder_0/feed_forward/outer/kernel": [5, 24],
    "decoder_0/feed_forward/outer/bias": [24],
    "decoder_0/feed_forward_norm/gamma": [24],
}

TWO_PROCESSES = """
import pathlib
import jax
keras.distribution.initialize()
rows, labels = [source[:316], target[:316, :-1]], target[:316, 1:]

class Interruption(Exception):
    pass

def interrupt(batch, logs):
    if batch == 8:
        raise Interruption

def train(inputs, labels, batch_size, **options):
    model = new_model(num_heads=4, dropout=0.0)
    return model, model.fit(inputs, labels, batch_size=batch_size, shuffle=False, verbose=0, **options)

def train_with_interruption(directory, distribution, inputs, labels, batch_size):
    with distribution.scope():
        checkpoints = kt.training.Checkpoints(directory, every=7)
        interruption = keras.callbacks.LambdaCallback(on_train_batch_end=interrupt)
        try:
            train(inputs, labels, batch_size, callbacks=[checkpoints, interruption])
        except Interruption:
            assert pathlib.Path(directory, "step-0000000007.npz").exists()  # the first process has written it
        model, checkpoints = new_model(num_heads=4, dropout=0.0), kt.training.Checkpoints(directory, every=7)
        position = checkpoints.resume(model)
        assert position == (0, 7, 7), position
        inputs, labels = keras.tree.map_structure(lambda array: array[7 * batch_size:], (inputs, labels))
        options = {"batch_size": batch_size, "steps_per_epoch": 20, "shuffle": False, "verbose": 0}
        model.fit(inputs, labels, callbacks=[checkpoints], **options)
    model = new_model(num_heads=4, dropout=0.0)  # on one device
    assert kt.training.Checkpoints(directory).resume(model) == (1, 0, 20)
    return flat(model.get_weights())

def mine(array):
    array = np.pad(array, [(0, -len(array) % 16), (0, 0)])  # rows of padding alone: they count nothing
    return array[jax.process_index()::jax.process_count()]

results = {"one": flat(train(rows, labels, 16)[0].get_weights())}  # with a last batch of 12
mesh = keras.distribution.DeviceMesh((2, 4), ["batch", "model"])
data = keras.distribution.DataParallel(auto_shard_dataset=False)
model = keras.distribution.ModelParallel(
    layout_map=kt.training.layout_map(mesh), batch_dim_name="batch", auto_shard_dataset=False
)
arguments = [mine(array) for array in rows], mine(labels), 8
results["data, resumed"] = train_with_interruption("checkpoints", data, *arguments)
for name, distribution in {"data": data, "model": model}.items():
    with distribution.scope():
        results[name] = flat(train(*arguments)[0].get_weights())
print(json.dumps([len(jax.devices()), len(jax.local_devices()), results]))
"""

MIRRORED = """
import json
import keras, numpy as np, tensorflow as tf
import keras_transformer as kt
from keras_transformer.training import Checkpoints, Perplexity, SequenceCrossentropy, TokenAccuracy

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

# Rows with 11, 11, 11, 2, 1 and 0 real tokens: the halves of a batch, one for each replica, differ.
random = np.random.default_rng(1)
lengths = np.array([11, 11, 11, 2, 1, 0] * 3)
ids = np.where(np.arange(11) < lengths[:, None], random.integers(1, 13, (18, 11)), 0).astype("int32")
weights = random.uniform(0.5, 2, 18).astype("float32")
data = tf.data.Dataset.from_tensor_slices((ids, ids, weights)).batch(6)

def new_model(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(7)
        model = kt.models.language_model(13, num_layers=1, dim=10, num_heads=2, intermediate_dim=7, dropout=0.0)
        model.compile(keras.optimizers.SGD(0.5, momentum=0.5), SequenceCrossentropy(label_smoothing=0.1),
                      metrics=[TokenAccuracy(), Perplexity()])
    return model

def train(strategy, directory=None):
    model = new_model(strategy)
    if directory is None:
        loss = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    else:  # the second epoch by another model, from a checkpoint
        model.fit(data, shuffle=False, verbose=0, callbacks=[Checkpoints(directory)])
        model, checkpoints = new_model(strategy), Checkpoints(directory)
        position = checkpoints.resume(model)
        assert position == (1, 0, 3), position
        model.fit(data, epochs=2, initial_epoch=1, shuffle=False, verbose=0, callbacks=[checkpoints])
        loss = [epoch["loss"] for epoch in checkpoints.history]
    results = model.evaluate(data, verbose=0, return_dict=True)
    return {"loss": loss, "evaluate": [results[name] for name in sorted(results)],
            "weights": np.concatenate([w.ravel() for w in model.get_weights()]).tolist()}

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert mirrored.num_replicas_in_sync == 2
print(json.dumps({"one": train(tf.distribute.get_strategy()), "two": train(mirrored, "checkpoints")}))
"""


@pytest.mark.distributed
@pytest.mark.tensorflow
def test_two_replicas_interrupted_and_resumed_equal_one_device(fresh_process, tmp_path):
    results = json.loads(fresh_process(MIRRORED, cwd=tmp_path).splitlines()[-1])
    for name in ["weights", "loss", "evaluate"]:
        np.testing.assert_allclose(results["two"][name], results["one"][name], rtol=1e-5, atol=1e-5, err_msg=name)


def on_devices(count: int, **environment) -> dict:
    """The environment of a process that sees `count` devices on JAX."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"KERAS_BACKEND": "jax", "XLA_FLAGS": flags, **environment}


@pytest.mark.distributed
def test_eight_devices_equal_one(fresh_process, tmp_path):
    output = fresh_process("import json\n" + MODEL + ONE_MACHINE, cwd=tmp_path, **on_devices(8))
    results = json.loads(output.splitlines()[-1])
    assert "(13, 24)" in results.pop("vocabulary of 13")
    for name, result in results.items():
        for parallel in ["data", "model"]:
            for what in ["loss", "weights"]:
                np.testing.assert_allclose(
                    result[parallel][what], result["one"][what], rtol=1e-5, atol=1e-5, err_msg=f"{name}: {parallel}"
                )
    shards = results["plain"]["shards"]
    assert {path: shards[path] for path in SHARDS} == {path: [8, shape] for path, shape in SHARDS.items()}
    for path, shape in SHARDS.items():  # the moments lie where their variables do
        assert [shards[moment] for moment in shards if moment.endswith(f"{path.replace('/', '_')}_momentum")] == [
            [8, shape]
        ]

    # What was trained on eight devices on JAX is the same model on one on TensorFlow.
    loaded = """
        import json
        model = keras.saving.load_model("model.keras")
        print(json.dumps(flat(keras.ops.convert_to_numpy(model([source[:8], target[:8]], training=False))[None])))
    """
    output = fresh_process(MODEL + textwrap.dedent(loaded), cwd=tmp_path, KERAS_BACKEND="tensorflow")
    np.testing.assert_allclose(json.loads(output.splitlines()[-1]), result["logits"], rtol=1e-5, atol=1e-5)


@pytest.mark.distributed
def test_two_processes_equal_one_device_interrupted_or_not(fresh_process, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"

    def run(index):
        environment = on_devices(
            4,
            KERAS_DISTRIBUTION_JOB_ADDRESSES=address,
            KERAS_DISTRIBUTION_NUM_PROCESSES="2",
            KERAS_DISTRIBUTION_PROCESS_ID=str(index),
            JAX_CPU_ENABLE_ASYNC_DISPATCH="false",  # collectives of two steps at once wait for each other on few cores
        )
        output = fresh_process("import json\n" + MODEL + TWO_PROCESSES, cwd=tmp_path, **environment)
        return json.loads(output.splitlines()[-1])

    with ThreadPoolExecutor(2) as pool:
        for devices, local_devices, results in pool.map(run, range(2)):
            assert (devices, local_devices) == (8, 4)
            one = results.pop("one")
            for name, weights in results.items():
                np.testing.assert_allclose(weights, one, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.fixture
def mesh():
    return keras.distribution.DeviceMesh((1, 1), ["batch", "model"], keras.distribution.list_devices()[:1])


MODELS = {
    "transformer": lambda: kt.models.transformer(
        16, 24, num_layers=1, dim=8, num_heads=4, intermediate_dim=16, qk_norm=True, norm="rms", normalize_first=True,
        position=kt.RelativePosition, gated=True, num_kv_heads=2, norm_placement="before",
    ),
    "language_model": lambda: kt.models.language_model(16, num_layers=1, dim=8, num_heads=2, intermediate_dim=8),
    "encoder_classifier": lambda: kt.models.encoder_classifier(16, 3, num_layers=1, dim=8, num_heads=2),
    "additive": lambda: kt.models.recurrent_seq2seq(16, 24, cell="gru", attention="additive", dim=8, dropout=0.1),
    "dot": lambda: kt.models.recurrent_seq2seq(16, 24, cell="lstm", attention="dot", dim=8),
    "rnn": lambda: kt.models.recurrent_seq2seq(16, 24, cell="rnn", dim=8),
    "own": lambda: own_model(),
}  # fmt: skip


def own_model():
    tokens = keras.Input((None,), dtype="int32")
    embedding = kt.TokenEmbedding(16, 8, output_bias=True)
    x = kt.LearnedPositionalEncoding(8, 2)(embedding(tokens))
    x = kt.RMSNormalization(offset=1.0)(kt.FeedForward(8)(kt.MultiHeadSelfAttention(2, dropout=0.1, sinks=True)(x)))
    x = kt.EncoderLayer(2, 8, norm_placement="both", qk_norm=kt.LayerNormalization())(x)
    return keras.Model(tokens, embedding(kt.MultiHeadCrossAttention(2)(x, x), reverse=True))


@on_jax
@pytest.mark.parametrize("name", MODELS)
def test_every_variable_has_a_rule_of_its_rank(name, mesh):
    layouts = kt.training.layout_map(mesh)
    with keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch").scope():
        model = MODELS[name]()
        metrics = [kt.training.TokenAccuracy(), keras.metrics.F1Score(), keras.metrics.Precision()]
        model.compile("adafactor" if name == "own" else "adamw", metrics=metrics)
        model.optimizer.build(model.trainable_variables)
    for variable in model.variables:
        assert len(layouts[variable.path].axes) in (0, len(variable.shape)), variable.path
    for variable in model.trainable_variables:  # all that is large is divided, but for what is recurrent
        recurrent = "_cell" in variable.path or "bridge" in variable.path
        small = len(variable.shape) == 1 or "position" in variable.path or "classes" in variable.path
        assert ("model" in layouts[variable.path].axes) != recurrent or small, variable.path


@on_jax
@pytest.mark.parametrize("mode", ["int8", "int4", "float8"])
def test_what_lora_and_quantization_add_has_a_rule(mode, mesh):
    layouts = kt.training.layout_map(mesh)
    with keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch").scope():
        embedding = kt.TokenEmbedding(16, 24)
        layer = kt.EncoderLayer(2, 20)
        embedding(np.ones((1, 3))), layer(np.ones((1, 3, 24)))
        parts = [x for x in (embedding, *layer._flatten_layers()) if hasattr(x, "adapted")]
        for part in parts if mode != "float8" else parts[1:]:
            part.quantize(mode)
            part.enable_lora(2)
    for variable in (*embedding.variables, *layer.variables):
        assert len(layouts[variable.path].axes) in (0, len(variable.shape)), variable.path


@on_jax
def test_variables_without_a_rule_are_named(mesh):
    layouts = kt.training.layout_map(mesh)
    with keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch").scope():
        with pytest.raises(ValueError, match=r"'gate/kernel'.*layouts\['gate/kernel'\] = \(\)"):
            keras.layers.Dense(5, name="gate").build((None, 3))
        layouts[r"(.*/)?gate/kernel"] = (None, "model")
        layouts[r"(.*/)?gate/bias"] = ()
        keras.layers.Dense(5, name="gate").build((None, 3))


@on_jax
def test_the_last_rule_holds(mesh):
    layouts = kt.training.layout_map(mesh)
    assert layouts["words_embedding/embeddings"].axes == ("model", None)
    layouts[".*embedding/embeddings"] = ()
    assert layouts["words_embedding/embeddings"].axes == ()


@on_jax
def test_experts_are_divided_among_devices(mesh):
    layouts = kt.training.layout_map(mesh)
    with keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch").scope():
        layer = kt.DecoderLayer(2, feed_forward=kt.MixtureOfExperts(4, 8))
        layer(np.ones((2, 3, 4), "float32"))
    axes = {w.path.split(f"{layer.feed_forward.name}/")[-1]: layouts[w.path].axes for w in layer.feed_forward.weights}
    for part in ("experts_inner", "experts_outer"):
        assert axes.pop(f"{part}/kernel") == ("model", None, None)
        assert axes.pop(f"{part}/bias") == ("model", None)
    assert axes == {"router": ()}
    other = kt.training.layout_map(mesh, expert_axis="batch")
    assert other[layer.feed_forward.inner.kernel.path].axes == ("batch", None, None)
    with pytest.raises(ValueError, match="expert_axis='experts'"):
        kt.training.layout_map(mesh, expert_axis="experts")


@on_jax
def test_the_mesh_is_checked(mesh):
    with pytest.raises(ValueError, match="batch_axis='rows'.*axes.*'batch', 'model'"):
        kt.training.layout_map(mesh, batch_axis="rows")
    with pytest.raises(ValueError, match="model_axis='batch'"):
        kt.training.layout_map(mesh, model_axis="batch")
    with pytest.raises(ValueError, match="DeviceMesh, got 8"):
        kt.training.layout_map(8)
    with pytest.raises(ValueError, match="not match the number of devices"):
        keras.distribution.DeviceMesh((2, 3), ["batch", "model"], ["cpu:0"])


@pytest.mark.tensorflow
def test_tensorflow_is_refused():
    with pytest.raises(ValueError, match="MirroredStrategy"):
        kt.training.layout_map(None)
