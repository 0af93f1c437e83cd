"""From RNN to Transformer: the same sentences, German to English, for each system on the way.

Each rung of the ladder is a functional model of this package, trained for ten epochs on the Multi30k data set and
judged on its test set of 2016 by BLEU (sacreBLEU, on lower-cased tokens):

    lstm         two LSTM layers, the source in one fixed state                   https://arxiv.org/abs/1409.3215
    gru          a GRU, the source in one fixed context vector                    https://arxiv.org/abs/1406.1078
    attention    a GRU that attends to the source at every step (additive)        https://arxiv.org/abs/1409.0473
    transformer  attention alone, three layers                                    https://arxiv.org/abs/1706.03762

Vocabularies are the tokens seen twice or more, a batch is 128 sentences, and what can be chosen (the epoch, the length
penalty of the beams) is chosen on the validation set. Sizes and figures to compare with are those of
https://github.com/bentrevett/pytorch-seq2seq, whose models are larger or of the same size.

    python examples/history.py --data DIR                      all rungs, one after another; continues where it stopped
    python examples/history.py --data DIR --rung transformer   one of them
    python examples/history.py --table                         the table and the plot, from what is there

A rung that is interrupted goes on exactly where its last epoch ended. What it learns and its figures lie in --work, a
folder for each rung, which can be deleted at any time; the figures of all that are there go to
examples/results/history.json, a plot of BLEU by the length of the source to docs/history.png. Speeds are measured right
after the training of each: leave the machine idle.
"""

import argparse
import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where it sees AVX512-VNNI

import keras
import numpy as np
import sacrebleu
import tensorflow as tf
from multi30k import read_multi30k
from rich.console import Console
from rich.table import Table

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from report import save_results

PADDING, UNKNOWN, START, END = range(4)
EPOCHS, BATCH, SEED = 10, 128, 0
DONE = "figures.json"  # in a rung's folder
LONGEST = 60  # tokens of an answer
LENGTHS = ((1, 7), (8, 9), (10, 11), (12, 13), (14, 16), (17, 20), (21, 100))  # of a source, in tokens
PENALTIES = (0.0, 0.6, 1.0, 1.4)
PUBLISHED = {  # parameters, BLEU
    "lstm": (13_898_501, 13.76),
    "gru": (14_219_781, 20.61),
    "attention": (20_518_405, 28.30),
    "transformer": (9_038_341, 36.52),
}
TITLES = {
    "lstm": "LSTM, 2 layers",
    "gru": "GRU, context vector",
    "attention": "GRU with attention",
    "transformer": "Transformer",
}


class Vocabulary:
    """Words and their ids, in the order of their number of occurrences; words seen once are unknown."""

    def __init__(self, sentences: list[str]):
        counts = Counter(word for sentence in sentences for word in sentence.split())
        self.words = ["<pad>", "<unk>", "<s>", "</s>", *(word for word, n in counts.most_common() if n > 1)]
        self.ids = {word: i for i, word in enumerate(self.words)}

    def encode(self, sentence: str) -> list[int]:
        return [self.ids.get(word, UNKNOWN) for word in sentence.split()]

    def decode(self, ids) -> str:
        return " ".join(self.words[i] for i in ids if i not in (PADDING, START, END))


class Pairs:
    """Batches ((sources, targets), labels) of sentences of similar length, in an order drawn from (seed, epoch)."""

    def __init__(self, sources: list[list[int]], targets: list[list[int]], seed: int, every: int = 1):
        self.sources, self.targets, self.seed, self.every = sources, targets, seed, every
        self.steps_per_epoch = len(self.draw(epoch=0))

    def draw(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch, each as the numbers of its sentences."""
        random = np.random.default_rng((self.seed, epoch))
        # By the target's length, then by the source's, which goes up and down in turns, so that neighbors are alike.
        lengths = [(len(y), len(x) * (-1) ** len(y)) for x, y in zip(self.sources, self.targets, strict=True)]
        order = sorted(random.permutation(len(lengths)), key=lengths.__getitem__)
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        random.shuffle(batches)
        return batches[:: self.every]

    def dataset(self, first_epoch: int, last_epoch: int) -> tf.data.Dataset:
        """The batches of some epochs, one after another."""

        def assemble():
            for epoch in range(first_epoch, last_epoch):
                for rows in self.draw(epoch):
                    sources = padded([self.sources[i] for i in rows])
                    targets = padded([self.targets[i] for i in rows])
                    yield (sources, targets[:, :-1]), targets[:, 1:]

        ids = tf.TensorSpec((None, None), "int32")
        batches = tf.data.Dataset.from_generator(assemble, output_signature=((ids, ids), ids))
        number = self.steps_per_epoch * (last_epoch - first_epoch)
        return batches.apply(tf.data.experimental.assert_cardinality(number)).prefetch(2)


def padded(rows: list[list[int]]) -> np.ndarray:
    """Ids (B, T), padded with 0."""
    return keras.utils.pad_sequences(rows, padding="post", value=PADDING)


def build_model(rung: str, source_size: int, target_size: int) -> keras.Model:
    """The model of a rung, with no more parameters than the one whose BLEU was published."""
    if rung == "transformer":
        return kt.models.transformer(
            source_size,
            target_size,
            num_layers=3,
            dim=256,
            num_heads=8,
            intermediate_dim=512,
            dropout=0.2,
            normalize_first=True,
        )
    options = {
        "lstm": {"cell": "lstm", "num_layers": 2},
        "gru": {"cell": "gru"},
        "attention": {"cell": "gru", "attention": "additive"},
    }[rung]
    # 384, the published ones 512: so the whole ladder fits in three hours of two slow cores.
    dropout = 0.2 if rung == "lstm" else 0.5  # the LSTM learns too slowly for more
    return kt.models.recurrent_seq2seq(source_size, target_size, dim=384, dropout=dropout, **options)


def compile_model(model: keras.Model, rung: str, steps: int) -> None:
    """Adam, with a learning rate that rises for an epoch and falls to nothing."""
    peak = {"lstm": 3e-3, "gru": 2e-3, "attention": 1e-3, "transformer": 2e-3}[rung]
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps * (EPOCHS - 1), warmup_target=peak, warmup_steps=steps
    )
    optimizer = keras.optimizers.Adam(schedule, beta_2=0.98, clipnorm=1.0)
    model.compile(optimizer, kt.training.SequenceCrossentropy(label_smoothing=0.1), metrics=[kt.training.Perplexity()])


def train(model: keras.Model, rung: str, data: dict, folder: Path) -> tuple[int, list[dict]]:
    """Ten epochs, those that `folder` has not seen yet: how many it had seen, and what each of the ten gave."""
    batches = Pairs(*data["train"], SEED)
    compile_model(model, rung, batches.steps_per_epoch)
    weights = keras.callbacks.ModelCheckpoint(folder / "{epoch:02d}.weights.h5", save_weights_only=True)
    checkpoints = kt.training.Checkpoints(folder / "checkpoints", keep=1)
    done = checkpoints.resume(model).epoch
    if done < EPOCHS:
        model.fit(
            batches.dataset(done, EPOCHS),
            steps_per_epoch=batches.steps_per_epoch,
            initial_epoch=done,
            epochs=EPOCHS,
            validation_data=Pairs(*data["val"], SEED).dataset(0, 1),
            shuffle=False,
            verbose=2,
            callbacks=[weights, checkpoints],
        )
    return done, checkpoints.history


def translate(model: keras.Model, strategy, sources: list[list[int]], vocabulary: Vocabulary) -> list[str]:
    """Translations, of sentences of similar length at a time."""
    generator = kt.Generator(
        model,
        start_token=START,
        end_token=END,
        max_length=LONGEST,
        strategy=strategy,
        processors=[kt.ForbiddenTokens([UNKNOWN])],
    )
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    answers = [""] * len(sources)
    for rows in (order[i : i + BATCH] for i in range(0, len(order), BATCH)):
        result = generator(padded([sources[i] for i in rows]))
        for i, tokens in zip(rows, result["tokens"][:, 0], strict=True):
            answers[i] = vocabulary.decode(tokens)
    return answers


def bleu(answers: list[str], references: list[str]) -> float:
    """BLEU of tokens as they are: both sides are tokenized and lower-cased already."""
    return sacrebleu.corpus_bleu(answers, [references], tokenize="none", force=True).score


def evaluate(model: keras.Model, data: dict, texts: dict, vocabulary: Vocabulary, console: Console) -> dict:
    """BLEU on the test set, the length penalty chosen on validation."""
    validation = {}
    for penalty in PENALTIES:
        answers = translate(model, kt.BeamSearch(5, length_penalty=penalty), data["val"][0], vocabulary)
        validation[penalty] = bleu(answers, texts["val"][1])
        console.print(f"  validation, length penalty {penalty}: {validation[penalty]:.2f}")
    chosen = max(validation, key=validation.get)
    figures = {"validation_bleu": {str(penalty): score for penalty, score in validation.items()}, "penalty": chosen}
    sources, references = data["test_2016_flickr"][0], texts["test_2016_flickr"][1]
    lengths = np.array([len(source) - 1 for source in sources])  # without the end
    for name, strategy in (("greedy", kt.Greedy()), ("beam", kt.BeamSearch(5, length_penalty=chosen))):
        answers = translate(model, strategy, sources, vocabulary)
        by_length = {}
        for low, high in LENGTHS:
            rows = np.flatnonzero((lengths >= low) & (lengths <= high))
            score = bleu([answers[i] for i in rows], [references[i] for i in rows])
            by_length[f"{low}-{high}"] = {"sentences": len(rows), "mean_length": lengths[rows].mean(), "bleu": score}
        figures[name] = {
            "bleu": bleu(answers, references),
            "bleu_by_source_length": by_length,
        }
        console.print(f"  test, {name}: {figures[name]['bleu']:.2f}")
    figures["examples"] = [
        {"source": texts["test_2016_flickr"][0][i], "reference": references[i], "answer": answers[i]} for i in range(5)
    ]
    return figures


def prepare(texts: dict) -> tuple[list[Vocabulary], dict]:
    """The vocabularies of source and target, and the ids of each split."""
    source_vocabulary, target_vocabulary = vocabularies = [Vocabulary(sentences) for sentences in texts["train"]]
    data = {
        split: (
            [[*source_vocabulary.encode(sentence), END] for sentence in sources],
            [[START, *target_vocabulary.encode(sentence), END] for sentence in targets],
        )
        for split, (sources, targets) in texts.items()
    }
    return vocabularies, data


def share_of_unequal_lengths(texts: dict) -> float:
    """How many of the test pairs have not as many tokens on both sides, which no model here asks for."""
    lengths = np.array([[len(sentence.split()) for sentence in side] for side in texts["test_2016_flickr"]])
    return float((lengths[0] != lengths[1]).mean())


def measure_speed(rung: str, texts: dict, console: Console) -> dict:
    """Seconds an epoch and tokens a second, of a model with random weights that ends no sentence of its own accord."""
    vocabularies, data = prepare(texts)
    model = build_model(rung, *(len(vocabulary.words) for vocabulary in vocabularies))
    sample = Pairs(*data["train"], SEED, every=5)  # in a random order, so of all lengths
    compile_model(model, rung, 5 * sample.steps_per_epoch)
    model.fit(sample.dataset(0, 1), shuffle=False, verbose=0)  # compiles
    begin = time.perf_counter()
    model.fit(sample.dataset(0, 1), shuffle=False, verbose=0)
    seconds = 5 * (time.perf_counter() - begin)
    forbidden = [UNKNOWN, END]
    generator = kt.Generator(
        model, start_token=START, end_token=END, max_length=21, processors=[kt.ForbiddenTokens(forbidden)]
    )
    sources = padded(sorted(data["test_2016_flickr"][0], key=len)[500 - BATCH // 2 : 500 + BATCH // 2])
    generator(sources)  # compiles
    begin = time.perf_counter()
    for _ in range(5):
        generator(sources)
    tokens = 5 * BATCH * 20 / (time.perf_counter() - begin)
    console.print(f"{TITLES[rung]}: {seconds:.0f} s an epoch, {tokens:,.0f} tokens/s")
    return {"seconds_per_epoch": seconds, "tokens_per_second": tokens}


def run(rung: str, texts: dict, work: Path, console: Console) -> None:
    """Train and judge a rung; its `seconds` are those since `resumed_after` epochs, 0 if it was not interrupted."""
    begin = time.perf_counter()
    console.rule(TITLES[rung])
    keras.utils.set_random_seed(SEED)
    (source_vocabulary, target_vocabulary), data = prepare(texts)
    model = build_model(rung, len(source_vocabulary.words), len(target_vocabulary.words))
    console.print(f"{model.count_params():,} parameters; published: {PUBLISHED[rung][0]:,}")
    resumed_after, epochs = train(model, rung, data, work / rung)
    best = min(range(EPOCHS), key=lambda epoch: epochs[epoch]["val_loss"])
    model.load_weights(work / rung / f"{best + 1:02d}.weights.h5")
    figures = {
        "parameters": model.count_params(),
        "published_parameters": PUBLISHED[rung][0],
        "published_bleu": PUBLISHED[rung][1],
        "best_epoch": best + 1,
        "epochs": epochs,
        **evaluate(model, data, texts, target_vocabulary, console),
        "speed": measure_speed(rung, texts, console),
        "resumed_after": resumed_after,
        "seconds": time.perf_counter() - begin,
    }
    beside = work / rung / "figures.partial"  # what is in DONE is whole
    beside.write_text(json.dumps(figures, indent=2) + "\n")
    beside.replace(work / rung / DONE)


def collect(files: dict[str, Path], texts: dict, results: Path) -> None:
    """Write the figures of the rungs that are done in one file."""
    rungs = {rung: json.loads(file.read_text()) for rung, file in files.items() if file.exists()}
    figures = {"seed": SEED, "epochs": EPOCHS, "unequal_lengths": share_of_unequal_lengths(texts)}
    save_results(results, "examples/history.py", {**figures, "rungs": rungs})


def show(figures: dict, plot: Path, console: Console) -> None:
    """The table, and the plot of BLEU by the length of the source."""
    from matplotlib.figure import Figure

    table = Table(title="Multi30k, German to English, test 2016")
    for column in ("", "parameters", "s an epoch", "BLEU greedy", "BLEU beam 5", "published", "tokens/s"):
        table.add_column(column, justify="right" if column else "left")
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for rung, one in figures.items():
        table.add_row(
            TITLES[rung],
            f"{one['parameters']:,}",
            f"{one['speed']['seconds_per_epoch']:.0f}",
            f"{one['greedy']['bleu']:.2f}",
            f"{one['beam']['bleu']:.2f}",
            f"{one['published_bleu']:.2f}",
            f"{one['speed']['tokens_per_second']:,.0f}",
        )
        points = one["beam"]["bleu_by_source_length"].values()
        axes.plot([p["mean_length"] for p in points], [p["bleu"] for p in points], marker="o", label=TITLES[rung])
    axes.set(xlabel="tokens of the source", ylabel="BLEU", title="BLEU by the length of the source sentence")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(plot, dpi=120)
    console.print(table)
    console.print(f"Written: {plot}")


def main() -> None:
    """Train what is left to train, and show where all rungs are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the Multi30k data set; default: download it")
    parser.add_argument("--rung", choices=list(TITLES), help="one of them; default: all")
    parser.add_argument("--work", type=Path, default=Path("history"), help="folder for checkpoints")
    parser.add_argument("--results", type=Path, default=Path("examples/results/history.json"))
    parser.add_argument("--plot", type=Path, default=Path("docs/history.png"))
    parser.add_argument("--table", action="store_true", help="show the results that are there, train nothing")
    options = parser.parse_args()
    kt.training.keep_freed_memory()
    console = Console()
    files = {rung: options.work / rung / DONE for rung in TITLES}
    if not options.table:
        texts = read_multi30k(options.data, ("de", "en"))
        for rung in [options.rung] if options.rung else TITLES:
            if files[rung].exists():
                console.print(f"{TITLES[rung]}: done already; delete {options.work / rung} to train it again")
                continue
            run(rung, texts, options.work, console)
            collect(files, texts, options.results)
        collect(files, texts, options.results)
    if not options.results.exists():
        raise SystemExit(f"There are no results in {options.results} yet; run without --table first.")
    show(json.loads(options.results.read_text())["rungs"], options.plot, console)


if __name__ == "__main__":
    main()
