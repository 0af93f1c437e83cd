"""What the tests of all layers share: sizes, a catalogue of layers, and gradients on any backend."""

import keras
import numpy as np
from keras import ops

import keras_transformer as kt

# Distinct primes, so that no transposition can hide. Where the width must be divisible by the heads: WIDE.
BATCH, LENGTH, KEYS = 3, 5, 7
HEADS, HEAD_DIM, DIM, MEMORY_DIM, INNER, VOCABULARY = 2, 10, 13, 17, 19, 23
WIDE = HEADS * 11

# Row 0 is full, row 1 padded on the right, row 2 on the left.
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [0, 0, 1, 1, 1]], bool)
MEMORY_MASK = np.array([[1, 1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 1]], bool)

X = np.random.default_rng(11).normal(size=(BATCH, LENGTH, DIM)).astype("float32")
MEMORY = np.random.default_rng(12).normal(size=(BATCH, KEYS, MEMORY_DIM)).astype("float32")
IMAGES = np.random.default_rng(14).normal(size=(BATCH, LENGTH, KEYS, 2)).astype("float32")
IDS = np.where(MASK, np.random.default_rng(13).integers(1, VOCABULARY, MASK.shape), 0).astype("int32")

POSITIONS = {
    "no position": lambda: None,
    "rotary": lambda: kt.RotaryPosition(50.0),
    "rotary interleaved": lambda: kt.RotaryPosition(interleaved=True),
    "rotary, scaled": lambda: kt.RotaryPosition(frequencies=[0.7, 0.3, 0.11, 0.05, 0.01], magnitude=1.3),
    "rotary, partial": lambda: kt.RotaryPosition(frequencies=[0.7, 0.3, 0.11], interleaved=True, magnitude=0.8),
    "alibi": kt.AlibiPosition,
    "relative": lambda: kt.RelativePosition(6, 5),
}

# Every layer, with as many of its options as one can have: name -> (layer, inputs).
CATALOGUE = {
    "TokenEmbedding": lambda **k: (kt.TokenEmbedding(VOCABULARY, DIM, scale=True, **k), (IDS,)),
    "TokenEmbedding, bias": lambda **k: (kt.TokenEmbedding(VOCABULARY, DIM, scale=0.3, output_bias=True, **k), (IDS,)),
    "PositionalEncoding": lambda **k: (kt.PositionalEncoding(50.0, **k), (X,)),
    "PositionalEncoding, offset": lambda **k: (kt.PositionalEncoding(50.0, interleaved=False, offset=3, **k), (X,)),
    "LearnedPositionalEncoding": lambda **k: (kt.LearnedPositionalEncoding(11, **k), (X,)),
    "LearnedPositionalEncoding, offset": lambda **k: (kt.LearnedPositionalEncoding(11, 2, **k), (X,)),
    "RMSNormalization": lambda **k: (kt.RMSNormalization(epsilon=1e-3, **k), (X,)),
    "RMSNormalization, offset": lambda **k: (kt.RMSNormalization(offset=1.0, **k), (X,)),
    "LayerNormalization": lambda **k: (kt.LayerNormalization(epsilon=1e-2, center=False, **k), (X,)),
    "ClassToken": lambda **k: (kt.ClassToken(**k), (X,)),
    "ReversibleNormalization": lambda **k: (kt.ReversibleNormalization(epsilon=1e-3, **k), (X,)),
    "PatchEmbedding": lambda **k: (kt.PatchEmbedding(DIM, 3, strides=2, **k), (X,)),
    "PatchEmbedding, image": lambda **k: (kt.PatchEmbedding(DIM, (2, 3), use_bias=False, **k), (IMAGES,)),
    "ConvolutionalSubsampling": lambda **k: (
        kt.ConvolutionalSubsampling(DIM, (1, 2), kernel_size=2, activation="gelu", **k),
        (X,),
    ),
    "MaskedPooling": lambda **k: (kt.MaskedPooling("max", **k), (X,)),
    "FeedForward": lambda **k: (kt.FeedForward(INNER, activation="gelu", dropout=0.5, **k), (X,)),
    "FeedForward, limited": lambda **k: (
        kt.FeedForward(INNER, activation="quick_gelu", gated=True, gate_limit=0.7, gate_offset=1.0, **k),
        (X,),
    ),
    "FeedForward, gated": lambda **k: (kt.FeedForward(INNER, activation="silu", gated=True, use_bias=False, **k), (X,)),
    "MixtureOfExperts": lambda **k: (
        kt.MixtureOfExperts(5, INNER, activation="silu", gated=True, dropout=0.5, **k),
        (X,),
    ),
    "MixtureOfExperts, limited": lambda **k: (
        kt.MixtureOfExperts(
            5, INNER, activation="quick_gelu", gated=True, gate_limit=0.7, gate_offset=1.0, router_bias=True, **k
        ),
        (X,),
    ),
    "MultiHeadSelfAttention": lambda **k: (kt.MultiHeadSelfAttention(HEADS, HEAD_DIM, **k), (X,)),
    "MultiHeadSelfAttention, all options": lambda **k: (
        kt.MultiHeadSelfAttention(
            HEADS,
            HEAD_DIM,
            causal=True,
            num_kv_heads=1,
            position=kt.RotaryPosition(50.0, interleaved=True, dtype=k.get("dtype")),
            window=3,
            qk_norm=True,
            soft_cap=2.0,
            dropout=0.5,
            use_bias=False,
            sinks=True,
            scale=0.3,
            **k,
        ),
        (X,),
    ),
    "MultiHeadSelfAttention, relative": lambda **k: (
        kt.MultiHeadSelfAttention(HEADS, HEAD_DIM, position=kt.RelativePosition(6, 5, dtype=k.get("dtype")), **k),
        (X,),
    ),
    "MultiHeadCrossAttention": lambda **k: (kt.MultiHeadCrossAttention(HEADS, HEAD_DIM, **k), (X, MEMORY)),
    "MultiHeadCrossAttention, all options": lambda **k: (
        kt.MultiHeadCrossAttention(
            HEADS,
            HEAD_DIM,
            num_kv_heads=1,
            qk_norm=kt.LayerNormalization(),
            qk_norm_over="heads",
            soft_cap=2.0,
            dropout=0.5,
            use_bias=False,
            qkv_bias=True,
            **k,
        ),
        (X, MEMORY),
    ),
    "EncoderLayer": lambda **k: (kt.EncoderLayer(HEADS, INNER, head_dim=HEAD_DIM, dropout=0.5, **k), (X,)),
    "EncoderLayer, all options": lambda **k: (
        kt.EncoderLayer(
            HEADS,
            INNER,
            dropout=0.3,
            attention_dropout=0.4,
            activation="silu",
            gated=True,
            normalize_first=True,
            norm="rms",
            norm_epsilon=1e-3,
            use_bias=False,
            num_kv_heads=1,
            head_dim=HEAD_DIM,
            qk_norm=True,
            soft_cap=2.0,
            position=kt.RelativePosition(6, 5, dtype=k.get("dtype")),
            window=3,
            **k,
        ),
        (X,),
    ),
    "DecoderLayer": lambda **k: (kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM, dropout=0.5, **k), (X, MEMORY)),
    "DecoderLayer, without memory": lambda **k: (
        kt.DecoderLayer(
            HEADS,
            INNER,
            head_dim=HEAD_DIM,
            attention_dropout=0.5,
            position=kt.AlibiPosition(dtype=k.get("dtype")),
            window=2,
            **k,
        ),
        (X,),
    ),
    "DecoderLayer, all options": lambda **k: (
        kt.DecoderLayer(
            HEADS,
            INNER,
            activation="gelu",
            gated=True,
            normalize_first=True,
            norm="rms",
            use_bias=False,
            num_kv_heads=1,
            head_dim=HEAD_DIM,
            qk_norm=True,
            soft_cap=2.0,
            position=kt.RotaryPosition(frequencies=[0.7, 0.1], magnitude=1.3, dtype=k.get("dtype")),
            window=3,
            **k,
        ),
        (X, MEMORY),
    ),
    "EncoderLayer, norms": lambda **k: (
        kt.EncoderLayer(
            HEADS,
            INNER,
            head_dim=HEAD_DIM,
            dropout=0.5,
            norm=kt.RMSNormalization(offset=1.0),
            norm_placement="both",
            **k,
        ),
        (X,),
    ),
    "DecoderLayer, norms": lambda **k: (
        kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM, norm="rms", norm_placement="branch", **k),
        (X, MEMORY),
    ),
    "DecoderLayer, parallel": lambda **k: (
        kt.DecoderLayer(HEADS, INNER, head_dim=HEAD_DIM, dropout=0.5, parallel_norms=1, **k),
        (X,),
    ),
    "DecoderLayer, experts": lambda **k: (
        kt.DecoderLayer(
            HEADS, head_dim=HEAD_DIM, feed_forward=kt.MixtureOfExperts(3, INNER, dtype=k.get("dtype")), **k
        ),
        (X, MEMORY),
    ),
    "RecurrentDecoderLayer": lambda **k: (kt.RecurrentDecoderLayer(DIM, "lstm", attention_dim=INNER, **k), (X,)),
    "DotAttention": lambda **k: (kt.DotAttention(DIM, **k), (X, MEMORY[..., :DIM])),
}
ATTENTION = [name for name in CATALOGUE if name.startswith(("MultiHead", "Encoder", "Decoder"))]


def build(name, **arguments):
    """The layer of that name in the catalogue, built, with no weight left at a zero or a one; and its inputs."""
    layer, inputs = CATALOGUE[name](**arguments)
    layer(*inputs)
    randomize(layer)
    return layer, inputs


def randomize(layer, seed=3):
    """Give every weight values that show: scales around 1, all others around 0."""
    random = np.random.default_rng(seed)
    for weight in layer.weights:
        if "seed_generator" not in weight.path:
            centre = 1.0 if weight.path.split("/")[-1] in ("scale", "gamma") else 0.0
            weight.assign(centre + 0.3 * random.normal(size=weight.shape))


def as_numpy(tensor):
    """A float32 or bool NumPy array, whatever the tensor's precision."""
    if keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16"):
        tensor = ops.cast(tensor, "float32")
    return ops.convert_to_numpy(tensor)


def gradients(function, *arrays, cotangents):
    """d sum(c * function(*arrays)) / d array, for each c in `cotangents`: a list of tuples of arrays."""
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    if keras.backend.backend() == "jax":
        import jax

        output, pull_back = jax.vjp(function, *tensors)
        found = [pull_back(ops.cast(c, output.dtype)) for c in cotangents]
    elif keras.backend.backend() == "torch":
        import torch

        output = function(*(tensor.requires_grad_() for tensor in tensors))
        options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        found = [torch.autograd.grad(output, tensors, ops.cast(c, output.dtype), **options) for c in cotangents]
    else:
        import tensorflow as tf

        with tf.GradientTape(persistent=True) as tape:
            tape.watch(tensors)
            output = function(*tensors)
        found = [tape.gradient(output, tensors, c, unconnected_gradients="zero") for c in cotangents]
    return [tuple(as_numpy(gradient) for gradient in of_one) for of_one in found]


def influence(function, x):
    """Bool (B, T, S): whether `function(x)` at t, for `x` (B, S, ...), changes with x at s, by its exact gradient."""
    shape = as_numpy(function(ops.convert_to_tensor(x))).shape
    direction = np.random.default_rng(5).normal(size=shape[2:])
    cotangents = np.zeros((shape[1], *shape), "float32")
    for t in range(shape[1]):
        cotangents[t, :, t] = direction
    found = gradients(function, x, cotangents=cotangents)
    return np.stack([(gradient != 0).any(-1) for (gradient,) in found], axis=1)


def weight_gradients(layer, call):
    """The gradient of sum(c * call()), for random c, with respect to each trainable weight: {path: array}."""
    variables = layer.trainable_variables
    if not variables:
        return {}
    cotangent = np.random.default_rng(5).normal(size=call().shape).astype("float32")
    if keras.backend.backend() == "jax":
        import jax

        def loss(values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return ops.sum(ops.cast(call(), "float32") * cotangent)

        found = jax.jit(jax.grad(loss))([variable.value for variable in variables])
    elif keras.backend.backend() == "torch":
        import torch

        loss = ops.sum(ops.cast(call(), "float32") * ops.convert_to_tensor(cotangent))
        found = torch.autograd.grad(loss, [variable.value for variable in variables], allow_unused=True)
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = ops.sum(ops.cast(call(), "float32") * cotangent)
        found = tape.gradient(loss, [variable.value for variable in variables])
    return {
        variable.path: None if gradient is None else as_numpy(ops.convert_to_tensor(gradient))
        for variable, gradient in zip(variables, found, strict=True)
    }
