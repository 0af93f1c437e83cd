"""The plots of docs/benchmarks.md: SVG files that say, in their description, of which figures they are."""

import hashlib
import json
from pathlib import Path

OURS, PEER, PALE = "#1f5fa8", "#b8bcc4", "#7fa8d6"


def digest(figures) -> str:
    """A hash of what a plot shows."""
    return hashlib.sha256(json.dumps(figures, sort_keys=True).encode()).hexdigest()[:16]


def train_step(figure, result) -> None:
    """Bars: a step with each loss and allocator, and the floor."""
    titles = {
        "keras_transformer": "keras_transformer",
        "keras_hub": "keras_hub",
        "keras_mha": "Keras MHA",
        "torch": "torch",
    }
    ways = {
        "ours, default": ("our loss", 1.0),
        "keras, default": ("Keras' loss", 0.75),
        "ours, kept": ("our loss, memory kept", 0.5),
        "keras, kept": ("Keras' loss, memory kept", 0.3),
    }
    axes = figure.subplots()
    engines = [engine for engine in titles if engine in result.ways]
    for i, (way, (title, alpha)) in enumerate(ways.items()):
        for j, engine in enumerate(engines):
            row = result.ways[engine].get(way) or result.ways[engine].get(way.replace("ours", "own"))
            if row is not None:
                color = OURS if engine == "keras_transformer" else "#555b66"
                axes.barh(j + 0.2 * i - 0.3, row.median_ms, 0.18, color=color, alpha=alpha)
                title = title.replace("our", "its") if engine == "torch" else title
                axes.text(row.median_ms, j + 0.2 * i - 0.3, f" {row.median_ms:.0f}  {title}", va="center", fontsize=6)
    floor = result.operations_per_step / result.matmul_gflops_per_second / 1e6
    axes.axvline(floor, color="#c0392b", linewidth=1)
    axes.text(floor, -0.55, " matrix products alone", color="#c0392b", fontsize=7, va="center")
    axes.set_yticks(range(len(engines)), [titles[engine] for engine in engines])
    axes.set_xlim(0, axes.get_xlim()[1] * 1.25)
    axes.invert_yaxis()
    axes.set_xlabel("ms a step")


def attention(figure, result) -> None:
    """Lines: time and memory of attention by length."""
    ways = {
        "exact": ("exact", PALE, "-"),
        "blockwise": ("blockwise", OURS, "-"),
        "window": ("blockwise, window of 512", OURS, ":"),
        "keras": ("keras.ops.dot_product_attention", PEER, "-"),
        "torch": ("PyTorch", "#e08a3c", "-"),
    }
    panels = figure.subplots(1, 2)
    for axes, key, label in zip(panels, ("ms", "mib"), ("ms, forward and backward", "peak MiB"), strict=True):
        for way, (title, color, line) in ways.items():
            points = {int(name.split()[1]): row[key] for name, row in result.items() if name.startswith(f"{way} ")}
            axes.plot(sorted(points), [points[n] for n in sorted(points)], line, color=color, label=title, marker=".")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("tokens")
        axes.set_ylabel(label)
    panels[0].legend(frameon=False, fontsize=7)


def decode(figure, result) -> None:
    """Bars: tokens a second of each engine, a panel for each case."""
    titles = {
        "keras_transformer": "ours, TensorFlow",
        "keras_transformer_jax": "ours, JAX",
        "ctranslate2": "CTranslate2",
        "transformers": "transformers",
        "keras_hub": "KerasHub",
    }
    panels = figure.subplots(1, len(result.cases), squeeze=False, sharey=True)[0]
    for axes, case in zip(panels, result.cases.values(), strict=True):
        engines = [name for name in titles if name in case.engines]
        values = [case.engines[name].tokens_per_second for name in engines]
        colors = [OURS if name == "keras_transformer" else PALE if "jax" in name else PEER for name in engines]
        axes.barh([titles[name] for name in engines], values, color=colors)
        for name, value in zip(engines, values, strict=True):
            axes.text(0, titles[name], f" {value:.0f}", va="center", fontsize=7)
        axes.set_title("\n".join(case.title.replace(", batch", " x").split(", ")), fontsize=7)
        axes.set_xticks([])
    panels[0].invert_yaxis()
    figure.supxlabel("tokens a second", fontsize=8)


def serve_load(figure, result) -> None:
    """A line: resident memory while requests are answered."""
    axes = figure.subplots()
    memory = result.rss_mib
    axes.plot([result.requests * i / (len(memory) - 1) for i in range(len(memory))], memory, color=OURS)
    axes.set_ylim(0, 1.2 * max(memory))
    axes.set_xlabel("requests answered")
    axes.set_ylabel("resident memory, MiB")


PLOTS = {train_step: (6.4, 3.6), attention: (7.2, 3.0), decode: (7.2, 2.2), serve_load: (6.4, 2.2)}  # inches


def drawable(results) -> dict:
    """Those of which there are figures, with their sizes."""
    found = {draw: size for draw, size in PLOTS.items() if draw.__name__ in results}
    if "ways" not in results.train_step:
        found.pop(train_step)
    return found


def write(folder: Path, results) -> None:
    """Draw anew the plots whose figures have changed."""
    import matplotlib
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    style = {"svg.fonttype": "none", "svg.hashsalt": "keras_transformer", "font.size": 8, "axes.spines.top": False,
             "axes.spines.right": False}  # fmt: skip
    for draw, size in drawable(results).items():
        path, made_of = folder / f"{draw.__name__}.svg", digest(results[draw.__name__])
        if path.exists() and made_of in path.read_text():
            continue
        with matplotlib.rc_context(style):
            figure = Figure(figsize=size, layout="constrained", facecolor="white")
            draw(figure, results[draw.__name__])
            figure.savefig(path, metadata={"Date": None, "Creator": None, "Description": f"figures {made_of}"})
