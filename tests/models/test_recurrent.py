"""The recurrent builder gives the models of the papers, none larger than those they will be compared with."""

import itertools

import keras
import numpy as np
import pytest

import keras_transformer as kt

SOURCE = np.array([[5, 9, 4, 22, 16], [8, 3, 7, 0, 0]])
TARGET = np.array([[2, 11, 7, 28], [2, 6, 0, 0]])
KINDS = list(itertools.product(["rnn", "lstm", "gru"], [None, "dot", "additive"]))


def recurrent_seq2seq(cell="gru", attention="additive", **options):
    return kt.models.recurrent_seq2seq(23, 29, **{"cell": cell, "attention": attention, "dim": 14, **options})


@pytest.mark.long
@pytest.mark.parametrize("cell, attention", KINDS)
def test_outputs_do_not_depend_on_padding_or_on_later_tokens(cell, attention, assert_close):
    model = recurrent_seq2seq(cell, attention, num_layers=2, dropout=0.1)
    assert [x.name for x in model.inputs] == ["source", "target"]
    assert model.output_shape == (None, None, 29)
    source, target = np.pad(SOURCE, ((0, 0), (0, 2))), np.pad(TARGET, ((0, 0), (0, 3)))
    logits = model([SOURCE, TARGET])
    assert_close(model([source, target])[:, :4], logits)
    assert_close(model([SOURCE[1:, :3], TARGET[1:, :2]]), logits[1:, :2])
    assert_close(model([SOURCE, TARGET[:, :3]]), logits[:, :3])


@pytest.mark.long
@pytest.mark.parametrize("cell, attention", [("lstm", None), ("gru", None), ("gru", "dot"), ("lstm", "additive")])
def test_every_source_token_reaches_the_logits(cell, attention):
    model = recurrent_seq2seq(cell, attention)
    before = keras.ops.convert_to_numpy(model([SOURCE, TARGET]))
    for place in range(3):
        changed = SOURCE.copy()
        changed[:, place] = 1
        difference = np.abs(keras.ops.convert_to_numpy(model([changed, TARGET])) - before)
        assert difference.max(axis=(1, 2)).min() > 1e-6, place


@pytest.mark.long
@pytest.mark.parametrize(
    "options, most",
    [
        ({"cell": "lstm", "num_layers": 2}, 13_898_501),
        ({"cell": "gru"}, 14_219_781),
        ({"cell": "gru", "attention": "additive"}, 20_518_405),
    ],
)
def test_no_larger_than_the_peers_of_the_same_vocabularies(options, most):
    """The sums of the layers of bentrevett/pytorch-seq2seq for German to English: embeddings 256, states 512."""
    parameters = kt.models.recurrent_seq2seq(7853, 5893, dim=512, **options).count_params()
    assert 0.97 * most < parameters <= most


@pytest.mark.long
@pytest.mark.parametrize("attention, layer", [("dot", "attention"), ("additive", "decoder_0")])
def test_attention_weights_sum_to_one_over_the_source_without_its_padding(attention, layer, assert_close):
    model = recurrent_seq2seq("gru", attention)
    weights = kt.attention_weights(model, [SOURCE, TARGET])[layer]
    assert weights.shape == (2, 1, 4, 5)
    assert_close(weights.sum(axis=-1), np.ones((2, 1, 4)))
    assert not weights[1, :, :, 3:].any()
    alone = kt.attention_weights(model, [SOURCE[1:, :3], TARGET[1:, :2]])[layer]
    assert_close(weights[1:, :, :2, :3], alone)


@pytest.mark.parametrize("cell, attention", [("lstm", "dot"), ("gru", "additive")])
def test_saved_and_loaded(cell, attention, tmp_path, assert_close):
    model = recurrent_seq2seq(cell, attention, dropout=0.1)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_close(loaded([SOURCE, TARGET]), model([SOURCE, TARGET]))


@pytest.mark.long
def test_trains_with_fit():
    """Rows that repeat one token, which the decoder must learn from the source."""
    source = np.repeat(np.random.default_rng(0).integers(4, 13, (64, 1)), 3, axis=1)
    target = np.concatenate([np.full((64, 1), 2), source], axis=1)
    model = kt.models.recurrent_seq2seq(13, 13, cell="gru", attention="additive", dim=32, dropout=0.1)
    model.compile(keras.optimizers.Adam(1e-2), kt.training.SequenceCrossentropy())
    history = model.fit([source, target[:, :-1]], target[:, 1:], batch_size=32, epochs=12, verbose=0)
    assert history.history["loss"][-1] < 0.3 * history.history["loss"][0]


@pytest.mark.parametrize("options", [{"cell": "mgu"}, {"attention": "cosine"}, {"num_layers": 0}, {"dim": 1}])
def test_what_cannot_be_built(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"recurrent_seq2seq takes .*{name}={value!r}"):
        recurrent_seq2seq(**options)
