"""average_checkpoints against the mean by hand, in float64."""

import keras
import numpy as np
import pytest

from keras_transformer.training import Checkpoints, average_checkpoints


def build(width=3):
    inputs = keras.Input((width,))
    model = keras.Model(
        inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(inputs)))
    )
    model.compile(keras.optimizers.SGD(0.3), "mse")
    return model


class Record(keras.callbacks.Callback):
    """The weights at the end of each epoch."""

    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.get_weights())


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    record, model = Record(), build()
    x = np.random.default_rng(3).normal(size=(10, 3))
    model.fit(x, x[:, :2], epochs=5, verbose=0, callbacks=[record, Checkpoints(directory, keep=4)])
    return directory, record.weights


@pytest.mark.parametrize("last", [1, 3, None])
def test_is_the_mean(training, last):
    directory, weights = training
    contents = [path.read_bytes() for path in sorted(directory.iterdir())]
    model = build()
    seeds = [keras.ops.convert_to_numpy(v).tolist() for v in model.non_trainable_variables if "seed" in v.path]
    paths = average_checkpoints(directory, model, last=last)
    assert len(paths) == (last or 4)
    for weight, values in zip(model.get_weights(), zip(*weights[-len(paths) :], strict=True), strict=True):
        np.testing.assert_allclose(weight, np.mean(np.array(values, "float64"), axis=0), rtol=1e-7)
    assert seeds == [keras.ops.convert_to_numpy(v).tolist() for v in model.non_trainable_variables if "seed" in v.path]
    assert contents == [path.read_bytes() for path in sorted(directory.iterdir())]
    chosen = build()
    average_checkpoints(paths, chosen)
    np.testing.assert_array_equal(chosen.get_weights()[0], model.get_weights()[0])


def test_refuses(training, tmp_path):
    directory, _ = training
    model = build()
    before = model.get_weights()
    with pytest.raises(ValueError, match="has 4 checkpoints, and 5 should be averaged"):
        average_checkpoints(directory, model, last=5)
    with pytest.raises(ValueError, match="has 0 checkpoints"):
        average_checkpoints(tmp_path, model)
    with pytest.raises(ValueError, match="positive integer or None as `last`. Received: 0"):
        average_checkpoints(directory, model, last=0)
    with pytest.raises(ValueError, match="another model. First difference"):
        average_checkpoints(directory, build(width=5))
    *_, newest = sorted(directory.iterdir())
    damaged = tmp_path / newest.name
    damaged.write_bytes(newest.read_bytes()[:-99])
    with pytest.raises(ValueError, match="is damaged"):
        average_checkpoints([newest, damaged], model)
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
