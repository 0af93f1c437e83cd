"""Padding of one of two inputs that share a table."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt


def shared_table(padding_id: int = 0) -> keras.Model:
    """An encoder-decoder whose sources are padded with what its targets begin with."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    embedding = kt.TokenEmbedding(23, 8, padding_id=None)
    memory = kt.EncoderLayer(2, 13)(embedding(kt.PaddingMask(padding_id)(source)))
    y = kt.DecoderLayer(2, 13)(kt.PositionalEncoding()(embedding(target)), memory)
    return keras.Model([source, target], embedding(y, reverse=True))


def test_the_source_is_masked_and_the_target_is_not():
    model, random = shared_table(), np.random.default_rng(0)
    source, target = random.integers(1, 23, (2, 7)), random.integers(0, 23, (2, 5))
    target[:, :2] = 0

    def predict(inputs):
        return model.predict(inputs, verbose=0)

    padded = np.pad(source, ((0, 0), (0, 3)))
    expected = predict([source, target])
    np.testing.assert_allclose(predict([padded, target]), expected, atol=1e-6)
    other = np.where(np.arange(5) == 0, 5, target)
    assert abs(predict([source, other])[:, -1] - expected[:, -1]).max() > 1e-3
    layer = kt.PaddingMask.from_config(kt.PaddingMask(4).get_config())
    assert ops.convert_to_numpy(layer.compute_mask(np.array([[4, 3, 4]]))).tolist() == [[False, True, False]]


@pytest.mark.parametrize("padding_id", [0, pytest.param(11, marks=pytest.mark.slow)])
def test_a_generator_starts_with_what_pads_sources(padding_id):
    model, random = shared_table(padding_id), np.random.default_rng(1)
    generator = kt.Generator(model, max_length=9, end_token=3, start_token=padding_id, jit_compile=False)
    rows = [[x for x in random.integers(0, 23, length).tolist() if x != padding_id] for length in (9, 4)]
    together = generator(rows)
    for row, sequence in zip(rows, together["tokens"], strict=True):
        np.testing.assert_array_equal(generator([row])["tokens"][0], sequence)
        assert sequence[0, 0] == padding_id


def test_bad_ids_are_refused():
    for given in (-1, 1.5, True, None):
        with pytest.raises(ValueError, match="integer from 0 on as padding_id"):
            kt.PaddingMask(given)
    with pytest.raises(ValueError, match=r"ids of shape \(batch, length\)"):
        kt.PaddingMask(0)(keras.Input((None, 3), dtype="int32"))


def test_on_the_target_side_it_hides_the_start():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = kt.TokenEmbedding(23, 8, padding_id=None)(kt.PaddingMask(5)(tokens))
    model = keras.Model(tokens, keras.layers.Dense(23)(kt.DecoderLayer(2, 13)(kt.PositionalEncoding()(x))))
    assert kt.Generator(model, max_length=5, end_token=3, start_token=7, jit_compile=False).special.padding == 5
    with pytest.raises(ValueError, match="start_token=5, which .*PaddingMask.* hides as padding"):
        kt.Generator(model, max_length=5, end_token=3, start_token=5, jit_compile=False)
