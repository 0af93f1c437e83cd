"""Text that is understood: an encoder that has guessed hidden words of raw text learns to classify from it.

The way of BERT (https://arxiv.org/abs/1810.04805), small: first a masked language model is trained on texts alone, then
its encoder on texts and labels, beside the same model from scratch.

    sst2    English film reviews, good or bad    (https://aclanthology.org/D13-1170)
    trec    English questions, what they ask for, six classes    (https://aclanthology.org/C02-1150)
    nsmc    Korean film reviews, good or bad    (https://github.com/e9t/nsmc: official, or rebuilt from the raw reviews)

The masked language model reads the texts for training; that of sst2 also 5,000 plots of films (Subj,
https://aclanthology.org/P04-1035), none of them a review. The epoch of a classifier is chosen on the validation data;
the test data is looked at once, at the end.

    python examples/understanding.py --data data
    python examples/understanding.py --data data --tasks trec --seeds 0

A run that is cut off goes on from exports/understanding, and what has been trained there is not trained again. Remove
the folder to begin anew. Tasks may be trained at the same time, each by a process of its own (--tasks).
"""

import time

import common  # before Keras: it says how TensorFlow is set up
import keras
import numpy as np
from classified_texts import batches, read
from matplotlib.figure import Figure

import keras_transformer as kt

SETTINGS = {
    "trec": dict(classes=6, vocabulary_size=4000, dim=128, dropouts=(0.3, 0.1, 0.5), length=48, size=32, rate=2e-3),
    "sst2": dict(classes=2, vocabulary_size=8000, dim=128, dropouts=(0.3, 0.2, 0.4), length=64, size=32, rate=1e-3),
    "nsmc": dict(classes=2, vocabulary_size=16000, dim=64, dropouts=(0.1, 0.2, 0.2), length=48, size=64, rate=1e-3),
}
EPOCHS, GUESSING_EPOCHS = {"trec": 12, "sst2": 6, "nsmc": 3}, {"trec": 40, "sst2": 15, "nsmc": 3}
WIDTHS, GUESSING_RATE, SMOOTHING, MOMENTUM = (2, 3, 4), 2e-3, 0.1, 0.99
WAYS = ("scratch", "pretrained")
SEEDS = {"trec": 3, "sst2": 3, "nsmc": 1}  # at most: nsmc has twenty times as many texts
BLANKS = {
    "sst2": ["it 's a <mask> film .", "the acting is <mask> ."],
    "trec": ["What is the <mask> of China ?", "Who was the first <mask> ?"],
    "nsmc": ["정말 <mask> 영화", "연기가 너무 <mask>"],
}
PUBLISHED = {"CNN, random vectors": {"sst2": 0.827, "trec": 0.912, "source": "https://arxiv.org/abs/1408.5882"}}


def build(vocabulary_size: int, classes: int, dim: int, dropouts: tuple[float, float, float]) -> dict[str, keras.Model]:
    """A masked language model, for training and for questions, and a classifier, all of one embedding and encoder.
    The dropouts are of numbers of the embedding, of whole pieces, and of what the classes are read from."""
    embedding = kt.TokenEmbedding(vocabulary_size, dim, scale=True, name="embedding")
    ngrams = [kt.ConvolutionalSubsampling(dim, strides=1, kernel_size=n, activation="gelu") for n in WIDTHS]
    options = dict(dropout=dropouts[2] / 2, normalize_first=True, activation="gelu", position=kt.RotaryPosition())
    layer = kt.EncoderLayer(4, 4 * dim, **options)
    norm = kt.LayerNormalization()

    def encode(x, segment_ids=None):
        x = keras.layers.Dropout(dropouts[0])(x)
        return norm(layer(keras.layers.Add()([x, *(convolve(x) for convolve in ngrams)]), segment_ids=segment_ids))

    inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in ("tokens", "segment_ids", "labels")}
    x = encode(embedding(inputs["tokens"]), inputs["segment_ids"])
    losses = kt.training.TiedCrossentropy(embedding)(x, inputs["labels"])  # of hidden tokens; it makes no logits

    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = encode(keras.layers.Dropout(dropouts[1], noise_shape=(None, None, 1))(embedding(tokens)))
    pooled = keras.layers.Concatenate()([kt.MaskedPooling("mean")(x), kt.MaskedPooling("max")(x)])
    logits = keras.layers.Dense(classes, name="classes")(keras.layers.Dropout(dropouts[2])(pooled))
    outputs = {"guesses": embedding(x, reverse=True), "classes": logits}
    return {"guessing": keras.Model(inputs, losses), **{name: keras.Model(tokens, outputs[name]) for name in outputs}}


def guess(model: keras.Model, texts: list[str], tokenizer, epochs: int, folder) -> dict:
    """Train the masked language model, from where it stopped."""
    whole = tokenizer.copy(max_length=None)  # longer texts are left out
    options = dict(length=tokenizer.max_length, batch_size=32, tokenizers=whole, shift=False)
    masked = kt.training.MaskedTokens(kt.training.PackedBatches(texts, **options), tokenizer)
    steps = masked.steps_per_epoch
    model.compile(common.optimizer(GUESSING_RATE, epochs * steps), jit_compile=False)
    checkpoints = kt.training.Checkpoints(folder, keep=1)
    position = checkpoints.resume(model)
    data = masked.dataset(position.step).repeat()
    data = data.map(lambda x, y: ({"tokens": x["tokens"], "segment_ids": x["segment_ids"], "labels": y},))
    span = dict(steps_per_epoch=steps, initial_epoch=position.epoch, epochs=epochs, shuffle=False)
    model.fit(data, **span, callbacks=[checkpoints], verbose=2)
    last = checkpoints.history[-1]
    figures = {"perplexity": last["perplexity"], "accuracy": last["token_accuracy"]}
    return {"texts": len(texts), "tokens": masked.batches.num_tokens, "epochs": epochs, **figures}


def fill(model: keras.Model, tokenizer, texts: list[str]) -> dict[str, list[str]]:
    """The five pieces that are likeliest in place of <mask>."""
    ids = np.array(tokenizer(texts))
    rows, places = np.nonzero(ids == tokenizer.token_to_id("<mask>"))
    best = np.argsort(-np.array(model(ids))[rows, places])[:, :5]
    return {texts[i]: [tokenizer.id_to_token(int(id)) for id in row] for i, row in zip(rows, best, strict=True)}


def classify(model: keras.Model, data: dict, rate: float, epochs: int, best) -> dict:
    """Train the classifier, take the epoch that is best on the validation data, and test it."""
    begin, steps = time.perf_counter(), epochs * len(data["train"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=SMOOTHING)
    averaged = common.optimizer(rate, steps, use_ema=True, ema_momentum=MOMENTUM)
    model.compile(averaged, loss, metrics=["accuracy"], jit_compile=False)
    callbacks = [
        keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
        keras.callbacks.ModelCheckpoint(best, "val_accuracy", mode="max", save_best_only=True, save_weights_only=True),
    ]
    options = dict(validation_data=data["validation"], epochs=epochs, callbacks=callbacks, shuffle=False, verbose=2)
    by_epoch = model.fit(data["train"], **options).history["val_accuracy"]
    minutes = (time.perf_counter() - begin) / 60
    model.load_weights(best)
    _, test = model.evaluate(data["test"], verbose=0)
    return {"validation": max(by_epoch), "by_epoch": by_epoch, "test": test, "minutes": minutes}


def learn(task: str, options) -> dict:
    """Train what a task lacks, and export a classifier."""
    data, setting = read(options.data, task), {**SETTINGS[task], "epochs": EPOCHS[task]}
    if options.quick:
        data = {part: examples[:200] for part, examples in data.items()}
        letters = {letter for text, _ in data["train"] for letter in text}
        setting = {**setting, "vocabulary_size": len(letters) + 30, "epochs": 1}
    setting["guessing_epochs"] = 1 if options.quick else GUESSING_EPOCHS[task]
    special = dict(special_tokens=["<mask>"], fold_case=task != "nsmc", add_start=True, max_length=setting["length"])
    texts = [text for text, _ in data["train"]]
    tokenizer = kt.text.SentencePieceTokenizer.train(texts, setting["vocabulary_size"], **special)
    setting.update({part: len(data[part]) for part in data})
    sizes = (tokenizer.vocabulary_size, setting["classes"], setting["dim"], setting["dropouts"])

    def place(name: str):
        return common.place(options, "exports", "understanding", task, name)

    runs, seeds = common.Runs(place("runs.json"), setting), options.seeds[: SEEDS[task]]
    for way, seed in [("guessing", 0), *((way, seed) for seed in seeds for way in WAYS)]:
        if f"{way} {seed}" in runs:
            continue
        keras.utils.set_random_seed(seed)
        models = build(*sizes)
        if way == "guessing":
            run = guess(models["guessing"], data["raw"], tokenizer, setting["guessing_epochs"], place("guessing"))
            run["blanks"] = fill(models["guesses"], tokenizer, BLANKS[task])
            models["guessing"].save_weights(place("guessing.weights.h5"))
        else:
            if way == "pretrained":
                models["guessing"].load_weights(place("guessing.weights.h5"))
            shape = (tokenizer, setting["classes"], setting["size"])
            fed = {part: batches(data[part], *shape) for part in ("validation", "test")}
            fed["train"] = batches(data["train"], *shape, seed)
            run = classify(
                models["classes"], fed, setting["rate"], setting["epochs"], place(f"{way}_{seed}.weights.h5")
            )
            print(f"{task}, {way}, seed {seed}: {run['validation']:.2%}, on the test {run['test']:.2%}")
        runs[f"{way} {seed}"] = run
    model = build(*sizes)["classes"]
    model.load_weights(place(f"pretrained_{seeds[0]}.weights.h5"))
    kt.export.saved_model(model, place("saved_model"), source_tokenizer=tokenizer, overwrite=True)
    texts = [text for text, _ in data["test"][:20]]
    elsewhere = common.run_elsewhere(place("saved_model"), {"text": texts})
    np.testing.assert_allclose(*elsewhere.values(), model(tokenizer(texts)), atol=1e-4)
    of_way = {way: {str(seed): runs[f"{way} {seed}"] for seed in seeds} for way in WAYS}
    means = {
        f"{way}_{name}": float(np.mean([run[part] for run in of_way[way].values()]))
        for way in WAYS
        for name, part in (("mean", "test"), ("validation", "validation"))
    }
    return {"settings": setting, "guessing": runs["guessing 0"], **of_way, **means}


def draw(tasks: dict) -> Figure:
    """Accuracy on the validation data by epoch, all seeds of both ways."""
    figure = Figure((9, 3.2), layout="constrained")
    for axes, (task, done) in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks.items(), strict=True):
        for way, color in zip(WAYS, ("tab:gray", "tab:blue"), strict=True):
            for i, run in enumerate(done[way].values()):
                y = 100 * np.array(run["by_epoch"])
                axes.plot(range(1, 1 + len(y)), y, color=color, label=None if i else way)
        axes.set(title=task, xlabel="epoch", ylabel="validation: % right")
        axes.legend()
    return figure


def main() -> None:
    """Train, choose, test and export for each task."""
    options = common.parse(
        __doc__,
        data="the files of textclass and nsmc",
        add=lambda parser: parser.add_argument("--tasks", nargs="+", choices=SETTINGS, default=list(SETTINGS)),
    )
    tasks = {task: learn(task, options) for task in options.tasks}
    common.write(options, "understanding", {"published": PUBLISHED, "tasks": tasks}, draw(tasks))


if __name__ == "__main__":
    main()
