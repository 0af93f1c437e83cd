"""Claim: the look-ahead mask keeps a decoder from future tokens, and has to, as there are none when it generates.

    Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k) + M) V,  M[t, s] = 0 if s <= t, else -infinity
    ("Attention Is All You Need", section 3.2.3, https://arxiv.org/abs/1706.03762)

`DecoderLayer` without a memory and `EncoderLayer` are the same layer with and without that mask, and take the same
weights. First the gradient of each output by each input is computed: above the diagonal it must be 0, to the last bit.
Then both are trained to predict the next word of Multi30k's captions, and judged on other captions twice: as in
training, with the whole text before them, and as in generation, with the words so far and nothing else.

    python examples/lecture/i_look_ahead_mask.py --data DIR
"""

import keras
import numpy as np
import page
import tensorflow as tf
from matplotlib.figure import Figure
from multi30k import read_multi30k

import keras_transformer as kt

START, END = 2, 3
DIM, HEADS, LAYERS, LENGTH, BATCH, STEPS = 128, 4, 2, 24, 64, 600
LAYER = {"with mask": kt.DecoderLayer, "without mask": kt.EncoderLayer}
PROMPTS = ("a man", "two dogs", "a little girl in")


def leaks() -> dict[str, np.ndarray]:
    """The norm of d output_t / d input_s, (T, T), of two layers with the same weights in both stacks."""
    keras.utils.set_random_seed(page.SEED)
    x = tf.random.stateless_normal((1, 12, 32), (page.SEED, 1))
    norms, weights = {}, None
    for name, layer in LAYER.items():
        vectors = keras.Input((None, 32))
        stack = keras.Model(vectors, layer(HEADS, 64)(layer(HEADS, 64)(vectors)))
        stack.set_weights(weights or stack.get_weights())
        weights = stack.get_weights()
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = stack(x)
        norms[name] = np.linalg.norm(tape.jacobian(y, x)[0, :, :, 0].numpy(), axis=(1, 3))
    return norms


def read(folder) -> tuple[list[str], dict[str, np.ndarray]]:
    """The vocabulary, and running text in rows of LENGTH + 1 ids: captions one after another."""
    splits = {name: english for name, (english,) in read_multi30k(folder, ("en",)).items()}
    words, counts = np.unique(" ".join(splits["train"]).split(), return_counts=True)
    vocabulary = ["<pad>", "<unk>", "<s>", "</s>", *words[counts >= 5].tolist()]
    ids = {word: i for i, word in enumerate(vocabulary)}
    rows = {}
    for name in ("train", "val"):
        text = [ids.get(word, 1) for line in splits[name] for word in ("<s>", *line.split(), "</s>")]
        rows[name] = np.array(text[: len(text) // (LENGTH + 1) * (LENGTH + 1)]).reshape(-1, LENGTH + 1)
    return vocabulary, rows


def train(layer, size: int, rows: np.ndarray) -> tuple[keras.Model, list[float]]:
    """A language model of such layers, and its loss on the way."""
    keras.utils.set_random_seed(page.SEED)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    embedding = kt.TokenEmbedding(size, DIM, scale=True)
    x = kt.PositionalEncoding()(embedding(tokens))
    for _ in range(LAYERS):
        x = layer(HEADS, 4 * DIM)(x)
    model = keras.Model(tokens, embedding(x, reverse=True), name="language_model")
    model.compile(keras.optimizers.Adam(1e-3), kt.training.SequenceCrossentropy())
    random = np.random.default_rng(page.SEED)
    order = np.concatenate([random.permutation(len(rows)) for _ in range(1 + STEPS * BATCH // len(rows))])
    parts = []
    for part in rows[order[: STEPS * BATCH]].reshape(STEPS // 50, 50 * BATCH, LENGTH + 1):
        parts.append(model.fit(part[:, :-1], part[:, 1:], batch_size=BATCH, verbose=0).history["loss"][0])
    return model, parts


def judge(model: keras.Model, rows: np.ndarray) -> dict[str, list[float]]:
    """Loss and accuracy on other text: with all of it in sight, and with the words so far only."""
    inputs, labels = rows[:, :-1], rows[:, 1:]
    last = []
    for t in range(1, LENGTH + 1):
        seen = np.where(np.arange(LENGTH) < t, inputs, 0)  # what is to come is padding, which nobody attends to
        last.append(model.predict_on_batch(seen)[:, t - 1])
    results = {}
    for name, logits in {"all in sight": model.predict_on_batch(inputs), "words so far": np.stack(last, 1)}.items():
        loss = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)
        results[name] = [round(float(np.mean(loss)), 4), round(float((logits.argmax(-1) == labels).mean()), 4)]
    return results


def continue_text(model: keras.Model, prompt: list[int]) -> list[int]:
    """The most probable word at each step, by a plain loop over the whole model."""
    tokens = list(prompt)
    while len(tokens) < LENGTH and tokens[-1] != END:
        tokens.append(int(model.predict_on_batch(np.array([tokens]))[0, -1, 1:].argmax()) + 1)
    return tokens


def main() -> None:
    """Differentiate, train, judge, generate."""
    options = page.arguments(__doc__, data="folder of the Multi30k data set; downloaded if not given")
    norms = leaks()
    future = {name: float(np.triu(norm, 1).max()) for name, norm in norms.items()}
    vocabulary, rows = read(options.data)
    curves, results, texts, refusals = {}, {}, {}, {}
    for name, layer in LAYER.items():
        model, curves[name] = train(layer, len(vocabulary), rows["train"])
        results[name] = judge(model, rows["val"][:256])
        prompts = [[START, *map(vocabulary.index, prompt.split())] for prompt in PROMPTS]
        answers = [continue_text(model, prompt) for prompt in prompts]
        texts[name] = [" ".join(vocabulary[i] for i in answer if i not in (START, END)) for answer in answers]
        try:
            generator = kt.Generator(model, max_length=LENGTH, end_token=END, cache=False, jit_compile=False)
        except ValueError as error:
            refusals[name] = str(error)
            continue
        for prompt, answer in zip(prompts, answers, strict=True):
            result = generator(np.array([prompt]))
            assert result["tokens"][0, 0, : result["lengths"][0, 0]].tolist() == answer
    page.table(
        "Next word: loss and accuracy on other captions",
        ["", "largest gradient by a later token", *results["with mask"]],
        [
            [name, f"{future[name]:.3g}", *(f"{loss:.3f}, {share:.1%}" for loss, share in result.values())]
            for name, result in results.items()
        ],
    )
    print("\n".join(f"{name}: {text}" for name in texts for text in texts[name]))
    print("\n".join(f"kt.Generator about the model {name}: {refusal}" for name, refusal in refusals.items()))

    figure = Figure(figsize=(15, 4.5), layout="constrained")
    *maps, axes = figure.subplots(1, 3)
    for panel, (name, norm) in zip(maps, norms.items(), strict=True):
        figure.colorbar(panel.imshow(np.where(norm == 0, np.nan, norm)), ax=panel)
        panel.set(title=f"|d output_t / d input_s|, {name} (white: 0)", xlabel="s", ylabel="t")
    for name, curve in curves.items():
        (line,) = axes.plot(50 * np.arange(1, len(curve) + 1), curve, label=f"{name}, training")
        axes.axhline(results[name]["words so far"][0], color=line.get_color(), ls="--", label=f"{name}, words so far")
    axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
    axes.legend()
    blind, sighted = results["without mask"]["words so far"], results["with mask"]["words so far"]
    page.write(
        options,
        __file__,
        "The look-ahead mask hides future tokens, and a model trained without it cannot generate.",
        future["with mask"] == 0.0
        and future["without mask"] > 0.0
        and results["without mask"]["all in sight"][0] < 0.1 * results["with mask"]["all in sight"][0]
        and blind[0] > 2 * sighted[0]
        and list(refusals) == ["without mask"],
        {
            "largest_gradient_by_a_later_token": {name: float(f"{value:.3g}") for name, value in future.items()},
            "steps": STEPS,
            "training_loss_of_last_steps": {name: round(float(curve[-1]), 4) for name, curve in curves.items()},
            "validation": {
                name: {view: {"loss": pair[0], "accuracy": pair[1]} for view, pair in result.items()}
                for name, result in results.items()
            },
            "texts": texts,
            "generator_refuses": refusals,
            "words": len(vocabulary),
            "loss_of_equal_probabilities": round(float(np.log(len(vocabulary))), 4),
        },
        figure,
    )


if __name__ == "__main__":
    main()
