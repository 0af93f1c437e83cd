"""Sinusoids, rotary embedding, ALiBi slopes and T5's buckets against independent formulas and the papers' values."""

import math

import numpy as np
import pytest
from keras import ops

from keras_transformer.ops import alibi_slopes, relative_buckets, rotate, sinusoids

# Sinusoids


@pytest.mark.parametrize("dim", [1, 2, 7, 16])
@pytest.mark.parametrize("max_wavelength", [10000.0, 50.0])
def test_sinusoids_are_those_of_the_paper(dim, max_wavelength, assert_close):
    positions = np.array([[0, 1, 2], [31, 7, 97]])
    expected = np.zeros((2, 3, dim))
    for b, t, d in np.ndindex(expected.shape):
        angle = positions[b, t] / max_wavelength ** (2 * (d // 2) / dim)
        expected[b, t, d] = math.cos(angle) if d % 2 else math.sin(angle)
    assert_close(sinusoids(positions, dim, max_wavelength), expected)
    halves = np.concatenate([expected[..., ::2], expected[..., 1::2]], axis=-1)
    assert_close(sinusoids(positions, dim, max_wavelength, interleaved=False), halves)


def test_sinusoids_far_out_keep_three_digits(assert_close):
    positions = np.array([4999, 9973])
    angles = positions[:, None] / 10000.0 ** (2 * np.arange(3) / 6)
    expected = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(2, 6)
    assert_close(sinusoids(positions, 6), expected, tolerance=1e-3)


# Rotary


def turned(x, positions, max_wavelength, interleaved):
    """Each pair of coordinates as a complex number, times e^(i angle)."""
    half = x.shape[-1] // 2
    real, imaginary = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    angles = positions[:, None, :, None] * max_wavelength ** (-np.arange(half) / half)
    product = (real + 1j * imaginary) * np.exp(1j * angles)
    parts = np.stack([product.real, product.imag], -1 if interleaved else -2)
    return parts.reshape(x.shape)


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
@pytest.mark.parametrize("max_wavelength", [10000.0, 50.0])
@pytest.mark.parametrize("rows", [1, 2])
def test_rotate_multiplies_complex_numbers(interleaved, max_wavelength, rows, assert_close):
    random = np.random.default_rng(1)
    x, positions = random.normal(size=(2, 3, 5, 14)), random.integers(0, 50, (rows, 5))
    result = rotate(x.astype("float32"), positions.astype("int32"), max_wavelength, interleaved)
    assert_close(result, turned(x, positions, max_wavelength, interleaved), 2e-5)


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
def test_rotated_products_depend_on_the_distance_only(interleaved, assert_close):
    query, key = np.random.default_rng(1).normal(size=(2, 1, 1, 1, 14)).astype("float32")

    def product(query_position, key_position):
        a = rotate(query, np.array([[query_position]]), interleaved=interleaved)
        b = rotate(key, np.array([[key_position]]), interleaved=interleaved)
        return ops.convert_to_numpy(ops.sum(a * b))

    for distance in (0, 3, 19):
        assert_close(product(101 + distance, 101), product(distance, 0), 1e-4)
    assert abs(product(3, 0) - product(0, 3)) > 0.1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rotate_keeps_the_dtype_and_counts_in_float32(dtype, assert_close):
    x, positions = np.random.default_rng(1).normal(size=(1, 1, 3, 14)), np.array([[0, 257, 2049]])
    result = rotate(ops.cast(x, dtype), positions)
    assert_close(ops.cast(result, "float32"), turned(x, positions, 10000.0, False), 0.03)
    assert dtype in str(result.dtype)


@pytest.mark.parametrize("interleaved", [False, True], ids=["halves", "interleaved"])
def test_rotate_by_frequencies_of_ones_own(interleaved, assert_close):
    x, positions = np.random.default_rng(1).normal(size=(2, 3, 5, 13)), np.arange(7, 12)[None]
    first, rest = x[..., :6], x[..., 6:]
    result = rotate(
        x.astype("float32"), positions, interleaved=interleaved, frequencies=50.0 ** (-np.arange(3) / 3), magnitude=1.5
    )
    expected = np.concatenate([1.5 * turned(first, positions, 50.0, interleaved), rest], axis=-1)
    assert_close(result, expected, 2e-5)


def test_rotate_takes_no_more_frequencies_than_pairs():
    with pytest.raises(ValueError, match="at most 3 for heads of width 7, got 4"):
        rotate(np.zeros((1, 1, 3, 7), "float32"), np.arange(3)[None], frequencies=[1.0] * 4)


def test_rotate_takes_an_even_width():
    with pytest.raises(ValueError, match="even head width, got 7"):
        rotate(np.zeros((1, 1, 3, 7), "float32"), np.arange(3)[None])


# ALiBi


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (1, [1 / 256]),
        (2, [1 / 16, 1 / 256]),
        (8, [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]),  # the paper, section 3
        (3, [1 / 16, 1 / 256, 1 / 4]),  # those of 2 heads, then the first of 4
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),  # those of 4 heads, then every other one of 8
        (12, [2**-1, 2**-2, 2**-3, 2**-4, 2**-5, 2**-6, 2**-7, 2**-8, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ],
)
def test_alibi_slopes(heads, slopes):
    np.testing.assert_allclose(alibi_slopes(heads), slopes, rtol=1e-6)


# T5


def t5_bucket(relative_position, bidirectional, num_buckets, max_distance):
    """`relative_position_bucket` of T5's authors, for one number, in float64."""
    bucket, n = 0, -relative_position
    if bidirectional:
        num_buckets //= 2
        bucket += num_buckets if n < 0 else 0
        n = abs(n)
    else:
        n = max(n, 0)
    max_exact = num_buckets // 2
    if n < max_exact:
        return bucket + n
    growth = math.log(n / max_exact) / math.log(max_distance / max_exact) * (num_buckets - max_exact)
    return bucket + min(max_exact + int(growth + 1e-12), num_buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (32, 256), (16, 20), (6, 5), (64, 97)])
def test_relative_buckets_are_those_of_t5(bidirectional, num_buckets, max_distance):
    relative = np.arange(-300, 301)
    expected = [t5_bucket(int(n), bidirectional, num_buckets, max_distance) for n in relative]
    found = relative_buckets(relative, bidirectional=bidirectional, num_buckets=num_buckets, max_distance=max_distance)
    assert ops.convert_to_numpy(found).tolist() == expected


def test_relative_buckets_by_hand():
    """Eight buckets of one distance each and eight from 8 * 16^(i / 8) on, to each side; or 16 and 16."""
    found = relative_buckets([-128, -127, -91, -90, -64, -8, -7, 0, 1, 7, 8, 300], bidirectional=True)
    assert ops.convert_to_numpy(found).tolist() == [15, 15, 15, 14, 14, 8, 7, 0, 17, 23, 24, 31]
    found = relative_buckets([-128, -113, -112, -16, -15, 0, 1, 300], bidirectional=False)
    assert ops.convert_to_numpy(found).tolist() == [31, 31, 30, 16, 15, 0, 0, 0]
