"""Runs a small trained model, by keras_transformer_runtime alone: no Keras, no TensorFlow, nothing to train.

    python examples/try.py                                           a translator of dates
    python examples/try.py "16 août 2023" "2023년 8월 16일 수요일"
    python examples/try.py --model language_model "JULIET:"          a small language model goes on with a text

The models are those of `make models`, or of a release: unpacked, they lie in dist-models. From a clone:

    pip install "./keras_transformer_runtime[litert]" sentencepiece
"""

import argparse
import sys
from pathlib import Path

MODELS = Path(__file__).resolve().parents[1] / "dist-models"
RUNTIME = MODELS.with_name("keras_transformer_runtime")
RELEASES = "https://github.com/keras-transformer/keras-transformer-layers/releases"
SHOWN = {
    "date_translator": ["Wednesday, August 16, 2023", "2023년 8월 16일 수요일", "16 août 2023", "२६ जनवरी १९५०"],
    "language_model": ["ROMEO:"],
}


def main() -> None:
    """Load, answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="*", help="what to translate, or to go on with")
    parser.add_argument("--model", choices=SHOWN, default="date_translator")
    parser.add_argument("--models", type=Path, default=MODELS, help="folder of models (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="another one has the language model write something else")
    options = parser.parse_args()
    path = options.models / options.model / f"{options.model}.tflite"
    if not path.is_file():
        raise SystemExit(
            f"There is no {path}.\n`make models` trains it (20 minutes for both models); or download "
            f"{options.model}.zip from {RELEASES} and unpack it into {options.models}."
        )
    try:
        from keras_transformer_runtime import load
    except ImportError:
        raise SystemExit(f'This needs the runtime: pip install "{RUNTIME}[litert]" sentencepiece') from None
    runner = load(path)
    for text in options.texts or SHOWN[options.model]:
        (answer,) = runner([text], seed=options.seed)["texts"]
        print(answer[0] if options.model == "language_model" else f"{text}  ->  {answer[0]}", flush=True)
    assert "keras" not in sys.modules


if __name__ == "__main__":
    main()
