"""Encoder and decoder layers equal PyTorch's and keras-hub's, with the weights copied over."""

import keras
import numpy as np
import pytest

import keras_transformer as kt

from .helpers import BATCH, HEADS, INNER, KEYS, LENGTH, MASK, MEMORY_MASK, WIDE, as_numpy, randomize

TOLERANCE = 1e-5
TARGET = np.random.default_rng(1).normal(size=(BATCH, LENGTH, WIDE)).astype("float32")
SOURCE = np.random.default_rng(2).normal(size=(BATCH, KEYS, WIDE)).astype("float32")
# PyTorch gives NaN where a query may attend to nothing, so its targets are padded on the right only.
RIGHT_PADDED = np.sort(MASK, axis=1)[:, ::-1].copy()

variants = pytest.mark.parametrize(
    ("normalize_first", "activation", "padded"),
    [(False, "relu", True), (True, "relu", True), (False, "gelu", True), (True, "gelu", False)],
    ids=["post-norm relu", "pre-norm relu", "post-norm gelu", "pre-norm gelu, nothing padded"],
)


def ours(block, *inputs, normalize_first, activation):
    if activation == "gelu":
        activation = exact_gelu
    layer = block(HEADS, INNER, normalize_first=normalize_first, activation=activation)
    layer(*inputs)
    randomize(layer)
    return layer


def exact_gelu(x):
    return keras.activations.gelu(x, approximate=False)


# PyTorch


def copy_to_torch(layer, peer):
    """Copy the weights. PyTorch's matrices are ours, transposed; queries, keys and values are stacked in this order."""
    import torch

    def put(parameter, *parts):
        value = np.concatenate([part.numpy() for part in parts], axis=-1).T
        assert tuple(parameter.shape) == value.shape
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(value.copy()))

    def put_attention(attention, *projections):
        put(attention.in_proj_weight, *(p.kernel for p in projections))
        put(attention.in_proj_bias, *(p.bias for p in projections))
        put_dense(attention.out_proj, layer.self_attention.output_projection)

    def put_dense(linear, dense):
        put(linear.weight, dense.kernel)
        put(linear.bias, dense.bias)

    def put_norm(norm, ours):
        put(norm.weight, ours.gamma)
        put(norm.bias, ours.beta)

    put_attention(peer.self_attn, layer.self_attention.query_key_value)
    norms = [layer.self_attention_norm, layer.feed_forward_norm]
    if hasattr(peer, "multihead_attn"):
        cross = layer.cross_attention
        put_attention(peer.multihead_attn, cross.query, cross.key_value)
        put_dense(peer.multihead_attn.out_proj, cross.output_projection)
        norms.insert(1, layer.cross_attention_norm)
    put_dense(peer.linear1, layer.feed_forward.inner)
    put_dense(peer.linear2, layer.feed_forward.outer)
    for i, norm in enumerate(norms, 1):
        put_norm(getattr(peer, f"norm{i}"), norm)


def torch_peer(name, normalize_first, activation):
    torch = pytest.importorskip("torch")
    kind = getattr(torch.nn, name)
    peer = kind(WIDE, HEADS, INNER, 0.0, activation, norm_first=normalize_first, batch_first=True)
    return torch, peer.eval()


@variants
def test_encoder_layer_equals_pytorch(normalize_first, activation, padded, assert_close):
    torch, peer = torch_peer("TransformerEncoderLayer", normalize_first, activation)
    layer = ours(kt.EncoderLayer, SOURCE, normalize_first=normalize_first, activation=activation)
    copy_to_torch(layer, peer)
    mask = MEMORY_MASK if padded else np.ones_like(MEMORY_MASK)
    with torch.no_grad():
        expected = peer(torch.from_numpy(SOURCE), src_key_padding_mask=torch.from_numpy(~mask)).numpy()
    assert_close(as_numpy(layer(SOURCE, mask=mask))[mask], expected[mask], TOLERANCE)


@variants
def test_decoder_layer_equals_pytorch(normalize_first, activation, padded, assert_close):
    torch, peer = torch_peer("TransformerDecoderLayer", normalize_first, activation)
    layer = ours(kt.DecoderLayer, TARGET, SOURCE, normalize_first=normalize_first, activation=activation)
    copy_to_torch(layer, peer)
    mask = RIGHT_PADDED if padded else np.ones_like(MASK)
    memory_mask = MEMORY_MASK if padded else np.ones_like(MEMORY_MASK)
    with torch.no_grad():
        expected = peer(
            torch.from_numpy(TARGET),
            torch.from_numpy(SOURCE),
            tgt_mask=torch.from_numpy(~np.tri(LENGTH, dtype=bool)),
            tgt_key_padding_mask=torch.from_numpy(~mask),
            memory_key_padding_mask=torch.from_numpy(~memory_mask),
        ).numpy()
    output = as_numpy(layer(TARGET, SOURCE, mask=mask, memory_mask=memory_mask))
    assert_close(output[mask], expected[mask], TOLERANCE)


# keras-hub


def copy_to_keras_hub(layer, peer):
    """Copy the weights. keras-hub keeps queries, keys and values apart, and heads in a dimension of their own."""

    def put_attention(attention, ours, *projections):
        kernels = np.split(np.concatenate([p.kernel.numpy() for p in projections], -1), 3, axis=-1)
        biases = np.split(np.concatenate([p.bias.numpy() for p in projections], -1), 3, axis=-1)
        denses = attention.query_dense, attention.key_dense, attention.value_dense
        for dense, kernel, bias in zip(denses, kernels, biases, strict=True):
            dense.set_weights([kernel.reshape(WIDE, HEADS, -1), bias.reshape(HEADS, -1)])
        kernel, bias = ours.output_projection.get_weights()
        attention.output_dense.set_weights([kernel.reshape(HEADS, -1, WIDE), bias])

    own = layer.self_attention
    put_attention(peer._self_attention_layer, own, own.query_key_value)
    peer._self_attention_layer_norm.set_weights(layer.self_attention_norm.get_weights())
    if isinstance(layer, kt.DecoderLayer):
        cross = layer.cross_attention
        put_attention(peer._cross_attention_layer, cross, cross.query, cross.key_value)
        peer._cross_attention_layer_norm.set_weights(layer.cross_attention_norm.get_weights())
    peer._feedforward_intermediate_dense.set_weights(layer.feed_forward.inner.get_weights())
    peer._feedforward_output_dense.set_weights(layer.feed_forward.outer.get_weights())
    peer._feedforward_layer_norm.set_weights(layer.feed_forward_norm.get_weights())


@pytest.mark.once
@variants
def test_encoder_layer_equals_keras_hub(normalize_first, activation, padded, assert_close):
    keras_hub = pytest.importorskip("keras_hub")
    layer = ours(kt.EncoderLayer, SOURCE, normalize_first=normalize_first, activation=activation)
    options = {"activation": layer.feed_forward.activation, "normalize_first": normalize_first}
    peer = keras_hub.layers.TransformerEncoder(INNER, HEADS, **options)
    peer(SOURCE)
    copy_to_keras_hub(layer, peer)
    mask = MEMORY_MASK if padded else np.ones_like(MEMORY_MASK)
    expected = as_numpy(peer(SOURCE, padding_mask=mask))
    assert_close(as_numpy(layer(SOURCE, mask=mask))[mask], expected[mask], TOLERANCE)


@pytest.mark.once
@variants
def test_decoder_layer_equals_keras_hub(normalize_first, activation, padded, assert_close):
    keras_hub = pytest.importorskip("keras_hub")
    layer = ours(kt.DecoderLayer, TARGET, SOURCE, normalize_first=normalize_first, activation=activation)
    options = {"activation": layer.feed_forward.activation, "normalize_first": normalize_first}
    peer = keras_hub.layers.TransformerDecoder(INNER, HEADS, **options)
    peer(TARGET, SOURCE)
    copy_to_keras_hub(layer, peer)
    mask = RIGHT_PADDED if padded else np.ones_like(MASK)
    memory_mask = MEMORY_MASK if padded else np.ones_like(MEMORY_MASK)
    expected = as_numpy(peer(TARGET, SOURCE, decoder_padding_mask=mask, encoder_padding_mask=memory_mask))
    output = as_numpy(layer(TARGET, SOURCE, mask=mask, memory_mask=memory_mask))
    assert_close(output[mask], expected[mask], TOLERANCE)
