"""Random numbers from a hash: they are spread evenly, independent of each other, and a function of the seed alone."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.decoding.compiling import compiled
from keras_transformer.ops import dot_product_attention, dropout, random_bits
from keras_transformer.ops.random import uniforms

ROWS, COLUMNS = 1511, 257


def bits(seed, rows=ROWS, columns=COLUMNS):
    return ops.convert_to_numpy(random_bits(seed, rows, columns)).astype("int64")


def mix(x):
    """Of an unsigned 32-bit number."""
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def reference(seed, rows, columns):
    """The same hash in Python integers."""

    def shift(x, by):  # of a signed 32-bit number
        return (x - 2**32 if x >= 2**31 else x) >> by & 0xFFFFFFFF

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


# Uniform numbers, for sampling.

STEPS = 257


def numbers(seed, rows=ROWS, steps=STEPS):
    """(rows, steps), float64."""
    rows, steps = np.arange(rows, dtype="int32")[:, None], np.arange(steps, dtype="int32")[None]
    return ops.convert_to_numpy(uniforms(seed, rows, steps)).astype("float64")


def uniform_reference(seed, row, step):
    """The same hash in Python integers; its upper 24 bits, those of a signed number, from -2^23 on."""
    x = mix(step + mix(seed + 0x3C6EF372 & 0xFFFFFFFF) & 0xFFFFFFFF) ^ mix(row + mix(seed & 0xFFFFFFFF) & 0xFFFFFFFF)
    x = x * 0x2C1B3C6D & 0xFFFFFFFF
    x = mix((x ^ x >> 13) * 0x297A2D39 & 0xFFFFFFFF)
    return ((x >> 8) ^ 2**23) / 2**24


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1, -5])
def test_uniforms_are_those_of_the_hash_on_every_backend(seed):
    expected = [[uniform_reference(seed, row, step) for step in range(11)] for row in range(7)]
    np.testing.assert_array_equal(numbers(seed, 7, 11), expected)


def test_uniforms_are_the_same_when_they_are_compiled():
    rows, step = np.arange(ROWS, dtype="int32"), np.int32(5)
    function = compiled(lambda rows, step: uniforms(7, rows, step), [])
    values = function(ops.convert_to_tensor(rows), ops.convert_to_tensor(step))
    np.testing.assert_array_equal(ops.convert_to_numpy(values), numbers(7)[:, 5])


def test_uniforms_are_float32_in_the_half_open_unit_interval_and_fill_it():
    assert keras.backend.standardize_dtype(uniforms(7, np.arange(3, dtype="int32"), 5).dtype) == "float32"
    values = numbers(29)
    assert 0 <= values.min() < 1e-4
    assert 1 - 1e-4 < values.max() < 1
    np.testing.assert_array_equal(values * 2**24, np.round(values * 2**24))


@pytest.mark.parametrize("seed", [0, 1, 7, 1337])
def test_uniforms_have_the_mean_and_the_variance(seed):
    values = numbers(seed)
    assert abs(values.mean() - 1 / 2) < 5 * np.sqrt(1 / 12 / values.size)
    assert abs(((values - 1 / 2) ** 2).mean() - 1 / 12) < 5 * np.sqrt(1 / 180 / values.size)


@pytest.mark.parametrize("seed", [0, 1, 7, 1337])
def test_uniforms_are_uniform_by_chi_square(seed):
    assert_even(np.floor(numbers(seed) * 64).astype(int), 64)


def test_uniforms_of_one_step_or_of_one_row_are_uniform_by_chi_square():
    cells = np.floor(numbers(31, 1024, 1024) * 32).astype(int)
    for place in range(0, 1024, 41):
        assert_even(cells[:, place], 32)
        assert_even(cells[place], 32)


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (1, 1), (2, 0), (0, 2), (0, 16), (64, 0)])
def test_neighbouring_uniforms_are_not_correlated(shift):
    values = (numbers(37) - 1 / 2) * np.sqrt(12)  # mean 0, variance 1
    down, right = shift
    product = values[down:, right:] * values[: ROWS - down, : STEPS - right]
    assert abs(product.sum()) < 5 * np.sqrt(product.size)


@pytest.mark.parametrize("other", [1, 2, 3, 2**16])
def test_uniforms_of_other_seeds_are_not_correlated(other):
    product = (numbers(0) - 1 / 2) * (numbers(other) - 1 / 2) * 12
    assert abs(product.sum()) < 5 * np.sqrt(product.size)


@pytest.mark.parametrize("axis", [0, 1])
def test_pairs_of_neighbouring_uniforms_fill_the_square_evenly(axis):
    cells = np.floor(numbers(41, 1024, 256) * 16).astype(int)
    first, second = np.moveaxis(cells, axis, 0)[0::2], np.moveaxis(cells, axis, 0)[1::2]
    assert_even(16 * first + second, 256)


def test_pairs_of_two_seeds_fill_the_square_evenly():
    first, second = (np.floor(numbers(seed) * 16).astype(int) for seed in (5, 6))
    assert_even(16 * first + second, 256)


def assert_even(cells, count):
    """Pearson's chi-square, five standard deviations to either side: not too uneven, and not too even."""
    expected = cells.size / count
    statistic = ((np.bincount(cells.ravel(), minlength=count) - expected) ** 2 / expected).sum()
    assert abs(statistic - (count - 1)) < 5 * np.sqrt(2 * (count - 1))


@pytest.mark.parametrize("seed", [None, 1.5, "1", True, [1, 2, 3], [1, 2.5], np.array([1, 2, 3])])
def test_what_is_no_seed(seed):
    scores = np.ones((1, 2, 1, 4), "float32")
    with pytest.raises(ValueError, match="seed"):
        dropout(np.ones((2, 3), "float32"), 0.5, seed)
    with pytest.raises(ValueError, match="seed"):
        dot_product_attention(scores, scores, scores, dropout=0.5, seed=seed)


@pytest.mark.parametrize(
    "seed, same", [(7, np.int64(7)), (7, np.array(7)), ((7, 0), [7, 0]), (7, (7, 0)), (-1, 2**32 - 1)]
)
def test_seeds_of_any_kind_of_integer(seed, same):
    np.testing.assert_array_equal(bits(seed, 3, 5), bits(same, 3, 5))
