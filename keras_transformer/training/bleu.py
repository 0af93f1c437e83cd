"""BLEU while a model is trained."""

from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_transformer.decoding import Generator
from keras_transformer.text.keras_hub import as_tokenizer
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer_runtime.packages import needed


class Bleu(keras.callbacks.Callback):
    """BLEU of generated translations, every few epochs, in the logs as `val_bleu`.

    ("BLEU: a Method for Automatic Evaluation of Machine Translation", as sacreBLEU computes it on the whole corpus,
    "A Call for Clarity in Reporting BLEU Scores".) The generator is made once, beforehand, and reads the model's
    current weights each time, so nothing is compiled again. Sources are generated from in the order of their length,
    a batch of similar lengths at a time.

    When a training begins, the first batch is translated and judged, so that what does not fit shows before the first
    epoch and not behind it.

    Put it before the callbacks that are to see the value: callbacks run in the order of their list, and
    `EarlyStopping(monitor="val_bleu", mode="max")`, `ModelCheckpoint` and `CSVLogger` look into the logs when it is
    their turn. In epochs between two evaluations the last value stands there, and counts for their patience.

    Args:
        generator: `kt.Generator` of the model in training, with the strategy, lengths and tokens it should have; or
            any function from (B, S) source ids, padded with 0, to a dict with "tokens" (B, N, L), padded with 0 unless
            it has "lengths" (B, N), too.
        sources: The ids of each source sentence, without padding; or texts, if the generator has tokenizers.
        references: A string for each source, or a list of strings, all of one number.
        decode: What makes texts of ids: the tokenizer of the targets, of `kt.text` or KerasHub; or a function from a
            list of ids, the first sequence of a row as it was generated, without its padding, to a string. Not needed
            if the generator has a `target_tokenizer`.
        tokenize: How sacreBLEU splits words: "13a", "intl", "zh", "ja-mecab", "char", "none", ... Default: its own.
        every: Number of epochs from one evaluation to the next; the first epoch of a `fit` is evaluated in any case.
        batch_size: Sources at a time.
        name: Name of the value in the logs.

    Raises:
        ImportError: If `sacrebleu` is not installed.
        ValueError: If there are no sources or not as many references, a source or a reference is none, `tokenize` is
            unknown to sacreBLEU, or `every` or `batch_size` is not positive; when a training begins, if the generator
            gives no tokens or `decode` no string.

    Example:

    >>> import keras_transformer as kt
    >>> def generator(ids):                                     # in place of kt.Generator(model, ...)
    ...     return {"tokens": ids[:, None, :]}
    >>> letters = lambda ids: " ".join("_abcdefg"[i] for i in ids)
    >>> bleu = kt.training.Bleu(generator, [[1, 2, 3, 4], [5, 6, 7, 1, 2]], ["a b c d", "e f g a b"], letters)
    >>> round(bleu.score(), 2), bleu.translations
    (100.0, ['a b c d', 'e f g a b'])
    """

    def __init__(
        self,
        generator: Callable,
        sources: Sequence[Sequence[int]],
        references: Sequence[str] | Sequence[Sequence[str]],
        decode: Callable[[list[int]], str] | None = None,
        *,
        tokenize: str | None = None,
        every: int = 1,
        batch_size: int = 64,
        name: str = "val_bleu",
    ):
        super().__init__()
        sacrebleu = needed("sacrebleu", "Bleu")
        if not len(sources) or len(sources) != len(references):
            raise ValueError(
                "Bleu takes at least one source and as many references. "
                f"Received: {len(sources)} sources, {len(references)} references"
            )
        for argument, value in (("every", every), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Bleu takes a positive integer as `{argument}`. Received: {value!r}")
        references = [list(texts) if isinstance(texts, list | tuple) else [texts] for texts in references]
        for texts in references:
            if not texts or not all(isinstance(text, str) for text in texts):
                raise ValueError(f"Bleu takes references that are strings. Received: {texts!r}")
        if len({len(texts) for texts in references}) > 1:
            raise ValueError("Bleu takes the same number of references for each source.")
        if decode is not None and not callable(decode):
            raise ValueError(f"Bleu takes a tokenizer or a function as `decode`. Received: {decode!r}")
        try:
            # "none" says that the texts are tokenized already, which is what sacreBLEU warns about without `force`.
            self._bleu = sacrebleu.BLEU(tokenize=tokenize, force=tokenize == "none")
        except Exception as error:  # what its tokenizers' own packages raise
            raise ValueError(f"Bleu: sacreBLEU does not take tokenize={tokenize!r}: {error}") from error
        self.generator = generator
        self.sources = [_checked_source(source) for source in sources]
        self.references = references
        self.decode = decode
        self.tokenize = tokenize
        self.every = every
        self.batch_size = batch_size
        self.name = name
        self.translations: list[str] = []
        self._last: float | None = None

    def translate(self) -> list[str]:
        """A text for each source."""
        texts = {}
        for rows in self._batches():
            texts.update(zip(rows, self._translate(rows), strict=True))
        return [texts[row] for row in range(len(self.sources))]

    def _batches(self) -> list[list[int]]:
        """The numbers of the sources, those of similar length together."""
        rows = sorted(range(len(self.sources)), key=lambda row: len(self.sources[row]))
        return [rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)]

    def _translate(self, rows: list[int]) -> list[str]:
        sources = [self.sources[row] for row in rows]
        if not isinstance(self.generator, Generator) and not isinstance(sources[0], str):
            sources = _padded(sources)
        result = self.generator(sources)
        if self.decode is None:
            if "texts" not in result:
                raise ValueError(
                    "Bleu needs `decode`, since the generator gives no texts: the tokenizer of the targets."
                )
            return [texts[0] for texts in result["texts"]]
        tokens = np.asarray(result["tokens"])
        if tokens.ndim != 3 or len(tokens) != len(rows):
            raise ValueError(
                f"Bleu takes generators that give tokens (B, N, L). Received: {tokens.shape} of {len(rows)} rows"
            )
        has_lengths = "lengths" in result
        if has_lengths:
            found = [
                row[:length] for row, length in zip(tokens[:, 0], np.asarray(result["lengths"])[:, 0], strict=True)
            ]
        else:
            found = [row[row != 0] for row in tokens[:, 0]]
        decode, tokenizer = self.decode, as_tokenizer(self.decode, self.generator)
        if isinstance(tokenizer, Tokenizer):

            def decode(ids):
                return tokenizer.detokenize(ids, lengths=len(ids) if has_lengths else None)

        return [_as_text(decode, row.tolist()) for row in found]

    def score(self) -> float:
        """BLEU, 0 to 100, of what the model generates now; `translations` then has the texts."""
        self.translations = self.translate()
        return self._score(self.translations, self.references)

    def _score(self, translations: list[str], references: list) -> float:
        return self._bleu.corpus_score(translations, [list(texts) for texts in zip(*references, strict=True)]).score

    def on_train_begin(self, logs=None):
        self._last = None
        rows = self._batches()[0]
        self._score(self._translate(rows), [self.references[row] for row in rows])

    def on_epoch_end(self, epoch, logs=None):
        if self._last is None or (epoch + 1) % self.every == 0:
            self._last = self.score()
        if logs is not None:
            logs[self.name] = self._last


def _checked_source(source) -> np.ndarray | str:
    if isinstance(source, str):
        return source
    ids = np.asarray(source)
    if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu":
        raise ValueError(f"Bleu takes a text or a list of ids as each source. Received: {source!r}")
    return ids.astype("int32")


def _padded(sources: list) -> np.ndarray:
    table = np.zeros((len(sources), max(map(len, sources))), "int32")
    for row, ids in zip(table, sources, strict=True):
        row[: len(ids)] = ids
    return table


def _as_text(decode: Callable, ids: list[int]) -> str:
    try:
        text = np.asarray(decode(ids)).item()  # a tensor of TensorFlow holds bytes
    except Exception as error:
        raise ValueError(
            f"Bleu: `decode` makes no text of {ids[:20]}: {error}. Give it the tokenizer itself, or a function from a "
            "list of ids to a string."
        ) from error
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    if not isinstance(text, str):
        raise ValueError(f"Bleu takes a `decode` that gives a string. Received: {text!r} for {ids[:20]}")
    return text
