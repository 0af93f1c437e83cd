"""A small GPT on Shakespeare: trained in minutes, then it writes.

The setting is that of https://github.com/karpathy/nanoGPT for a CPU: the tiny Shakespeare data set, characters, 4
layers, 4 heads, width 128, a context of 64, 2,000 steps of 12 sequences. The last tenth of the text is kept for
validation, and all of it is read. Two architectures of the same number of weights:

    plain     GPT-2's: learned positions, LayerNorm, GELU (https://openai.com/index/better-language-models/)
    modern    rotary positions (https://arxiv.org/abs/2104.09864), RMSNorm (https://arxiv.org/abs/1910.07467), a gated
              feed-forward network (https://arxiv.org/abs/2002.05202), and Muon (https://arxiv.org/abs/2502.16982) with
              a learning rate that falls to nothing

    python examples/language_model.py --data input.txt                       modern
    python examples/language_model.py --data input.txt --architecture plain
    python examples/language_model.py --data input.txt --tokens subword      pieces of words in place of characters
    python examples/language_model.py --context 256 --save .      longer texts, and it is kept: for examples/browser

To SentencePiece a line break is a space: the subword model writes no lines, and its loss a character is that of a text
without them. Figures go to examples/results/language_model.json.
"""

import argparse
import gzip
import json
import os
import sys
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where it sees AVX512-VNNI

import keras
import numpy as np
from rich.console import Console

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from report import save_results

SOURCE = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
LAYERS, HEADS, DIM, CONTEXT = 4, 4, 128, 64
BATCH, STEPS, SEED = 12, 2000, 0
PUBLISHED = 1.88  # loss on validation, nanoGPT's README, of characters


def read_text(path: Path | None) -> str:
    """The text, of a file that may be compressed, or downloaded into data/tinyshakespeare."""
    if path is None:
        path = Path("data/tinyshakespeare/input.txt")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{path.name}.part")
            urllib.request.urlretrieve(SOURCE, beside)
            beside.replace(path)
    if not path.is_file():
        raise SystemExit(f"There is no file {path}. Give the text with --data, or no --data to download it.")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        return file.read()


def build_model(vocabulary_size: int, architecture: str, context: int = CONTEXT) -> keras.Model:
    """The model, from the layers."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = kt.TokenEmbedding(vocabulary_size, DIM)
    x = embedding(tokens)
    if architecture == "plain":
        x = kt.LearnedPositionalEncoding(context)(x)
        options = {"intermediate_dim": 4 * DIM, "activation": "gelu"}
    else:
        options = {"intermediate_dim": 8 * DIM // 3, "activation": "silu", "gated": True, "norm": "rms"}
    for _ in range(LAYERS):
        position = {} if architecture == "plain" else {"position": kt.RotaryPosition()}
        x = kt.DecoderLayer(HEADS, normalize_first=True, use_bias=False, **options, **position)(x)
    x = keras.layers.LayerNormalization()(x) if architecture == "plain" else kt.RMSNormalization()(x)
    return keras.Model(tokens, embedding(x, reverse=True), name=architecture)


def compile_model(model: keras.Model, architecture: str, steps: int) -> None:
    """The loss, and the optimizer of each architecture, with a short rise and a long fall of the learning rate."""
    warm_up = min(100, steps // 10)

    def schedule(peak: float, floor: float):
        return keras.optimizers.schedules.CosineDecay(
            0.0, decay_steps=steps - warm_up, alpha=floor, warmup_target=peak, warmup_steps=warm_up
        )

    if architecture == "plain":
        optimizer = keras.optimizers.AdamW(schedule(1e-3, 0.1), weight_decay=0.1, beta_2=0.99, global_clipnorm=1.0)
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "norm"])
    else:
        optimizer = keras.optimizers.Muon(schedule(1e-2, 0.0), weight_decay=0.1, adam_weight_decay=0.0)
    model.compile(optimizer, kt.training.SequenceCrossentropy())


class Windows(keras.utils.PyDataset):
    """Batches of windows of the text, drawn from (seed, step): tokens in, the next tokens out."""

    def __init__(self, ids: np.ndarray, steps: int, seed: int, context: int):
        super().__init__()
        self.ids, self.steps, self.seed, self.context = ids, steps, seed, context

    def __len__(self):
        return self.steps

    def __getitem__(self, step):
        starts = np.random.default_rng((self.seed, step)).integers(0, len(self.ids) - self.context, BATCH)
        windows = self.ids[starts[:, None] + np.arange(self.context + 1)]
        return windows[:, :-1], windows[:, 1:]


def validation_loss(model: keras.Model, ids: np.ndarray, context: int) -> float:
    """The mean loss of all tokens, in windows side by side: each sees at most `context` tokens before it."""
    count = (len(ids) - 1) // context
    inputs, labels = (ids[offset : offset + count * context].reshape(count, context) for offset in (0, 1))
    return float(model.evaluate(inputs, labels, batch_size=128, verbose=0))


def main() -> None:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the text, UTF-8; default: download tiny Shakespeare")
    parser.add_argument("--architecture", choices=("plain", "modern"), default="modern")
    parser.add_argument("--tokens", choices=("character", "subword"), default="character")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--context", type=int, default=CONTEXT, help="tokens that it sees, and writes, at most")
    parser.add_argument("--save", type=Path, help="folder for language_model.keras and its tokenizer")
    parser.add_argument("--results", type=Path, default=Path("examples/results/language_model.json"))
    parser.add_argument("--prompt", default="ROMEO:")
    options = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    kt.training.keep_freed_memory()
    console = Console()

    text = read_text(options.data)
    split = int(0.9 * len(text))
    if options.tokens == "character":
        tokenizer = kt.text.CharacterTokenizer.train([text[:split]])
    else:
        lines = [line for line in text[:split].splitlines() if line]
        tokenizer = kt.text.SentencePieceTokenizer.train(lines, 1000, character_coverage=1.0)
    training, validation = (ids.numpy()[0] for ids in (tokenizer([text[:split]]), tokenizer([text[split:]])))

    model = build_model(tokenizer.vocabulary_size, options.architecture, options.context)
    compile_model(model, options.architecture, options.steps)
    console.print(f"{model.count_params():,} weights, {tokenizer.vocabulary_size} {options.tokens}s")
    begin = time.perf_counter()
    windows = Windows(training, options.steps, SEED, options.context)
    model.fit(windows, shuffle=False, verbose=1 if sys.stdout.isatty() else 2)
    seconds = time.perf_counter() - begin
    loss = validation_loss(model, validation, options.context)
    characters = len(tokenizer.detokenize(validation[None]).numpy()[0].decode())
    per_character = loss * len(validation) / characters

    console.print(f"validation loss {loss:.4f} a token, {per_character:.4f} a character, after {seconds:.0f} s")
    generator = kt.Generator(
        model,
        max_length=options.context,
        end_token=tokenizer.end_id,
        strategy=kt.Sampling(temperature=0.8, top_p=0.95),
    )
    written = generator(tokenizer([options.prompt]).numpy())["tokens"][:, 0]
    sample = tokenizer.detokenize(written).numpy()[0].decode()
    console.rule("It writes")
    console.print(sample)
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
        model.save(options.save / "language_model.keras")
        tokenizer.save(options.save / "language_model.json", overwrite=True)

    found = json.loads(options.results.read_text())["runs"] if options.results.exists() else {}
    kind = [options.architecture, options.tokens]
    kind += [f"{options.steps} steps"] * (options.steps != STEPS)
    kind += [f"context {options.context}"] * (options.context != CONTEXT)
    found[", ".join(kind)] = {
        "command": " ".join(["python", "examples/language_model.py", *sys.argv[1:]]),
        "weights": model.count_params(),
        "steps": options.steps,
        "validation_loss": loss,
        "validation_loss_per_character": per_character,
        "training_seconds": seconds,
        "sample": sample,
    }
    figures = {"seed": SEED, "published_validation_loss": PUBLISHED, "runs": found}
    save_results(options.results, "examples/language_model.py", figures)


if __name__ == "__main__":
    main()
