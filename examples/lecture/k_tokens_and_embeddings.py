"""Claim: text becomes tokens (words, punctuation, parts of words), and similar words get similar vectors.

    log s(u_o . v_c) + sum over k noise words n of log s(-u_n . v_c),  s the logistic function, noise ~ frequency^(3/4)
    (skip-gram with negative sampling, "Distributed Representations of Words and Phrases and their Compositionality",
    https://arxiv.org/abs/1310.4546)

Sentences go through the package's tokenizers, trained on Multi30k's English captions. Then word2vec is trained on the
same captions: a word c has to tell the words o around it from noise, and its vector is the row v_c of the first table,
not the layer before the last. Pairs of related words are compared with pairs whose second word is a random one of about
the same frequency. At last the vectors become the weights of `TokenEmbedding`.

    python examples/lecture/k_tokens_and_embeddings.py --data DIR
"""

import keras
import numpy as np
import page
from matplotlib.figure import Figure
from multi30k import read_multi30k

import keras_transformer as kt

PIECES = 4000
DIM, WINDOW, NOISE, EPOCHS, BATCH = 64, 4, 5, 8, 2048
SENTENCE = "The snowboarder is unafraid: he somersaults, unbelievably high!"
PAIRS = (
    "man woman,boy girl,dog cat,red blue,black white,running walking,sitting standing,guitar piano,soccer football,"
    "street sidewalk,shirt jacket,two three,lake river,car truck,bike motorcycle,young old,he she,eating drinking"
)
GROUPS = {
    "people": "man woman boy girl child lady guy",
    "colours": "red blue green yellow black white orange",
    "animals": "dog cat horse bird puppy",
    "movements": "running walking jumping climbing riding swimming",
    "clothes": "shirt jacket hat coat dress jeans",
    "instruments": "guitar piano drums violin accordion",
}


def tokenize(train: list[str], other: list[str]) -> tuple[dict[str, list[str]], dict[str, dict[str, float]]]:
    """The pieces of SENTENCE, and for other captions the pieces for each word and the share of unknown ones."""
    makers = {
        "words and punctuation": lambda: kt.text.WordPieceTokenizer(
            ["<pad>", "<unk>", "<s>", "</s>", *frequent_words(train, 2)]
        ),
        "WordPiece": lambda: kt.text.WordPieceTokenizer.train(train, PIECES, character_coverage=1.0),
        "SentencePiece": lambda: kt.text.SentencePieceTokenizer.train(train, PIECES, character_coverage=1.0),
        "characters": lambda: kt.text.CharacterTokenizer.train(train),
    }
    pieces, figures, words = {"white space": SENTENCE.split()}, {}, sum(len(text.split()) for text in other)
    for name, make in makers.items():
        tokenizer = make()
        vocabulary = tokenizer.get_vocabulary()
        pieces[name] = [vocabulary[i] for i in np.array(tokenizer([SENTENCE.lower()]))[0]]
        ids = np.array(tokenizer(other))
        figures[name] = {
            "vocabulary": tokenizer.vocabulary_size,
            "pieces_per_word": round(float((ids != 0).sum() / words), 3),
            "unknown_percent": round(float(100 * (ids == 1).sum() / (ids != 0).sum()), 3),
        }
    return pieces, figures


def frequent_words(texts: list[str], least: int) -> list[str]:
    """The words seen that often, the most frequent first."""
    words, counts = np.unique(" ".join(texts).split(), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return words[order][counts[order] >= least].tolist()


def skip_grams(ids: np.ndarray, captions: np.ndarray, counts: np.ndarray, random) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (word, neighbour) within captions, without most of the very frequent words, near ones more often."""
    kept = random.random(len(ids)) < np.sqrt(1e-3 * counts.sum() / counts[ids])  # the paper's subsampling
    ids, captions, pairs = ids[kept], captions[kept], []
    for distance in range(1, WINDOW + 1):
        same = captions[distance:] == captions[:-distance]
        same &= random.random(len(same)) < (WINDOW + 1 - distance) / WINDOW
        left, right = ids[:-distance][same], ids[distance:][same]
        pairs += [(left, right), (right, left)]
    return tuple(np.concatenate(side) for side in zip(*pairs, strict=True))


def train_word2vec(captions: list[str], ids: dict[str, int]) -> np.ndarray:
    """Vectors (V, DIM) by skip-gram with negative sampling."""
    known = [[ids[word] for word in caption.split() if word in ids] for caption in captions]
    text, of = np.concatenate(known), np.repeat(np.arange(len(known)), [len(caption) for caption in known])
    counts = np.bincount(text, minlength=max(ids.values()) + 1)
    noise, random = counts**0.75 / (counts**0.75).sum(), np.random.default_rng(page.SEED)

    word, others = keras.Input((1,), dtype="int32"), keras.Input((1 + NOISE,), dtype="int32")
    vectors = keras.layers.Embedding(len(counts), DIM, name="vectors")(word)  # v, (B, 1, DIM)
    outputs = keras.layers.Embedding(len(counts), DIM, name="outputs", embeddings_initializer="zeros")(others)  # u
    model = keras.Model([word, others], keras.layers.Dot(axes=2)([vectors, outputs]))
    model.compile(keras.optimizers.Adam(2e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    for _ in range(EPOCHS):
        words, neighbours = skip_grams(text, of, counts, random)
        drawn = random.choice(len(counts), (len(words), NOISE), p=noise)
        labels = np.eye(1, 1 + NOISE)[None].repeat(len(words), axis=0)  # the neighbour comes first
        model.fit([words[:, None], np.c_[neighbours, drawn]], labels, batch_size=BATCH, verbose=0)
    return model.get_layer("vectors").get_weights()[0]


def main() -> None:
    """Tokenize, train, compare, draw."""
    options = page.arguments(__doc__, data="folder of the Multi30k data set; downloaded if not given")
    splits = {name: english for name, (english,) in read_multi30k(options.data, ("en",)).items()}
    pieces, tokens = tokenize(splits["train"], splits["val"])
    for name, parts in pieces.items():
        print(f"{name:21}  {' | '.join(parts)}")
    page.table(
        "Other captions in pieces",
        ["tokens", "vocabulary", "pieces a word", "unknown"],
        [[n, f["vocabulary"], f["pieces_per_word"], f"{f['unknown_percent']}%"] for n, f in tokens.items()],
    )

    words = ["<pad>", "<unk>", "<s>", "</s>", *frequent_words(splits["train"], 5)]  # by frequency
    ids = {word: i for i, word in enumerate(words) if i > 3}
    vectors = train_word2vec(splits["train"], ids)
    embedding = kt.TokenEmbedding(len(words), DIM)
    embedding.build()
    embedding.set_weights([vectors])
    sentence = np.array([[ids[word] for word in "a black dog is running".split()]])
    assert np.array_equal(keras.ops.convert_to_numpy(embedding(sentence)), vectors[sentence])

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    random, related, unrelated, nearest = np.random.default_rng(page.SEED), {}, [], {}
    for first, second in (pair.split() for pair in PAIRS.split(",")):
        rank = ids[second]
        near = np.arange(max(4, rank // 2), min(2 * rank + 5, len(words)))  # ranks, as words go by frequency
        drawn = random.choice(near[(near != rank) & (near != ids[first])], 200)
        cosines = unit[drawn] @ unit[ids[first]]
        related[f"{first} {second}"] = float(unit[ids[first]] @ unit[rank])
        unrelated.append((float(cosines.mean()), float((cosines < related[f"{first} {second}"]).mean())))
    for word in ("woman", "red", "running", "dog", "guitar", "street"):
        order = np.argsort(-(unit[4:] @ unit[ids[word]]))[1:6] + 4
        nearest[word] = [words[i] for i in order]
    page.table("Nearest words", ["word", "by cosine"], [[word, ", ".join(near)] for word, near in nearest.items()])
    mean, chance = round(float(np.mean(list(related.values()))), 4), round(float(np.mean(unrelated, axis=0)[0]), 4)
    beaten = round(float(np.mean(unrelated, axis=0)[1]), 4)
    print(f"Mean cosine: related {mean}, random {chance}; a related word is nearer than {beaten:.1%} of the random.")

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots()
    shown = {group: [word for word in members.split() if word in ids] for group, members in GROUPS.items()}
    rows = unit[[ids[word] for members in shown.values() for word in members]]
    rows = rows - rows.mean(axis=0)
    points = iter(rows @ np.linalg.svd(rows, full_matrices=False)[2][:2].T)  # the two principal components
    for group, members in shown.items():
        places = np.array([next(points) for _ in members])
        axes.scatter(*places.T, label=group)
        for word, place in zip(members, places, strict=True):
            axes.annotate(word, place, xytext=(4, 3), textcoords="offset points")
    axes.margins(0.1)  # for the words
    axes.set(title="word vectors, two principal components")
    axes.legend()
    page.write(
        options,
        __file__,
        "Text is cut into words, punctuation and parts of words, and similar words get similar vectors.",
        {":", ",", "!"} <= set(pieces["WordPiece"])
        and tokens["WordPiece"]["pieces_per_word"] > 1
        and tokens["SentencePiece"]["unknown_percent"] < tokens["words and punctuation"]["unknown_percent"]
        and mean > chance + 0.1
        and beaten > 0.9,
        {
            "pieces": pieces,
            "tokenizers": tokens,
            "words": len(ids),
            "dim": DIM,
            "mean_cosine_of_related_words": mean,
            "mean_cosine_of_random_words": chance,
            "share_of_random_words_that_are_farther": beaten,
            "cosines": {pair: round(value, 3) for pair, value in related.items()},
            "nearest": nearest,
        },
        figure,
    )


if __name__ == "__main__":
    main()
