"""Write the files that the page in this folder runs, from what the quickstart saved.

python examples/translate_dates.py                      writes translator.keras and tokenizer.model
python examples/browser/export.py                       writes, to examples/browser/models:
    translator.tflite, translator-int8.tflite           the loop in its parts, tokenizers included
    attention.tflite                                    where the last decoder layer looks
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import ops

import keras_transformer as kt

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from report import save_results


def attention_model(model: keras.Model, source_length: int, target_length: int) -> keras.Model:
    """A model of the same layers that gives the last decoder layer's cross-attention.

    Input shapes: (1, S) and (1, T), int32, padded on the right with 0. Output shape: (T, S), the mean over heads.
    """
    last = [layer.name for layer in model.layers if isinstance(layer, kt.DecoderLayer)][-1]
    found = []

    def call(layer, *args, **kwargs):
        if layer.name != last:
            return layer(*args, **kwargs)
        y, _, scores = layer(*args, **kwargs, return_attention_scores=True)  # (B, H, T, S)
        found.append(scores)
        return y

    inputs = [
        keras.Input(batch_shape=(1, length), dtype=x.dtype, name=x.name)
        for x, length in zip(model.inputs, (source_length, target_length), strict=True)
    ]
    copy = keras.models.clone_model(model, inputs, call_function=call)
    copy.set_weights(model.get_weights())
    return keras.Model(inputs, ops.mean(found[0], axis=(0, 1)), name="attention")


def export(model: keras.Model, tokenizer: bytes, folder: Path, source_length: int, max_length: int) -> kt.Generator:
    """Write the three files, each compared with Python, and return the generator that Python would use."""
    source_tokenizer = kt.text.SentencePieceTokenizer(tokenizer)
    target_tokenizer = kt.text.SentencePieceTokenizer(tokenizer, add_start=True, add_end=True)
    generator = kt.Generator(
        model, start_token=target_tokenizer.start_id, end_token=target_tokenizer.end_id, max_length=max_length
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, quantize in (("translator.tflite", None), ("translator-int8.tflite", "int8")):
        kt.export.litert(
            generator,
            folder / name,
            source_length=source_length,
            layout="step",
            quantize=quantize,
            source_tokenizer=source_tokenizer,
            target_tokenizer=target_tokenizer,
            overwrite=True,
        )
    kt.export.litert(attention_model(model, source_length, max_length), folder / "attention.tflite", overwrite=True)
    return generator


def main() -> None:
    """Load, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("."), help="folder of translator.keras and tokenizer.model")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "models", help="folder to write to")
    parser.add_argument("--source-length", type=int, default=48, help="tokens of the longest text that may come")
    parser.add_argument("--max-length", type=int, default=13, help="tokens of the longest answer, start and end too")
    parser.add_argument("--results", type=Path, help="file to write the sizes of what is loaded to, in MiB")
    options = parser.parse_args()
    model = keras.saving.load_model(options.model / "translator.keras")
    tokenizer = (options.model / "tokenizer.model").read_bytes()
    export(model, tokenizer, options.output, options.source_length, options.max_length)
    if options.results is not None:
        sizes = {path.name: path.stat().st_size / 2**20 for path in sorted(options.output.glob("*.tflite"))}
        save_results(options.results, "examples/browser/export.py", {"mebibytes": sizes})


if __name__ == "__main__":
    main()
