"""Attention block by block equals the formula, in values and gradients, for every option that it takes."""

import itertools

import numpy as np
import pytest
from keras import ops

from keras_transformer.ops.blockwise import blockwise_attention
from keras_transformer.ops.random import random_bits

torch = pytest.importorskip("torch")
from .cases import BATCH, FORMS, HEADS, VALUE_WIDTH, WIDTH, computed, drawn, oracle  # noqa: E402

QUICK = 12  # in these every option occurs
CASES = [
    pytest.param(number, form, marks=[] if number < QUICK else pytest.mark.slow)
    for number, form in zip(range(48), itertools.cycle(FORMS), strict=False)
]


def test_every_option_occurs():
    names = set()
    for number in range(QUICK):
        tensors, seen, options = drawn(number)
        names |= {*tensors, *options, *(name for name, x in seen.items() if x is not False)}
    assert names >= {"bias", "distance_bias", "sinks", "causal", "window", "key_mask", "query_segments", "mask"}
    assert names >= {"soft_cap", "scale", "dropout"}


@pytest.mark.parametrize(("number", "form"), CASES)
def test_equals_the_formula(number, form):
    tensors, seen, options = drawn(number)
    length, keys = tensors["query"].shape[2], tensors["key"].shape[2]
    dropped = None
    if "dropout" in options:
        bits = ops.convert_to_numpy(random_bits(options["seed"], BATCH * HEADS * length, keys))
        keep = bits.reshape(BATCH, HEADS, length, keys) >= -(2**31) + int(options["dropout"] * 2**32)
        dropped = keep / (1 - options["dropout"])
    upstream = np.random.default_rng(number).normal(size=(BATCH, HEADS, length, VALUE_WIDTH)).astype("float32")
    expected, leaves = oracle(tensors, seen, options.get("scale", WIDTH**-0.5), options.get("soft_cap"), dropped)
    (expected * torch.tensor(upstream)).sum().backward()

    output, gradients = computed(blockwise_attention, tensors, seen, upstream, form, **options)

    np.testing.assert_allclose(output, expected.detach().numpy(), atol=1e-5, rtol=1e-5)
    for name, gradient in zip(tensors, gradients, strict=True):
        wanted = leaves[name].grad.numpy()
        assert np.isfinite(gradient).all(), name
        np.testing.assert_allclose(gradient, wanted, atol=1e-4, rtol=1e-4, err_msg=name)
