"""What Keras' progress bar and logs do not show of a sequence model: BLEU, and tokens a second."""

import time
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_transformer_runtime.packages import needed


class Bleu(keras.callbacks.Callback):
    """BLEU of generated translations, every few epochs, in the logs as `val_bleu`.

    ("BLEU: a Method for Automatic Evaluation of Machine Translation", as sacreBLEU computes it on the whole corpus,
    "A Call for Clarity in Reporting BLEU Scores".) The generator is made once, beforehand, and reads the model's
    current weights each time, so nothing is compiled again. Sources are generated from in the order of their length,
    a batch of similar lengths at a time.

    Put it before the callbacks that are to see the value: callbacks run in the order of their list, and
    `EarlyStopping(monitor="val_bleu", mode="max")`, `ModelCheckpoint` and `CSVLogger` look into the logs when it is
    their turn. In epochs between two evaluations the last value stands there, and counts for their patience.

    Args:
        generator: `kt.Generator` of the model in training, with the strategy, lengths and tokens it should have; or
            any function from (B, S) source ids, padded with 0, to a dict with "tokens" (B, N, L).
        sources: The ids of each source sentence, without padding.
        references: A string for each source, or a list of strings, all of one number.
        decode: From a list of ids to a string, called with the first sequence of each row as it was generated, without
            its padding: `lambda ids: tokenizer.decode([ids])[0]`.
        tokenize: How sacreBLEU splits words: "13a", "intl", "zh", "ja-mecab", "char", "none", ... Default: its own.
        every: Number of epochs from one evaluation to the next; the first epoch of a `fit` is evaluated in any case.
        batch_size: Sources at a time.
        name: Name of the value in the logs.

    Raises:
        ImportError: If `sacrebleu` is not installed.
        ValueError: If there are no sources or not as many references, or `every` or `batch_size` is not positive.

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
        decode: Callable[[list[int]], str],
        *,
        tokenize: str | None = None,
        every: int = 1,
        batch_size: int = 64,
        name: str = "val_bleu",
    ):
        super().__init__()
        needed("sacrebleu", "Bleu")
        if not len(sources) or len(sources) != len(references):
            raise ValueError(
                "Bleu takes at least one source and as many references. "
                f"Received: {len(sources)} sources, {len(references)} references"
            )
        for argument, value in (("every", every), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"Bleu takes a positive integer as `{argument}`. Received: {value!r}")
        references = [[texts] if isinstance(texts, str) else list(texts) for texts in references]
        if len({len(texts) for texts in references}) > 1:
            raise ValueError("Bleu takes the same number of references for each source.")
        self.generator = generator
        self.sources = [np.asarray(source, "int32") for source in sources]
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
        by_length = sorted(range(len(self.sources)), key=lambda row: len(self.sources[row]))
        texts = {}
        for start in range(0, len(by_length), self.batch_size):
            rows = by_length[start : start + self.batch_size]
            ids = np.zeros((len(rows), max(len(self.sources[row]) for row in rows)), "int32")
            for place, row in enumerate(rows):
                ids[place, : len(self.sources[row])] = self.sources[row]
            tokens = np.asarray(self.generator(ids)["tokens"])[:, 0]
            texts.update(
                (row, self.decode(found[found != 0].tolist())) for row, found in zip(rows, tokens, strict=True)
            )
        return [texts[row] for row in range(len(self.sources))]

    def score(self) -> float:
        """BLEU, 0 to 100, of what the model generates now; `translations` then has the texts."""
        self.translations = self.translate()
        options = {} if self.tokenize is None else {"tokenize": self.tokenize}
        by_number = [list(texts) for texts in zip(*self.references, strict=True)]
        # "none" says that the texts are tokenized already, which is what sacreBLEU warns about without `force`.
        force = self.tokenize == "none"
        return needed("sacrebleu", "Bleu").corpus_bleu(self.translations, by_number, force=force, **options).score

    def on_train_begin(self, logs=None):
        self._last = None

    def on_epoch_end(self, epoch, logs=None):
        if self._last is None or (epoch + 1) % self.every == 0:
            self._last = self.score()
        if logs is not None:
            logs[self.name] = self._last


class TokenRate(keras.callbacks.Callback):
    """Real tokens trained on per second, in the logs and Keras' progress bar as `tokens_per_second`.

    The model counts them, with `TokenCount` among its metrics; the callback adds the clock. It is the mean over the
    epoch so far, without validation, and without the very first step, in which Keras compiles.

        model.compile(..., metrics=[kt.training.TokenCount()])
        model.fit(..., callbacks=[kt.training.TokenRate()])

    Args:
        count: Name of the `TokenCount`.
        name: Name of the value in the logs.

    Raises: ValueError if the model does not count tokens.

    Example:

    >>> import keras, numpy as np, keras_transformer as kt
    >>> model = kt.models.language_model(11, num_layers=1, dim=4, num_heads=1, intermediate_dim=8)
    >>> model.compile("adam", kt.training.SequenceCrossentropy(), metrics=[kt.training.TokenCount()])
    >>> ids = np.array([[2, 5, 3, 0]] * 6)
    >>> history = model.fit(ids, ids, batch_size=2, callbacks=[kt.training.TokenRate()], verbose=0).history
    >>> history["tokens"], history["tokens_per_second"][0] > 0
    ([18.0], True)
    """

    # Lets Keras go on while the logs of a step are on their way from the device; they may arrive in another order.
    async_safe = True

    def __init__(self, *, count: str = "tokens", name: str = "tokens_per_second"):
        super().__init__()
        self.count = count
        self.name = name

    def on_train_begin(self, logs=None):
        self._compiled = False

    def on_epoch_begin(self, epoch, logs=None):
        self._start = self._latest = (time.perf_counter(), 0.0)

    def on_train_batch_end(self, batch, logs=None):
        if self.count not in (logs or {}):
            raise ValueError(
                f"TokenRate finds no '{self.count}' in the logs. Compile the model with "
                f"metrics=[kt.training.TokenCount()]. Received: {sorted(logs or {})}"
            )
        self._latest = max(self._latest, (time.perf_counter(), logs[self.count]), key=lambda reading: reading[1])
        logs[self.name] = self.rate()
        if not self._compiled:
            self._compiled, self._start = True, self._latest

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self.name] = self.rate()

    def rate(self) -> float:
        """Tokens per second of the epoch so far; NaN before there is anything to tell it from."""
        seconds, tokens = (latest - start for latest, start in zip(self._latest, self._start, strict=True))
        return tokens / seconds if seconds else float("nan")
