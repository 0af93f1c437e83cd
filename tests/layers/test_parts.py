"""What has been set on a layer, or on a part of one at any depth, is there again after every way to copy or save it."""

import pickle

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.layers.projection import Projection

from .helpers import CATALOGUE, DIM, INNER, VOCABULARY, as_numpy, build

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

IDS = np.random.default_rng(1).integers(1, VOCABULARY, (5, 7)).astype("int32")


def flags(layer) -> list:
    """Of each part and each weight: whether it is trainable."""
    return [
        (type(x).__name__, x.name.rstrip("_0123456789"), x.trainable)
        for x in (*layer._flatten_layers(), *layer.weights)
    ]


def rebuilt(layer, inputs):
    """A layer from the other's configuration, built."""
    clone = type(layer).from_config(layer.get_config())
    clone(*inputs)
    assert clone.get_config() == layer.get_config()
    return clone


def small_model(**options):
    options = {
        "num_layers": 1,
        "dim": DIM - DIM % 2,
        "num_heads": 2,
        "intermediate_dim": INNER,
        "dropout": 0.0,
        **options,
    }
    return kt.models.language_model(VOCABULARY, **options)


def train(model, epochs=3):
    """The losses of some steps with Adam."""
    if not model.compiled:
        model.compile(keras.optimizers.Adam(0.01), kt.training.SequenceCrossentropy(), jit_compile=False)
    return model.fit(IDS, np.roll(IDS, -1, 1), batch_size=5, epochs=epochs, shuffle=False, verbose=0).history["loss"]


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_layer_made_frozen_has_nothing_to_train(name):
    layer, inputs = CATALOGUE[name](trainable=False)
    layer(*inputs)
    assert layer.trainable_weights == []
    assert not any(weight.trainable for weight in layer.weights)
    assert not any(weight.trainable for weight in rebuilt(layer, inputs).weights)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_layer_frozen_later_comes_back_frozen(name):
    layer, inputs = build(name)
    layer.trainable = False
    assert flags(rebuilt(layer, inputs)) == flags(layer)


@pytest.mark.parametrize("name", CATALOGUE)
def test_each_part_keeps_its_own_flag(name):
    layer, inputs = build(name)
    parts = [x for x in layer._flatten_layers(include_self=False) if x.weights and type(x).__name__ != "LSTMCell"]
    for part in parts:
        part.trainable = False  # this one alone
        assert flags(rebuilt(layer, inputs)) == flags(layer), part.path
        layer.trainable = False
        part.trainable = True  # all but this one
        assert flags(rebuilt(layer, inputs)) == flags(layer), part.path
        layer.trainable = True
    assert "parts" not in layer.get_config()


def test_a_flag_that_was_loaded_may_be_changed():
    layer, inputs = build("DecoderLayer")
    layer.cross_attention.query.trainable = False
    clone = rebuilt(layer, inputs)
    clone.trainable = False  # Keras does nothing where a layer is what it is to become
    clone.trainable = True
    assert all(trainable for _, _, trainable in flags(rebuilt(clone, inputs)))


def test_parts_set_before_the_layer_is_built():
    layer, inputs = CATALOGUE["EncoderLayer"]()
    layer.feed_forward.trainable = False
    layer.self_attention.dropout = 0.25
    clone = type(layer).from_config(type(layer).from_config(layer.get_config()).get_config())
    clone(*inputs)
    assert clone.self_attention.dropout == 0.25
    assert {x.path.split("/")[1] for x in clone.weights if not x.trainable} == {"feed_forward"}


def test_other_settings_of_parts():
    layer, inputs = build("EncoderLayer, all options")
    layer.self_attention.soft_cap = 5.0
    layer.feed_forward.outer.dtype_policy = "mixed_bfloat16"
    layer.self_attention_dropout.rate = 0.125
    clone = rebuilt(layer, inputs)
    clone.set_weights(layer.get_weights())
    assert clone.self_attention.soft_cap == 5.0 and clone.self_attention_dropout.rate == 0.125
    assert clone.feed_forward.outer.compute_dtype == "bfloat16"
    np.testing.assert_array_equal(as_numpy(clone(*inputs)), as_numpy(layer(*inputs)))


def test_a_shared_position_is_frozen_with_its_layer_or_by_itself():
    for trainable in (True, False):
        x = keras.Input((7, DIM))
        position = kt.RelativePosition(6, 5)
        layer = kt.EncoderLayer(1, INNER, position=position, trainable=not trainable)
        y = layer(x)
        position.trainable = trainable
        model = keras.Model(x, y)
        for copy in (keras.models.clone_model(model), keras.Model.from_config(model.get_config())):
            assert copy.layers[1].self_attention.position.trainable == trainable
            assert len(copy.trainable_weights) == len(model.trainable_weights)
    position = kt.RelativePosition(6, 5, trainable=False)
    layer = kt.EncoderLayer(1, INNER, position=position)
    layer(np.ones((1, 7, DIM)))
    assert [x.name for x in layer.non_trainable_weights] == ["embeddings"]


@pytest.mark.parametrize("name", [name for name in CATALOGUE if "relative" in name or "all options" in name])
def test_the_weights_of_a_copy_have_the_same_paths(name):
    """By which layouts, optimizers and weight decay choose among them."""
    layer, inputs = CATALOGUE[name]()
    symbols = [keras.Input(x.shape[1:], dtype=str(x.dtype)) for x in inputs]
    model = keras.Model(symbols, layer(*symbols))
    for copied in (keras.models.clone_model(model), pickle.loads(pickle.dumps(model))):
        assert [x.path for x in copied.weights] == [x.path for x in model.weights]


def nested(inner):
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, keras.layers.Dense(VOCABULARY)(inner(ids)))


def in_time(layer):
    """A layer called on each half of a sequence by itself."""
    x = keras.Input((4, 3, DIM))
    return keras.Model(x, keras.layers.TimeDistributed(layer)(x))


def rematerialized():
    ids = keras.Input((None,), dtype="int32")
    x = kt.training.Remat(kt.DecoderLayer(1, INNER))(kt.TokenEmbedding(VOCABULARY, DIM)(ids))
    return keras.Model(ids, keras.layers.Dense(VOCABULARY)(x))


@keras.saving.register_keras_serializable("test_parts")
class Subclassed(keras.Model):
    """A model of a user's that keeps its layers by their configurations."""

    def __init__(self, embedding, layer, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.layer = embedding, layer

    def call(self, ids):
        return self.embedding(self.layer(self.embedding(ids)), reverse=True)

    def get_config(self):
        parts = {"embedding": self.embedding, "layer": self.layer}
        return {name: keras.saving.serialize_keras_object(part) for name, part in parts.items()}

    @classmethod
    def from_config(cls, config):
        return cls(**{name: keras.saving.deserialize_keras_object(part) for name, part in config.items()})


def subclassed():
    model = Subclassed(kt.TokenEmbedding(VOCABULARY, DIM), kt.DecoderLayer(1, INNER))
    model(IDS)
    return model


MODELS = {
    "functional": small_model,
    "nested": lambda: nested(small_model()),
    "sequential": lambda: keras.Sequential(
        [
            keras.Input((7,), dtype="int32"),
            kt.TokenEmbedding(VOCABULARY, DIM),
            kt.FeedForward(INNER),
            keras.layers.Dense(VOCABULARY),
        ]
    ),
    "rematerialized": rematerialized,
    "subclassed": subclassed,
}


def adapt(model, rank=2, alpha=3.0):
    """Freeze everything, then give LoRA to every layer that takes it, as fine-tuning does."""
    model.trainable = True
    layers = model._flatten_layers(include_self=False)
    for layer in layers:
        layer.trainable = False
    adapted = [layer for layer in layers if isinstance(layer, Projection | kt.TokenEmbedding)]
    for layer in adapted:
        layer.trainable = True
        layer.enable_lora(rank, lora_alpha=alpha)
    return adapted


@pytest.mark.parametrize("name", [pytest.param(x, marks=() if x == "functional" else pytest.mark.slow) for x in MODELS])
def test_fine_tuning_with_lora_goes_on_after_it_was_saved(name, tmp_path):
    keras.utils.set_random_seed(0)
    model = MODELS[name]()
    assert adapt(model)
    losses = train(model)
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(as_numpy(loaded(IDS)), as_numpy(model(IDS)), rtol=0, atol=1e-6)
    assert [x.trainable for x in loaded.weights] == [x.trainable for x in model.weights]
    assert [x.shape for x in loaded.trainable_weights] == [x.shape for x in model.trainable_weights]
    for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(as_numpy(ours), as_numpy(theirs))
    np.testing.assert_allclose(train(loaded), train(model), rtol=1e-5)


def test_parts_of_a_layer_in_time_distributed_stay_frozen(tmp_path):
    model = in_time(kt.FeedForward(INNER))
    model.layers[1].layer.outer.trainable = False
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert [x.path.split("/")[-2:] for x in loaded.trainable_weights] == [["inner", "kernel"], ["inner", "bias"]]


def test_saved_frozen_layers_do_not_move(tmp_path):
    model = small_model()
    model.get_layer("decoder_0").trainable = False
    model.save(tmp_path / "model.keras")
    for copy in (keras.models.load_model(tmp_path / "model.keras"), keras.models.clone_model(model)):
        before = [as_numpy(x) for x in copy.get_layer("decoder_0").weights]
        train(copy, epochs=1)
        for now, then in zip(copy.get_layer("decoder_0").weights, before, strict=True):
            np.testing.assert_array_equal(as_numpy(now), then)


def factors(layer):
    name = layer.adapted
    return [as_numpy(getattr(layer, f"lora_{name}_{x}")) for x in "ab"]


def test_weights_with_lora_are_read_by_layers_with_and_without_it(tmp_path):
    keras.utils.set_random_seed(1)
    model, plain, other = small_model(), small_model(), small_model()
    adapt(model)
    train(model)
    model.save_weights(tmp_path / "lora.weights.h5")
    plain.load_weights(tmp_path / "lora.weights.h5")  # A B is added to the matrices
    np.testing.assert_allclose(as_numpy(plain(IDS)), as_numpy(model(IDS)), rtol=0, atol=1e-5)
    plain.save_weights(tmp_path / "plain.weights.h5")
    for layer in adapt(other):
        for factor in layer._factors.values():
            factor.assign(np.ones(factor.shape))
    before = [factors(x)[0] for x in other._flatten_layers() if hasattr(x, "adapted")]
    other.load_weights(tmp_path / "plain.weights.h5")
    np.testing.assert_allclose(as_numpy(other(IDS)), as_numpy(plain(IDS)), rtol=0, atol=1e-6)
    for layer, a in zip([x for x in other._flatten_layers() if hasattr(x, "adapted")], before, strict=True):
        np.testing.assert_array_equal(factors(layer)[0], a)  # else nothing would be learned from here
        assert not factors(layer)[1].any()


def test_what_lora_froze_stays_frozen_when_the_layer_is_unfrozen():
    for layer, inputs in ((Projection(5), np.ones((2, 3, 4))), (kt.TokenEmbedding(11, 5), np.ones((2, 3)))):
        layer(inputs)
        layer.enable_lora(2)
        layer.trainable = False
        layer.trainable = True
        assert {x.name for x in layer.non_trainable_weights} == {layer.adapted}


@pytest.mark.parametrize("alpha", [None, 3.0])
def test_lora_of_an_embedding_is_e_plus_a_b_both_ways(alpha, assert_close):
    layer = kt.TokenEmbedding(VOCABULARY, DIM, lora_rank=2, lora_alpha=alpha)
    x = np.random.default_rng(2).normal(size=(2, 3, DIM)).astype("float32")
    layer(IDS)
    layer.lora_embeddings_b.assign(np.random.default_rng(3).normal(size=(2, DIM)))
    table, (a, b) = as_numpy(layer._embeddings), factors(layer)
    table = table + (alpha or 2.0) / 2 * a @ b
    assert_close(layer(IDS), table[IDS])
    assert_close(layer(x, reverse=True), x @ table.T)
