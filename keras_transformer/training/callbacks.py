"""What Keras' progress bar and logs do not show of a sequence model: tokens a second."""

import time

import keras


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
