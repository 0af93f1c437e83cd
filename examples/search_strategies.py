"""One model, six ways to search it: what greedy, beam, sampling, contrastive and speculative decoding each give.

A small language model learns sums such as `17+25=42`, written digit by digit. Then every strategy continues the same
prompts, and a table shows the text and its log-probability under the model.

    python examples/search_strategies.py
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import keras_transformer as kt

CHARACTERS = "0123456789+="
START, END, FIRST = 1, 2, 3  # ids; 0 is padding
VOCABULARY = FIRST + len(CHARACTERS)
LENGTH = 11  # start, "aa+bb=ccc", end


def encode(text: str) -> list[int]:
    """Ids of a text behind the start token."""
    return [START, *(FIRST + CHARACTERS.index(character) for character in text)]


def decode(tokens) -> str:
    """The text of ids up to the end token."""
    return "".join(CHARACTERS[token - FIRST] for token in tokens if token >= FIRST)


def sums(count: int, seed: int) -> np.ndarray:
    """Sequences (count, LENGTH) of sums, padded with 0."""
    pairs = np.random.default_rng(seed).integers(0, 50, (count, 2))
    rows = [[*encode(f"{a:02}+{b:02}={a + b:02}"), END] for a, b in pairs]
    return np.array([row + [0] * (LENGTH - len(row)) for row in rows])


def train(num_layers: int, dim: int, epochs: int) -> keras.Model:
    """A language model of sums."""
    model = kt.models.language_model(
        VOCABULARY, num_layers=num_layers, dim=dim, num_heads=4, intermediate_dim=4 * dim, dropout=0.0
    )
    model.compile(keras.optimizers.Adam(2e-3), kt.training.SequenceCrossentropy())
    rows = sums(20_000, seed=0)
    model.fit(rows[:, :-1], rows[:, 1:], batch_size=128, epochs=epochs, verbose=2)
    return model


def main() -> None:
    """Train, search in every way, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    keras.utils.set_random_seed(1)
    model, draft = train(2, 64, options.epochs), train(1, 32, 2)

    prompts = np.array([encode("17+25="), encode("08+31="), encode("46+39=")])
    strategies = {
        "greedy": kt.Greedy(),
        "beam search, 4 beams": kt.BeamSearch(4),
        "sampling, temperature 2": kt.Sampling(temperature=2.0, seed=3),
        "sampling, top-p 0.9": kt.Sampling(top_p=0.9, seed=3),
        "contrastive, k = 4": kt.ContrastiveSearch(4, 0.3),
        "speculative, 3 ahead": kt.Speculative(draft, 3),
    }
    print(f"\n{'strategy':<26}{'what it writes, and its log-probability'}")
    for name, strategy in strategies.items():
        generator = kt.Generator(model, max_length=LENGTH, end_token=END, strategy=strategy)
        result = generator(prompts)
        texts = [decode(tokens) for tokens in result["tokens"][:, 0]]
        print(f"{name:<26}" + "   ".join(f"{t} {s:6.2f}" for t, s in zip(texts, result["scores"][:, 0], strict=True)))

    print("\nThe four best of beam search for the first prompt, and the sum of their probabilities:")
    generator = kt.Generator(model, max_length=LENGTH, end_token=END, strategy=kt.BeamSearch(4, num_return=4))
    result = generator(prompts[:1])
    for tokens, score in zip(result["tokens"][0], result["scores"][0], strict=True):
        print(f"  {decode(tokens):<12} p = {np.exp(score):.4f}")
    print(f"  in sum           {np.exp(result['scores'][0]).sum():.4f}")

    print("\nA stream, token by token: ", end="")
    for (token,) in kt.Generator(model, max_length=LENGTH, end_token=END).stream(prompts[:1]):
        print("end" if token == END else decode([token]), end=" ", flush=True)
    print()


if __name__ == "__main__":
    main()
