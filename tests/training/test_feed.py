"""How batches reach `fit`: every epoch in its own order, ended where it ends, resumed exactly, on every backend."""

import itertools

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.training import Checkpoints, PackedBatches, SequenceCrossentropy, TokenBatches

VOCABULARY, STEPS = 23, 5
ROWS = [np.random.default_rng(i).integers(4, VOCABULARY, 8).tolist() for i in range(33)]
BATCHES = TokenBatches(ROWS, batch_size=7, seed=3)


class Fitting:
    """One compiled model, trained from the same weights again and again: its weights tell what it was given."""

    def __init__(self):
        keras.utils.set_random_seed(5)
        self.model = keras.Sequential(
            [keras.Input((None,), dtype="int32"), keras.layers.Embedding(VOCABULARY, 3), keras.layers.Dense(VOCABULARY)]
        )
        self.model.compile(keras.optimizers.SGD(0.5), SequenceCrossentropy())
        self.initial = self.model.get_weights()

    def reset(self):
        self.model.set_weights(self.initial)
        self.model.optimizer.iterations.assign(0)

    def __call__(self, *data, begin=True, **options):
        if begin:
            self.reset()
        history = self.model.fit(*data, verbose=0, **options)
        return np.concatenate([weight.ravel() for weight in self.model.get_weights()]), history


@pytest.fixture(scope="module")
def fit():
    return Fitting()


def in_order(first_step=0):
    """What a loop by hand would give to `fit`."""
    return (BATCHES.batch(step) for step in itertools.count(first_step))


@pytest.fixture(scope="module")
def expected(fit):
    weights, history = fit(in_order(), steps_per_epoch=STEPS, epochs=3)
    return weights, history.history["loss"]


def assert_equal(result, expected):
    weights, history = result
    np.testing.assert_allclose(weights, expected[0], atol=1e-6)
    np.testing.assert_allclose(history.history["loss"], expected[1], atol=1e-6)


def test_batches_in_fit(fit, expected):
    assert BATCHES.steps_per_epoch == STEPS
    for options in ({}, {"shuffle": False}, {"validation_data": BATCHES}):
        assert_equal(fit(BATCHES, epochs=3, **options), expected)
    # `fit` begins with the first epoch each time, and `from_step` elsewhere.
    fit(BATCHES, epochs=1)
    weights, history = fit(BATCHES.from_step(STEPS), begin=False, initial_epoch=1, epochs=3)
    assert_equal((weights, history), (expected[0], expected[1][1:]))
    assert history.epoch == [1, 2]


def test_epochs_of_any_number_of_steps(fit):
    for steps in (2, 7):
        weights, history = fit(in_order(), steps_per_epoch=steps, epochs=4)
        assert_equal(fit(BATCHES, steps_per_epoch=steps, epochs=4), (weights, history.history["loss"]))
    weights, history = fit(in_order(3), steps_per_epoch=4, epochs=3)
    assert_equal(fit(BATCHES.from_step(3), steps_per_epoch=4, epochs=3), (weights, history.history["loss"]))


def test_epochs_of_one_step(fit):
    batches = TokenBatches(ROWS, batch_size=33, seed=3)
    model = keras.Sequential([keras.Input((None,), dtype="int32"), keras.layers.Embedding(VOCABULARY, VOCABULARY)])
    model.compile(keras.optimizers.SGD(0.5), SequenceCrossentropy())  # not built: JAX looks into the data for that
    seen = []
    batches._assemble, assemble = lambda drawn: seen.append(drawn[1].tolist()) or assemble(drawn), batches._assemble
    model.fit(batches, epochs=2, verbose=0)
    assert seen[-2:] == [batches._epoch(epoch)[0][1].tolist() for epoch in (0, 1)]


def test_evaluate_and_predict(fit, recwarn):
    fit.reset()
    whole = fit.model.evaluate(BATCHES, verbose=0)
    assert fit.model.evaluate(BATCHES, verbose=0) == pytest.approx(whole)
    predictions = fit.model.predict(BATCHES, verbose=0)
    inputs = np.concatenate([BATCHES.batch(step)[0] for step in range(STEPS)])
    np.testing.assert_allclose(predictions, fit.model.predict(inputs, verbose=0), atol=1e-6)
    assert not [warning for warning in recwarn if "ran out of data" in str(warning.message)]


@pytest.mark.parametrize("steps_per_epoch", [None, STEPS])
@pytest.mark.parametrize("how", ["from_step", "dataset"])
def test_interrupted_within_an_epoch_and_resumed(fit, expected, how, steps_per_epoch, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt

    if how == "dataset":
        pytest.importorskip("tensorflow")
    stop, positions = Stop(), []
    fit.reset()
    for stop.left in (4, 3, 99):
        checkpoints = Checkpoints(tmp_path, every=2)
        fit.model.set_weights(fit.initial)  # as a new process would
        position = checkpoints.resume(fit.model)
        positions.append(tuple(position))
        data = getattr(BATCHES, how)(position.step)
        if how == "dataset" and position.batch and steps_per_epoch is None:
            with pytest.raises(ValueError, match=f"Call `fit` with steps_per_epoch={STEPS}"):
                fit.model.fit(data, initial_epoch=position.epoch, epochs=3, verbose=0, callbacks=[checkpoints])
            return
        try:
            weights, history = fit(
                data,
                begin=False,
                initial_epoch=position.epoch,
                epochs=3,
                steps_per_epoch=steps_per_epoch,
                callbacks=[stop, checkpoints],
            )
        except KeyboardInterrupt:
            continue
    assert positions == [(0, 0, 0), (0, 2, 2), (0, 4, 4)]
    np.testing.assert_allclose(weights, expected[0], atol=1e-6)
    assert history.epoch == [0, 1, 2]
    assert history.history["loss"][1:] == pytest.approx(expected[1][1:], abs=1e-6)


def test_the_rest_of_an_epoch_ends_without_checkpoints_too(fit):
    weights, _ = fit(in_order(3), steps_per_epoch=2, epochs=1)
    expected, _ = fit(in_order(STEPS), begin=False, steps_per_epoch=STEPS, epochs=1)
    with pytest.warns(UserWarning, match="ran out of data"):
        weights, _ = fit(BATCHES.from_step(3), epochs=2)
    np.testing.assert_allclose(weights, expected, atol=1e-6)


def test_a_dataset_ends_its_epochs(fit, expected):
    pytest.importorskip("tensorflow")
    for options in ({}, {"steps_per_epoch": STEPS}, {"validation_data": BATCHES.dataset()}):
        assert_equal(fit(BATCHES.dataset(), epochs=3, **options), expected)
    mapped = BATCHES.dataset().map(lambda inputs, labels: (inputs, labels))
    assert_equal(fit(mapped, epochs=3), expected)
    weights, history = fit(in_order(), steps_per_epoch=7, epochs=2)
    assert_equal(fit(BATCHES.dataset().repeat(), steps_per_epoch=7, epochs=2), (weights, history.history["loss"]))


def test_a_dataset_goes_on_where_an_epoch_was_gone_through():
    pytest.importorskip("tensorflow")
    dataset = BATCHES.dataset(STEPS)
    assert dataset.cardinality() == STEPS
    for _ in range(3):  # looked into, an epoch is not gone through
        next(iter(dataset))
    for epoch in (1, 2, 3):
        held = list(dataset.as_numpy_iterator())
        assert len(held) == STEPS
        for step, (inputs, labels) in enumerate(held, epoch * STEPS):
            np.testing.assert_array_equal(inputs, BATCHES.batch(step)[0])
            np.testing.assert_array_equal(labels, BATCHES.batch(step)[1])


def test_what_fit_would_leave_unread_is_refused(fit):
    labels = BATCHES.batch(0)[1]
    for name, value in (("y", labels), ("sample_weight", np.ones(7)), ("class_weight", {1: 2.0})):
        with pytest.raises(ValueError, match=f"has the labels in its batches, and takes no {name} beside"):
            fit.model.fit(BATCHES, verbose=0, **{name: value})
    x, y = BATCHES.batch(0)
    fit.model.fit(x, y, sample_weight=np.ones(7), validation_data=BATCHES, verbose=0)  # weights of other data
    for step in (-1, 2.5, True, None):
        for take in (BATCHES.from_step, BATCHES.batch):
            with pytest.raises(ValueError, match=f"takes a step, an integer of at least 0. Received: {step}"):
                take(step)
    np.testing.assert_array_equal(BATCHES.batch(np.int64(3))[1], BATCHES.batch(3)[1])


def packed_model(*names, position=None):
    """A language model with those inputs, the first of which is read."""
    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
    x = kt.TokenEmbedding(VOCABULARY, 8)(inputs["tokens"])
    if "positions" in names:
        x = kt.PositionalEncoding()(x, positions=inputs["positions"])
    x = kt.DecoderLayer(2, 16, position=position)(x, segment_ids=inputs.get("segment_ids"))
    model = keras.Model(list(inputs.values()), keras.layers.Dense(VOCABULARY)(x))
    model.compile("sgd", SequenceCrossentropy())
    return model


def test_packed_batches_for_a_model_that_leaves_segments_out(recwarn):
    batches = PackedBatches(ROWS, length=17, batch_size=3)
    ways = [batches]
    if keras.backend.backend() == "tensorflow":
        ways.append(batches.dataset())
    for data in ways:
        model = packed_model("tokens")
        for run in (model.fit, model.evaluate, model.predict):
            with pytest.raises(ValueError, match="no input named positions and none named segment_ids.*`packed=True`"):
                run(data, verbose=0)
        relative = packed_model("tokens", "segment_ids", position=kt.RotaryPosition())
        with pytest.warns(UserWarning, match="no input named positions.*Only positions that are relative"):
            relative.fit(data, verbose=0)
        recwarn.clear()
        assert np.isfinite(packed_model("tokens", "segment_ids", "positions").fit(data, verbose=0).history["loss"][0])
        assert not [warning for warning in recwarn if "PackedBatches" in str(warning.message)]


def test_packed_pairs_for_a_model_that_leaves_segments_out():
    batches = PackedBatches([(row, row) for row in ROWS], length=17, batch_size=3)
    model = kt.models.transformer(VOCABULARY, VOCABULARY, num_layers=1, dim=8, num_heads=2, intermediate_dim=16)
    model.compile("sgd", SequenceCrossentropy())
    if "source_segment_ids" in {tensor.name for tensor in model.inputs}:
        pytest.skip("this model takes packed batches")
    with pytest.raises(ValueError, match="source_segment_ids.*target_segment_ids"):
        model.fit(batches, verbose=0)


def within_another(model, inputs):
    outer = {name: keras.Input((None,), dtype="int32", name=name) for name in inputs}
    return keras.Model(outer, model(outer))(inputs)


# All the ways in which a batch gets to a model that are no `fit` of batches.
BY_HAND = {
    "call": lambda model, inputs, labels: model(inputs),
    "nested": lambda model, inputs, labels: within_another(model, inputs),
    "predict": lambda model, inputs, labels: model.predict(inputs, verbose=0),
    "fit": lambda model, inputs, labels: model.fit(inputs, labels, verbose=0),
    "generator": lambda model, inputs, labels: model.fit((x for x in [(inputs, labels)]), verbose=0),
    "train_on_batch": lambda model, inputs, labels: model.train_on_batch(inputs, labels),
    "repeated": lambda model, inputs, labels: model.fit(
        PackedBatches(ROWS, length=17, batch_size=3).dataset().repeat(), steps_per_epoch=1, verbose=0
    ),
}


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
@pytest.mark.parametrize(
    "way", [pytest.param(x, marks=pytest.mark.tensorflow) if x == "repeated" else x for x in BY_HAND]
)
def test_packed_batches_by_hand_for_a_model_that_drops_segments(way, recwarn):
    inputs, labels = PackedBatches(ROWS, length=17, batch_size=3).batch(0)
    with pytest.raises(ValueError, match=r"' was given \['segment_ids'\].*segment_ids, as the example of"):
        BY_HAND[way](packed_model("tokens"), inputs, labels)
    recwarn.clear()
    BY_HAND[way](packed_model("tokens", "segment_ids", position=kt.RotaryPosition()), inputs, labels)
    BY_HAND[way](packed_model("tokens", "segment_ids", "positions"), inputs, labels)
    assert not [warning for warning in recwarn if "packed" in str(warning.message)]


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
def test_segment_ids_alone_may_be_something_else():
    inputs, _ = PackedBatches(ROWS, length=17, batch_size=3).batch(0)
    with pytest.warns(UserWarning, match=r"' was given \['segment_ids'\] of packed sequences"):
        packed_model("tokens")({name: inputs[name] for name in ("tokens", "segment_ids")})


@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
def test_packed_batches_by_hand_for_a_model_that_drops_positions():
    inputs, _ = PackedBatches(ROWS, length=17, batch_size=3).batch(0)
    tokens, segments = (keras.Input((None,), dtype="int32", name=name) for name in ("tokens", "segment_ids"))
    x = kt.PositionalEncoding()(kt.TokenEmbedding(VOCABULARY, 8)(tokens))
    model = keras.Model([tokens, segments], kt.DecoderLayer(2, 16)(x, segment_ids=segments))
    with pytest.warns(UserWarning, match=rf"'{model.name}' was given \['positions'\].*from the beginning of the row"):
        model(inputs)


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_packed_batches_know_inputs_by_their_keys():
    names = {"tokens": "x", "segment_ids": "y", "positions": "z"}
    inputs = {key: keras.Input((None,), dtype="int32", name=name) for key, name in names.items()}
    x = kt.PositionalEncoding()(kt.TokenEmbedding(VOCABULARY, 8)(inputs["tokens"]), positions=inputs["positions"])
    x = kt.DecoderLayer(2, 16)(x, segment_ids=inputs["segment_ids"])
    model = keras.Model(inputs, keras.layers.Dense(VOCABULARY)(x))
    model.compile("sgd", SequenceCrossentropy())
    assert np.isfinite(model.fit(PackedBatches(ROWS, length=17, batch_size=3), verbose=0).history["loss"][0])


PADDED = [
    ({}, 0, 0),
    ({"padding_id": 5}, 5, 5),
    ({"padding_id": 5, "ignore_id": -1}, 5, -1),
    ({"padding_id": None}, 0, -100),
    ({"padding_id": None, "ignore_id": 11}, 0, 11),
]


@pytest.mark.parametrize(("options", "fill", "label"), PADDED)
def test_padding_is_what_the_model_calls_so(options, fill, label):
    sequences = [[2, 0, 3], [0, 7, 0, 3]] if options.get("padding_id", 0) != 0 else [[2, 6, 3], [6, 7, 6, 3]]
    batches = TokenBatches(sequences, batch_size=2, boundaries=[5], shuffle=False, **options)
    inputs, labels = batches.batch(0)
    for row, ids in enumerate(sequences):
        n = len(ids) - 1
        assert inputs[row].tolist() == ids[:-1] + [fill] * (5 - n)
        assert labels[row].tolist() == ids[1:] + [label] * (5 - n)
    assert batches.ignore_id == label
    packed = PackedBatches(sequences, length=7, batch_size=1, shuffle=False, **options)
    inputs, labels = packed.batch(0)
    assert inputs["tokens"].tolist() == [sequences[0][:-1] + sequences[1][:-1] + [fill] * 2]
    assert labels.tolist() == [sequences[0][1:] + sequences[1][1:] + [label] * 2]
    assert inputs["segment_ids"].tolist() == [[1, 1, 2, 2, 2, 0, 0]]
    loss = SequenceCrossentropy(ignore_id=batches.ignore_id)
    logits = np.random.default_rng(0).normal(size=(2, 5, VOCABULARY)).astype("float32")
    assert float(loss(batches.batch(0)[1], logits)) > 0


@pytest.mark.parametrize(
    ("examples", "options", "message"),
    [
        ([[2, 5, 3]], {"padding_id": 5}, "example 0: it holds the id 5, which is padding"),
        ([[2, 5, 3]], {"padding_id": None, "ignore_id": 5}, "example 0: it holds the id 5, the ignore_id"),
        ([([4], [2, 3])], {"padding_id": (None, 0)}, "pads sources, and a source whose padding_id is None"),
        ([([4], [2, 3])], {"padding_id": (1, 0, 0)}, "as padding_id, one for source and target or one for each"),
        ([[2, 5, 3]], {"padding_id": -1}, "an id that is not negative"),
        ([[2, 5, 3]], {"padding_id": "<pad>"}, "an id that is not negative"),
        ([[2, 5, 3]], {"ignore_id": 0.5}, "integer or None as ignore_id"),
    ],
)
def test_padding_that_is_refused(examples, options, message):
    with pytest.raises(ValueError, match=message):
        TokenBatches(examples, batch_size=2, **options)


def test_tokenizers_that_give_the_padding_id():
    """A row of ids tells its length; of an array, padding is taken off the end only, and refused within."""
    texts = ["hi!", "! a b", "a!b"]

    def lists(texts):  # "!" is 0, as in GPT-2
        return [[2] + [0 if letter == "!" else ord(letter) for letter in text] + [3] for text in texts]

    def array(texts):
        return keras.utils.pad_sequences(lists(texts), padding="post")

    for tokenizer in (lists, array):
        with pytest.raises(ValueError, match="example 0: it holds the id 0, which is padding"):
            TokenBatches(texts, batch_size=3, tokenizers=tokenizer)
    batches = TokenBatches(texts, batch_size=3, tokenizers=lists, padding_id=None, boundaries=[8], shuffle=False)
    inputs, labels = batches.batch(0)
    assert inputs[0].tolist() == [2, 104, 105, 0, 0, 0, 0, 0]
    assert labels[0].tolist() == [104, 105, 0, 3, -100, -100, -100, -100]
    with pytest.raises(ValueError, match=r"a list of ids for each text.*dict of \['input_ids'\].*\['input_ids'\]"):
        TokenBatches(texts, batch_size=3, tokenizers=lambda texts: {"input_ids": lists(texts)})
    with pytest.raises(ValueError, match="rows of ids. Received: shape"):
        TokenBatches(texts, batch_size=3, tokenizers=lambda texts: np.zeros((len(texts), 1, 2), int))
    with pytest.raises(ValueError, match="integer ids; example 0"):
        TokenBatches(texts, batch_size=3, tokenizers=lambda texts: array(texts).astype("float32"))
