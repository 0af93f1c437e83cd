"""Sequences that are packed into a row know nothing of each other in the models of the builders, or are refused."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt

pytestmark = pytest.mark.long  # on JAX: each test compiles a model of its own

SIZES = {"num_layers": 2, "dim": 20, "num_heads": 2, "intermediate_dim": 13, "dropout": 0.0}
POSITIONS = {"sinusoids": None, "rotary": kt.RotaryPosition, "alibi": kt.AlibiPosition}
TEXTS = [[2, 11, 7, 3], [2, 6, 3], [2, 28, 4, 9, 3]]
PAIRS = [([5, 9, 4], [2, 11, 7, 3]), ([8], [2, 6, 3]), ([3, 22], [2, 28, 4, 9, 3])]


def language_model(**options):
    return kt.models.language_model(29, **{**SIZES, **options})


def transformer(**options):
    return kt.models.transformer(23, 29, **{**SIZES, **options})


def packed_texts(**options):
    return kt.training.PackedBatches(TEXTS, **{"length": 11, "batch_size": 1, "shuffle": False, **options})


def packed_pairs():
    return kt.training.PackedBatches(PAIRS, length=(7, 11), batch_size=1, shuffle=False)


@pytest.mark.parametrize("position", POSITIONS)
def test_a_packed_text_has_the_logits_that_it_has_alone(position, assert_close):
    model = language_model(packed=True, position=POSITIONS[position])
    inputs, _ = packed_texts().batch(0)
    together = np.asarray(model.predict(inputs, verbose=0))[0]
    texts = sorted(TEXTS, key=lambda text: inputs["tokens"][0].tolist().index(text[1]))
    for number, text in enumerate(texts, start=1):
        alone = np.array([text[:-1]])
        assert_close(together[inputs["segment_ids"][0] == number], ops.convert_to_numpy(model(alone))[0], 2e-5)


def test_a_packed_pair_has_the_logits_that_it_has_alone(assert_close):
    model = transformer(packed=True)
    inputs, _ = packed_pairs().batch(0)
    together = ops.convert_to_numpy(model(inputs))[0]
    pairs = sorted(PAIRS, key=lambda pair: inputs["target"][0].tolist().index(pair[1][1]))
    for number, (source, target) in enumerate(pairs, start=1):
        alone = ops.convert_to_numpy(model([np.array([source]), np.array([target[:-1]])]))[0]
        assert_close(together[inputs["target_segment_ids"][0] == number], alone, 2e-5)


def test_changes_in_one_text_do_not_reach_the_others():
    model = language_model(packed=True)
    inputs, _ = packed_texts().batch(0)
    changed = {**inputs, "tokens": inputs["tokens"].copy()}
    changed["tokens"][0, 1] = 15
    before, after = (np.asarray(model.predict(x, verbose=0))[0] for x in (inputs, changed))
    others = inputs["segment_ids"][0] != 1
    np.testing.assert_array_equal(before[others], after[others])
    assert np.abs(before - after)[~others].max() > 0.1


REFUSE = {
    "language_model": (language_model, packed_texts),
    "transformer": (transformer, packed_pairs),
    "encoder_classifier": (lambda: kt.models.encoder_classifier(29, 3, **SIZES), packed_texts),
    "recurrent_seq2seq": (lambda: kt.models.recurrent_seq2seq(23, 29, dim=8), packed_pairs),
}


@pytest.mark.parametrize("name", REFUSE)
def test_packed_batches_are_refused_by_a_model_that_would_let_them_leak(name):
    build, batches = REFUSE[name]
    model, (inputs, _) = build(), batches().batch(0)
    for run in (model, lambda x: model.predict(x, verbose=0)):
        with pytest.raises(ValueError, match=f"'{name}' takes .*segment_ids.*packed=True"):
            run(inputs)
    if name == "language_model":
        model.compile("sgd", kt.training.SequenceCrossentropy())
        with pytest.raises(ValueError, match=f"'{name}' takes .*segment_ids.*packed=True"):
            model.fit(*batches().batch(0), verbose=0)


def test_a_part_of_what_packed_sequences_need_is_refused():
    model, (inputs, _) = language_model(packed=True), packed_texts().batch(0)
    with pytest.raises(ValueError, match=r"\['positions'\] are missing"):
        model({name: inputs[name] for name in ("tokens", "segment_ids")})
    with pytest.raises(ValueError, match=r"\['tokens'\] are missing"):
        model({name: inputs[name] for name in ("positions", "segment_ids")})


def test_is_the_same_model_without_them(tmp_path, assert_close):
    """What is not packed goes in as in any other model, also after saving; the weights are the same, in that order."""
    packed, plain = language_model(packed=True), language_model()
    plain.set_weights(packed.get_weights())
    packed.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    tokens, (inputs, _) = np.array([[2, 11, 7], [2, 6, 0]]), packed_texts().batch(0)
    for model in (packed, loaded):
        assert_close(model(tokens), plain(tokens))
        assert_close(model({"tokens": tokens}), plain(tokens))
        assert_close(model(inputs), packed(inputs))
    source = np.array([[5, 9, 0], [8, 0, 0]])
    packed, plain = transformer(packed=True), transformer()
    plain.set_weights(packed.get_weights())
    assert_close(packed([source, tokens]), plain([source, tokens]))
    assert_close(packed({"source": source, "target": tokens}), plain([source, tokens]))


def test_trains_on_packed_and_on_padded_batches():
    model = language_model(packed=True)
    model.compile("sgd", kt.training.SequenceCrossentropy())
    batches = packed_texts()
    history = model.fit(batches.dataset(), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model.fit(np.array([[2, 11, 7]]), np.array([[11, 7, 3]]), verbose=0)


@pytest.mark.parametrize(
    "build, prompts", [(language_model, [[2, 11]]), pytest.param(transformer, [[5, 9, 4]], marks=pytest.mark.slow)]
)
def test_generates_as_the_model_without_them(build, prompts):
    options = {"start_token": 2, "end_token": 3, "max_length": 9, "jit_compile": False}
    packed, plain = build(packed=True), build()
    plain.set_weights(packed.get_weights())
    tokens, expected = (kt.Generator(model, **options)(np.array(prompts))["tokens"] for model in (packed, plain))
    np.testing.assert_array_equal(tokens, expected)


@pytest.mark.slow
def test_is_a_draft_as_the_model_without_them():
    options = {"start_token": 2, "end_token": 3, "max_length": 9, "jit_compile": False}
    model, draft = language_model(packed=True), language_model(packed=True, num_layers=1)
    expected = kt.Generator(model, **options)(np.array([[2, 11]]))["tokens"]
    found = kt.Generator(model, strategy=kt.Speculative(draft), **options)(np.array([[2, 11]]))["tokens"]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("make", [language_model, transformer])
def test_a_clone_may_be_called_without_segments(make):
    model = make(packed=True)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    tokens = np.array([[5, 9, 4]])
    inputs = tokens if make is language_model else [tokens, tokens]
    np.testing.assert_allclose(
        ops.convert_to_numpy(clone(inputs)), ops.convert_to_numpy(model(inputs)), rtol=1e-5, atol=1e-6
    )


def test_is_a_part_of_another_model(assert_close):
    inner = kt.models.language_model(11, num_layers=1, dim=8, num_heads=2, packed=True)
    tokens = keras.Input((None,), dtype="int32")
    outer = keras.Model(tokens, inner(tokens))
    ids = np.array([[3, 7, 5], [2, 4, 0]])
    assert outer.output.shape == (None, None, 11)
    assert_close(outer(ids), inner(ids))
