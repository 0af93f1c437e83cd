"""Random numbers from a hash: they are spread evenly, independent of each other, and a function of the seed alone."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.ops import dropout, random_bits

ROWS, COLUMNS = 1511, 257


def bits(seed, rows=ROWS, columns=COLUMNS):
    return ops.convert_to_numpy(random_bits(seed, rows, columns)).astype("int64")


def reference(seed, rows, columns):
    """The same hash in Python integers."""

    def shift(x, by):  # of a signed 32-bit number
        return (x - 2**32 if x >= 2**31 else x) >> by & 0xFFFFFFFF

    def mix(x):
        x = (x ^ shift(x, 16)) * 0x7FEB352D & 0xFFFFFFFF
        x = (x ^ shift(x, 15)) * 0x846CA68B & 0xFFFFFFFF
        return x ^ shift(x, 16)

    def value(row, column):
        x = mix(row + mix(seed[0]) & 0xFFFFFFFF) ^ mix(column + mix(seed[1] + 0x3C6EF372 & 0xFFFFFFFF) & 0xFFFFFFFF)
        x = x * 0x2C1B3C6D & 0xFFFFFFFF
        x = (x ^ shift(x, 13)) * 0x297A2D39 & 0xFFFFFFFF
        return x - 2**32 if x >= 2**31 else x

    return np.array([[value(row, column) for column in range(columns)] for row in range(rows)])


def test_the_bits_are_those_of_the_hash_on_every_backend():
    np.testing.assert_array_equal(bits((1337, 5), 7, 11), reference((1337, 5), 7, 11))


def test_the_upper_byte_is_uniform_by_chi_square():
    counts = np.bincount((bits((3, 0)).ravel() >> 24) + 128, minlength=256)
    expected = ROWS * COLUMNS / 256
    statistic = ((counts - expected) ** 2 / expected).sum()  # mean 255, standard deviation 22.6
    assert abs(statistic - 255) < 5 * 22.6


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (1, 1), (2, 0), (0, 16), (64, 0)])
def test_neighbours_are_not_correlated(shift):
    values = bits((11, 2)) / 2**31 * np.sqrt(3)  # mean 0, variance 1
    down, right = shift
    product = values[down:, right:] * values[: ROWS - down, : COLUMNS - right]
    assert abs(product.sum()) < 5 * np.sqrt(product.size)


def test_corners_of_a_rectangle_are_not_correlated():
    dropped = (bits((13, 0)) < -(2**31) + 0.1 * 2**32).astype("float64")
    values = (dropped - 0.1) / np.sqrt(0.1 * 0.9)
    product = values[4:, 3:] * values[:-4, :-3] * values[4:, :-3] * values[:-4, 3:]
    assert abs(product.sum()) < 6 * np.sqrt(product.size)


def test_a_seed_generator_gives_other_bits_at_each_call():
    generator = keras.random.SeedGenerator(17)
    first, second = bits(generator), bits(generator)
    values = first / 2**31 * (second / 2**31) * 3
    assert abs(values.sum()) < 5 * np.sqrt(values.size)
    np.testing.assert_array_equal(bits(keras.random.SeedGenerator(17)), first)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_keeps_the_mean(rate):
    dropped = ops.convert_to_numpy(dropout(np.ones((ROWS, COLUMNS), "float32"), rate, seed=19))
    deviation = np.sqrt(rate * (1 - rate) / dropped.size)
    assert abs((dropped == 0).mean() - rate) <= 5 * deviation
    np.testing.assert_allclose(dropped[dropped != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_of_any_rank_and_type():
    x = ops.cast(np.full((2, 3, 5, 7), 2.0), "bfloat16")
    dropped = dropout(x, 0.5, seed=23)
    assert tuple(dropped.shape) == (2, 3, 5, 7)
    assert set(np.unique(ops.convert_to_numpy(ops.cast(dropped, "float32")))) == {0.0, 4.0}
