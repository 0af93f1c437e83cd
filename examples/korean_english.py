"""Korean to English from the few pairs that are free: pieces of words, or bytes?

3,833 sentences for learners (https://tatoeba.org) and 1,720 longer ones, of textbooks and news
(https://github.com/jungyeul/korean-parallel-corpora), are little: what comes out is a translator of simple sentences. A
tenth of the English sentences of Tatoeba validates, a tenth tests, and what is for training has neither these nor their
Korean ones. The same Transformer reads and writes pieces of words (SentencePiece), or bytes ("ByT5",
https://arxiv.org/abs/2105.13626). The epoch of the lowest perplexity on the validation data counts; the test is
translated once, by beam search.

    python examples/korean_english.py --data data
    python examples/korean_english.py --data data --seeds 0 1 2

A training that is cut off goes on from exports/korean_english, and what has been trained there is not trained again.
Remove the folder to begin anew.
"""

import time

import common  # before Keras: it says how TensorFlow is set up
import keras
import numpy as np
import sacrebleu
from matplotlib.figure import Figure

import keras_transformer as kt

TATOEBA = "https://raw.githubusercontent.com/okaybody10/Korea-University/main/kor-eng/kor.txt"
PARALLEL = "https://raw.githubusercontent.com/jungyeul/korean-parallel-corpora/master/"
FURTHER = {
    "jhe-koen-dev": PARALLEL + "korean-english-jhe/jhe-koen-dev",
    "korean-english-park.dev": PARALLEL + "korean-english-news-v1/korean-english-park.dev",
}
LAYERS, DIM, HEADS, INNER, DROPOUT, SMOOTHING = 2, 128, 4, 512, 0.3, 0.1
VOCABULARY_SIZE, RATE, LONGEST = 3000, 2e-3, {"pieces": 64, "bytes": 200}  # longer pairs are left out
EPOCHS, TOKENS = {"pieces": 40, "bytes": 25}, {"pieces": 1024, "bytes": 4096}
BEAMS = kt.BeamSearch(4, length_penalty=0.6)


def read(folder) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of Korean and English: those of Tatoeba, and the further ones."""
    tatoeba = [tuple(row.split("\t")[1::-1]) for row in common.read_lines(folder, "kor-eng.tsv", TATOEBA)]
    further = []
    for name, source in FURTHER.items():
        sides = [common.read_lines(folder, f"{name}.{side}", f"{source}.{side}") for side in ("ko", "en")]
        further += [(korean.strip(), english.strip()) for korean, english in zip(*sides, strict=True)]
    return tatoeba, [pair for pair in further if all(pair)]


def split(tatoeba: list, further: list) -> dict[str, list[tuple[str, str]]]:
    """The parts, the same ones ever after: a tenth of the English sentences validates, a tenth tests."""
    sentences = sorted({english for _, english in tatoeba})
    order, few = np.random.default_rng(0).permutation(len(sentences)), len(sentences) // 10
    part = {sentences[i]: "validation" if rank < few else "test" for rank, i in enumerate(order[: 2 * few])}
    parts = {"train": [], "validation": [], "test": []}
    for pair in tatoeba:
        parts[part.get(pair[1], "train")].append(pair)
    held = {sentence for name in ("validation", "test") for pair in parts[name] for sentence in pair}
    return {**parts, "train": [pair for pair in parts["train"] + further if not held & set(pair)]}


def batches(pairs, tokenizer, way: str, seed: int = 0, shuffle: bool = False) -> kt.training.TokenBatches:
    """Pairs of similar length."""
    both = (tokenizer, tokenizer.copy(add_start=True, add_end=True))
    options = dict(tokens_per_batch=TOKENS[way], max_length=LONGEST[way], seed=seed, shuffle=shuffle)
    return kt.training.TokenBatches(pairs, tokenizers=both, **options)


def build(vocabulary_size: int) -> keras.Model:
    """The Transformer of the paper, small."""
    options = dict(num_layers=LAYERS, dim=DIM, num_heads=HEADS, intermediate_dim=INNER, dropout=DROPOUT)
    return kt.models.transformer(vocabulary_size, vocabulary_size, **options, normalize_first=True)


def train(model: keras.Model, data: dict, tokenizer, way: str, seed: int, epochs: int, folder) -> dict:
    """Train a model to its best epoch."""
    begin = time.perf_counter()
    training = batches(data["train"], tokenizer, way, seed, shuffle=True)
    model.compile(
        common.optimizer(RATE, epochs * training.steps_per_epoch, beta_2=0.98),
        kt.training.SequenceCrossentropy(label_smoothing=SMOOTHING),
        metrics=[kt.training.Perplexity()],
        jit_compile=False,
    )
    history = common.fit(model, training, batches(data["validation"], tokenizer, way), epochs=epochs, folder=folder)
    by_epoch = [epoch["val_perplexity"] for epoch in history]
    figures = {"examples": training.num_examples, "too_long": training.too_long, "tokens": training.num_tokens}
    return {**figures, "validation": min(by_epoch), "by_epoch": by_epoch, "minutes": (time.perf_counter() - begin) / 60}


def translator(model: keras.Model, tokenizer, way: str) -> kt.Generator:
    """Korean strings in, English strings out."""
    return kt.Generator(
        model,
        max_length=LONGEST[way],
        start_token=tokenizer.start_id,
        end_token=tokenizer.end_id,
        strategy=BEAMS,
        source_tokenizer=tokenizer,
        target_tokenizer=tokenizer,
    )


def translate(generator: kt.Generator, texts: list[str]) -> list[str]:
    """The best translation of each text; texts of similar length go together."""
    order, found = sorted(range(len(texts)), key=lambda i: len(texts[i])), {}
    for i in range(0, len(order), 64):
        some = order[i : i + 64]
        found.update(zip(some, generator([texts[i] for i in some])["texts"], strict=True))
    return [found[i][0] for i in range(len(texts))]


def judge(translations: list[str], pairs: list[tuple[str, str]]) -> dict:
    """chrF and BLEU, each translation against all that its Korean sentence has in these pairs."""
    of_source = {}
    for korean, english in pairs:
        of_source.setdefault(korean, []).append(english)
    width = max(map(len, of_source.values()))
    references = [(of_source[korean] * width)[:width] for korean, _ in pairs]
    columns = [list(column) for column in zip(*references, strict=True)]
    chrf, bleu = sacrebleu.corpus_chrf(translations, columns), sacrebleu.corpus_bleu(translations, columns)
    exact = np.mean([text in of_source[korean] for text, (korean, _) in zip(translations, pairs, strict=True)])
    return {"chrf": chrf.score, "bleu": bleu.score, "exact": float(exact)}


def by_length(translations: list[str], data: dict) -> list[tuple[int, float]]:
    """chrF of the test sentences up to a length, beyond the one before."""
    lengths = np.array([len(korean) for korean, _ in data["test"]])
    scores, last = [], 0
    for longest in (8, 12, 16, 24, int(lengths.max())):
        some = np.flatnonzero((lengths > last) & (lengths <= longest))
        if len(some):
            scores.append((longest, judge([translations[i] for i in some], [data["test"][i] for i in some])["chrf"]))
        last = longest
    return scores


def draw(runs: dict) -> Figure:
    """Validation by epoch, and chrF by the length of the source."""
    figure = Figure((9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (way, of_way), color in zip(runs.items(), ("tab:blue", "tab:orange"), strict=True):
        for i, run in enumerate(of_way.values()):
            y = np.array(run["by_epoch"])
            left.plot(range(1, 1 + len(y)), y / y.min(), color=color, label=None if i else way)
            lengths, scores = zip(*run["by_length"], strict=True)
            right.plot(lengths, scores, "o-", color=color, label=None if i else way)
    left.set(title="Validation perplexity, over its lowest", xlabel="epoch", ylim=(0.95, 3))
    right.set(title="chrF of test sentences", xlabel="characters of the Korean sentence, at most")
    left.legend()
    right.legend()
    return figure


def main() -> None:
    """Train, choose, test, export."""
    options = common.parse(__doc__, data="kor-eng.tsv and the files of korean-parallel-corpora", seeds=1)
    tatoeba, further = (pairs[: 300 if options.quick else None] for pairs in read(options.data))
    data = split(tatoeba, further)
    texts = [text for pair in data["train"] for text in pair]
    pieces = len(set("".join(texts))) + 30 if options.quick else VOCABULARY_SIZE
    tokenizers = {"pieces": kt.text.SentencePieceTokenizer.train(texts, pieces), "bytes": kt.text.ByteTokenizer()}
    sizes = {"tatoeba": len(tatoeba), "further": len(further), **{part: len(pairs) for part, pairs in data.items()}}
    settings = {
        "pairs": sizes,
        "epochs": {way: 1 if options.quick else EPOCHS[way] for way in tokenizers},
        "model": [pieces, LAYERS, DIM, HEADS, INNER, DROPOUT, SMOOTHING, TOKENS, RATE, LONGEST],
    }
    korean, folder = [pair[0] for pair in data["test"]], common.place(options, "exports", "korean_english", "models")
    done = common.Runs(folder.with_name("runs.json"), settings)
    for seed, way in [(str(seed), way) for seed in options.seeds for way in tokenizers]:
        if f"{way} {seed}" in done:
            continue
        keras.utils.set_random_seed(int(seed))
        model, tokenizer = build(tokenizers[way].vocabulary_size), tokenizers[way]
        run = train(model, data, tokenizer, way, int(seed), settings["epochs"][way], folder / f"{way}_{seed}")
        generator = translator(model, tokenizer, way)
        english = translate(generator, korean)
        run.update(parameters=model.count_params(), **judge(english, data["test"]), by_length=by_length(english, data))
        shown = np.random.default_rng(1).choice(len(korean), min(12, len(korean)), replace=False)
        run["shown"] = [[*data["test"][i], english[i]] for i in shown]
        if int(seed) == options.seeds[0]:
            export = folder.with_name(f"saved_model_{way}")
            kt.export.saved_model(generator, export, overwrite=True)
            elsewhere = common.run_elsewhere(export, {"text": korean[:20]})
            if not np.array_equal(elsewhere["tokens"], generator(korean[:20])["tokens"]):
                raise SystemExit("The export translates otherwise than Python does.")
        done[f"{way} {seed}"] = run
        print(f"{way}, seed {seed}: chrF {run['chrf']:.1f}, BLEU {run['bleu']:.1f}")
    runs = {way: {str(seed): done[f"{way} {seed}"] for seed in options.seeds} for way in tokenizers}
    means = {
        f"{name}_{way}": float(np.mean([run[name] for run in runs[way].values()]))
        for way in tokenizers
        for name in ("chrf", "bleu")
    }
    common.write(options, "korean_english", {**settings, **means, "runs": runs}, draw(runs))


if __name__ == "__main__":
    main()
