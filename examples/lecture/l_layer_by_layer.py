"""Claim: the encoder is attention and feed-forward, the decoder masked attention, cross-attention and feed-forward.

    encoder layer:  x = Norm(x + SelfAttention(x)); x = Norm(x + FFN(x))
    decoder layer:  y = Norm(y + MaskedSelfAttention(y)); y = Norm(y + CrossAttention(y, x)); y = Norm(y + FFN(y))
    FFN(x) = max(0, x W1 + b1) W2 + b2
    ("Attention Is All You Need", sections 3.1 to 3.4, https://arxiv.org/abs/1706.03762)

A Transformer of the paper's base size (six layers each, width 512, eight heads, 2048 within) is taken apart: its parts
are called one by one, as the formulas say, on a source of 11 tokens and a target of 7. Each leaves a row: its name, the
shape it gave, its weights. The logits at the end must be those that the whole model gives, and the weights must add up.
The first self-attention is taken apart once more, into the steps of its heads, which must give what the layer gives.

    python examples/lecture/l_layer_by_layer.py
"""

import keras
import numpy as np
import page
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

import keras_transformer as kt

VOCABULARY, SOURCE, TARGET = 37_000, 11, 7
COLOURS = {"embedding": "#fde2e4", "position": "#fff1c9", "attention": "#ffd7b5", "norm": "#eef5c1"}


class Walk:
    """Calls parts of a model and notes what each gave."""

    def __init__(self):
        self.rows = []

    def __call__(self, stack: str, name: str, part, *inputs, weights: bool = True, **options):
        outputs = part(*inputs, **options)
        self.rows.append(
            {
                "stack": stack,
                "part": name,
                "output": list(outputs.shape[1:]),
                "weights": part.count_params() if weights else 0,
            }
        )
        return outputs

    def attend(self, stack: str, layer, x, memory=None):
        """A sub-layer of attention with its residual and its normalization."""
        kind = "self_attention" if memory is None else "cross_attention"
        title = {"encoder": "self-attention", "decoder": "masked self-attention"}[stack]
        title = f"{layer.name}: {title if memory is None else 'cross-attention'}"
        inputs = (x,) if memory is None else (x, memory)
        y = self(stack, title, getattr(layer, kind), *inputs)
        return self(stack, f"{layer.name}: add and norm", getattr(layer, f"{kind}_norm"), x + y)

    def transform(self, stack: str, layer, x):
        """The feed-forward network, in its two halves, with its residual and its normalization."""
        network = layer.feed_forward
        hidden = self(stack, f"{layer.name}: feed-forward, wider", network.inner, x)
        y = self(stack, f"{layer.name}: feed-forward, back", network.outer, network.activation(hidden))
        return self(stack, f"{layer.name}: add and norm", layer.feed_forward_norm, x + y)


def take_apart(model: keras.Model, num_layers: int, source, target) -> tuple[list[dict], np.ndarray]:
    """Every part of a model of `kt.models.transformer`, called one after the other, and the logits."""
    walk, parts = Walk(), {layer.name: layer for layer in model.layers}
    x = walk("encoder", "embedding", parts["source_embedding"], source)
    x = walk("encoder", "positional encoding", parts["source_embedding_position"], x)
    for i in range(num_layers):
        x = walk.attend("encoder", parts[f"encoder_{i}"], x)
        x = walk.transform("encoder", parts[f"encoder_{i}"], x)
    y = walk("decoder", "embedding", parts["target_embedding"], target)
    y = walk("decoder", "positional encoding", parts["target_embedding_position"], y)
    for i in range(num_layers):
        y = walk.attend("decoder", parts[f"decoder_{i}"], y)
        y = walk.attend("decoder", parts[f"decoder_{i}"], y, x)
        y = walk.transform("decoder", parts[f"decoder_{i}"], y)
    logits = walk(
        "decoder", "linear (the embedding's weights)", parts["target_embedding"], y, weights=False, reverse=True
    )
    probabilities = walk("decoder", "softmax", keras.layers.Softmax(), logits)
    assert np.allclose(keras.ops.convert_to_numpy(probabilities).sum(-1), 1, atol=1e-4)
    return walk.rows, keras.ops.convert_to_numpy(logits)


def take_attention_apart(attention, x) -> tuple[list[dict], float]:
    """The steps of the heads of a self-attention, and the largest difference from what the layer gives."""
    heads, width = attention.num_heads, x.shape[-1]
    projected = keras.ops.reshape(attention.query_key_value(x), (-1, x.shape[1], 3, heads, width // heads))
    query, key, value = keras.ops.unstack(keras.ops.transpose(projected, (2, 0, 3, 1, 4)))  # each (B, H, T, K)
    scores = keras.ops.matmul(query, keras.ops.swapaxes(key, -1, -2)) / (width // heads) ** 0.5
    weights = keras.ops.softmax(scores)
    summed = keras.ops.matmul(weights, value)
    joined = keras.ops.reshape(keras.ops.swapaxes(summed, 1, 2), x.shape)
    outputs = attention.output_projection(joined)
    steps = {
        "query, key and value, each": query,
        "scores, divided by the root of the width": scores,
        "attention weights": weights,
        "weighted sums": summed,
        "heads side by side": joined,
        "last projection": outputs,
    }
    difference = float(f"{keras.ops.max(keras.ops.abs(outputs - attention(x))):.1e}")
    return [{"step": name, "output": list(step.shape[1:])} for name, step in steps.items()], difference


def draw(rows: list[dict], num_layers: int) -> Figure:
    """The parts as boxes with their shapes, the first layer for all of its kind."""
    figure = Figure(figsize=(11, 9), layout="constrained")
    axes = figure.subplots()
    tops = {}
    for column, stack in enumerate(("encoder", "decoder")):
        shown = [r for r in rows if r["stack"] == stack and ("_" not in r["part"] or f"{stack}_0:" in r["part"])]
        for height, row in enumerate(shown):
            name = row["part"].removeprefix(f"{stack}_0: ")
            colour = next((value for key, value in COLOURS.items() if key in name), "#cdeaf5")
            box = FancyBboxPatch((6 * column, height), 4, 0.55, boxstyle="round,pad=0.06", fc=colour, ec="black")
            axes.add_patch(box)
            axes.text(
                6 * column + 2, height + 0.28, f"{name}\n{tuple(row['output'])}", ha="center", va="center", size=9
            )
            if height:
                axes.annotate("", (6 * column + 2, height - 0.06), (6 * column + 2, height - 0.39), arrowprops=ARROW)
            tops[stack, name] = height
        repeated = [height for height, row in enumerate(shown) if "_0:" in row["part"]]
        low, high = repeated[0] - 0.2, repeated[-1] + 0.75
        edges = (6 * column - 0.3, low), 4.6, high - low
        axes.add_patch(FancyBboxPatch(*edges, boxstyle="square,pad=0", fc="none", ec="gray", ls="--"))
        side, align = (-0.4, "right") if column == 0 else (10.4, "left")
        axes.text(side, (low + high) / 2, f"{num_layers} x", ha=align, size=13)
        axes.text(6 * column + 2, -0.5, f"{stack}: {SOURCE if column == 0 else TARGET} tokens", ha="center", size=11)
        tops[stack] = len(shown)
    memory, cross = (4.06, tops["encoder"] - 0.7), (5.94, tops["decoder", "cross-attention"] + 0.28)
    axes.annotate("", cross, memory, arrowprops=ARROW)
    axes.set(xlim=(-1.5, 11.5), ylim=(-0.8, tops["decoder"]))
    axes.axis("off")
    return figure


ARROW = {"arrowstyle": "->", "lw": 1.2}


def main() -> None:
    """Build the model, take it apart, compare, draw."""
    options = page.arguments(__doc__)
    num_layers = 6
    model = kt.models.transformer(VOCABULARY, VOCABULARY, num_layers=num_layers)  # else the paper's base size
    random = np.random.default_rng(page.SEED)
    source, target = (random.integers(1, VOCABULARY, (1, length)) for length in (SOURCE, TARGET))
    rows, logits = take_apart(model, num_layers, source, target)
    whole = keras.ops.convert_to_numpy(model([source, target], training=False))
    difference = float(f"{np.abs(whole - logits).max():.1e}")
    vectors = keras.Model(model.inputs[0], model.get_layer("source_embedding_dropout").output)(source)
    heads, difference_of_heads = take_attention_apart(model.get_layer("encoder_0").self_attention, vectors)

    print_rows = [r for r in rows if "_" not in r["part"] or "_0:" in r["part"]]
    page.table(
        f"One layer of each stack (there are {num_layers}); in all {model.count_params():,} weights",
        ["part", "shape it gives", "weights"],
        [[f"{r['stack']}  {r['part']}", tuple(r["output"]), f"{r['weights']:,}"] for r in print_rows],
    )
    page.table(
        "Within the first self-attention", ["step", "shape it gives"], [[s["step"], tuple(s["output"])] for s in heads]
    )
    sums = {
        name: sum(r["weights"] for r in rows if name in f"{r['stack']} {r['part']}")
        for name in ("embedding", "encoder_0", "decoder_0", "attention", "feed-forward", "norm")
    }
    kinds = {
        stack: [r["part"].removeprefix(f"{stack}_0: ") for r in rows if f"{stack}_0:" in r["part"]]
        for stack in ("encoder", "decoder")
    }
    feed_forward = ["feed-forward, wider", "feed-forward, back", "add and norm"]
    page.write(
        options,
        __file__,
        "An encoder layer is self-attention and feed-forward; a decoder layer masked self-attention, cross-attention "
        "and feed-forward; a linear layer and softmax end the decoder.",
        max(difference, difference_of_heads) < 1e-4
        and sum(r["weights"] for r in rows) == model.count_params()
        and kinds["encoder"] == ["self-attention", "add and norm", *feed_forward]
        and kinds["decoder"]
        == ["masked self-attention", "add and norm", "cross-attention", "add and norm", *feed_forward],
        {
            "difference_from_the_whole_model": difference,
            "largest_logit": round(float(np.abs(whole).max()), 2),
            "weights": model.count_params(),
            "weights_by_kind": sums,
            "source_length": SOURCE,
            "target_length": TARGET,
            "steps_of_the_first_self_attention": heads,
            "difference_from_that_layer": difference_of_heads,
            "parts": rows,
        },
        draw(rows, num_layers),
    )


if __name__ == "__main__":
    main()
