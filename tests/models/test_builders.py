"""The builders give the models that one would compose by hand, ready to train, save and mask."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

SIZES = {"num_layers": 1, "dim": 20, "num_heads": 2, "intermediate_dim": 13, "dropout": 0.1}
MODERN = {"position": kt.RotaryPosition, "normalize_first": True, "norm": "rms", "gated": True, "num_kv_heads": 1}
SOURCE = np.array([[5, 9, 4, 22, 16], [8, 3, 7, 0, 0]])
TARGET = np.array([[2, 11, 7, 28], [2, 6, 0, 0]])


def transformer(**options):
    return kt.models.transformer(23, 29, **{**SIZES, **options})


def language_model(**options):
    return kt.models.language_model(29, **{**SIZES, **options})


def encoder_classifier(**options):
    return kt.models.encoder_classifier(29, 3, **{**SIZES, **options})


BUILDERS = {
    "transformer": (transformer, ["source", "target"], (None, None, 29), [SOURCE, TARGET]),
    "language_model": (language_model, ["tokens"], (None, None, 29), [TARGET]),
    "encoder_classifier": (encoder_classifier, ["tokens"], (None, 3), [TARGET]),
}


def input_of(arrays):
    return arrays if len(arrays) > 1 else arrays[0]


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("options", [{}, MODERN], ids=["paper", "modern"])
def test_inputs_and_output(builder, options):
    build, names, output_shape, arrays = BUILDERS[builder]
    model = build(**options)
    assert isinstance(model, keras.Model)
    assert model.name == builder
    assert [x.name for x in model.inputs] == names
    assert {keras.backend.standardize_dtype(x.dtype) for x in model.inputs} == {"int32"}
    assert model.output_shape == output_shape
    output = model(input_of(arrays))
    assert output.shape == tuple(got or want for got, want in zip(output_shape, (2, 4, 29), strict=False))


def by_hand_transformer():
    source, target = (keras.Input((None,), dtype="int32") for _ in range(2))
    x = kt.PositionalEncoding()(kt.TokenEmbedding(23, 20, scale=True)(source))
    x = kt.EncoderLayer(2, 13)(x)
    embedding = kt.TokenEmbedding(29, 20, scale=True)
    y = kt.PositionalEncoding()(embedding(target))
    y = kt.DecoderLayer(2, 13)(y, x)
    return keras.Model([source, target], embedding(y, reverse=True))


def by_hand_language_model():
    tokens = keras.Input((None,), dtype="int32")
    embedding = kt.TokenEmbedding(29, 20, scale=True)
    x = kt.PositionalEncoding()(embedding(tokens))
    x = kt.DecoderLayer(2, 13, normalize_first=True)(x)
    x = keras.layers.LayerNormalization(epsilon=1e-5)(x)
    return keras.Model(tokens, embedding(x, reverse=True))


def by_hand_encoder_classifier():
    tokens = keras.Input((None,), dtype="int32")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(29, 20, scale=True)(tokens))
    x = kt.EncoderLayer(2, 13)(x)
    return keras.Model(tokens, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))


@pytest.mark.parametrize(
    "builder, by_hand",
    [
        ("transformer", by_hand_transformer),
        ("language_model", by_hand_language_model),
        ("encoder_classifier", by_hand_encoder_classifier),
    ],
)
def test_equals_the_model_composed_by_hand(builder, by_hand, assert_close):
    build, _, _, arrays = BUILDERS[builder]
    model, expected = build(), by_hand()
    model.set_weights([0.3 * np.random.default_rng(0).normal(size=w.shape) for w in model.weights])
    # Keras lists the weights layer by layer in the order of the graph, which the two models share.
    expected.set_weights(model.get_weights())
    assert_close(model(input_of(arrays)), expected(input_of(arrays)))


def test_number_of_layers():
    model = transformer(num_layers=3)
    kinds = [type(layer) for layer in model.layers]
    assert kinds.count(kt.EncoderLayer) == kinds.count(kt.DecoderLayer) == 3


def test_position_made_for_each_layer_or_shared_by_all():
    shared = kt.RelativePosition(8, 16)
    own = language_model(num_layers=2, position=lambda: kt.RelativePosition(8, 16))
    together = language_model(num_layers=2, position=shared)
    tables = [w for w in own.weights if w.shape == (8, 2)]
    assert len(tables) == 2
    assert [w for w in together.weights if w.shape == (8, 2)] == list(shared.weights)


def copy_task(rows=64):
    random = np.random.default_rng(0)
    source = random.integers(4, 13, (rows, 4))
    target = np.concatenate([np.full((rows, 1), 2), source], axis=1)
    return source, target


@pytest.fixture(scope="module")
def trained():
    """A small transformer that has learned to copy, and its losses."""
    keras.utils.set_random_seed(1)
    model = kt.models.transformer(13, 13, num_layers=1, dim=24, num_heads=2, intermediate_dim=48, dropout=0.1)
    model.compile(keras.optimizers.Adam(5e-3), kt.training.SequenceCrossentropy())
    source, target = copy_task(256)
    history = model.fit([source, target[:, :-1]], target[:, 1:], batch_size=32, epochs=16, verbose=0)
    return model, history.history["loss"]


@pytest.mark.long
def test_trains_with_fit(trained):
    _, losses = trained
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("options", [{}, {**MODERN, "position": kt.RelativePosition}], ids=["paper", "modern"])
def test_saved_and_loaded(builder, options, tmp_path, assert_close):
    build, _, _, arrays = BUILDERS[builder]
    model = build(**options)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded(input_of(arrays)), model(input_of(arrays)))


def test_relative_position_shared_by_all_layers_is_shared_after_loading(tmp_path):
    model = language_model(num_layers=2, position=kt.RelativePosition(8, 16))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.count_params() == model.count_params()


@pytest.mark.parametrize("norm, normalize_first", [("layer", False), ("rms", True)])
def test_classes_do_not_depend_on_padding(norm, normalize_first, assert_close):
    model = encoder_classifier(norm=norm, normalize_first=normalize_first)
    alone = np.array([[5, 9, 4]])
    padded = np.array([[5, 9, 4, 0, 0, 0, 0], [8, 3, 7, 1, 1, 2, 6]])
    assert_close(model(padded)[:1], model(alone))


@pytest.mark.parametrize("options", [{}, MODERN], ids=["paper", "modern"])
def test_logits_do_not_depend_on_padding(options, assert_close):
    model = transformer(**options)
    source, target = np.pad(SOURCE, ((0, 0), (0, 2))), np.pad(TARGET, ((0, 0), (0, 3)))
    assert_close(model([source, target])[:, :4], model([SOURCE, TARGET]))
    assert_close(model([source, target])[1:, :2], model([SOURCE[1:, :3], TARGET[1:, :2]]))


def test_a_text_without_a_token_is_classified_and_trained_on():
    model = encoder_classifier()
    tokens = np.array([[5, 9, 4, 0], [8, 0, 0, 0], [0, 0, 0, 0]])
    logits = np.asarray(model.predict(tokens, verbose=0))
    np.testing.assert_allclose(logits[2], model.get_layer("classes").bias)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(tokens, np.array([0, 1, 2]), epochs=2, verbose=0)
    assert np.isfinite(model.predict(tokens, verbose=0)).all()


@pytest.mark.parametrize("builder", BUILDERS)
def test_unknown_option_is_refused(builder):
    with pytest.raises((TypeError, ValueError), match="num_head_s"):
        BUILDERS[builder][0](num_head_s=3)


def recurrent_seq2seq(**options):
    return kt.models.recurrent_seq2seq(23, 29, cell="gru", attention="additive", dim=14, **options)


def swapped(ids, padding_id):
    """Ids with 0 and another exchanged."""
    return np.where(ids == 0, padding_id, np.where(ids == padding_id, 0, ids))


@pytest.fixture
def pair(request):
    """A model whose padding is another id, and the same one with 0: rows and columns of those ids are exchanged."""
    build, padding_id = request.param
    other, plain = build(padding_id=padding_id), build()
    sides = padding_id if isinstance(padding_id, tuple) else (padding_id, padding_id)
    for new, old in zip(other.weights, plain.weights, strict=True):
        assert new.path == old.path
        value, id = np.array(old), sides[0] if "source" in old.path else sides[1]
        if "embedding" in old.path:
            value[[0, id]] = value[[id, 0]]
        elif old.shape[-1] == 29:
            value[..., [0, id]] = value[..., [id, 0]]
        new.assign(value)
    return other, plain, sides


PAIRS = [
    (language_model, 7),
    pytest.param((transformer, 7), marks=pytest.mark.slow),
    (transformer, (22, 5)),
    pytest.param((recurrent_seq2seq, (22, 5)), marks=pytest.mark.slow),
]


@pytest.mark.long
@pytest.mark.parametrize("pair", PAIRS, indirect=True, ids=lambda pair: f"{pair[0].__name__}-{pair[1]}")
def test_another_padding_id_is_another_numbering(pair, assert_close):
    other, plain, (first, last) = pair
    source, target = swapped(SOURCE, first), swapped(TARGET, last)
    is_pair = len(plain.inputs) == 2
    arrays = ([source, target], [SOURCE, TARGET]) if is_pair else ([target], [TARGET])
    logits, expected = (
        keras.ops.convert_to_numpy(model(input_of(x))) for model, x in zip((other, plain), arrays, strict=True)
    )
    columns = swapped(np.arange(29), last)
    assert_close(logits[..., columns], expected)
    rows = [[5, 9, 4, 22, 16], [8, 3, 7]]
    prompts = rows if is_pair else [[2, 11, 6], [2, 4]]
    result, wanted = (
        kt.Generator(model, max_length=11, start_token=2, end_token=3)(x)
        for model, x in (
            (other, [swapped(np.array(row), first if is_pair else last) for row in prompts]),
            (plain, prompts),
        )
    )
    np.testing.assert_array_equal(result["tokens"], swapped(wanted["tokens"], last))
    assert_close(result["scores"], wanted["scores"])


@pytest.mark.long
def test_padding_of_a_classifier(assert_close):
    plain, other, none = (encoder_classifier(padding_id=id) for id in (0, 7, None))
    for model in (other, none):
        model.set_weights(plain.get_weights())
    assert_close(other(np.array([[2, 11, 6, 7, 7]])), plain(np.array([[2, 11, 6]])))
    assert_close(none(np.array([[2, 11, 6, 7, 7]])), plain(np.array([[2, 11, 6, 7, 7]])))
    found, expected = (keras.ops.convert_to_numpy(x(np.array([[2, 11, 6, 0, 0]]))) for x in (none, plain))
    assert not np.allclose(found, expected)


@pytest.mark.long
@pytest.mark.parametrize("padding_id", [7, pytest.param(None, marks=pytest.mark.slow)])
def test_trains_on_batches_padded_otherwise(padding_id):
    texts = [[0, 4, 11, 3], [0, 5, 3], [0, 28, 4, 9, 3], [6, 0, 0]] * 4
    for packed in (False, True):
        kind, size = (kt.training.PackedBatches, {"length": 11}) if packed else (kt.training.TokenBatches, {})
        batches = kind(texts, batch_size=4, padding_id=padding_id, vocabulary_size=29, **size)
        model = language_model(padding_id=padding_id, packed=packed)
        model.compile(loss=kt.training.SequenceCrossentropy(ignore_id=batches.ignore_id))
        history = model.fit(batches, epochs=2, verbose=0).history
        assert np.isfinite(history["loss"]).all()
        result = kt.Generator(model, max_length=9, end_token=3)([[0, 4], [0, 0, 0]])
        assert result["tokens"][:, 0, :2].tolist() == [[0, 4], [0, 0]]


@pytest.mark.long
@pytest.mark.parametrize("padding_id", [0, 7, None])
def test_ids_that_reach_the_embedding_as_a_tensor_are_those_of_the_model(padding_id):
    """`convert_to_tensor` in front of an embedding, as Keras puts it there where a model is called within another."""
    packed = language_model(padding_id=padding_id, packed=True)
    tokens = keras.Input((None,), dtype="int32")
    x = kt.TokenEmbedding(29, 8, padding_id=padding_id)(keras.ops.convert_to_tensor(tokens))
    by_hand = keras.Model(tokens, keras.layers.Dense(29)(kt.DecoderLayer(2, 13)(x)))
    for model in (packed, by_hand):
        generator = kt.Generator(model, max_length=5, end_token=3)
        assert generator.padding_id == padding_id
        with pytest.raises(ValueError, match="takes ids from 0 to 28"):
            generator([[2, 29]])
        if padding_id is not None:
            with pytest.raises(ValueError, match=f"hides id {padding_id} as padding"):
                kt.Generator(model, max_length=5, end_token=3, padding_id=1)


def test_padding_ids_that_are_refused():
    with pytest.raises(ValueError, match="takes an id from 0 to 28 as padding_id"):
        language_model(padding_id=29)
    with pytest.raises(ValueError, match="one for each of the two"):
        transformer(padding_id=(0, 1, 2))
