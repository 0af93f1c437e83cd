"""The small GPT of examples/language_model.py, architecture "plain", beside the same model in plain PyTorch.

Both train on the same windows of tiny Shakespeare, with the same optimizer and schedule, in turns of 100 steps, one
process, all cores; then the loss on the last tenth of the text. In PyTorch it is `torch.nn.TransformerEncoder` with a
causal mask, pre-norm, GELU, without biases, and the embedding tied to the output.

    python benchmarks/character_model.py --data input.txt
"""

import math
import os
import sys
import time
from pathlib import Path

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # TensorFlow's default only where it sees AVX512-VNNI
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import keras  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from language_model import (  # noqa: E402
    CONTEXT,
    DIM,
    HEADS,
    LAYERS,
    SEED,
    Windows,
    build_model,
    compile_model,
    read_text,
    validation_loss,
)
from report import QUICK, REPOSITORY, make_parser, save_results  # noqa: E402

import keras_transformer as kt  # noqa: E402

TURN = 2 if QUICK else 100


class Gpt(torch.nn.Module):
    """GPT-2's architecture, of PyTorch's own parts."""

    def __init__(self, vocabulary_size: int):
        super().__init__()
        self.tokens = torch.nn.Embedding(vocabulary_size, DIM)
        self.positions = torch.nn.Embedding(CONTEXT, DIM)
        layer = torch.nn.TransformerEncoderLayer(
            DIM, HEADS, 4 * DIM, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
        )
        self.layers = torch.nn.TransformerEncoder(layer, LAYERS, torch.nn.LayerNorm(DIM), enable_nested_tensor=False)
        self.mask = torch.nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        for weight in self.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.02)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions.weight
        return self.layers(x, mask=self.mask, is_causal=True) @ self.tokens.weight.T


def torch_loss(model: Gpt, inputs: np.ndarray, labels: np.ndarray) -> torch.Tensor:
    """The mean loss of a batch."""
    logits = model(torch.from_numpy(inputs.astype("int64")))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(labels.astype("int64")).flatten())


def main() -> None:
    """Train both, in turns, and report."""
    parser = make_parser(__doc__, "character_model")
    parser.add_argument("--data", type=Path, help="the text; default: download tiny Shakespeare")
    parser.add_argument("--steps", type=int, default=4 if QUICK else 2000)
    options = parser.parse_args()
    keras.utils.set_random_seed(SEED)
    torch.set_num_threads(os.cpu_count())

    text = (REPOSITORY / "README.md").read_text() if QUICK else read_text(options.data)
    split = int(0.9 * len(text))
    tokenizer = kt.text.CharacterTokenizer.train([text[:split]])
    training, validation = (tokenizer([part]).numpy()[0] for part in (text[:split], text[split:]))
    windows = Windows(training, options.steps, SEED)

    ours = build_model(tokenizer.vocabulary_size, "plain")
    compile_model(ours, "plain", options.steps)
    theirs = Gpt(tokenizer.vocabulary_size)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    warm_up = min(100, options.steps // 10)

    def rate(step: int) -> float:
        fall = max(0.0, (step - warm_up) / (options.steps - warm_up))
        return step / warm_up if step < warm_up else 0.1 + 0.9 * (1 + math.cos(math.pi * fall)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    seconds = {"keras_transformer": [], "torch": []}
    for first in range(0, options.steps, TURN):
        batches = [windows[step] for step in range(first, min(first + TURN, options.steps))]
        begin = time.perf_counter()
        ours.fit(Batches(batches), shuffle=False, verbose=0)
        seconds["keras_transformer"].append(time.perf_counter() - begin)
        begin = time.perf_counter()
        for inputs, labels in batches:
            optimizer.zero_grad()
            torch_loss(theirs, inputs, labels).backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        seconds["torch"].append(time.perf_counter() - begin)

    count = (len(validation) - 1) // CONTEXT
    inputs, labels = (validation[offset : offset + count * CONTEXT].reshape(count, CONTEXT) for offset in (0, 1))
    with torch.no_grad():
        their_loss = float(torch_loss(theirs.eval(), inputs, labels))
    figures = {
        "keras_transformer": {"weights": ours.count_params(), "validation_loss": validation_loss(ours, validation)},
        "torch": {"weights": sum(x.numel() for x in theirs.parameters()), "validation_loss": their_loss},
    }
    for name, turns in seconds.items():
        figures[name] |= {"seconds": sum(turns), "ms_per_step": 1e3 * float(np.median(turns)) / TURN}
        print(name, {key: round(value, 3) for key, value in figures[name].items()})
    save_results(options.output, "benchmarks/character_model.py", {"seed": SEED, "steps": options.steps, **figures})


class Batches(keras.utils.PyDataset):
    """Batches that are there already."""

    def __init__(self, batches: list):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


if __name__ == "__main__":
    main()
