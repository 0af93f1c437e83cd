"""On a GPU: training steps and generation of the same models, keras_transformer on JAX beside PyTorch.

Training: the base Transformer of "Attention Is All You Need" (https://arxiv.org/abs/1706.03762, table 3: 6 + 6 layers,
width 512, feed-forward 2048, 8 heads, dropout 0.1), vocabulary 32,000, batches of 64 x 64 source and target tokens with
random lengths, Adam; in float32, where both use the matrix units' tf32, and in bfloat16 (mixed: Keras' policy,
PyTorch's autocast). Ours steps through `model.fit`; PyTorch's `torch.nn.Transformer` through the loop its users write,
as it is and with `torch.compile`. A turn is some steps, ended by waiting for the GPU; batches are in memory.

Generation: the models, cases and peers of `decode.py`, float32 in full precision, 64 new tokens, beside transformers
(PyTorch), with the same weights. The tokens of both are compared, and ours with those that the CPU writes: a near tie
can fall to either side, and the row differs from there on.

Attention: alone, causal, bfloat16, 8 heads of 64, batch 1, forward and backward: exact, block by block, and what
`kt.ops.attention_kernel("auto")` chooses (cuDNN's kernel, where it fits), beside PyTorch's
`scaled_dot_product_attention`. Memory is what a step needs beyond its arguments and results.

All engines live in one process and take turns; the first turn of each, which compiles, is not counted.

    XLA_PYTHON_CLIENT_PREALLOCATE=false python benchmarks/gpu.py
"""

# ruff: noqa: E402 - Keras reads the backend when it is imported.
import functools
import os
import statistics
import time

os.environ["KERAS_BACKEND"] = "jax"
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory, too

import jax
import keras
import numpy as np
import torch
from decode_engines import CASES, NEW, build_ours, build_transformers
from report import make_parser, save_results
from torch import nn

import keras_transformer as kt

LAYERS, WIDTH, INNER, HEADS, VOCABULARY, DROPOUT = 6, 512, 2048, 8, 32_000, 0.1
BATCH, LENGTH, BATCHES = 64, 64, 8
LENGTHS, EXACT = (1024, 4096, 16_384, 65_536), 16_384  # of attention; beyond, exact scores do not fit
ADAM = {"learning_rate": 1e-4, "beta_1": 0.9, "beta_2": 0.98, "epsilon": 1e-9}
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def make_batches(seed: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Batches (source, what the decoder reads, that one token later) of random words, padded with 0."""
    rng = np.random.default_rng(seed)

    def padded(length):
        ids = rng.integers(1, VOCABULARY, (BATCH, length))
        lengths = rng.integers(length // 2, length + 1, (BATCH, 1))
        return np.where(np.arange(length) < lengths, ids, 0).astype("int32")

    batches = []
    for _ in range(BATCHES):
        source, target = padded(LENGTH), padded(LENGTH + 1)
        batches.append((source, np.where(target[:, 1:] == 0, 0, target[:, :-1]), target[:, 1:]))
    return batches


class Batches(keras.utils.PyDataset):
    """The batches, again and again, `steps` of them."""

    def __init__(self, batches: list, steps: int):
        super().__init__()
        self.batches, self.steps = batches, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        source, target, labels = self.batches[index % BATCHES]
        return (source, target), labels


def our_training(precision: str, batches: list, steps: int, seed: int):
    """Parameters, and a function that trains some steps and returns the mean loss: `model.fit` on JAX."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(PRECISIONS[precision])
    layer = {"num_heads": HEADS, "intermediate_dim": INNER, "dropout": DROPOUT, "attention_dropout": DROPOUT}
    source = keras.Input((None,), dtype="int32")
    target = keras.Input((None,), dtype="int32")
    x = kt.PositionalEncoding()(kt.TokenEmbedding(VOCABULARY, WIDTH)(source))
    for _ in range(LAYERS):
        x = kt.EncoderLayer(**layer)(x)
    embedding = kt.TokenEmbedding(VOCABULARY, WIDTH)
    y = kt.PositionalEncoding()(embedding(target))
    for _ in range(LAYERS):
        y = kt.DecoderLayer(**layer)(y, x)
    model = keras.Model([source, target], embedding(y, reverse=True))
    model.compile(keras.optimizers.Adam(**ADAM), kt.training.SequenceCrossentropy())
    keras.config.set_dtype_policy("float32")
    data = Batches(batches, steps)
    return model.count_params(), lambda: model.fit(data, shuffle=False, verbose=0).history["loss"][0]


class Peer(nn.Module):
    """The same model of PyTorch's parts: nothing dropped but attention weights and outputs of sub-layers."""

    def __init__(self):
        super().__init__()
        self.source_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.target_embedding = nn.Embedding(VOCABULARY, WIDTH)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=WIDTH**-0.5)
        self.transformer = nn.Transformer(WIDTH, HEADS, LAYERS, LAYERS, INNER, DROPOUT, batch_first=True)
        for stack in (self.transformer.encoder, self.transformer.decoder):
            stack.norm = None
            for layer in stack.layers:
                layer.dropout.p = 0.0  # of the inner activations
        angles = np.arange(LENGTH)[:, None] / 10000 ** (np.arange(0, WIDTH, 2) / WIDTH)
        positions = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(LENGTH, WIDTH).astype("float32")
        self.register_buffer("positions", torch.from_numpy(positions))
        self.register_buffer("causal", torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1))

    def forward(self, source, target):
        padding = source == 0
        y = self.transformer(
            self.source_embedding(source) + self.positions,
            self.target_embedding(target) + self.positions,
            tgt_mask=self.causal,
            src_key_padding_mask=padding,
            tgt_key_padding_mask=target == 0,
            memory_key_padding_mask=padding,
            tgt_is_causal=True,
        )
        return nn.functional.linear(y, self.target_embedding.weight)


def torch_training(precision: str, batches: list, steps: int, seed: int, device: str, compiled: bool):
    """Parameters, and a function that trains some steps and returns the mean loss: PyTorch."""
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")  # tf32
    model = Peer().to(device).train()
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.Adam(
        model.parameters(), lr=ADAM["learning_rate"], betas=(ADAM["beta_1"], ADAM["beta_2"]), eps=ADAM["epsilon"],
        fused=device == "cuda",
    )  # fmt: skip
    tensors = [[torch.from_numpy(array.astype("int64")) for array in batch] for batch in batches]
    if device == "cuda":
        tensors = [[tensor.pin_memory() for tensor in batch] for batch in tensors]

    def train():
        total = torch.zeros((), device=device)
        for step in range(steps):
            source, target, labels = (tensor.to(device, non_blocking=True) for tensor in tensors[step % BATCHES])
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = forward(source, target)
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=0)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / steps  # waits for the GPU

    return sum(parameter.numel() for parameter in model.parameters()), train


def in_turns(engines: dict, rounds: int) -> dict[str, tuple[list[float], list]]:
    """Seconds of each turn of each engine but the first, and what each turn returned."""
    seconds, returned = {name: [] for name in engines}, {name: [] for name in engines}
    for turn in range(1 + rounds):
        for name, run in engines.items():
            begin = time.perf_counter()
            returned[name].append(run())
            if turn > 0:
                seconds[name].append(time.perf_counter() - begin)
    return {name: (seconds[name], returned[name]) for name in engines}


def measure_training(options) -> dict:
    """Milliseconds of a step, in both precisions."""
    batches = make_batches(options.seed)
    words = 2 * float(np.mean([np.count_nonzero(labels) for _, _, labels in batches]))
    figures = {}
    for precision in PRECISIONS:
        made = {
            "keras_transformer": our_training(precision, batches, options.steps, options.seed),
            "torch": torch_training(precision, batches, options.steps, options.seed, options.device, False),
        }
        if options.compiled:
            made["torch.compile"] = torch_training(
                precision, batches, options.steps, options.seed, options.device, True
            )
        turns = in_turns({name: train for name, (_, train) in made.items()}, options.rounds)
        ours = statistics.median(turns["keras_transformer"][0])
        figures[precision] = {}
        for name, (seconds, losses) in turns.items():
            median = statistics.median(seconds)
            figures[precision][name] = {
                "ms_per_step": 1e3 * median / options.steps,
                "turns_ms_per_step": [1e3 * second / options.steps for second in seconds],
                "ours_over_this": ours / median,
                "words_per_second": words * options.steps / median,
                "parameters": made[name][0],
                "loss_of_turns": losses,
            }
            print(f"training, {precision:<9} {name:<18} {1e3 * median / options.steps:8.2f} ms a step", flush=True)
    return figures


def measure_generation(options) -> dict:
    """Milliseconds of a generated token, and whether all agree on the tokens."""
    torch.set_float32_matmul_precision("highest")
    jax.config.update("jax_default_matmul_precision", "highest")
    figures = {}
    for name in options.cases:
        case = CASES[name]
        ours = build_ours(case, options)["generate"]
        engines = {"keras_transformer": ours, "transformers": build_transformers(case, options)["generate"]}
        turns = in_turns(engines, options.rounds)
        median = {engine: statistics.median(seconds) for engine, (seconds, _) in turns.items()}
        mine, theirs = (np.asarray(turns[engine][1][-1]) for engine in engines)
        with keras.device("cpu:0"):
            on_cpu = np.asarray(build_ours(case, options)["generate"]())
        figures[name] = {
            "title": case.title,
            "engines": {
                engine: {
                    "ms_per_token_step": 1e3 * seconds / NEW,
                    "tokens_per_second": case.batch * NEW / seconds,
                    "ours_over_this": median["keras_transformer"] / seconds,
                }
                for engine, seconds in median.items()
            },
            "rows": len(mine),
            "rows_equal_to_transformers": int(np.all(mine == theirs, axis=1).sum()),
            "rows_equal_to_cpu": int(np.all(mine == on_cpu, axis=1).sum()),
        }
        times = ", ".join(f"{engine} {1e3 * seconds / NEW:.2f} ms" for engine, seconds in median.items())
        equal = (figures[name]["rows_equal_to_transformers"], figures[name]["rows_equal_to_cpu"])
        print(
            f"{case.title}: a step {times}; of {len(mine)} rows equal: transformers {equal[0]}, CPU {equal[1]}",
            flush=True,
        )
    return figures


def our_attention(way: str, arrays: list[np.ndarray]):
    """A function that makes a step and waits for it, and the MiB that the step needs."""

    def loss(query, key, value, upstream):
        output = kt.ops.dot_product_attention(query, key, value, causal=True)
        return (output.astype("float32") * upstream).sum()

    arrays = [jax.numpy.asarray(x, "bfloat16") for x in arrays]
    with kt.ops.attention_kernel(way):
        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2))).lower(*arrays).compile()
    return lambda: jax.block_until_ready(step(*arrays)), step.memory_analysis().temp_size_in_bytes / 2**20


def torch_attention(arrays: list[np.ndarray], device: str):
    """The same of PyTorch."""
    query, key, value, upstream = (
        torch.from_numpy(x).to(device, torch.bfloat16).transpose(1, 2).contiguous() for x in arrays
    )
    inputs = [x.requires_grad_() for x in (query, key, value)]

    def step():
        for x in inputs:
            x.grad = None
        output = nn.functional.scaled_dot_product_attention(*inputs, is_causal=True)
        (output.float() * upstream).sum().backward()
        if device == "cuda":
            torch.cuda.synchronize()

    step()
    if device != "cuda":
        return step, None
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return step, (torch.cuda.max_memory_allocated() - before) / 2**20


def measure_attention(options) -> dict:
    """Milliseconds and MiB of a step, by length."""
    figures = {}
    for length in options.lengths:
        rng = np.random.default_rng(options.seed)
        arrays = [rng.normal(size=(1, length, HEADS, WIDTH // HEADS)).astype("float32") for _ in range(4)]
        ways = ("exact", "blockwise", "auto") if length <= EXACT else ("blockwise", "auto")
        made = {way: our_attention(way, arrays) for way in ways} | {"torch": torch_attention(arrays, options.device)}
        calls = 10 if length < 30_000 else 2

        def repeat(step, calls=calls):
            for _ in range(calls):
                step()

        turns = in_turns({way: functools.partial(repeat, step) for way, (step, _) in made.items()}, options.rounds)
        figures[length] = {
            way: {"ms": 1e3 * statistics.median(seconds) / calls, "mib": made[way][1]}
            for way, (seconds, _) in turns.items()
        }
        print(
            f"attention, {length:6} " + ", ".join(f"{w} {x['ms']:.2f} ms" for w, x in figures[length].items()),
            flush=True,
        )
    return figures


PARTS = {"attention": measure_attention, "training": measure_training, "generation": measure_generation}


def main() -> None:
    """Measure, print, write the JSON."""
    parser = make_parser(__doc__, "gpu")
    parser.add_argument("--rounds", type=int, default=5, help="counted turns of each engine")
    parser.add_argument("--steps", type=int, default=40, help="training steps of a turn")
    parser.add_argument("--parts", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--cases", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--lengths", nargs="*", type=int, default=LENGTHS, help="of attention")
    parser.add_argument("--no-compile", dest="compiled", action="store_false", help="leave torch.compile out")
    parser.add_argument("--device", default="cuda", help="PyTorch's; JAX takes the GPU where there is one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.threads = os.cpu_count()
    sizes = {"layers": LAYERS, "width": WIDTH, "inner": INNER, "heads": HEADS, "vocabulary": VOCABULARY}
    figures = {
        "seed": options.seed,
        "rounds": options.rounds,
        "steps": options.steps,
        "batch": [BATCH, LENGTH],
        **sizes,
    }
    for name, measure in PARTS.items():
        if name in options.parts:
            figures[name] = measure(options)
            save_results(options.output, "benchmarks/gpu.py", figures)


if __name__ == "__main__":
    main()
