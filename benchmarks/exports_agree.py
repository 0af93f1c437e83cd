"""Whether exports of a trained model say what Python says: the date translator of the quickstart, on held-out dates.

For greedy and beam search, exported and then asked for the same dates as `kt.Generator` in this process:

- the SavedModel, strings in and out, in a fresh process that can import neither Keras nor keras_transformer,
- the same from C, with XLA switched off as TensorFlow Serving has it (examples/serving),
- the LiteRT file, float32, int8 dynamic range, float16 and int4, in a fresh process that cannot import TensorFlow.

What is equal is counted in whole sequences. The dates are test examples of examples/dates.py, which no training example
of the quickstart contains.

    make quickstart && python benchmarks/exports_agree.py --model .
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras  # noqa: E402
import numpy as np  # noqa: E402
from dates import make_dates  # noqa: E402
from report import QUICK, REPOSITORY, make_parser, save_results  # noqa: E402

import keras_transformer as kt  # noqa: E402

ISO_LENGTH = 13
BLOCK = "import json, sys\nsys.modules.update(dict.fromkeys({without!r}))\n"
SAVED_MODEL = """
import importlib.util, pathlib
import tensorflow as tf
operations = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent / "python" / "ops"
tf.load_op_library(str(operations / "_fast_sentencepiece_tokenizer.so"))
texts = json.load(sys.stdin)
answer = tf.saved_model.load(sys.argv[1]).signatures["serving_default"](text=tf.constant(texts))
json.dump([text.decode() for text in answer["texts"][:, 0].numpy()], sys.stdout)
"""
LITERT = """
from keras_transformer_runtime import load
runner = load(sys.argv[1])
json.dump([row[0] for row in runner(json.load(sys.stdin))["texts"]], sys.stdout)
"""


def ask(program: str, path: Path, texts: list[str], without: list[str]) -> list[str]:
    """The answers of a Python program in a fresh process that cannot import the packages named."""
    process = subprocess.run(
        [sys.executable, "-c", BLOCK.format(without=without) + program, str(path)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=path.parent,
    )
    if process.returncode:
        raise SystemExit(f"{path} failed:\n{process.stderr[-4000:]}")
    return json.loads(process.stdout)


def ask_from_c(path: Path, texts: list[str], build: Path) -> list[str]:
    """The answers of the C program."""
    import importlib.util

    serving = REPOSITORY / "examples" / "serving"
    subprocess.run(["make", "-s", "-C", serving, f"PYTHON={sys.executable}", f"BUILD={build}"], check=True)
    text = Path(importlib.util.find_spec("tensorflow_text").origin).parent
    operations = text / "python" / "ops" / "_fast_sentencepiece_tokenizer.so"
    process = subprocess.run(
        [build / "serve", "--ops", operations, path],
        input="\n".join(texts).encode() + b"\n",
        capture_output=True,
        check=True,
    )
    return process.stdout.decode().splitlines()


def trained(folder: Path) -> tuple[keras.Model, bytes]:
    """The translator and its SentencePiece model, as the quickstart wrote them."""
    return keras.models.load_model(folder / "translator.keras"), (folder / "tokenizer.model").read_bytes()


def untrained() -> tuple[keras.Model, bytes]:
    """A small one that has learned nothing, for --quick."""
    keras.utils.set_random_seed(0)
    examples, _, _ = make_dates(400, 1, 1, seed=0)
    tokenizer = kt.text.SentencePieceTokenizer.train([example.text for example in examples], 120)
    size = tokenizer.vocabulary_size
    return kt.models.transformer(size, size, num_layers=1, dim=16, num_heads=2, intermediate_dim=32), tokenizer.model


def main() -> None:
    """Export, ask everywhere, count, print, write the JSON."""
    parser = make_parser(__doc__, "exports_agree")
    parser.add_argument("--model", type=Path, default=Path("."), help="folder that the quickstart wrote to")
    parser.add_argument("--dates", type=int, default=3 if QUICK else 500)
    parser.add_argument("--seed", type=int, default=0, help="of the quickstart")
    options = parser.parse_args()
    model, spoken = untrained() if QUICK else trained(options.model)
    source = kt.text.SentencePieceTokenizer(spoken)
    target = kt.text.SentencePieceTokenizer(spoken, add_start=True, add_end=True)
    _, _, test = make_dates(200_000, 1_120, 2_800, seed=options.seed)
    test = test[:: len(test) // options.dates][: options.dates]
    texts = [example.text for example in test]
    ids = source(texts).numpy()

    report = {"dates": len(texts), "equal": {}, "right": {}, "litert_bytes": {}}
    strategies = {"greedy": kt.Greedy(), "beam 4": kt.BeamSearch(4, length_penalty=0.6)}
    for name, strategy in list(strategies.items())[: 1 if QUICK else 2]:
        generator = kt.Generator(
            model, start_token=target.start_id, end_token=target.end_id, max_length=ISO_LENGTH, strategy=strategy
        )
        expected = [text.decode() for text in target.detokenize(generator(ids)["tokens"][:, 0]).numpy()]
        answers = {}
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            tokenizers = {"source_tokenizer": source, "target_tokenizer": target}
            kt.export.saved_model(generator, folder / "saved_model", **tokenizers)
            answers["SavedModel"] = ask(SAVED_MODEL, folder / "saved_model", texts, ["keras", "keras_transformer"])
            answers["SavedModel from C"] = ask_from_c(folder / "saved_model", texts, folder)
            for quantize in (None, "float16", "int8", "int4")[: 1 if QUICK else 4]:
                path = folder / f"{quantize or 'float32'}.tflite"
                kt.export.litert(generator, path, source_length=ids.shape[1], quantize=quantize, **tokenizers)
                without = ["tensorflow", "keras", "keras_transformer"]
                answers[f"LiteRT {path.stem}"] = ask(LITERT, path, texts, without)
                report["litert_bytes"][f"{name}, {path.stem}"] = path.stat().st_size
        report["right"][name] = float(np.mean([x == example.iso for x, example in zip(expected, test, strict=True)]))
        for place, found in answers.items():
            report["equal"][f"{name}, {place}"] = sum(x == y for x, y in zip(found, expected, strict=True))
    print(f"{len(texts)} held-out dates; right in Python: {report['right']}")
    for place, count in report["equal"].items():
        print(f"{place:<32}{count:>5} of {len(texts)} equal to Python")
    save_results(options.output, "benchmarks/exports_agree.py", report)


if __name__ == "__main__":
    main()
