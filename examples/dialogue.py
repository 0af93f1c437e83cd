"""Dialogue in Korean: a small Transformer answers what it was not asked before.

11,823 questions and answers of everyday life and of love (https://github.com/songys/Chatbot_data), as in the Korean
tutorials on the Transformer; here the questions of validation and test are in no other part. Pieces of words come from
the training texts, the epoch with the lowest perplexity on the validation data counts, and the test data is looked at
once. Its questions are answered by beam search and by sampling, side by side. The export takes and gives strings.

    python examples/dialogue.py --data data
    python examples/dialogue.py --data data --seeds 0 1 2

A training that is cut off goes on from exports/dialogue, and what has been trained there is not trained again. Remove
the folder to begin anew.
"""

import csv
import time
from collections import Counter

import common  # before Keras: it says how TensorFlow is set up
import keras
import numpy as np
from matplotlib.figure import Figure

import keras_transformer as kt

SOURCE = "https://raw.githubusercontent.com/songys/Chatbot_data/master/ChatbotData.csv"
VOCABULARY_SIZE, LAYERS, DIM, HEADS, INNER, DROPOUT, SMOOTHING = 4000, 2, 128, 4, 512, 0.3, 0.1
EPOCHS, TOKENS, RATE, LONGEST = 20, 1024, 2e-3, 40
STRATEGIES = {"beams": kt.BeamSearch(4, length_penalty=0.6), "sampling": kt.Sampling(top_p=0.9, num_return=3, seed=0)}


def read(folder) -> list[tuple[str, str]]:
    """Questions and answers."""
    rows = csv.DictReader(common.read_lines(folder, "ChatbotData.csv", SOURCE))
    return [(row["Q"].strip(), row["A"].strip()) for row in rows]


def split(pairs: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """The parts of the pairs: a twentieth of the questions validates, a twentieth tests, the same ones ever after."""
    questions = sorted({question for question, _ in pairs})
    order, few = np.random.default_rng(0).permutation(len(questions)), len(questions) // 20
    part = {questions[i]: "validation" if rank < few else "test" for rank, i in enumerate(order[: 2 * few])}
    parts = {"train": [], "validation": [], "test": []}
    for pair in pairs:
        parts[part.get(pair[0], "train")].append(pair)
    return parts


def batches(pairs, tokenizer, seed: int = 0, shuffle: bool = False) -> kt.training.TokenBatches:
    """Pairs of similar length."""
    both = (tokenizer, tokenizer.copy(add_start=True, add_end=True))
    return kt.training.TokenBatches(pairs, tokens_per_batch=TOKENS, tokenizers=both, seed=seed, shuffle=shuffle)


def build(vocabulary_size: int) -> keras.Model:
    """The Transformer of the paper, small."""
    options = dict(num_layers=LAYERS, dim=DIM, num_heads=HEADS, intermediate_dim=INNER, dropout=DROPOUT)
    return kt.models.transformer(vocabulary_size, vocabulary_size, **options, normalize_first=True)


def train(data: dict, tokenizer, seed: int, epochs: int, folder) -> dict:
    """Train the model of a seed, and test its best epoch."""
    begin = time.perf_counter()
    keras.utils.set_random_seed(seed)
    model = build(tokenizer.vocabulary_size)
    training = batches(data["train"], tokenizer, seed, shuffle=True)
    model.compile(
        common.optimizer(RATE, epochs * training.steps_per_epoch, beta_2=0.98),
        kt.training.SequenceCrossentropy(label_smoothing=SMOOTHING),
        metrics=[kt.training.Perplexity()],
        jit_compile=False,
    )
    history = common.fit(model, training, batches(data["validation"], tokenizer), epochs=epochs, folder=folder)
    minutes, by_epoch = (time.perf_counter() - begin) / 60, [epoch["val_perplexity"] for epoch in history]
    test = model.evaluate(batches(data["test"], tokenizer), return_dict=True, verbose=0)
    return {"validation": min(by_epoch), "test": test["perplexity"], "by_epoch": by_epoch, "minutes": minutes}


def answer(generator: kt.Generator, questions: list[str]) -> list[list[str]]:
    """The answers to each question, best first."""
    return [answers for i in range(0, len(questions), 64) for answers in generator(questions[i : i + 64])["texts"]]


def describe(answers: list[str], known: set[str]) -> dict:
    """How many answers differ, how many the training data has word for word, and how many words they have."""
    return {
        "different": len(set(answers)) / len(answers),
        "known": sum(text in known for text in answers) / len(answers),
        "words": sum(len(text.split()) for text in answers) / len(answers),
    }


def draw(runs: dict, answers: dict[str, list[str]]) -> Figure:
    """Perplexity by epoch, and how often the most frequent answers come."""
    figure = Figure((9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for seed, run in runs.items():
        left.plot(range(1, 1 + len(run["by_epoch"])), run["by_epoch"], label=f"seed {seed}")
    left.set(title="Perplexity of validation answers", xlabel="epoch", yscale="log")
    left.legend()
    for name, texts in answers.items():
        counts = [count for _, count in Counter(texts).most_common(40)]
        right.plot(range(1, 1 + len(counts)), np.array(counts) / len(texts) * 100, label=name)
    right.set(title="The most frequent answers to the test", xlabel="rank", ylabel="% of all answers", yscale="log")
    right.legend()
    return figure


def main() -> None:
    """Train, choose, test, answer, export."""
    options = common.parse(__doc__, data="ChatbotData.csv", seeds=1)
    data = split(read(options.data)[: 400 if options.quick else None])
    known = [text for pair in data["train"] for text in pair]
    pieces = len(set("".join(known))) + 30 if options.quick else VOCABULARY_SIZE
    tokenizer = kt.text.SentencePieceTokenizer.train(known, pieces)
    settings = {
        "parts": {part: len(pairs) for part, pairs in data.items()},
        "epochs": 1 if options.quick else EPOCHS,
        "model": [pieces, LAYERS, DIM, HEADS, INNER, DROPOUT, SMOOTHING, TOKENS, RATE],
    }
    done = common.Runs(common.place(options, "exports", "dialogue", "runs.json"), settings)
    for seed in map(str, options.seeds):
        if seed not in done:
            folder = common.place(options, "exports", "dialogue", f"seed_{seed}")
            done[seed] = train(data, tokenizer, int(seed), settings["epochs"], folder)
            print(f"Seed {seed}: perplexity of test answers {done[seed]['test']:.1f}")
    runs = {str(seed): done[str(seed)] for seed in options.seeds}

    model = build(tokenizer.vocabulary_size)
    model.load_weights(common.place(options, "exports", "dialogue", f"seed_{options.seeds[0]}.weights.h5"))
    generators = {
        name: kt.Generator(
            model,
            max_length=LONGEST,
            start_token=tokenizer.start_id,
            end_token=tokenizer.end_id,
            strategy=strategy,
            source_tokenizer=tokenizer,
            target_tokenizer=tokenizer,
        )
        for name, strategy in STRATEGIES.items()
    }
    questions = sorted({question for question, _ in data["test"]}, key=len)
    answers = {name: answer(generator, questions) for name, generator in generators.items()}
    first = {name: [texts[0] for texts in found] for name, found in answers.items()}
    first["data"] = [text for _, text in data["test"]]
    trained = {text for _, text in data["train"]}
    written = dict(data["test"])
    shown = [
        {"question": questions[i], "data": written[questions[i]], **{name: answers[name][i] for name in answers}}
        for i in np.random.default_rng(1).choice(len(questions), min(12, len(questions)), replace=False)
    ]
    export = common.place(options, "exports", "dialogue", "saved_model")
    kt.export.saved_model(generators["beams"], export, overwrite=True)
    elsewhere = common.run_elsewhere(export, {"text": questions[-20:]})
    here = generators["beams"](questions[-20:])
    if not np.array_equal(elsewhere["tokens"], here["tokens"]):
        raise SystemExit("The export answers otherwise than Python does.")
    figures = {
        **settings,
        "perplexity": float(np.mean([run["test"] for run in runs.values()])),
        "runs": runs,
        "answers": {name: describe(texts, trained) for name, texts in first.items()},
        "shown": shown,
    }
    common.write(options, "dialogue", figures, draw(runs, first))


if __name__ == "__main__":
    main()
