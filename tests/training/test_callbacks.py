"""Bleu against sacreBLEU and in a training; TokenRate against the clock."""

import sys
import time

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.training import Bleu, PaddingRatio, SequenceCrossentropy, TokenCount, TokenRate

SOURCES = [[1, 2, 3, 4, 5], [6, 7, 8], [2, 3, 4, 5, 6, 7, 8], [9, 1, 2, 3]]
REFERENCES = ["w1 w2 w3 w4 w9", "w6 w7 w8", "w2 w3 w4 w5 w6 w7 w8", "w9 w9 w2 w3"]


def decode(ids):
    return " ".join(f"w{i}" for i in ids)


class Copy:
    """A generator that gives back what it gets, and notes the shapes."""

    def __init__(self):
        self.shapes = []

    def __call__(self, ids):
        self.shapes.append(ids.shape)
        return {"tokens": ids[:, None, :]}


def test_is_that_of_sacrebleu_in_batches_of_similar_length():
    sacrebleu = pytest.importorskip("sacrebleu")
    generator = Copy()
    bleu = Bleu(generator, SOURCES, REFERENCES, decode, batch_size=2, tokenize="none")
    translations = [decode(ids) for ids in SOURCES]
    assert bleu.score() == sacrebleu.corpus_bleu(translations, [REFERENCES], tokenize="none", force=True).score
    assert 0 < bleu.score() < 100
    assert bleu.translations == translations
    assert generator.shapes[:2] == [(2, 4), (2, 7)]
    two = Bleu(generator, SOURCES, [[text, decode(ids)] for text, ids in zip(REFERENCES, SOURCES, strict=True)], decode)
    assert two.score() == pytest.approx(100)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    model = kt.models.transformer(11, 13, num_layers=1, dim=8, num_heads=2, intermediate_dim=16)
    model.compile("adam", SequenceCrossentropy(), metrics=[TokenCount(), PaddingRatio()])
    return model


def data():
    ids = np.array([[2, 5, 4, 0, 0], [2, 7, 8, 9, 3], [2, 6, 0, 0, 0]])
    return [ids, ids], ids


@pytest.mark.long
def test_in_a_training(model, tmp_path):
    pytest.importorskip("sacrebleu")
    bleu = Bleu(Copy(), SOURCES, REFERENCES, decode, every=2)
    bleu.score = iter([3.0, 7.0, 5.0]).__next__  # so that it is known what EarlyStopping should do
    stopping = keras.callbacks.EarlyStopping(monitor="val_bleu", mode="max", patience=2)
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    history = model.fit(*data(), epochs=9, verbose=0, callbacks=[bleu, stopping, log]).history
    assert history["val_bleu"] == [3, 7, 7, 5]
    assert "val_bleu" in (tmp_path / "log.csv").read_text().splitlines()[0].split(",")


def test_reads_the_current_weights():
    pytest.importorskip("sacrebleu")
    tokens = keras.Input((None,), dtype="int32")
    logits = keras.layers.Dense(11)
    model = keras.Model(tokens, logits(kt.DecoderLayer(2, 16)(kt.TokenEmbedding(11, 8)(tokens))))
    bleu = Bleu(kt.Generator(model, max_length=4, end_token=3), [[2], [2, 9]], ["", ""], decode)
    for token in (5, 7):
        logits.bias.assign(1e4 * np.eye(11)[token])
        assert bleu.translate() == [f"w2 w{token} w{token} w{token}", f"w2 w9 w{token} w{token}"]


TEXTS = ["a dog runs to me", "two cats sit", "no"]


@pytest.fixture(scope="module")
def copier():
    """A generator that says each source again: the target tokens are found by their positions in the source."""
    pytest.importorskip("tensorflow")
    tokenizer = kt.text.CharacterTokenizer.train(TEXTS, add_start=True, add_end=True)

    def generator(ids):
        return {"tokens": ids[:, None, :], "lengths": np.count_nonzero(ids, axis=-1)[:, None]}

    return tokenizer, generator


def test_bleu_takes_a_tokenizer(copier):
    pytest.importorskip("sacrebleu")
    tokenizer, generator = copier
    sources = tokenizer.tokenize_ragged(TEXTS).to_list()
    ways = [
        tokenizer,
        lambda ids: tokenizer.detokenize([ids])[0],
        lambda ids: tokenizer.detokenize(ids).numpy(),
        lambda ids: tokenizer.detokenize([ids]).numpy()[0].decode(),
    ]
    for decode in ways:
        bleu = Bleu(generator, sources, TEXTS, decode, batch_size=2)
        assert bleu.translate() == TEXTS
        assert bleu.score() == pytest.approx(100)


@pytest.mark.long
def test_bleu_of_a_generator_of_texts():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("tensorflow")
    tokenizer = kt.text.CharacterTokenizer("abc", add_start=True, add_end=True)
    model = kt.models.transformer(7, 7, num_layers=1, dim=8, num_heads=2, intermediate_dim=16)
    tokenizers = {"source_tokenizer": tokenizer, "target_tokenizer": tokenizer}
    generator = kt.Generator(model, max_length=5, start_token=2, end_token=3, **tokenizers)
    bleu = Bleu(generator, ["abc", "b"], ["abc", "b"], tokenize="char", batch_size=1)
    assert bleu.translate() == [generator(["abc"])["texts"][0][0], generator(["b"])["texts"][0][0]]
    assert bleu.translate() == Bleu(generator, ["abc", "b"], ["abc", "b"], tokenizer).translate()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decode": lambda ids: ids[0]}, "takes a `decode` that gives a string. Received: 6"),
        ({"decode": lambda ids: nothing}, "`decode` makes no text of .*Give it the tokenizer itself"),  # noqa: F821
        ({"decode": None}, "needs `decode`, since the generator gives no texts"),
        ({"generator": lambda ids: {"tokens": ids}}, r"give tokens \(B, N, L\)"),
    ],
)
def test_bleu_fails_before_the_first_epoch(arguments, message, model):
    pytest.importorskip("sacrebleu")
    begun = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: pytest.fail("an epoch began"))
    arguments = {"generator": Copy(), "decode": decode, **arguments}
    bleu = Bleu(sources=SOURCES, references=REFERENCES, **arguments)
    with pytest.raises(ValueError, match=message):
        model.fit(*data(), epochs=2, verbose=0, callbacks=[bleu, begun])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sources": [[1, 2], [1.5]], "references": ["a", "b"]}, "a text or a list of ids as each source"),
        ({"sources": [[1, 2], []], "references": ["a", "b"]}, "a text or a list of ids as each source"),
        ({"references": ["a", "b", "c", 5]}, "references that are strings"),
        ({"references": ["a", "b", "c", [5]]}, "references that are strings"),
        ({"decode": "a tokenizer"}, "a tokenizer or a function as `decode`"),
        ({"tokenize": "words"}, "sacreBLEU does not take tokenize='words'"),
    ],
)
def test_bleu_refuses_what_it_is_given(arguments, message):
    pytest.importorskip("sacrebleu")
    with pytest.raises(ValueError, match=message):
        Bleu(Copy(), **{"sources": SOURCES, "references": REFERENCES, "decode": decode, **arguments})


def test_bleu_refuses(monkeypatch):
    pytest.importorskip("sacrebleu")
    with pytest.raises(ValueError, match="4 sources, 3 references"):
        Bleu(Copy(), SOURCES, REFERENCES[:3], decode)
    with pytest.raises(ValueError, match="positive integer as `every`. Received: 0"):
        Bleu(Copy(), SOURCES, REFERENCES, decode, every=0)
    with pytest.raises(ValueError, match="same number of references"):
        Bleu(Copy(), SOURCES, [["a", "b"], ["a"], "a", "a"], decode)
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ImportError, match=r"pip install sacrebleu, or install keras-transformer-layers\[bleu\]"):
        Bleu(Copy(), SOURCES, REFERENCES, decode)


def test_token_rate(model, monkeypatch):
    clock = iter(range(10, 100, 2))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    rate = TokenRate()
    rate.async_safe = False  # the order of the readings is then known
    x, y = data()
    history = model.fit(x, y, batch_size=1, shuffle=False, epochs=2, verbose=0, callbacks=[rate]).history
    assert history["tokens"] == [10, 10]
    assert history["padding"] == pytest.approx([1 / 3, 1 / 3])
    # Readings every 2 s. First epoch: without the first step, 7 tokens in 4 s. Second: 10 tokens in 6 s.
    assert history["tokens_per_second"] == pytest.approx([7 / 4, 10 / 6])


def test_token_rate_without_a_count():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="finds no 'tokens' in the logs"):
        model.fit(np.ones((1, 2)), np.ones((1, 1)), callbacks=[TokenRate()], verbose=0)
