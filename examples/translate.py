"""A translator from text: two files or a TSV in; tokenizer, training, BLEU, SavedModel and LiteRT file out.

    python examples/translate.py --data DIR --output translation        Multi30k, English to German
    python examples/translate.py --tsv pairs.tsv --output translation   the columns of a tab-separated file
    python examples/translate.py --source train.en --target train.de --output translation

What the second and third form need beside, 1,000 pairs to choose by and 1,000 to report, they keep from the training
pairs, drawn by the seed, no text of which is trained on. With Multi30k the sets are its own, lower-cased and tokenized.

The model is a Transformer-Tiny, 4 + 4 layers of width 128 ("Good for Misconceived Reasons",
https://arxiv.org/abs/2105.14462, section 3), with one table of embeddings for source, target and output, of pieces of
words that both languages share. Training can be interrupted at any time and goes on exactly where it stopped with
--resume. Checkpoints of the last epochs are averaged, the length penalty of the beams is chosen on validation, and the
test set is looked at once, in the end.

    --backend jax          train on JAX; the exports are made under TensorFlow, from the saved model
    --distribute data      keras.distribution.DataParallel, over all devices (JAX)
    --distribute model     keras.distribution.ModelParallel with kt.training.layout_map (JAX)
    --distribute mirrored  tf.distribute.MirroredStrategy (TensorFlow)
    --processes            one of several processes, on several machines or a TPU slice; docs/distributed.md has the
                           commands. Each is started with the same arguments, and --output is a folder that all share

In --output: recipe.json (the arguments), translator.keras, tokenizer.model, translator/ (SavedModel: strings in,
strings out), translator.tflite, log.csv (an epoch a line), result.json.
"""

# ruff: noqa: E402 - Keras reads the backend when it is imported, so the arguments come first.
import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, help="folder of the Multi30k data set; default: download it")
parser.add_argument("--languages", nargs=2, default=("en", "de"), help="of Multi30k: from, to (default: en de)")
parser.add_argument("--tsv", type=Path, help="tab-separated pairs")
parser.add_argument(
    "--columns", nargs=2, type=int, default=(0, 1), help="of the source and the target in --tsv, from 0"
)
parser.add_argument("--source", type=Path, help="source sentences, one a line; with --target")
parser.add_argument("--target", type=Path, help="their translations, line by line")
parser.add_argument("--output", type=Path, default=Path("translation"), help="folder for all that is written")
parser.add_argument("--resume", action="store_true", help="go on with the training in --output")
parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
parser.add_argument("--distribute", choices=("none", "data", "model", "mirrored"), default="none")
parser.add_argument("--processes", action="store_true", help="this is one of several processes (JAX)")
parser.add_argument("--mixed", choices=("float32", "mixed_bfloat16", "mixed_float16"), default="float32")
parser.add_argument("--vocabulary", type=int, default=10_000, help="pieces, of both languages together")
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--tokens", type=int, default=2048, help="positions of a batch of a process, on each side")
parser.add_argument("--learning-rate", type=float, default=3e-3, help="the highest")
parser.add_argument("--warm-up", type=int, default=1000, help="steps until then")
parser.add_argument("--dropout", type=float, default=0.3)
parser.add_argument("--average", type=int, default=5, help="checkpoints, of the last epochs")
parser.add_argument("--max-length", type=int, default=100, help="longer sentences are left out, and counted")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--stage", choices=("all", "export"), default="all", help=argparse.SUPPRESS)
options = parser.parse_args()
if options.epochs < options.average:
    parser.error(f"--average {options.average} averages that many epochs, and --epochs {options.epochs} trains fewer")

os.environ["KERAS_BACKEND"] = options.backend
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where it sees AVX512-VNNI

import keras
import numpy as np
import sacrebleu
from multi30k import read_multi30k
from rich.console import Console

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from report import save_results

LAYERS, HEADS, DIM, INNER = 4, 4, 128, 256
RECIPE = [  # the arguments that a training has from beginning to end
    *("languages", "tsv", "columns", "source", "target", "vocabulary", "epochs", "tokens", "learning_rate", "warm_up"),
    *("dropout", "max_length", "mixed", "seed"),
]
PENALTIES = (0.6, 1.0, 1.4)
HELD_OUT = 1000

PROCESS, PROCESSES, DEVICES = 0, 1, 1  # which one of how many this is, with how many devices
if options.distribute in ("data", "model"):
    if options.backend != "jax":
        parser.error(f"--distribute {options.distribute} needs --backend jax")
    import jax
    from jax.experimental import multihost_utils

    if options.processes:
        keras.distribution.initialize()
    PROCESS, PROCESSES, DEVICES = jax.process_index(), jax.process_count(), jax.local_device_count()
elif options.processes:
    parser.error("--processes needs --distribute data or --distribute model")
console = Console(quiet=PROCESS > 0)


def read_splits() -> dict[str, list[tuple[str, str]]]:
    """Pairs to train on, to choose by and to report."""
    if options.tsv is None and options.source is None:
        names = {"train": "train", "validation": "val", "test": "test_2016_flickr"}
        texts = read_multi30k(options.data, tuple(options.languages))
        return {split: list(zip(*texts[name], strict=True)) for split, name in names.items()}
    if options.tsv is not None:
        pairs = kt.training.read_pairs(options.tsv, columns=tuple(options.columns))
    elif options.target is not None:
        pairs = kt.training.read_pairs(options.source, options.target)
    else:
        raise SystemExit("--source needs --target, the file of its translations.")
    if pairs.empty:
        console.print(f"{pairs.empty} pairs with an empty side are left out.")
    if len(pairs) < 4 * HELD_OUT:
        raise SystemExit(f"There are {len(pairs):,} pairs, of which {2 * HELD_OUT:,} are held out; that is too few.")
    order = np.random.default_rng(options.seed).permutation(len(pairs))
    pairs = [pairs[i] for i in order]
    validation, test, rest = pairs[:HELD_OUT], pairs[HELD_OUT : 2 * HELD_OUT], pairs[2 * HELD_OUT :]
    seen = {text for pair in (*validation, *test) for text in pair}
    return {"train": [pair for pair in rest if not seen & set(pair)], "validation": validation, "test": test}


def check_output() -> None:
    """Refuse a folder with another training in it, and begin or go on with this one."""
    path = options.output / "recipe.json"
    recipe = {name: getattr(options, name) for name in RECIPE}
    recipe = json.loads(json.dumps(recipe, default=lambda path: str(path.resolve())))
    if not options.resume and path.exists():
        raise SystemExit(f"{options.output} has a training in it. Go on with --resume, or choose another --output.")
    if options.resume and path.exists():
        saved = json.loads(path.read_text())
        changed = [f"--{name.replace('_', '-')} was {saved[name]}" for name in RECIPE if saved[name] != recipe[name]]
        if changed:
            raise SystemExit(f"The training in {options.output} has other arguments: {', '.join(changed)}.")
    if PROCESSES > 1:
        multihost_utils.sync_global_devices("all have looked")
    if PROCESS == 0:
        path.write_text(json.dumps(recipe, indent=2) + "\n")


def make_tokenizers(pairs: list[tuple[str, str]]) -> tuple:
    """One vocabulary of both languages; sources end with the end token, targets start with the start token, too."""
    path = options.output / "tokenizer.model"
    if PROCESS == 0 and not path.exists():
        texts = (text for pair in pairs for text in pair)
        trained = kt.text.SentencePieceTokenizer.train(texts, options.vocabulary, character_coverage=1.0)
        beside = path.with_suffix(".unfinished")
        beside.write_bytes(trained.model)
        beside.replace(path)
    if PROCESSES > 1:
        multihost_utils.sync_global_devices("the tokenizer is there")
    model = path.read_bytes()
    source = kt.text.SentencePieceTokenizer(model, add_end=True)
    return source, kt.text.SentencePieceTokenizer(model, add_start=True, add_end=True)


def build_model(vocabulary_size: int) -> keras.Model:
    """The model, from the layers, with one table for source, target and output."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    embedding = kt.TokenEmbedding(vocabulary_size, DIM, scale=True, name="embedding")
    layer = {"dropout": options.dropout, "normalize_first": True}

    def embed(tokens):
        return keras.layers.Dropout(options.dropout)(kt.PositionalEncoding()(embedding(tokens)))

    memory = embed(source)
    for _ in range(LAYERS):
        memory = kt.EncoderLayer(HEADS, INNER, **layer)(memory)
    memory = keras.layers.LayerNormalization()(memory)
    y = embed(target)
    for _ in range(LAYERS):
        y = kt.DecoderLayer(HEADS, INNER, **layer)(y, memory)
    logits = embedding(keras.layers.LayerNormalization()(y), reverse=True)
    return keras.Model([source, target], keras.layers.Activation("linear", dtype="float32")(logits))


def compile_model(model: keras.Model, steps: int) -> None:
    """Adam whose learning rate rises, then falls to nothing in the shape of a cosine; label smoothing."""
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0,
        decay_steps=max(1, steps - options.warm_up),
        warmup_target=options.learning_rate,
        warmup_steps=options.warm_up,
    )
    model.compile(
        keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9),
        kt.training.SequenceCrossentropy(label_smoothing=0.1),
        metrics=[kt.training.Perplexity(), kt.training.TokenCount()],
    )


def scope():
    """Set the distribution that was asked for; the scope to build and compile the model in."""
    if options.distribute == "mirrored":
        import tensorflow as tf

        return tf.distribute.MirroredStrategy().scope()
    if options.distribute == "data":
        keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    if options.distribute == "model":  # divided among the devices of a process
        devices = keras.distribution.list_devices()
        mesh = keras.distribution.DeviceMesh((PROCESSES, DEVICES), ("batch", "model"), devices)
        distribution = keras.distribution.ModelParallel(
            layout_map=kt.training.layout_map(mesh), batch_dim_name="batch", auto_shard_dataset=False
        )
        keras.distribution.set_distribution(distribution)
    return keras.name_scope("")


def make_generator(model: keras.Model, penalty: float | None) -> kt.Generator:
    """Greedy without a length penalty, else 5 beams."""
    strategy = kt.Greedy() if penalty is None else kt.BeamSearch(5, length_penalty=penalty)
    ends = {"start_token": kt.text.Tokenizer.start_id, "end_token": kt.text.Tokenizer.end_id}
    return kt.Generator(model, max_length=options.max_length, strategy=strategy, **ends)


def bleu_of(generator: kt.Generator, pairs: list[tuple[str, str]], tokenizers, every: int = 1) -> kt.training.Bleu:
    """What measures BLEU on pairs: on Multi30k of tokens as they are, else as sacreBLEU splits text."""
    source, target = tokenizers
    rows = source([text for text, _ in pairs]).numpy()
    return kt.training.Bleu(
        generator,
        [row[row != 0] for row in rows],
        [reference for _, reference in pairs],
        lambda ids: target.detokenize([ids]).numpy()[0].decode(),
        tokenize="13a" if options.tsv or options.source else "none",
        every=every,
    )


def make_batches(pairs: list[tuple[str, str]], tokenizers, shuffle: bool = True) -> kt.training.TokenBatches:
    """Batches of a budget of tokens, of pairs of similar length."""
    return kt.training.TokenBatches(
        pairs,
        tokenizers=tokenizers,
        tokens_per_batch=options.tokens,
        max_length=options.max_length,
        batch_size_multiple=DEVICES if options.distribute == "data" else 1,
        seed=options.seed,
        shuffle=shuffle,
        shard=(PROCESS, PROCESSES),
    )


def train(model: keras.Model, batches: kt.training.TokenBatches, splits: dict, tokenizers) -> dict:
    """Fit, from where the last checkpoint stands."""
    checkpoints = kt.training.Checkpoints(options.output / "checkpoints", keep=options.average)
    position = checkpoints.resume(model)
    log = options.output / "log.csv"
    if PROCESS == 0 and log.exists():  # an epoch that was logged, but killed before its checkpoint, comes again
        log.write_text("".join(log.read_text().splitlines(keepends=True)[: 1 + position.epoch]))
    begin = time.perf_counter()
    model.fit(
        batches.dataset(first_step=position.step),
        steps_per_epoch=batches.steps_per_epoch,
        epochs=options.epochs,
        initial_epoch=position.epoch,
        validation_data=make_batches(splits["validation"], tokenizers, shuffle=False).dataset(epochs=1),
        shuffle=False,
        verbose=0 if PROCESS else 1 if sys.stdout.isatty() else 2,
        callbacks=[
            bleu_of(make_generator(model, None), splits["validation"][:200], tokenizers, every=4),
            kt.training.TokenRate(),
            keras.callbacks.CSVLogger(log if PROCESS == 0 else os.devnull, append=True),
            checkpoints,
        ],
    )
    return {
        "steps": batches.steps_per_epoch * options.epochs,
        "steps_per_epoch": batches.steps_per_epoch,
        "tokens_per_epoch": batches.num_tokens,
        "padding_ratio": batches.padding_ratio,
        "too_long": batches.too_long,
        "seconds_since_resumed": time.perf_counter() - begin,
        "epochs": checkpoints.history,
    }


def judge(model: keras.Model, splits: dict, tokenizers) -> dict:
    """BLEU on the test set, with the length penalty that is best on validation."""
    validation = {}
    for penalty in PENALTIES:
        validation[penalty] = bleu_of(make_generator(model, penalty), splits["validation"], tokenizers).score()
        console.print(f"validation, 5 beams, length penalty {penalty}: {validation[penalty]:.2f}")
    chosen = max(validation, key=validation.get)
    figures = {"validation_bleu": {str(penalty): score for penalty, score in validation.items()}, "penalty": chosen}
    for name, penalty in (("greedy", None), ("beam", chosen)):
        bleu = bleu_of(make_generator(model, penalty), splits["test"], tokenizers)
        figures[f"test_bleu_{name}"] = bleu.score()
        console.print(f"test, {name}: {figures[f'test_bleu_{name}']:.2f}")
    shown = zip(splits["test"][:5], bleu.translations, strict=False)
    figures["examples"] = [{"source": pair[0], "reference": pair[1], "answer": answer} for pair, answer in shown]
    return {**figures, "sacrebleu": sacrebleu.__version__}


def export(tokenizers) -> None:
    """Write the SavedModel and the LiteRT file of what was saved, under TensorFlow."""
    model = keras.saving.load_model(options.output / "translator.keras", compile=False)
    generator = make_generator(model, None)
    names = {"source_tokenizer": tokenizers[0], "target_tokenizer": tokenizers[1], "overwrite": True}
    kt.export.saved_model(generator, options.output / "translator", **names)
    kt.export.litert(generator, options.output / "translator.tflite", source_length=64, quantize="int8", **names)


def main() -> None:
    """Train, average, choose, report, export."""
    options.output.mkdir(parents=True, exist_ok=True)
    if options.stage == "export":
        return export(make_tokenizers([]))
    check_output()
    begin = time.perf_counter()
    kt.training.keep_freed_memory()
    keras.utils.set_random_seed(options.seed)
    keras.config.set_dtype_policy(options.mixed)
    splits = read_splits()
    tokenizers = make_tokenizers(splits["train"])
    batches = make_batches(splits["train"], tokenizers)
    console.print(batches)
    with scope():
        model = build_model(tokenizers[0].vocabulary_size)
        compile_model(model, batches.steps_per_epoch * options.epochs)
    console.print(f"{model.count_params():,} parameters")
    figures = train(model, batches, splits, tokenizers)
    kt.training.average_checkpoints(options.output / "checkpoints", model, last=options.average)
    figures.update(parameters=model.count_params(), seed=options.seed, **judge(model, splits, tokenizers))
    figures["seconds"] = time.perf_counter() - begin
    if PROCESS > 0:
        return
    if options.backend == "jax":
        keras.distribution.set_distribution(None)  # with one set, `save` would wait for the other processes
    model.save(options.output / "translator.keras")
    save_results(options.output / "result.json", "examples/translate.py", figures)
    arguments = ["--stage", "export", "--output", str(options.output), "--max-length", str(options.max_length)]
    subprocess.run([sys.executable, __file__, *arguments], check=True)
    console.print(f"Written: translator.keras, translator/, translator.tflite, result.json in {options.output}")


if __name__ == "__main__":
    main()
