"""docs/benchmarks.md and its plots, made from the result files and from the prose in docs/benchmarks.template.md.

The template is Markdown in which {...} is a Python expression, as in an f-string: of the results, by the names of their
files, and of the functions here. `python benchmarks/run.py --page` writes all.
"""

import inspect
import json
import re
import statistics
import sys
import textwrap
from pathlib import Path

import plots
from decode_engines import engine_of
from report import REPOSITORY, RESULTS

PAGE = REPOSITORY / "docs" / "benchmarks.md"
TEMPLATE = REPOSITORY / "docs" / "benchmarks.template.md"
NOTE = "<!-- Made by `python benchmarks/run.py --page` from docs/benchmarks.template.md and the result files. -->\n\n"


LINK = re.compile(r"\(\.\./(?:benchmarks|examples)/results/(\w+)\.json(?:#(\w+))?\)")


class Figures(dict):
    """What a result file holds; names are attributes, too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"The results have no {name}; they have {', '.join(self)}.") from None


def load_results() -> Figures:
    """All result files, of examples and benchmarks, by name."""
    results = Figures()
    for folder in (REPOSITORY / "examples" / "results", RESULTS):
        for path in sorted(folder.glob("*.json")):
            results[path.stem] = json.loads(path.read_text(), object_hook=Figures)
    return results


def render(template: str, results: Figures) -> str:
    """The page: the template with the values of its expressions, without sections of what is not measured yet."""
    names = {**dict(inspect.getmembers(sys.modules[__name__], inspect.isfunction)), "results": results, **results}
    sections = re.split(r"^(?=## )", template.strip(), flags=re.MULTILINE)
    measured = [section for section in sections if all(has(results, *link) for link in LINK.findall(section))]
    page = eval(f'f"""{"".join(measured)}"""', names)
    return NOTE + "\n\n".join(filled(block) for block in page.strip().split("\n\n")) + "\n"


def has(results: Figures, name: str, part: str) -> bool:
    """Whether there is a result file of that name, with that part if one is named."""
    return name in results and (not part or part in results[name])


def filled(block: str) -> str:
    """A paragraph in lines of 120 characters at most; what is none, as it is."""
    if block.startswith(("#", "|", "!")):
        return block
    return textwrap.fill(block, 120, break_long_words=False, break_on_hyphens=False)


def write_page(page: Path, results: Figures) -> None:
    """Write the page, and the plots into a folder of its name beside it."""
    page.write_text(render(TEMPLATE.read_text(), results))
    plots.write(page.with_suffix(""), results)


# ---- what the template calls ----


def table(head: list[str], rows: list[list[str]]) -> str:
    """In Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("|" + "|".join(f" {cell} " if cell != "---" else cell for cell in line) + "|" for line in lines)


def listed(values, form: str = "") -> str:
    """1, 2 and 3."""
    *most, last = (format(value, form) for value in values)
    return f"{', '.join(most)} and {last}" if most else last


def least_and_most(values, form: str = ".2f") -> str:
    """1 to 3, or 2 where all are 2."""
    ends = dict.fromkeys(format(end(values), form) for end in (min, max))
    return " to ".join(ends)


def experts_table(result: Figures) -> str:
    """Milliseconds of a step, and in units of the dense network's, which is the first."""
    dense, *_ = result.ms.values()
    rows = [[name, f"{ms:.0f}", f"{ms / dense:.2f}"] for name, ms in result.ms.items()]
    return table(["", "ms", "of dense"], rows)


def language_models_table(result: Figures) -> str:
    """Tokens a second and memory of each engine."""
    rows = [
        [
            engine.title,
            f"{engine.prefill_tokens_per_second:.0f}",
            f"{engine.decode_tokens_per_second:.1f}",
            f"{engine.peak_mib:.0f}",
            "-" if engine.equal_tokens is None else f"{engine.equal_tokens * result.new:.0f} of {result.new}",
        ]
        for engine in result.engines.values()
    ]
    return table(["", "prompt, tokens/s", "new, tokens/s", "peak MiB", "equal to transformers"], rows)


def fine_tuning_table(result: Figures) -> str:
    """Of each way, the share of the weights, accuracy as the mean of the seeds, its range, and minutes."""
    titles = {"full": "all weights", "lora": "LoRA", "scratch": "all weights, from random ones"}
    rows = []
    for way, title in titles.items():
        if way not in result:
            continue
        runs = result[way].runs
        dev, test = ([run[f"{part}_accuracy"] for run in runs] for part in ("dev", "test"))
        rows.append(
            [
                title,
                f"{runs[0].trained_share:.1%}",
                f"{len(runs)}",
                f"{statistics.mean(dev):.1%}",
                f"{statistics.mean(test):.1%}",
                " to ".join(f"{bound:.1%}" for bound in (min(test), max(test))),
                f"{statistics.mean(run.minutes for run in runs):.0f}",
            ]
        )
    return table(["", "trained", "seeds", "validation", "test", "lowest to highest", "minutes"], rows)


def measured(results: Figures) -> str:
    """When each benchmark was measured, and on what."""
    rows = []
    for path in sorted(RESULTS.glob("*.json")):
        result = results[path.stem]
        machine, found = result.machine, result.versions
        kind = machine.get("accelerators") or [f"{machine.cpu}, {machine.cores} cores", *vectors(machine)]
        versions = ", ".join(f"{name} {found[name]}" for name in ("keras", "tensorflow") if name in found)
        link = f"[{path.stem}](../benchmarks/results/{path.name})"
        rows.append([link, result.get("date", "earlier"), ", ".join(kind), versions])
    return table(["result", "measured", "machine", "versions"], rows)


def vectors(machine: Figures) -> list[str]:
    """Its widest vector instructions, where the file tells them."""
    return [machine.vectors] if machine.get("vectors") else []


# ---- training ----

ENGINES = {
    "keras_transformer": "keras_transformer",
    "keras_hub": "keras_hub layers",
    "keras_mha": "keras.layers.MultiHeadAttention",
    "torch": "torch.nn.Transformer",
    "before": "keras_transformer, before",
}


def floor(train_step: Figures) -> float:
    """Milliseconds of its matrix products alone."""
    return train_step.operations_per_step / train_step.matmul_gflops_per_second / 1e6


def goal(train_step: Figures, peer: str, wanted: float) -> str:
    """Whether a goal for the time of the step is reached."""
    row = train_step.engines.get(peer)
    if row is None:
        return ""
    reached = "reached" if row.ours_over_this <= wanted else "not reached"
    return f"The goal of {wanted} of {peer}'s time is {reached}: {wanted} would be {wanted * row.median_ms:.0f} ms."


def training_steps(train_step: Figures) -> str:
    """Each engine with its own loss."""
    rows = [
        [
            ENGINES[name],
            f"{row.median_ms:.0f}",
            f"{row.ours_over_this:.2f}",
            f"{row.fraction_of_matmul_rate:.2f}",
            f"{row.peak_mib:.0f}",
        ]
        for name, row in train_step.engines.items()
    ]
    return table(["engine", "ms a step", "ours / this", "of the matmul rate", "peak MiB"], rows)


def training_ways(train_step: Figures) -> str:
    """Each engine with each loss and allocator."""
    heads = {
        "ours, default": "our loss",
        "keras, default": "Keras' loss",
        "ours, kept": "our loss, memory kept",
        "keras, kept": "Keras' loss, memory kept",
    }
    rows = []
    for engine, ways in train_step.ways.items():
        if engine != "before":
            cells = [ways.get(way) or ways.get(way.replace("ours", "own")) for way in heads]
            rows.append([ENGINES[engine], *(way_cell(cell) for cell in cells)])
    return table(["engine", *heads.values()], rows) + "\n\ntorch.nn.Transformer has PyTorch's loss in place of ours."


def way_cell(row: Figures | None) -> str:
    """Milliseconds, and what part of them ours takes."""
    if row is None:
        return "-"
    ratio = row.ours_with_this_loss_over_this or row.ours_over_this
    return f"{row.median_ms:.0f} ({ratio:.2f})"


def training_shares(train_step: Figures) -> str:
    """What the loss and the allocator are of a step."""
    kinds = {
        "loss": "our loss in place of Keras'",
        "allocator, our loss": "kept memory, with our loss",
        "allocator, Keras loss": "kept memory, with Keras' loss",
    }
    engines = {name: shares for name, shares in train_step.shares.items() if "loss" in shares and name != "before"}
    rows = [
        [title, *(percent(shares[kind]) if kind in shares else "-" for shares in engines.values())]
        for kind, title in kinds.items()
    ]
    text = table(["what it saves of a step", *(ENGINES[name] for name in engines)], rows)
    if "before" in train_step.engines:
        now, before = train_step.engines.keras_transformer, train_step.engines.before
        time, memory = now.median_ms / before.median_ms, now.peak_mib / before.peak_mib
        text += "\n\nBeside the version before, in the same run, our step takes "
        text += f"{time:.2f} of the time and {memory:.2f} of the memory."
    return text


def percent(share: float) -> str:
    """12 %."""
    return f"{100 * share:.0f} %"


def training_choices_table(training_choices: Figures) -> str:
    """Parts of the step, ours and Keras'."""
    sizes = {"cross-entropy": "64 x 24 x 8000", "feed-forward": "64 x 24 x 256"}
    rows = []
    for row in training_choices.milliseconds:
        name = {"feed-forward": "feed-forward network"}.get(row.part, row.part)
        digits = 1 if row.ours_ms >= 10 else 2
        figures = (f"{row.ours_ms:.{digits}f}", f"{row.keras_ms:.{digits}f}", f"{row.ratio:.2f}")
        rows.append([f"{name}, {sizes.get(row.part, '64 x 24 x 256')}", *figures])
    return table(["part", "ours, ms", "Keras, ms", "ratio"], rows)


ATTENTION = {
    "exact": "exact",
    "blockwise": "blockwise",
    "auto": "automatic",
    "window": "window of 512",
    "keras": "Keras",
    "torch": "PyTorch",
}
ATTENTION_LAYERS = {
    "layer-auto": "ours",
    "layer-window": "ours, window of 512",
    "layer-keras": "`keras.layers.MultiHeadAttention`",
    "layer-torch": "PyTorch",
}


def attention_by_length(attention: Figures, titles: dict = ATTENTION) -> str:
    """Milliseconds and MiB of each way at each length."""
    lengths = sorted({int(name.split()[1]) for name in attention if name.split()[0] == "blockwise"})
    rows = []
    for length in lengths:
        found = [attention.get(f"{way} {length}") for way in titles]
        rows.append([f"{length:,}", *(f"{row.ms:.0f} / {row.mib:.0f}" if row else "-" for row in found)])
    return table(["tokens", *titles.values()], rows)


def attention_layers(attention: Figures) -> str:
    """The same of layers with their projections."""
    return attention_by_length(attention, ATTENTION_LAYERS)


def attention_on_gpu(gpu: Figures) -> str:
    """Milliseconds and MiB of each way at each length, on a GPU."""
    titles = {"exact": "exact", "blockwise": "block by block", "auto": "automatic", "torch": "PyTorch"}
    rows = [
        [
            f"{int(length):,}",
            *(f"{found[way].ms:.2f} / {found[way].mib:,.0f}" if way in found else "-" for way in titles),
        ]
        for length, found in gpu.attention.items()
    ]
    return table(["tokens", *titles.values()], rows)


def long_steps(long_step: Figures) -> str:
    """Seconds and GiB of each backend."""
    rows = [
        [title, f"{row.first_step_s:.0f}", f"{row.peak_gib:.1f}"]
        for backend, title in {"tensorflow": "TensorFlow", "jax": "JAX"}.items()
        if (row := long_step.get(backend))
    ]
    return table(["backend", "s", "peak GiB"], rows)


def losses_table(losses: Figures) -> str:
    """Milliseconds and MiB of each loss on each framework."""
    titles = {
        "keras": "logits, Keras' `SparseCategoricalCrossentropy`",
        "sequence": "logits, `SequenceCrossentropy`",
        "tied": "`TiedCrossentropy`",
    }
    rows = [
        [{"tensorflow": "TensorFlow", "jax": "JAX"}[framework], title, f"{row.ms:,.0f}", f"{row.mib:,.0f}"]
        for framework in ("tensorflow", "jax")
        for way, title in titles.items()
        if (row := losses.get(f"{framework} {way}"))
    ]
    return table(["framework", "way", "ms", "peak MiB"], rows)


def allocator_and_onednn(cpu_training: Figures) -> str:
    """Steps with each setting."""
    titles = {"default": "as it is", "kept": "memory kept", "onednn": "memory kept, oneDNN"}
    rows = [
        [
            name,
            titles[way],
            f"{row.wall_ms:.0f}",
            f"{row.system_ms:.0f}",
            f"{row.peak_megabytes:.0f}",
            f"{model.speed[way]:.2f}",
        ]
        for name, model in cpu_training.models.items()
        for way, row in model.items()
        if way in titles
    ]
    return table(["model", "setting", "ms a step", "of that in the system", "peak MB", "times as fast"], rows)


def bucketing_by_round(batching: Figures) -> list[float]:
    """How many times as fast as plain padding it was, in each round."""
    plain, bucketing = batching.real_tokens.plain, batching.real_tokens.bucketing
    tokens = bucketing.tokens_per_step / plain.tokens_per_step
    pairs = zip(plain.seconds_of_rounds, bucketing.seconds_of_rounds, strict=True)
    return [tokens * slow / fast for slow, fast in pairs]


def batching_table(batching: Figures) -> str:
    """Ways to make batches."""
    shapes = len(batching.whole_epoch.bucketing.shapes)
    titles = {
        "plain": "plain: 64 sentences, padded to the longest of the data set",
        "batch": "64 sentences, padded to the longest of the batch",
        "bucketing": f"bucketing: `TokenBatches`, 1024 positions, {shapes} shapes",
        "packing": "packing: `PackedBatches`, 16 rows of 64",
    }
    rows = [
        [titles[name], f"{100 * row.padding_ratio:.0f}%", f"{row.times_plain:.2f}"]
        for name, row in batching.real_tokens.items()
    ]
    return table(["batches", "padding", "tokens/s, times plain"], rows)


def words_per_update(translate: Figures) -> float:
    """Target tokens, to the hundred."""
    return round(translate.epochs[0].tokens / translate.steps_per_epoch, -2)


def median_rate(translate: Figures) -> float:
    """Target tokens a second of an epoch."""
    return statistics.median(epoch.tokens_per_second for epoch in translate.epochs)


def shakespeare_models(language_model: Figures) -> str:
    """The runs of the example."""
    titles = {
        "plain, character": "`--architecture plain`: learned positions, LayerNorm, GELU, AdamW",
        "modern, character": "`--architecture modern`: rotary, RMSNorm, gated, Muon",
        "modern, subword": "the same of 1,000 subwords, `--tokens subword`",
    }
    rows = [["nanoGPT, as published", "-", f"{language_model.published_validation_loss:.2f}", "-"]]
    for name, title in titles.items():
        row = language_model.runs[name]
        rows.append(
            [title, f"{row.weights:,}", f"{row.validation_loss_per_character:.3f}", f"{row.training_seconds:.0f}"]
        )
    return table(["", "weights", "loss a character", "s, 2 cores"], rows)


# ---- generation ----


def generation(decode: Figures) -> str:
    """Tokens a second of each engine in each case."""
    titles = {
        "keras_transformer": "ours, TensorFlow",
        "keras_transformer_jax": "ours, JAX",
        "before": "ours, before",
        "ctranslate2": "CTranslate2",
        "transformers": "transformers, PyTorch",
        "keras_hub": "KerasHub",
    }
    heads = [
        f"{case.title.split(',')[0]}, {case.batch}" if name != "beam-8" else "4 beams, 8"
        for name, case in decode.cases.items()
    ]
    engines = [name for name in titles if any(name in case.engines for case in decode.cases.values())]
    rows = []
    for engine in engines:
        cells = []
        for case in decode.cases.values():
            row = case.engines[engine]
            ratio = "" if engine == "keras_transformer" else f" ({row.ours_over_this:.2f})"
            cells.append(f"{row.tokens_per_second:.0f}{ratio}")
        rows.append([titles[engine], *cells])
    return table(["engine", *heads], rows)


def faster(decode: Figures, case: str, engine: str) -> float:
    """How many times as fast as an engine ours is."""
    return decode.cases[case].engines[engine].ours_over_this if case in decode.cases else float("nan")


def bandwidth(decode: Figures, engine: str) -> float:
    """What part of the memory's rate an engine reaches at batch 1."""
    row = decode.cases["decoder-1"].engines.get(engine)
    return row.fraction_of_bandwidth if row else float("nan")


def exports(deploy: Figures) -> str:
    """Engines and what they need."""
    titles = {
        "keras_transformer": "`Generator`, XLA",
        "litert_step": "LiteRT float32, steps in a Python loop",
        "ctranslate2": "CTranslate2 float32",
    }
    large = deploy.cases["decoder-32"].engines if "decoder-32" in deploy.cases else {}
    ours = ["keras_transformer", "saved_model", "litert", "litert_step", "litert_int8", "litert_lm", "litert_lm_int8"]
    measured = deploy.cases["decoder-1"].engines
    rows = []
    for name in [*ours, "ctranslate2", "ctranslate2_int8", "llama_cpp", "llama_cpp_q8"]:
        if name not in measured:
            continue  # a peer that is not installed is left out
        row = measured[name]
        batch = f"{large[name].tokens_per_second:.0f}" if name in large else "-"
        figures = (f"{row.tokens_per_second:.0f}", f"{row.first_token_seconds:.1f}", f"{row.all_mib:.0f}", batch)
        rows.append([titles.get(name) or engine_of(name).title, *figures])
    heads = ["engine", "tokens/s, batch 1", "first token, s", "memory, MiB", "tokens/s, batch 32"]
    return table(heads, rows)


def long_caches(long_cache: Figures) -> str:
    """Tokens a second by slots and threads, now and before, and what a step takes beside one reading of its memory."""
    rows = []
    for step in long_cache.steps:
        now, before = (1e3 / statistics.median(step[f"{name}_ms"]) for name in ("now", "before"))
        times = f"{step.speedup:.1f}", f"{step.read_ms:.2f}", f"{step.over_read:.1f}"
        rows.append([f"{step.slots:,}", str(step.threads), f"{now:.0f}", f"{before:.0f}", *times])
    heads = ["slots", "threads", "tokens/s", "before", "times", "read once, ms", "a step is times that"]
    return table(heads, rows)


def agreements(bundles_agree: Figures) -> str:
    """Equal answers of each model and way."""
    titles = {"shakespeare": "tiny Shakespeare, characters", "smollm2": "SmolLM2-135M-Instruct"}
    rows = []
    for name, title in titles.items():
        if name not in bundles_agree:
            continue
        found = bundles_agree[name]

        def of(part):
            return "-" if part is None else f"{part.equal} of {part.get('prompts') or part.conversations}"

        ways = found.float32.engine, found.get("command"), found.last_slot, found.second_turn, found.get("chats")
        rows.append([title, *map(of, ways), of(found.int8.engine), f"{found.float32.mib:.0f} / {found.int8.mib:.0f}"])
    heads = [
        "model",
        "engine",
        "`litert-lm run`",
        "to the last slot",
        "second turns",
        "chats with an end",
        "int8",
        "MiB",
    ]
    return table(heads, rows)


def greedy_sizes(exports_agree: Figures) -> str:
    """MiB of the greedy LiteRT files."""
    sizes = [size for name, size in exports_agree.litert_bytes.items() if name.startswith("greedy")]
    return listed((size / 2**20 for size in sizes), ".1f")


def beside_before(making: Figures) -> str:
    """What it was compared with."""
    beside = ", beside the version that only compared the model's output, in turns"
    return beside if all("before" in versions for versions in making.making.values()) else ""


def making_of(making: Figures, title: str, model: str) -> str:
    """Milliseconds and memory of one model."""
    versions = making.making.get(model)
    if versions is None:
        return f"{title}: not measured"
    now, before = versions.now, versions.get("before")
    times = f" ({now.times_before:.2f} of the time before)" if before else ""
    memory = f" (before: {before.mib:.0f})" if before else ""
    return f"{title}: {now.ms:,.0f} ms{times} and {now.mib:.0f} MiB{memory}"


def three_digits(value: float) -> str:
    """0.18, 5.18, 12.5."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def both(row: Figures, form=three_digits) -> str:
    """XLA / plain graph."""
    return f"{form(row.xla)} / {form(row.graph)}"


def cache_writes(decoding_choices: Figures) -> str:
    """A step by cache layout and by how the cache is written."""
    writes = {"scatter": "scatter", "where": "where", "slice": "slice (XLA op)"}
    found = {}
    for row in decoding_choices.milliseconds:
        if "write" in row:
            found.setdefault((f"{row.batch} x {row.length}", row.layout), {})[row.write] = both(row)
    rows = [[*case, *(cells[write] for write in writes)] for case, cells in found.items()]
    return table(["batch x cache", "layout", *writes.values()], rows)


def choice(decoding_choices: Figures, kind: str, name: str, batch: int) -> str:
    """A step of one of the choices, XLA / plain graph."""
    rows = [row for row in decoding_choices.milliseconds if row.get(kind) == name and row.batch == batch]
    if kind == "sampling":
        return both(rows[0], lambda value: three_digits(value) if value < 1 else f"{value:.1f}")
    return both(rows[0])


def answers(serve_load: Figures) -> str:
    """Whether they were right."""
    count = serve_load.unequal_answers
    return (
        f"{count} answers differ from the single-threaded one."
        if count
        else "Every answer equals the single-threaded one."
    )


def imports(importing: Figures) -> str:
    """Seconds and memory of both imports."""
    rows = []
    for name, row in importing.backends.items():
        figures = (row.keras_seconds, row.added_seconds, row.collector_seconds)
        rows.append([name, *(f"{figure:.2f}" for figure in figures), f"{row.added_mib:.1f}"])
    return table(["backend", "`import keras`, s", "added, s", "of which the collector", "added MiB"], rows)
