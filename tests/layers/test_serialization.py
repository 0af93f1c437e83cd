"""A `.keras` file gives back, in a process that only imports the package, the same model with the same outputs."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

from .helpers import CATALOGUE, DIM, HEAD_DIM, HEADS, IDS, INNER, VOCABULARY, X, as_numpy, build, randomize

LOAD = """
    import json, pathlib
    import keras, numpy as np
    import keras_transformer

    differences = {}
    for path in sorted(pathlib.Path(".").glob("*.keras")):
        model = keras.saving.load_model(path)
        saved = np.load(path.with_suffix(".npz"))
        inputs = [saved[name] for name in saved.files if name != "output"]
        output = keras.ops.convert_to_numpy(model(inputs))
        differences[path.stem] = float(np.abs(output - saved["output"]).max())
        if path.stem == "shared":
            first, second = (model.get_layer(name).self_attention.position for name in ("first", "second"))
            assert first is second
            differences["weights of shared"] = len(model.weights)
    print(json.dumps(differences))
"""


def shared_position_model():
    """Three layers, the first two of which share one T5 bias."""
    position = kt.RelativePosition(6, 5)
    ids = keras.Input((None,), dtype="int32")
    embedding = kt.TokenEmbedding(VOCABULARY, DIM)
    x = embedding(ids)
    x = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM, position=position, name="first")(x)
    x = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM, position=position, name="second")(x)
    x = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM, position=kt.RelativePosition(6, 5))(x)
    model = keras.Model([ids], embedding(x, reverse=True))
    randomize(model)
    return model


def dropped_mask_model():
    """A model in which an encoder layer took up a mask that `x + y` had dropped."""
    ids = keras.Input((None,), dtype="int32")
    x = kt.TokenEmbedding(VOCABULARY, DIM)(ids)
    with pytest.warns(UserWarning, match="Add"):
        x = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM)(x + ops.ones_like(x))
    return keras.Model([ids], x)


@pytest.mark.long
def test_every_layer_survives_a_file_and_a_fresh_process(tmp_path, fresh_process):
    weights = {}

    def save(name, model, *inputs):
        model.save(tmp_path / f"{name}.keras")
        output = as_numpy(model(list(inputs)))
        np.savez(tmp_path / f"{name}.npz", output=output, **{f"input_{i}": x for i, x in enumerate(inputs)})
        weights[name] = len(model.weights)

    for name in CATALOGUE:
        layer, inputs = build(name)
        symbols = [keras.Input((None, *x.shape[2:]), dtype=str(x.dtype)) for x in inputs]
        save(name, keras.Model(symbols, layer(*symbols)), *inputs)
    save("shared", shared_position_model(), IDS)
    save("dropped mask", dropped_mask_model(), IDS)

    differences = json.loads(fresh_process(LOAD, cwd=tmp_path).splitlines()[-1])
    assert differences.pop("weights of shared") == weights["shared"]
    assert set(differences) == {*CATALOGUE, "shared", "dropped mask"}
    assert {name: difference for name, difference in differences.items() if difference > 1e-5} == {}


def test_weights_survive_a_file_of_their_own(tmp_path, assert_close):
    model, other = shared_position_model(), shared_position_model()
    randomize(other, seed=4)
    model.save_weights(tmp_path / "model.weights.h5")
    assert np.abs(as_numpy(other([IDS])) - as_numpy(model([IDS]))).max() > 0.1
    other.load_weights(tmp_path / "model.weights.h5")
    assert_close(other([IDS]), model([IDS]))


def test_each_layer_given_the_same_position_shares_its_weights():
    model = shared_position_model()
    first, second = model.get_layer("first"), model.get_layer("second")
    assert first.self_attention.position is second.self_attention.position
    tables = [weight for weight in model.weights if "relative_position" in weight.path]
    assert len(tables) == 2


@keras.saving.register_keras_serializable("test_serialization")
class Shrink(keras.layers.Layer):
    """A norm of the user's own."""

    def __init__(self, power=0.5, **kwargs):
        super().__init__(**kwargs)
        self.power = power
        self.supports_masking = True

    def build(self, inputs_shape):
        self.factor = self.add_weight(name="factor", shape=(inputs_shape[-1],), initializer="ones")

    def call(self, inputs):
        return self.factor * ops.sign(inputs) * ops.abs(inputs) ** self.power

    def get_config(self):
        return {**super().get_config(), "power": self.power}


def test_norms_of_ones_own_survive_a_file(tmp_path, assert_close):
    norm = Shrink(0.7)
    norm.build((None, None, DIM))  # what it is made of counts, not its weights
    x = keras.Input((None, DIM))
    layer = kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM, norm=norm, norm_placement="both", qk_norm=Shrink(0.9))
    model = keras.Model(x, layer(x))
    randomize(model)
    factors = [w for w in model.weights if w.name == "factor"]
    assert len({id(w) for w in factors}) == 6 and all(w is not norm.factor for w in factors)
    layer.feed_forward_output_norm.trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded(X), model(X))
    assert loaded.layers[1].self_attention_output_norm.power == 0.7
    assert loaded.layers[1].self_attention.key_norm.power == 0.9
    assert [w.trainable for w in loaded.weights] == [w.trainable for w in model.weights]
