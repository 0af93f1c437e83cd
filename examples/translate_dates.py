"""Quickstart: dates as people write them in 28 locales, translated to ISO 8601, from training to export.

"2023년 8월 16일 수요일" and "Wednesday, August 16, 2023" both become "2023-08-16". The script

1. makes the dates from CLDR data and trains a SentencePiece tokenizer on them,
2. composes an encoder-decoder from the layers and trains it with `model.fit`,
3. evaluates it on dates that occur in no training example, locale by locale,
4. draws what the model looks at for a Korean and for an English date (attention.png),
5. saves it (translator.keras, tokenizer.model) and exports it to translator/ (SavedModel: strings in, strings out)
   and translator.tflite (LiteRT),
6. runs both exports in fresh processes without this package, and compares with Python; figures go to translator.json.

    python examples/translate_dates.py                a few minutes on 2 cores
    python examples/translate_dates.py --steps 300    a quick look
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib
import numpy as np
import tensorflow as tf
from dates import Example, make_dates
from matplotlib import font_manager
from rich.console import Console
from rich.table import Table

import keras_transformer as kt
from keras_transformer.insight import plot_attention

ISO_LENGTH = 13  # start, the mark of a word, ten characters, end
DIM, LAYERS = 128, 2
SHOWN = {"ko": "2023년 8월 16일 수요일", "en": "Wednesday, August 16, 2023"}
SHOWN_ISO = "2023-08-16"


def build_model(vocabulary_size: int) -> keras.Model:
    """An encoder-decoder from the layers; this is what a user writes."""
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    embedding = kt.TokenEmbedding(vocabulary_size, DIM, scale=True)

    memory = kt.PositionalEncoding()(embedding(source))
    for _ in range(LAYERS):
        memory = kt.EncoderLayer(num_heads=4, intermediate_dim=4 * DIM)(memory)

    y = kt.PositionalEncoding()(embedding(target))
    for _ in range(LAYERS):
        y = kt.DecoderLayer(num_heads=4, intermediate_dim=4 * DIM)(y, memory)
    return keras.Model([source, target], embedding(y, reverse=True))


def make_batches(examples: list[Example], source_tokenizer, target_tokenizer, batch_size: int, seed: int):
    """An endless, shuffled tf.data pipeline of ((source, target), labels), texts of similar length together."""
    source = source_tokenizer([example.text for example in examples])
    target = target_tokenizer([example.iso for example in examples])

    def without_padding(source, target):
        return (tf.boolean_mask(source, source != 0), target[:-1]), target[1:]

    data = tf.data.Dataset.from_tensor_slices((source, target)).shuffle(len(examples), seed=seed).repeat()
    data = data.map(without_padding, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.bucket_by_sequence_length(
        lambda inputs, labels: tf.shape(inputs[0])[0],
        bucket_boundaries=[10, 13, 17, 22, 28],
        bucket_batch_sizes=[batch_size] * 6,
        drop_remainder=True,
    )
    return data.prefetch(tf.data.AUTOTUNE)


def train(model: keras.Model, batches, validation, steps: int) -> None:
    """Train with `fit`, four epochs of a quarter of the steps each."""
    warm_up = max(1, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=max(1, steps - warm_up), warmup_target=2e-3, warmup_steps=warm_up
    )
    model.compile(
        keras.optimizers.Adam(schedule, beta_2=0.98),
        kt.training.SequenceCrossentropy(),
        metrics=[kt.training.TokenAccuracy()],
    )
    epochs = 4
    model.fit(
        batches,
        steps_per_epoch=max(1, steps // epochs),
        epochs=epochs,
        validation_data=validation,
        validation_steps=4,
        shuffle=False,  # the pipeline does
        verbose=1 if sys.stdout.isatty() else 2,
    )


def translate(generator: kt.Generator, source_tokenizer, target_tokenizer, texts: list[str]):
    """ISO dates and token ids of texts, by the Python generator."""
    tokens = generator(source_tokenizer(texts).numpy())["tokens"]
    return [text.decode() for text in target_tokenizer.detokenize(tokens[:, 0]).numpy()], tokens[:, 0]


def draw_attention(model, source_tokenizer, target_tokenizer, path: Path) -> None:
    """Draw where the last decoder layer looks while it writes each token of two dates."""
    vocabulary = source_tokenizer.get_vocabulary()
    maps = []
    for text in SHOWN.values():
        source, target = source_tokenizer([text]), target_tokenizer([SHOWN_ISO])
        weights = kt.attention_weights(model, [source, target[:, :-1]])
        cross = [scores for name, scores in weights.items() if name.endswith("cross_attention")][-1]
        labels = ([vocabulary[i] for i in target[0, 1:]], [vocabulary[i] for i in source[0]])
        maps.append((cross[0].mean(axis=0), *labels, text))
    with matplotlib.rc_context({"font.family": ["DejaVu Sans", *korean_fonts()]}):
        plot_attention(maps, path)


def korean_fonts() -> list[str]:
    """The font with Korean letters that the package koreanize-matplotlib carries, if it is installed.

    Its files are read without importing it, as it wants a module that Python 3.12 no longer has.
    """
    package = importlib.util.find_spec("koreanize_matplotlib")
    if package is None:
        return []
    font = Path(package.submodule_search_locations[0]) / "fonts" / "NanumGothic.ttf"
    font_manager.fontManager.addfont(font)
    return ["NanumGothic"]


SAVED_MODEL_PROGRAM = """
import json, sys
import tensorflow as tf, tensorflow_text
texts = json.load(sys.stdin)
answer = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](text=tf.constant(texts))
assert "keras_transformer" not in sys.modules
json.dump({"tokens": answer["tokens"][:, 0].numpy().tolist(),
           "texts": [t.decode() for t in answer["texts"][:, 0].numpy()]}, sys.stdout)
"""

LITERT_PROGRAM = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
ids = np.array(json.load(sys.stdin), "int32")
run = Interpreter(model_path=sys.argv[1]).get_signature_runner("generate")
tokens = [run(source=row[None])["tokens"][0, 0].tolist() for row in ids]
assert not {"tensorflow", "keras", "keras_transformer"} & set(sys.modules)
json.dump({"tokens": tokens}, sys.stdout)
"""


def run_fresh(program: str, path: Path, inputs) -> dict:
    """What a program answers in a fresh process that cannot import this package."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    process = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        input=json.dumps(inputs),
        capture_output=True,
        text=True,
        env=environment,
        cwd=path.parent,
    )
    if process.returncode:
        raise SystemExit(f"The exported file {path} failed:\n{process.stderr}")
    return json.loads(process.stdout)


def main() -> None:
    """Train, evaluate, draw, export, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1600, help="training steps")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("."), help="folder for what is written")
    options = parser.parse_args()
    begin = time.perf_counter()
    console = Console()
    keras.utils.set_random_seed(options.seed)
    options.output.mkdir(parents=True, exist_ok=True)

    console.rule("Data")
    training, validation, test = make_dates(200_000, 1_120, 2_800, seed=options.seed)
    texts = [text for example in training[:20_000] for text in (example.text, example.iso)]
    source_tokenizer = kt.text.SentencePieceTokenizer.train(texts, 800, character_coverage=1.0, split_digits=True)
    target_tokenizer = kt.text.SentencePieceTokenizer(source_tokenizer.model, add_start=True, add_end=True)
    console.print(f"{len(training)} training examples; for instance:")
    for example in training[:5]:
        console.print(f"  {example.locale:6} {example.text}  ->  {example.iso}")

    console.rule("Training")
    model = build_model(source_tokenizer.vocabulary_size)
    console.print(f"{model.count_params():,} parameters, {options.steps} steps of {options.batch_size} examples")
    train(
        model,
        make_batches(training, source_tokenizer, target_tokenizer, options.batch_size, options.seed),
        make_batches(validation, source_tokenizer, target_tokenizer, 280, options.seed),
        options.steps,
    )
    training_seconds = time.perf_counter() - begin

    console.rule("Evaluation on dates never seen in training")
    generator = kt.Generator(
        model,
        start_token=target_tokenizer.start_id,
        end_token=target_tokenizer.end_id,
        max_length=ISO_LENGTH,
    )
    answers, tokens = translate(generator, source_tokenizer, target_tokenizer, [example.text for example in test])
    right = np.array([answer == example.iso for answer, example in zip(answers, test, strict=True)])
    by_locale = {
        locale: right[[example.locale == locale for example in test]].mean()
        for locale in sorted({example.locale for example in test})
    }
    for locale, text in SHOWN.items():
        console.print(
            f"  {locale}  {text}  ->  {translate(generator, source_tokenizer, target_tokenizer, [text])[0][0]}"
        )
    draw_attention(model, source_tokenizer, target_tokenizer, options.output / "attention.png")

    console.rule("Export")
    saved, lite = options.output / "translator", options.output / "translator.tflite"
    model.save(options.output / "translator.keras")
    (options.output / "tokenizer.model").write_bytes(source_tokenizer.model)
    tokenizers = {"source_tokenizer": source_tokenizer, "target_tokenizer": target_tokenizer}
    kt.export.saved_model(generator, saved, **tokenizers, overwrite=True)
    compared = test[:560]
    ids = source_tokenizer([example.text for example in compared]).numpy()
    kt.export.litert(generator, lite, source_length=ids.shape[1], **tokenizers, overwrite=True)
    expected = tokens[: len(compared)]
    from_saved = run_fresh(SAVED_MODEL_PROGRAM, saved, [example.text for example in compared])
    from_lite = run_fresh(LITERT_PROGRAM, lite, ids.tolist())

    table = Table("what", "result", title="Dates of 28 locales to ISO 8601")
    worst = min(by_locale, key=by_locale.get)
    saved_equal = np.all(np.array(from_saved["tokens"]) == expected, axis=1)
    lite_equal = np.all(np.array(from_lite["tokens"]) == expected, axis=1)
    table.add_row("exact match, held-out dates", f"{right.mean():.2%} of {len(test)}")
    table.add_row("lowest locale", f"{by_locale[worst]:.1%} ({worst}, {len(test) // len(by_locale)} dates)")
    table.add_row("SavedModel gives Python's tokens", f"{saved_equal.sum()} of {len(compared)} strings")
    table.add_row("LiteRT gives Python's tokens", f"{lite_equal.sum()} of {len(compared)} strings")
    table.add_row("LiteRT file", f"{lite.stat().st_size / 2**20:.1f} MiB")
    table.add_row("time until trained", f"{training_seconds:.0f} s")
    table.add_row("time in all", f"{time.perf_counter() - begin:.0f} s")
    console.print(table)
    figures = {
        "weights": model.count_params(),
        "steps": options.steps,
        "batch_size": options.batch_size,
        "training_seconds": training_seconds,
        "tested": len(test),
        "right": float(right.mean()),
        "worst": worst,
        "worst_right": float(by_locale[worst]),
        "samples": [example.text for example in compared],
    }
    (options.output / "translator.json").write_text(json.dumps(figures, ensure_ascii=False), encoding="utf-8")
    console.print(f"Written: {saved}/, {lite}, {options.output / 'attention.png'}")
    if not (saved_equal.all() and lite_equal.all()):
        raise SystemExit("An export differs from Python.")


if __name__ == "__main__":
    main()
