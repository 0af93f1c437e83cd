"""Checkpoints from which a training goes on as if it had never been interrupted."""

import contextlib
import os
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.training.processes import from_all, is_writer
from keras_transformer.training.settings import (
    layer_settings,
    learning_rates,
    optimizer_settings,
    warn_of_another_optimizer,
    warn_of_other_layers,
    warn_of_other_rates,
    warn_of_unsaved_dropout,
)
from keras_transformer.training.snapshots import (
    DamagedSnapshot,
    assign,
    read_snapshot,
    write_snapshot,
)

# What `model.stop_training` is set to at the end of an epoch that was begun before the interruption: as true as True,
# but not what another callback sets when it wants the training to stop.
_EPOCH_IS_OVER = "the rest of the epoch is done"


class Position(NamedTuple):
    """How far a training is: go on with `epoch`, of which `batch` batches are done, `step` batches in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


class Checkpoints(keras.callbacks.Callback):
    """Saves all that a training needs to go on exactly: weights, optimizer, dropout's seeds, position in the data.

    A checkpoint is written at the end of each epoch and, with `every`, within epochs, too. It is written beside, synced
    and renamed, so a kill at any moment leaves whole checkpoints; each carries checksums, and a damaged one is passed
    over for the one before. `resume` loads the newest and says where to go on. If the data is a function of the step,
    the weights are in the end those of an uninterrupted training, bit for bit where the arithmetic is deterministic:

        checkpoints = kt.training.Checkpoints("checkpoints", every=500)
        position = checkpoints.resume(model)
        model.fit(
            batches(first_step=position.step),      # endless, from that batch on
            steps_per_epoch=2000,
            initial_epoch=position.epoch,
            epochs=20,
            callbacks=[..., checkpoints],
        )

    An epoch that was interrupted is completed: it ends after the steps that were left of it, so that epochs stay where
    they were. The data has to be endless for it, a generator or a `tf.data.Dataset`: Keras cannot end an epoch of a
    `PyDataset` early. Without `every`, `position.step` is a whole number of epochs, and any data will do that is the
    same in each epoch. Put the callback behind the others, whose effects (a lowered learning rate, `val_bleu`) it then
    saves, but before `SwapEMAWeights(swap_on_epoch=True)`, which puts averages in the place of the weights.

    Where several processes train one model (JAX), each has the callback, in a directory that all share: the first one
    writes, also what is divided among them, and all read; one device can read it, too.

    Not restored: the means over the interrupted epoch, which cover its second part only, and what other callbacks
    remember. `history` has the logs of all epochs, and Keras' callbacks take the best value so far as an argument:
    `EarlyStopping(baseline=...)`, `ModelCheckpoint(initial_value_threshold=...)`; `CSVLogger(append=True)`.

    Args:
        directory: Where the checkpoints, `step-<number>.npz`, are; created when the first is written. The files are zip
            archives of NumPy arrays and JSON, no pickles; `numpy.load` opens them.
        every: Number of steps between checkpoints within an epoch, with endless data. Default: at the end of epochs.
        keep: How many checkpoints to keep; None for all.

    Warns: By `resume`, if a damaged checkpoint was passed over, or the model has the variables of the one in the
        checkpoint but other settings, such as its number of heads, or its optimizer or schedule has, or, on PyTorch, a
        `keras.layers.Dropout` without a seed, which no checkpoint can restore; by `fit`, if epochs have another number
        of steps.

    Raises:
        ValueError: If `every` or `keep` is not positive; by `resume`, if the checkpoints are of another model, all are
            damaged, or processes see different ones; by `fit`, if nothing can be written there, or there are
            checkpoints and `resume` was not called, or `initial_epoch` or `steps_per_epoch` do not suit the checkpoint.

    Example:

    >>> import keras, numpy as np, tempfile, keras_transformer as kt
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> folder = tempfile.TemporaryDirectory()
    >>> checkpoints = kt.training.Checkpoints(folder.name)
    >>> checkpoints.resume(model)
    Position(epoch=0, batch=0, step=0)
    >>> _ = model.fit(np.ones((10, 3)), np.ones(10), batch_size=5, epochs=2, callbacks=[checkpoints], verbose=0)
    >>> kt.training.Checkpoints(folder.name).resume(model)
    Position(epoch=2, batch=0, step=4)
    """

    def __init__(self, directory: str | os.PathLike, *, every: int | None = None, keep: int | None = 3):
        super().__init__()
        for name, value in (("every", every), ("keep", keep)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"Checkpoints takes a positive integer or None as `{name}`. Received: {value!r}")
        self.directory = Path(directory)
        if os.path.lexists(directory) and not self.directory.is_dir():
            raise ValueError(f"Checkpoints takes a directory to write into, and '{directory}' is none.")
        self.every = every
        self.keep = keep
        self.position = Position()
        self.history: list[dict] = []
        self._saved_steps: int | None = None
        self._layers: list[dict] = []  # their settings
        self._rates: list[float] = []  # the learning rates that the model was compiled with
        self._belongs = False  # whether what is in the directory is of this training
        self._known: set[Path] = set()  # the checkpoints that are

    def resume(self, model: keras.Model) -> Position:
        """Load the newest whole checkpoint into the compiled model; without any, leave the model as it is.

        Returns: Where to go on: `initial_epoch=position.epoch`, with the data from batch `position.step` on.
        """
        with _scope(model):
            return self._resume(model)

    def _resume(self, model: keras.Model) -> Position:
        groups = _groups(model)
        self._rates = learning_rates(model)
        damaged = []
        for path in reversed(checkpoint_paths(self.directory)):
            try:
                snapshot = read_snapshot(path)
                training = _read_training(snapshot.extra, path)
            except DamagedSnapshot as error:
                damaged.append((path, error))
                continue
            assign(snapshot, groups, source=f"The checkpoint '{path}'")
            self.position, self.history, self._saved_steps = training
            # Older checkpoints have none of the three.
            warn_of_other_layers(snapshot.extra.get("layers", []), model, path)
            warn_of_other_rates(snapshot.extra.get("learning_rates", self._rates), self._rates, model, path)
            warn_of_another_optimizer(snapshot.extra.get("optimizer", {}), model, path)
            warn_of_unsaved_dropout(model)
            break
        else:
            if damaged:
                raise ValueError(
                    f"None of the {len(damaged)} checkpoints in '{self.directory}' can be read: {damaged[0][1]}. "
                    "Remove them to start anew."
                )
            self.position, self.history = Position(), []
        steps = from_all(self.position.step)
        if len(set(steps)) > 1:
            raise ValueError(
                f"The processes do not find the same checkpoints in '{self.directory}': the newest whole ones are of "
                f"the steps {steps}. Give a directory that all processes share."
            )
        for path, error in damaged:
            if is_writer():
                os.replace(path, path.with_suffix(".damaged"))
            warnings.warn(f"{error}. It is renamed, and the checkpoint before it is used.", stacklevel=2)
        self._belongs, self._known = True, set(checkpoint_paths(self.directory))
        return self.position

    # What Keras calls

    def on_train_begin(self, logs=None):
        if not self._belongs and checkpoint_paths(self.directory):
            raise ValueError(
                f"'{self.directory}' has checkpoints. Call `resume(model)` before `fit` to go on from the newest, or "
                "choose another directory."
            )
        if not self._belongs:
            self._belongs, self._rates = True, learning_rates(self.model)
        self._check_writable()
        self._layers = layer_settings(self.model)
        if self.position.batch and self._steps != self._saved_steps:
            raise ValueError(
                f"The checkpoint is from within an epoch, after {self.position.batch} of {self._saved_steps} steps. "
                f"Call `fit` with steps_per_epoch={self._saved_steps}. Received: {self._steps}"
            )
        elif self.position.epoch and self._steps is None and self._saved_steps is not None:
            raise ValueError(
                f"Epochs had {self._saved_steps} steps when the checkpoint was written, and `fit` does not know how "
                f"many they have now. Call it with steps_per_epoch={self._saved_steps}."
            )
        elif self.position.epoch and None not in (self._steps, self._saved_steps) and self._steps != self._saved_steps:
            warnings.warn(
                f"Epochs had {self._saved_steps} steps when the checkpoint was written and have {self._steps} now: "
                "learning rates and data that are functions of the step are not those of an uninterrupted training.",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != self.position.epoch:
            raise ValueError(
                f"Checkpoints goes on with epoch {self.position.epoch}, and `fit` with {epoch}. "
                f"Call `fit` with initial_epoch={self.position.epoch}."
            )
        self._start = self.position

    def on_train_batch_end(self, batch, logs=None):
        before, done = self.position, batch + 1
        self.position = Position(before.epoch, self._start.batch + done, self._start.step + done)
        if self._steps is not None and self.position.batch >= self._steps:  # `on_epoch_end` saves
            if self._start.batch and not self.model.stop_training:
                self.model.stop_training = _EPOCH_IS_OVER
        elif self.every and before.step // self.every < self.position.step // self.every:
            self._save()

    def on_epoch_end(self, epoch, logs=None):
        if self.model.stop_training is _EPOCH_IS_OVER:
            self.model.stop_training = False
        stopped_within = self.model.stop_training and self._steps is not None and self.position.batch < self._steps
        if not stopped_within:
            self.position = Position(epoch + 1, 0, self.position.step)
            self.history.append({"epoch": epoch, **_numbers(logs or {})})
        self._save()

    @property
    def _steps(self) -> int | None:
        """Steps in an epoch, if `fit` knows."""
        return self.params.get("steps")

    def _save(self) -> None:
        path = self.directory / f"step-{self.position.step:010d}.npz"
        self._look_for_others(path)
        extra = {
            "position": self.position._asdict(),
            "steps_per_epoch": self._steps,
            "history": self.history,
            "layers": self._layers,
            "learning_rates": self._rates,
            "optimizer": optimizer_settings(self.model),
        }
        with _scope(self.model):
            write_snapshot(path, _groups(self.model), extra)
        self._known.add(path)
        if self.keep is not None and is_writer():
            for old in checkpoint_paths(self.directory)[: -self.keep]:
                old.unlink(missing_ok=True)
        from_all(self.position.step)  # none goes on, perhaps to read it, before it is written

    def _check_writable(self) -> None:
        """Say before the first epoch what would end it: that nothing can be written."""
        place = next(path for path in (self.directory, *self.directory.absolute().parents) if path.exists())
        if is_writer() and not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            raise ValueError(f"Checkpoints cannot write into '{self.directory}': '{place}' may not be written to.")

    def _look_for_others(self, path: Path) -> None:
        """Warn of checkpoints that another training has written, and refuse a folder where one is to be written."""
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder, and a checkpoint is to be written there. Rename it.")
        if others := sorted(set(checkpoint_paths(self.directory)) - self._known):
            self._known.update(others)
            warnings.warn(
                f"Another training writes its checkpoints into '{self.directory}', too: '{others[-1].name}' is not of "
                "this one. They replace and remove each other's. Give each training a directory of its own.",
                stacklevel=2,
            )


def _read_training(extra: dict, path: Path) -> tuple[Position, list, int | None]:
    """The position, the history and the steps of an epoch that stand beside the variables."""
    try:
        position, history, steps = Position(**extra["position"]), extra["history"], extra["steps_per_epoch"]
    except (KeyError, TypeError) as error:
        raise DamagedSnapshot(f"'{path}' is damaged: {error}") from error
    numbers = [*position, 0 if steps is None else steps]
    if not isinstance(history, list) or not all(isinstance(x, int) and x >= 0 for x in numbers):
        raise DamagedSnapshot(f"'{path}' is damaged: position {position}, steps_per_epoch {steps!r}")
    return position, history, steps


def checkpoint_paths(directory: str | os.PathLike) -> list[Path]:
    """The checkpoints in a directory, oldest first."""
    names = Path(directory).glob("step-*.npz")
    return sorted(path for path in names if re.fullmatch(r"step-\d{10,}\.npz", path.name) and path.is_file())


def _scope(model: keras.Model):
    """In which the model's variables are made, read and written, for tf.distribute."""
    strategy = getattr(model, "distribute_strategy", None)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _numbers(logs: dict) -> dict:
    """What of an epoch's logs is a number, or an array of numbers, as JSON takes it."""
    arrays = {name: np.asarray(value) for name, value in logs.items()}
    return {name: array.tolist() for name, array in arrays.items() if array.dtype.kind in "biuf"}


def _groups(model: keras.Model) -> dict[str, list]:
    """The variables that make up the state of a training, dropout's seeds among those not trained."""
    optimizer = getattr(model, "optimizer", None)
    if not model.built or optimizer is None:
        raise ValueError(f"Checkpoints takes a model that is built and compiled. '{model.name}' is not.")
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return {
        "trainable": model.trainable_variables,
        "non_trainable": model.non_trainable_variables,
        "optimizer": optimizer.variables,
    }
