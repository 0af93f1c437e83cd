"""What the tests of export share: three subjects, and what Python answers for them."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

# Python's answers are computed without XLA, which would compile each generator for each shape, for seconds.
OPTIONS = {"start_token": 2, "end_token": 3, "jit_compile": False}
SIZES = {"num_layers": 1, "dim": 20, "num_heads": 4, "intermediate_dim": 13, "dropout": 0.1}


@pytest.fixture(scope="package")
def encoder_decoder():
    """A generator that reads a source."""
    model = roughen(kt.models.transformer(23, 29, **SIZES))
    return kt.Generator(model, max_length=9, **OPTIONS)


@pytest.fixture(scope="package")
def decoder_only():
    """A generator that continues prompts, with rotary positions, grouped queries, a window and what else there is."""
    options = {
        "position": lambda: kt.RotaryPosition(frequencies=[0.7, 0.1], magnitude=1.2),
        "num_kv_heads": 2,
        "head_dim": 6,
        "window": 3,
        "sinks": True,
        "scale": 0.3,
        "qk_norm": kt.LayerNormalization(center=False),
        "qk_norm_over": "heads",
        "norm": kt.RMSNormalization(offset=1.0),
        "norm_placement": "both",
    }
    model = roughen(kt.models.language_model(29, **SIZES, **options))
    return kt.Generator(model, max_length=11, **OPTIONS)


@pytest.fixture(scope="package")
def classifier():
    """A plain model."""

    def limited():
        return kt.FeedForward(13, activation="quick_gelu", gated=True, gate_limit=0.7, gate_offset=1.0)

    return roughen(kt.models.encoder_classifier(29, 3, **SIZES, parallel_norms=2, feed_forward=limited))


@pytest.fixture(scope="package")
def exports(tmp_path_factory, decoder_only, classifier):
    """A folder with exports that several files look into, and add theirs to."""
    folder = tmp_path_factory.mktemp("exports")
    kt.export.saved_model(decoder_only, folder / "decoder_only", streaming=True)
    kt.export.saved_model(classifier, folder / "classifier")
    return folder


def once(export, subject, path, **options):
    """Export unless it is there: a worker that comes back to a file sets its fixtures up again."""
    if not path.exists():
        export(subject, path, **options)


def roughen(model):
    """Random weights that make a model say many things."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if len(weight.shape) > 1:
            weight.assign(
                random.normal(size=weight.shape) * 2 / weight.shape[0 if "kernel" in weight.path else 1] ** 0.5
            )
    return model


@pytest.fixture(scope="package")
def answers(encoder_decoder, decoder_only, classifier):
    """For each subject, batches of ids of several shapes and what Python answers: what every export must answer."""
    random = np.random.default_rng(1)

    def batch(rows, length):
        ids = random.integers(4, 23, (rows, length)).astype("int32")
        for row in range(1, rows):
            ids[row, random.integers(1, length + 1) :] = 0
        return ids

    subjects = {
        "encoder_decoder": (encoder_decoder, "source"),
        "decoder_only": (decoder_only, "tokens"),
        "classifier": (lambda ids: {"classes": keras.ops.convert_to_numpy(classifier(ids))}, "tokens"),
    }
    found = {}
    for name, (answer, input_name) in subjects.items():
        batches = [batch(5, 7), batch(1, 4)]
        found[name] = {
            "input": input_name,
            "cases": [
                {"ids": ids.tolist(), "outputs": {key: x.tolist() for key, x in answer(ids).items()}} for ids in batches
            ],
        }
    return found
