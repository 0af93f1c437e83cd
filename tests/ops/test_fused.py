"""The devices' kernels are asked for what the formula says, as far as a CPU can tell, and refused where they cannot."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_transformer as kt
from keras_transformer.ops.fused import fused_attention, why_not_fused
from keras_transformer.ops.visibility import Visibility

torch = pytest.importorskip("torch")
from .cases import BATCH, HEADS, WIDTH, computed, drawn, oracle  # noqa: E402

BACKEND = keras.backend.backend()
jax_only = pytest.mark.skipif(BACKEND != "jax", reason="is a kernel of JAX")
torch_only = pytest.mark.skipif(BACKEND != "torch", reason="is PyTorch's")


def compare(device, tensors, seen, options, form, **kernel):
    tensors = {**tensors, "value": tensors["value"][..., :WIDTH]} if tensors["value"].shape[3] != WIDTH else tensors
    upstream = np.random.default_rng(5).normal(size=tensors["query"].shape).astype("float32")
    expected, leaves = oracle(tensors, seen, options.get("scale", tensors["query"].shape[3] ** -0.5), None, None)
    (expected * torch.tensor(upstream)).sum().backward()
    attend = functools.partial(fused_attention, device, **kernel)
    output, gradients = computed(attend, tensors, seen, upstream, form, **options)
    np.testing.assert_allclose(output, expected.detach().numpy(), atol=2e-5)
    for name, gradient in zip(tensors, gradients, strict=True):
        np.testing.assert_allclose(gradient, leaves[name].grad.numpy(), atol=1e-4, rtol=1e-4, err_msg=name)


def cases(count, without=()):
    """Random cases that hold nothing of what a kernel has not."""
    number, found = 0, []
    while len(found) < count:
        tensors, seen, options = drawn(number)
        tensors.pop("sinks", None)
        if "distance_bias" not in tensors and not any(name in seen or name in tensors for name in without):
            found.append((tensors, seen, {name: x for name, x in options.items() if name == "scale"}))
        number += 1
    return found


@torch_only
@pytest.mark.parametrize("case", range(24))
def test_pytorch(case):
    compare("torch", *cases(24)[case], "eager")


@jax_only
@pytest.mark.parametrize("case", range(12))
def test_cudnn(case):
    """The arguments, by the XLA implementation of the same function."""
    found = [c for c in cases(40) if not (c[1].get("window") and not c[1].get("causal"))]
    compare("cudnn", *found[case], "compiled", implementation="xla")


@jax_only
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("seen", [{}, {"causal": True}, {"causal": True, "window": 37}, {"window": 19}])
def test_splash(seen, masked):
    random = np.random.default_rng(1)
    shapes = {"query": (BATCH, HEADS, 128, WIDTH)} | dict.fromkeys(("key", "value"), (BATCH, HEADS // 2, 128, WIDTH))
    tensors = {name: random.normal(size=shape) for name, shape in shapes.items()}
    seen = dict(seen)
    if masked:
        seen["key_mask"] = np.arange(128) < np.array([[101], [0]])
        seen["query_segments"] = seen["key_segments"] = np.sort(random.integers(0, 4, (BATCH, 128))).astype("int32")
    compare("splash", tensors, seen, {}, "eager", interpret=True)


X = np.zeros((1, 2, 128, 64), "float16")


@pytest.mark.parametrize(
    ("device", "change", "word"),
    [
        (None, {}, "there is none for"),
        ("torch", {"dropout": 0.1}, "drops no"),
        ("torch", {"sinks": np.zeros(2)}, "no sinks"),
        ("cudnn", {"soft_cap": 2.0}, "no soft cap"),
        ("cudnn", {"query": X.astype("float32")}, "takes float16 and bfloat16, got float32"),
        ("cudnn", {"query": X[..., :7], "value": X[..., :7]}, "a width that 8 divides, up to 128, got 7"),
        ("cudnn", {"seen": Visibility(window=3)}, "looks back only"),
        ("splash", {"bias": X}, "no bias"),
        ("splash", {"query": X[:, :, :127]}, "lengths that 128 divides, got 127 and 128"),
        ("torch", {"value": X[..., :3]}, "got 3 and 64"),
    ],
)
def test_what_a_kernel_cannot(device, change, word):
    asked = {"query": X, "key": X, "value": X, "seen": Visibility(), "bias": None, "sinks": None}
    asked |= {"soft_cap": None, "dropout": 0.0}
    assert word in why_not_fused(device, **{**asked, **change})
    assert device is None or why_not_fused(device, **asked) is None


@torch_only
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 3, 17])
def test_nan_is_seen(length, causal):
    random = np.random.default_rng(0)
    query, key, value = (random.normal(size=(2, length, heads, 5)).astype("float32") for heads in (6, 3, 3))
    query[0, 0, 1] = key[1, length - 1, 2] = np.nan
    with kt.ops.attention_kernel("exact"):
        without = map(np.nan_to_num, (query, key, value))
        expected = ops.convert_to_numpy(kt.ops.dot_product_attention(*without, causal=causal))
    with kt.ops.attention_kernel("fused"):
        output = ops.convert_to_numpy(kt.ops.dot_product_attention(query, key, value, causal=causal))
    sees = np.zeros((2, length, 6), bool)
    sees[0, 0, 1] = sees[1, length - 1 :, 4:] = True
    if not causal:
        sees[1, :, 4:] = True
    np.testing.assert_array_equal(np.isnan(output).all(-1), sees)
    np.testing.assert_allclose(output[~sees], expected[~sees], atol=1e-5)
