"""Tokens hidden for a masked language model to guess: which, and behind what, is drawn anew for every step."""

import warnings

import numpy as np

from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.training.feed import Batches, Feed

MASK_TOKENS = ("<mask>", "[MASK]")
_STREAM = 0x4D4C4D  # apart from what the order of examples is drawn from, seed and epoch alone


class MaskedTokens(Feed):
    """Batches for a masked language model: some tokens are hidden, and the labels are these, for `model.fit`.

    Of the words, each is chosen with the probability 0.15, with all its tokens. A chosen token is replaced by the mask
    token in 80 % of cases, by a random token in 10 %, and stays as it is in 10 %; its label is what it was ("BERT",
    https://arxiv.org/abs/1810.04805, section 3.1, task 1; whole words as in the authors' later models). All other
    labels are the `ignore_id`, so loss and metrics of `kt.training` count the chosen tokens alone. Padding, start, end,
    special and unknown tokens are never chosen, and never what a token is replaced by.

    What is drawn is a function of (seed, step), as the batches are: each epoch hides other tokens, and a training that
    goes on from a step hides those that it would have hidden without the pause. `dataset(epochs=1)` is always the
    same, as validation wants it.

    Args:
        batches: `TokenBatches` or `PackedBatches` of single sequences, with `shift=False`.
        tokenizer: The `kt.text` tokenizer that made the ids. It knows which are no text, and which begin a word:
            `tokenizer.begins_word()`.
        mask_selection_rate: The probability that a word is chosen.
        mask_token_rate, random_token_rate: The shares of chosen tokens that the mask token and a random one replace.
        mask_token: Default: the mask token of a checkpoint's tokenizer, else "<mask>" or "[MASK]".
        whole_words: False chooses each token by itself. Texts without spaces between words, as Chinese, Japanese and
            Thai, want that: to the tokenizer they are one word.
        seed: An integer of at least 0. Default: that of the batches.

    Attributes: `batches`; `steps_per_epoch`, `shapes` and `ignore_id`, those of the batches; `mask_id`.

    Batches: (inputs, labels) as those of `batches`.

    Raises:
        ValueError: If the batches are others, the tokenizer has no mask token, or a rate is none; by `batch`, if an id
            is none of the tokenizer's.

    Example:

    >>> import keras_transformer as kt
    >>> texts = ["the cat sat", "the dog sat", "a cat and a dog"]
    >>> tokenizer = kt.text.SentencePieceTokenizer.train(texts, 16, special_tokens=["<mask>"])
    >>> batches = kt.training.TokenBatches(texts, batch_size=4, tokenizers=tokenizer, shift=False, seed=1)
    >>> masked = kt.training.MaskedTokens(batches, tokenizer, mask_selection_rate=0.5, mask_token_rate=1.0,
    ...                                   random_token_rate=0.0)
    >>> inputs, labels = masked.batch(0)
    >>> bool(((inputs == masked.mask_id) == (labels != masked.ignore_id)).all())
    True

    `model.fit(masked, epochs=10)` trains an encoder whose output is `embedding(x, reverse=True)`, on every backend.
    """

    def __init__(
        self,
        batches: Batches,
        tokenizer: Tokenizer,
        *,
        mask_selection_rate: float = 0.15,
        mask_token_rate: float = 0.8,
        random_token_rate: float = 0.1,
        mask_token: str | None = None,
        whole_words: bool = True,
        seed: int | None = None,
    ):
        super().__init__()
        if not isinstance(batches, Batches) or batches.shifted:
            raise ValueError(
                "MaskedTokens takes TokenBatches or PackedBatches of single sequences, made with shift=False, so that "
                f"the model is given all of each. Received: {batches!r}"
            )
        if not isinstance(tokenizer, Tokenizer):
            raise ValueError(
                "MaskedTokens takes a tokenizer of kt.text, which tells what begins a word and what is no text. "
                f"Received: {tokenizer!r}"
            )
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0):
            raise ValueError(f"MaskedTokens takes an integer of at least 0 as seed, or None. Received: {seed!r}")
        rates = (mask_selection_rate, mask_token_rate, random_token_rate, mask_token_rate + random_token_rate)
        if not all(0 <= rate <= 1 + 1e-9 for rate in rates) or not mask_selection_rate:
            raise ValueError(
                "MaskedTokens takes a mask_selection_rate above 0 and at most 1, and a mask_token_rate and a "
                f"random_token_rate whose sum is at most 1. Received: {rates[:3]}"
            )
        self.batches, self.first_step = batches, batches.first_step
        self.steps_per_epoch, self.shapes, self.ignore_id = batches.steps_per_epoch, batches.shapes, batches.ignore_id
        self.mask_id = _mask_id(tokenizer, mask_token)
        self.seed = batches.seed if seed is None else int(seed)
        self._rates = rates
        self._is_control = tokenizer.is_control()
        vocabulary = tokenizer.get_vocabulary()
        known = np.array([token != "" for token in vocabulary]) & ~self._is_control
        known[[id for id in (tokenizer.unk_id, self.mask_id) if id is not None]] = False
        if not known.any():
            raise ValueError(f"MaskedTokens: the tokenizer '{tokenizer.name}' has no ids but special ones.")
        self._is_text, self._text_ids = known, np.flatnonzero(known).astype("int32")
        self._begins_word = tokenizer.begins_word() if whole_words else np.ones(len(vocabulary), bool)
        if whole_words:
            self._look_at_words()

    def batch(self, step: int):
        inputs, labels = self.batches.batch(step)
        tokens = inputs["tokens"] if isinstance(inputs, dict) else inputs
        words, may = self._words(inputs, labels)
        random = np.random.default_rng((self.seed, int(step), self.batches.shard_index, _STREAM))
        selection_rate, *_, random_end = self._rates
        chosen = may & (random.random(words[-1, -1] + 1) < selection_rate)[words]
        what = random.random(tokens.shape)
        replaced = np.where(what < random_end, random.choice(self._text_ids, tokens.shape), tokens)
        replaced = np.where(what < self._rates[1], np.int32(self.mask_id), replaced)
        hidden = np.where(chosen, replaced, tokens)
        inputs = {**inputs, "tokens": hidden} if isinstance(inputs, dict) else hidden
        return inputs, np.where(chosen, labels, np.int32(self.ignore_id))

    def _words(self, inputs, labels) -> tuple[np.ndarray, np.ndarray]:
        """The number of the word that each position is of, and which may be chosen, (B, L) each."""
        tokens = inputs["tokens"] if isinstance(inputs, dict) else inputs
        if tokens.max() >= len(self._is_text):
            raise ValueError(
                f"MaskedTokens: the batches hold the id {tokens.max()}, and the tokenizer has {len(self._is_text)} "
                "ids. Give the tokenizer that made them."
            )
        real = labels != self.ignore_id
        begins = self._begins_word[tokens] | self._is_control[tokens] | ~real  # so one that continues these is a word
        begins[:, 0] = True
        if isinstance(inputs, dict):
            begins[:, 1:] |= inputs["segment_ids"][:, 1:] != inputs["segment_ids"][:, :-1]
        return np.cumsum(begins).reshape(tokens.shape) - 1, self._is_text[tokens] & real

    def _look_at_words(self) -> None:
        """Warn of texts that are one word each to the tokenizer."""
        inputs, labels = self.batches.batch(self.first_step)
        words, may = self._words(inputs, labels)
        sequences = inputs["segment_ids"] if isinstance(inputs, dict) else np.ones_like(inputs)
        rows = np.arange(len(words))[:, None] * (sequences.max() + 1) + sequences
        number, texts = (max(1, len(np.unique(x[may]))) for x in (words, rows))
        if number < 1.2 * texts and may.sum() > 4 * number:
            warnings.warn(
                f"MaskedTokens: to the tokenizer nearly each of {texts} texts is a single word, of "
                f"{may.sum() / number:.0f} tokens on average, which would be hidden as a whole or not at all. Take "
                "whole_words=False for texts without spaces.",
                stacklevel=3,
            )

    def _check_model(self, model):
        self.batches._check_model(model)

    def _telling(self, dataset):
        return self.batches._telling(dataset)

    def __repr__(self) -> str:
        return f"<MaskedTokens: {self._rates[0]:.0%} of the words of {self.batches!r}>"


def _mask_id(tokenizer: Tokenizer, mask_token: str | None) -> int:
    own = getattr(tokenizer, "mask_id", None)
    if mask_token is None and own is not None:
        return own
    vocabulary = tokenizer.get_vocabulary()
    found = [token for token in (MASK_TOKENS if mask_token is None else [mask_token]) if token in vocabulary]
    if not found:
        raise ValueError(
            f"MaskedTokens: the tokenizer '{tokenizer.name}' has no {mask_token or 'mask token'!r}. Make it with "
            "special_tokens=['<mask>'], as tokenizer.copy(special_tokens=['<mask>']) does; the model's vocabulary is "
            "then one larger."
        )
    return tokenizer.token_to_id(found[0])
