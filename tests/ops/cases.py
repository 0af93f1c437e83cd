"""The formula of attention in float64, gradients on any backend, and random cases for both."""

import keras
import numpy as np
import torch
from keras import ops

from keras_transformer.ops.visibility import Visibility

BATCH, GROUPS, SHARED, WIDTH, VALUE_WIDTH = 2, 3, 2, 5, 7
HEADS = GROUPS * SHARED
FORMS = {
    "tensorflow": ("eager", "graph", "xla"),
    "jax": ("compiled", "compiled", "compiled", "compiled", "compiled", "eager"),  # eager, each block is compiled
    "torch": ("eager",),
}[keras.backend.backend()]


def oracle(tensors: dict, seen: dict, scale, soft_cap, dropped):
    """The formula in float64, all pairs at once; output and gradients by PyTorch."""
    leaves = {name: torch.tensor(x, dtype=torch.float64, requires_grad=True) for name, x in tensors.items()}
    query, key, value = (leaves[name] for name in ("query", "key", "value"))
    length, keys = query.shape[2], key.shape[2]
    key, value = (x.repeat_interleave(SHARED, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scale
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    if "bias" in leaves:
        scores = scores + leaves["bias"]
    distance = np.arange(keys)[None] - np.arange(length)[:, None]
    if "distance_bias" in leaves:
        scores = scores + leaves["distance_bias"][:, distance + length - 1]
    allowed = np.ones((BATCH, 1, length, keys), bool)
    if seen.get("causal"):
        allowed &= distance <= 0
    if seen.get("window"):
        allowed &= abs(distance) < seen["window"]
    if "key_mask" in seen:
        allowed &= seen["key_mask"][:, None, None]
    if "query_segments" in seen:
        allowed &= (seen["query_segments"][:, :, None] == seen["key_segments"][:, None])[:, None]
    if "mask" in seen:
        allowed = allowed & seen["mask"]
    scores = torch.where(torch.tensor(allowed), scores, -torch.inf)
    if "sinks" in leaves:
        sinks = leaves["sinks"].reshape(1, -1, 1, 1).expand(BATCH, HEADS, length, 1)
        scores = torch.cat([scores, sinks], -1)
    weights = torch.nan_to_num(torch.softmax(scores, -1))[..., :keys]
    if dropped is not None:
        weights = weights * torch.tensor(dropped)
    return weights @ value, leaves


def computed(attention, tensors: dict, seen: dict, upstream, form: str, **options):
    """Output and gradients of a way to compute it, as NumPy arrays."""
    names, masks = list(tensors), [name for name in seen if not isinstance(seen[name], bool | int)]

    def run(arrays, given):
        named = dict(zip(names, arrays, strict=True))
        rest = {name: x for name, x in seen.items() if name not in masks}
        return attention(
            named.pop("query"),
            named.pop("key"),
            named.pop("value"),
            Visibility(**rest, **dict(zip(masks, given, strict=True))),
            **named,
            **options,
        )

    arrays, given = [tensors[name].astype("float32") for name in names], [seen[name] for name in masks]
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        def both(arrays, given):
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                output = run(arrays, given)
                loss = tf.reduce_sum(output * upstream)
            return output, tape.gradient(loss, arrays)

        if form != "eager":
            both = tf.function(both, jit_compile=form == "xla")
        output, gradients = both([tf.constant(x) for x in arrays], [tf.constant(x) for x in given])
    elif backend == "jax":
        import jax

        def loss(arrays, given):
            output = run(arrays, given)
            return (output * upstream).sum(), output

        both = jax.value_and_grad(loss, has_aux=True)
        (_, output), gradients = (jax.jit(both) if form == "compiled" else both)(arrays, given)
    else:
        leaves = [torch.tensor(x, requires_grad=True) for x in arrays]
        output = run(leaves, [torch.tensor(x) for x in given])
        (output * torch.tensor(upstream)).sum().backward()
        gradients = [leaf.grad for leaf in leaves]
    return ops.convert_to_numpy(output), [ops.convert_to_numpy(x) for x in gradients]


def drawn(number: int):
    """The tensors, what may be seen and the options of case `number`."""
    random = np.random.default_rng(number)
    length = int(random.choice([1, 11, 13, 29]))
    same = random.random() < 0.6
    keys = length if same else int(random.choice([3, 17, 23]))
    shapes = {"query": (BATCH, HEADS, length, WIDTH), "key": (BATCH, GROUPS, keys, WIDTH)}
    shapes["value"] = (BATCH, GROUPS, keys, VALUE_WIDTH)
    if random.random() < 0.3:
        shapes["bias"] = tuple(size if random.random() < 0.6 else 1 for size in (BATCH, HEADS, length, keys))
    if random.random() < 0.4:
        shapes["distance_bias"] = (HEADS, length + keys - 1)
    if random.random() < 0.3:
        shapes["sinks"] = (HEADS,)
    tensors = {name: random.normal(size=shape) for name, shape in shapes.items()}
    seen = {}
    if same:
        seen["causal"] = bool(random.random() < 0.6)
        if random.random() < 0.4:
            seen["window"] = int(random.choice([1, 2, 5, 7, 19]))
    if random.random() < 0.5:
        ends = random.integers(0, keys + 1, size=(BATCH, 1))
        seen["key_mask"] = np.arange(keys)[None] < ends
        if random.random() < 0.3:
            seen["key_mask"] = random.random((BATCH, keys)) < 0.7
    if random.random() < 0.3:
        seen["query_segments"] = np.sort(random.integers(0, 4, size=(BATCH, length))).astype("int32")
        seen["key_segments"] = (
            seen["query_segments"] if same else np.sort(random.integers(0, 4, size=(BATCH, keys))).astype("int32")
        )
    if random.random() < 0.3:
        seen["mask"] = random.random((random.choice([1, BATCH]), random.choice([1, HEADS]), length, keys)) < 0.7
    options = {"block": int(random.choice([2, 3, 4, 8, 16, 64]))}
    if random.random() < 0.3:
        options["soft_cap"] = 1.5
    if random.random() < 0.3:
        options["scale"] = 0.7
    if random.random() < 0.3:
        options |= {"dropout": 0.4, "seed": number + 1}
    return tensors, seen, options
