"""Training on several replicas equals training on one device, however unequally the padding is spread."""

import json

import numpy as np
import pytest

TRAIN = """
import json
import keras, numpy as np, tensorflow as tf
from keras_transformer.training import Perplexity, SequenceCrossentropy, TokenAccuracy

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

# Rows with 11, 11, 11, 2, 1 and 0 real tokens: the halves of a batch, one for each replica, differ.
random = np.random.default_rng(1)
lengths = np.array([11, 11, 11, 2, 1, 0] * 3)
ids = np.where(np.arange(11) < lengths[:, None], random.integers(1, 13, (18, 11)), 0).astype("int32")
weights = random.uniform(0.5, 2, 18).astype("float32")
data = tf.data.Dataset.from_tensor_slices((ids, ids, weights)).batch(6)

def train(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(7)
        model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(13, 5),
                                  keras.layers.Dense(13)])
        model.compile(keras.optimizers.SGD(0.5), SequenceCrossentropy(label_smoothing=0.1),
                      metrics=[TokenAccuracy(), Perplexity()])
    loss = model.fit(data, epochs=2, shuffle=False, verbose=0).history["loss"]
    results = model.evaluate(data, verbose=0, return_dict=True)
    return {"loss": loss, "evaluate": [results[name] for name in sorted(results)],
            "weights": np.concatenate([w.ravel() for w in model.get_weights()]).tolist()}

mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
assert mirrored.num_replicas_in_sync == 2
print(json.dumps({"one": train(tf.distribute.get_strategy()), "two": train(mirrored)}))
"""


@pytest.mark.tensorflow
def test_two_replicas_equal_one_device(fresh_process):
    results = json.loads(fresh_process(TRAIN).splitlines()[-1])
    for name in ["weights", "loss", "evaluate"]:
        np.testing.assert_allclose(results["two"][name], results["one"][name], rtol=1e-5, atol=1e-5, err_msg=name)
