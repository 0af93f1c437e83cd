"""Write the file that story.html runs, from what examples/language_model.py saved.

python examples/language_model.py --context 256 --save .     writes language_model.keras and language_model.json
python examples/browser/export_story.py                      writes examples/browser/models/language_model.tflite
"""

import argparse
import copy
import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from keras import ops

import keras_transformer as kt

TOP_P = 0.95


@dataclass(frozen=True)
class CarriedTemperature(kt.Sampling):
    """`Sampling` that keeps its temperature with the sequences, where who runs the loop may set another; 0 stands for
    the most probable token.

    The carry of the exported loop has a `temperature` (B,), which is that of the strategy after `prefill_N`.
    """

    def begin(self, decoder, memory, prompts, lengths):
        carry, memory = super().begin(decoder, memory, prompts, lengths)
        return {**carry, "temperature": ops.full_like(carry["lengths"], self.temperature, "float32")}, memory

    def advance(self, decoder, carry, memory):
        now = copy.copy(self)
        object.__setattr__(now, "temperature", carry["temperature"][:, None])  # a tensor, which __init__ would refuse
        return {**super(CarriedTemperature, now).advance(decoder, carry, memory), "temperature": carry["temperature"]}

    def select(self, log_probabilities, positions):
        drawn = super().select(log_probabilities, positions)
        return ops.where(self.temperature[:, 0] > 0, drawn, kt.Greedy().select(log_probabilities, positions))


def export(model: keras.Model, tokenizer: kt.text.Tokenizer, path: Path, max_length: int, **options) -> None:
    """Write the loop in its parts, compared with Python, the tokenizer included.

    Args:
        model, tokenizer: What writes.
        path: The .tflite file.
        max_length: Tokens of the longest text, its beginning included.
        **options: Of the Generator. Default: `end_token` of the tokenizer.
    """
    options = {"end_token": tokenizer.end_id, **options}
    strategy = CarriedTemperature(temperature=0.8, top_p=TOP_P)
    generator = kt.Generator(model, max_length=max_length, strategy=strategy, target_tokenizer=tokenizer, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    kt.export.litert(generator, path, source_length=max_length, layout="step", overwrite=True)


def main() -> None:
    """Load, export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("."), help="folder of language_model.keras and .json")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "models", help="folder to write to")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of the longest text, its beginning too")
    options = parser.parse_args()
    model = keras.saving.load_model(options.model / "language_model.keras")
    tokenizer = kt.text.Tokenizer.load(options.model / "language_model.json")
    export(model, tokenizer, options.output / "language_model.tflite", options.max_length)


if __name__ == "__main__":
    main()
