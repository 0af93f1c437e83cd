"""Checkpoints: a training that is killed and resumed ends where an uninterrupted one does, and damage is noticed."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
import zipfile

import keras
import numpy as np
import pytest

from keras_transformer import models
from keras_transformer.training import Checkpoints, InverseSquareRootSchedule, SequenceCrossentropy

STEPS, EPOCHS = 7, 3

# The script that is killed: data and model as below, weights written at the end.
SCRIPT = """
import sys, keras, numpy as np
from keras_transformer import models
from keras_transformer.training import Checkpoints, SequenceCrossentropy
directory, result = sys.argv[1:]
keras.utils.set_random_seed(3)
model = models.language_model(13, num_layers=2, dim=8, num_heads=2, intermediate_dim=16, dropout=0.3)
model.compile(keras.optimizers.Adam(0.01, global_clipnorm=1.0), SequenceCrossentropy())

def batches(step):
    while True:
        ids = np.random.default_rng(step).integers(1, 13, (5, 9))
        yield ids[:, :-1], ids[:, 1:]
        step += 1

print("begin", flush=True)
checkpoints = Checkpoints(directory, every=7)
position = checkpoints.resume(model)
model.fit(batches(position.step), steps_per_epoch=500, epochs=4, initial_epoch=position.epoch, verbose=0,
          callbacks=[checkpoints])
np.savez(result, *model.get_weights())
"""


def batches(step):
    """Endless, and a function of the step."""
    while True:
        ids = np.random.default_rng(step).integers(1, 13, (5, 9))
        yield ids[:, :-1], ids[:, 1:]
        step += 1


class Interruption(Exception):
    """Stands for the kill in the tests within one process."""


class Interrupt(keras.callbacks.Callback):
    """Ends the training after some steps, before or behind the callbacks that come after it in the list."""

    def __init__(self, steps):
        super().__init__()
        self.left = steps

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if not self.left:
            raise Interruption


class State:
    """One compiled model for all tests, and what it is at the beginning of a training."""

    def __init__(self):
        keras.utils.set_random_seed(3)
        self.model = models.language_model(13, num_layers=1, dim=8, num_heads=2, intermediate_dim=16, dropout=0.3)
        self.model.compile(keras.optimizers.Adam(0.05, global_clipnorm=1.0), SequenceCrossentropy())
        self.model.optimizer.build(self.model.trainable_variables)
        self.initial = self.values()

    @property
    def variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def values(self):
        return [np.array(keras.ops.convert_to_numpy(variable)) for variable in self.variables]

    def reset(self, seed=None):
        """As at the beginning; with a seed, other weights, as a new process would have."""
        for variable, value in zip(self.variables, self.initial, strict=True):
            shift = (
                0 if seed is None or not variable.trainable else np.random.default_rng(seed).normal(size=value.shape)
            )
            variable.assign(value + shift)
        return self.model

    def fit(self, checkpoints, *callbacks, epochs=EPOCHS):
        position = checkpoints.position
        return self.model.fit(
            batches(position.step),
            steps_per_epoch=STEPS,
            epochs=epochs,
            initial_epoch=position.epoch,
            verbose=0,
            callbacks=[*callbacks, checkpoints],
        )


@pytest.fixture(scope="module")
def state():
    return State()


@pytest.fixture(scope="module")
def uninterrupted(state):
    model = state.reset()
    history = model.fit(batches(0), steps_per_epoch=STEPS, epochs=EPOCHS, verbose=0).history
    return state.values(), history


def assert_same(values, expected):
    for value, wanted in zip(values, expected, strict=True):
        if keras.backend.backend() == "tensorflow":
            np.testing.assert_array_equal(value, wanted)
        else:
            np.testing.assert_allclose(value, wanted, atol=1e-6)


def test_interrupted_anywhere_and_resumed_is_equal(state, uninterrupted, tmp_path):
    # Nothing is saved in the first step. Then: within epochs, at an epoch's end before it is saved, at a saved step.
    positions = []
    for number, steps in enumerate((1, 4, 5, 4, 2, 99)):
        model = state.reset(seed=number if number > 1 else None)
        checkpoints = Checkpoints(tmp_path, every=3)
        positions.append(tuple(checkpoints.resume(model)))
        try:
            history = state.fit(checkpoints, Interrupt(steps)).history
        except Interruption:
            continue
    assert positions == [(0, 0, 0), (0, 0, 0), (0, 3, 3), (1, 0, 7), (1, 2, 9), (1, 2, 9)]
    expected, whole = uninterrupted
    assert_same(state.values(), expected)
    assert history["loss"][-1] == pytest.approx(whole["loss"][-1], rel=1e-6)
    assert [epoch["epoch"] for epoch in checkpoints.history] == [0, 1, 2]
    # The mean over an epoch that was not interrupted.
    assert checkpoints.history[2]["loss"] == pytest.approx(whole["loss"][2], rel=1e-6)


def saved(state, directory, epochs=2, **options):
    """Three checkpoints, of steps 7, 9 and 14."""
    state.reset()
    checkpoints = Checkpoints(directory, every=9, **options)
    state.fit(checkpoints, epochs=epochs)
    return sorted(os.listdir(directory))


def test_keeps_the_last(state, tmp_path):
    assert saved(state, tmp_path, keep=2) == ["step-0000000009.npz", "step-0000000014.npz"]


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_checkpoint_falls_back(state, tmp_path, damage):
    *_, newest = saved(state, tmp_path)
    path = tmp_path / newest
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[content.index(state.model.get_weights()[0].tobytes())] ^= 4
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "flipped": content}[damage])
    checkpoints = Checkpoints(tmp_path)
    with pytest.warns(UserWarning, match="step-0000000014.npz' is damaged.*the checkpoint before it is used"):
        assert checkpoints.resume(state.reset()) == (1, 2, 9)
    assert (tmp_path / "step-0000000014.damaged").exists()
    for path in tmp_path.glob("*.npz"):
        path.write_bytes(b"PK")
    with pytest.raises(ValueError, match="None of the 2 checkpoints"):
        Checkpoints(tmp_path).resume(state.model)
    assert len(list(tmp_path.glob("*.npz"))) == 2


@pytest.mark.long
def test_a_changed_bit_of_the_directory_falls_back(state, tmp_path):
    """Every bit of what a zip archive has beside its members: of 22 a file of two variables said OSError."""
    from keras_transformer.training.snapshots import DamagedSnapshot, read_snapshot, write_snapshot

    path = tmp_path / "step-0000000001.npz"
    variables = [keras.Variable(np.arange(6.0).reshape(2, 3)), keras.Variable(5, trainable=False)]
    write_snapshot(path, {"trainable": variables, "non_trainable": [], "optimizer": []}, {"position": [1, 2, 3]})
    content = path.read_bytes()
    noticed = 0
    for place in range(content.index(b"PK\x01\x02"), len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            try:
                again = read_snapshot(path)
            except DamagedSnapshot:
                noticed += 1
                continue
            assert again.extra == {"position": [1, 2, 3]}
            np.testing.assert_array_equal(again.arrays["trainable"][0], variables[0])
    assert noticed > 500
    *_, newest = saved(state, tmp_path / "training")
    path = tmp_path / "training" / newest
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 45] ^= 128  # where a member begins: far behind the end of the file
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{newest}' is damaged"):
        assert Checkpoints(tmp_path / "training").resume(state.reset()) == (1, 2, 9)


def test_no_changed_bit_goes_unnoticed(state, tmp_path):
    from keras_transformer.training.snapshots import DamagedSnapshot, read_snapshot

    path = tmp_path / saved(state, tmp_path)[-1]
    content = path.read_bytes()
    whole = read_snapshot(path)
    generator, noticed = np.random.default_rng(5), 0
    for place in generator.integers(0, len(content), 150):
        changed = bytearray(content)
        changed[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(changed)
        try:
            again = read_snapshot(path)
        except DamagedSnapshot:
            noticed += 1
            continue
        # Some bytes of a zip archive, such as time stamps, mean nothing here.
        assert again.extra == whole.extra
        for group, arrays in whole.arrays.items():
            for one, other in zip(arrays, again.arrays[group], strict=True):
                np.testing.assert_array_equal(one, other)
    assert noticed > 75


def test_another_model_is_refused(state, tmp_path):
    files = saved(state, tmp_path)
    contents = [(tmp_path / name).read_bytes() for name in files]
    other = models.language_model(13, num_layers=1, dim=8, num_heads=2, intermediate_dim=17)
    other.compile("adam", SequenceCrossentropy())
    before = other.get_weights()
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"another model. First difference: .*\(8, 16\).*\(8, 17\)"):
        checkpoints.resume(other)
    with pytest.raises(ValueError, match="has checkpoints. Call `resume"):
        other.fit(batches(0), steps_per_epoch=1, verbose=0, callbacks=[checkpoints])
    for weight, value in zip(other.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert [(tmp_path / name).read_bytes() for name in files] == contents
    other.compile("sgd", SequenceCrossentropy())
    with pytest.raises(ValueError, match="First difference"):
        Checkpoints(tmp_path).resume(other)


def test_a_model_that_is_built_again_is_the_same(state, tmp_path):
    saved(state, tmp_path)
    again = State()
    assert [variable.path for variable in again.variables] != [variable.path for variable in state.variables]
    assert Checkpoints(tmp_path).resume(again.model).step == 14
    assert_same(again.values(), state.values())


def test_of_several_processes_one_writes(state, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_transformer.training.snapshots.is_writer", lambda: False)
    monkeypatch.setattr("keras_transformer.training.checkpoints.is_writer", lambda: False)
    state.reset()
    state.fit(Checkpoints(tmp_path / "checkpoints"), epochs=1)
    assert not (tmp_path / "checkpoints").exists()


def test_processes_that_find_different_checkpoints(state, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_transformer.training.checkpoints.from_all", lambda step: [step, 21])
    with pytest.raises(ValueError, match=r"steps \[0, 21\].*all processes share"):
        Checkpoints(tmp_path).resume(state.reset())


def test_fit_that_does_not_suit_the_checkpoint(state, tmp_path):
    saved(state, tmp_path)
    (tmp_path / "step-0000000014.npz").unlink()
    checkpoints = Checkpoints(tmp_path)
    position = checkpoints.resume(state.model)
    arguments = {"epochs": 2, "verbose": 0, "callbacks": [checkpoints]}
    with pytest.raises(ValueError, match="after 2 of 7 steps. Call `fit` with steps_per_epoch=7. Received: 5"):
        state.model.fit(batches(0), steps_per_epoch=5, initial_epoch=position.epoch, **arguments)
    with pytest.raises(ValueError, match="Call `fit` with initial_epoch=1"):
        state.model.fit(batches(0), steps_per_epoch=7, **arguments)
    assert checkpoints.position == position


def test_another_number_of_heads_has_the_same_variables_and_is_told(state, tmp_path):
    saved(state, tmp_path)
    other = models.language_model(13, num_layers=1, dim=8, num_heads=4, intermediate_dim=16, dropout=0.3)
    other.compile(keras.optimizers.Adam(0.05, global_clipnorm=1.0), SequenceCrossentropy())
    with pytest.warns(UserWarning, match="'decoder_0' had num_heads=2; now it is 4"):
        Checkpoints(tmp_path).resume(other)


def test_epochs_of_another_number_of_steps_are_told(state, tmp_path):
    saved(state, tmp_path)
    checkpoints = Checkpoints(tmp_path)
    position = checkpoints.resume(state.model)
    assert position == (2, 0, 14)
    with pytest.warns(UserWarning, match="had 7 steps when the checkpoint was written and have 5 now"):
        state.model.fit(
            batches(14), steps_per_epoch=5, epochs=3, initial_epoch=position.epoch, verbose=0, callbacks=[checkpoints]
        )


def test_epochs_of_an_unknown_number_of_steps_are_refused(state, tmp_path):
    saved(state, tmp_path)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.resume(state.model)
    with pytest.raises(ValueError, match="had 7 steps .* Call it with steps_per_epoch=7"):
        state.model.fit(batches(14), initial_epoch=2, epochs=3, verbose=0, callbacks=[checkpoints])


@pytest.mark.long
def test_a_changed_learning_rate_is_replaced_with_a_word(state, tmp_path, recwarn):
    class Halve(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 2

    def compiled(rate):
        model = models.language_model(13, num_layers=1, dim=8, num_heads=2, intermediate_dim=16, dropout=0.3)
        model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0), SequenceCrossentropy())
        return model

    state.reset()
    state.fit(Checkpoints(tmp_path), Halve(), epochs=1)
    recwarn.clear()
    same = compiled(0.05)
    Checkpoints(tmp_path).resume(same)
    assert not [warning for warning in recwarn if "learning rate" in str(warning.message)]
    other = compiled(0.2)
    checkpoints = Checkpoints(tmp_path)
    with pytest.warns(
        UserWarning, match="learning rate 0.2, and the training of .* with 0.05. The checkpoint's, now 0.025"
    ):
        checkpoints.resume(other)
    assert float(other.optimizer.learning_rate) == float(same.optimizer.learning_rate) == pytest.approx(0.025)
    # Who sets it after `resume`, as the word says, is not told again.
    other.optimizer.learning_rate = 0.2
    other.fit(batches(7), steps_per_epoch=7, initial_epoch=1, epochs=2, verbose=0, callbacks=[checkpoints])
    recwarn.clear()
    again = compiled(0.2)
    Checkpoints(tmp_path).resume(again)
    assert float(again.optimizer.learning_rate) == pytest.approx(0.2)
    assert not [warning for warning in recwarn if "learning rate" in str(warning.message)]


@pytest.mark.long
def test_an_optimizer_with_other_settings_is_told(state, tmp_path, recwarn):
    def compiled(rate=0.05, peak=None, **options):
        model = models.language_model(13, num_layers=1, dim=8, num_heads=2, intermediate_dim=16, dropout=0.3)
        rate = rate if peak is None else InverseSquareRootSchedule(peak, warmup_steps=5)
        model.compile(keras.optimizers.Adam(rate, **options), SequenceCrossentropy())
        return model

    def train(model, folder):
        checkpoints = Checkpoints(folder)
        checkpoints.resume(model)
        model.fit(batches(0), steps_per_epoch=1, verbose=0, callbacks=[checkpoints])

    train(compiled(), tmp_path / "rate")
    train(compiled(peak=0.05), tmp_path / "schedule")
    recwarn.clear()
    for model, folder in ((compiled(), "rate"), (compiled(peak=0.05), "schedule")):
        Checkpoints(tmp_path / folder).resume(model)
    assert not [warning for warning in recwarn if "optimizer" in str(warning.message)]
    with pytest.warns(UserWarning, match="an optimizer of beta_1=0.9 and now 0.5, clipnorm=None and now 1.0"):
        Checkpoints(tmp_path / "rate").resume(compiled(beta_1=0.5, clipnorm=1.0))
    with pytest.warns(UserWarning, match="learning_rate.peak_learning_rate=0.05 and now 0.01"):
        Checkpoints(tmp_path / "schedule").resume(compiled(peak=0.01))


@pytest.mark.parametrize("position", [None, [1, 2], {"epoch": "1"}, {"epoch": -1}, {"steps": 3}])
def test_what_stands_beside_the_variables_is_read_with_mistrust(state, tmp_path, position):
    *_, newest = saved(state, tmp_path)
    with np.load(tmp_path / newest, allow_pickle=False) as archive, zipfile.ZipFile(tmp_path / newest) as members:
        assert "trainable/0" in archive.files
        contents = {name: members.read(name) for name in members.namelist()}
    description = json.loads(contents["description.json"])
    description["extra"]["position"] = position
    with zipfile.ZipFile(tmp_path / newest, "w") as members:
        for name, content in {**contents, "description.json": json.dumps(description)}.items():
            members.writestr(name, content)
    with pytest.warns(UserWarning, match="step-0000000014.npz' is damaged.*the checkpoint before it is used"):
        assert Checkpoints(tmp_path).resume(state.reset()) == (1, 2, 9)


def test_a_directory_that_may_not_be_written_to_is_told_before_the_first_epoch(state, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *arguments: False)  # root may write everywhere
    checkpoints = Checkpoints(tmp_path / "new" / "folder")
    checkpoints.resume(state.reset())
    with pytest.raises(ValueError, match=f"cannot write into '.*folder': '{tmp_path}' may not be written to"):
        state.fit(checkpoints, epochs=1)


def test_two_trainings_in_one_directory_are_told(state, tmp_path):
    one, other = Checkpoints(tmp_path), Checkpoints(tmp_path)
    for checkpoints in (one, other):
        checkpoints.resume(state.reset())
    state.fit(one, epochs=1)
    with pytest.warns(UserWarning, match="Another training writes its checkpoints into.*'step-0000000007.npz'"):
        state.fit(other, epochs=1)
    assert sorted(os.listdir(tmp_path)) == ["step-0000000007.npz"]


def test_writers_at_the_same_time_do_not_collide(tmp_path):
    """Each process writes to a name of its own; what a killed one left is removed, when it is an hour old."""
    from keras_transformer.training import snapshots

    path = tmp_path / "step-0000000007.npz"
    groups = {"trainable": [keras.Variable(np.arange(6.0))], "non_trainable": [], "optimizer": []}
    names = []

    class Slow:  # what happens in the folder while a process writes
        path, shape, dtype = "slow", (), "float32"

        @property
        def value(self):
            names.extend(name for name in os.listdir(tmp_path) if name.endswith(".unfinished"))
            return keras.ops.zeros(())

    for host in ("one", "other"):
        (tmp_path / f".step-0000000003.npz.{host}-5.unfinished").write_bytes(b"PK")
    os.utime(tmp_path / ".step-0000000003.npz.one-5.unfinished", (1e9, 1e9))
    snapshots.write_snapshot(path, {**groups, "optimizer": [Slow()]}, {})
    assert any(f"-{os.getpid()}.unfinished" in name for name in names)
    assert sorted(os.listdir(tmp_path)) == [".step-0000000003.npz.other-5.unfinished", path.name]

    class Failing(Slow):
        @property
        def value(self):
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        snapshots.write_snapshot(path, {**groups, "optimizer": [Failing()]}, {})
    assert len(os.listdir(tmp_path)) == 2
    assert len(snapshots.read_snapshot(path).arrays["trainable"]) == 1


def test_what_is_only_named_like_a_checkpoint(state, tmp_path):
    (tmp_path / "step-0000000099.npz").mkdir()
    (tmp_path / "step-best.npz").write_bytes(b"PK")
    names = saved(state, tmp_path, keep=1)
    assert names == ["step-0000000014.npz", "step-0000000099.npz", "step-best.npz"]
    assert Checkpoints(tmp_path).resume(state.model).step == 14
    (tmp_path / "step-0000000021.npz").mkdir()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.resume(state.model)
    with pytest.raises(ValueError, match="step-0000000021.npz' is a folder"):
        state.fit(checkpoints, epochs=3)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="takes a directory to write into"):
        Checkpoints(tmp_path / "file")


def test_logs_that_are_arrays_or_texts(state, tmp_path):
    class Log(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs.update(by_class=np.array([0.5, 1.0]), phase="warm-up")

    checkpoints = Checkpoints(tmp_path)
    state.reset()
    state.fit(checkpoints, Log(), epochs=1)
    again = Checkpoints(tmp_path)
    again.resume(state.model)
    assert again.history == checkpoints.history
    assert again.history[0]["by_class"] == [0.5, 1.0] and "phase" not in again.history[0]


def test_early_stopping_still_stops(state, tmp_path):
    """The end of an interrupted epoch is not taken for the end of the training, nor the other way round."""

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    saved(state, tmp_path)
    (tmp_path / "step-0000000014.npz").unlink()
    checkpoints = Checkpoints(tmp_path)
    checkpoints.resume(state.reset())
    state.fit(checkpoints, Stop(), epochs=9)
    assert checkpoints.position == (2, 0, 14)


@pytest.mark.parametrize("arguments", [{"every": 0}, {"keep": -1}, {"every": 2.5}])
def test_bad_arguments(arguments, tmp_path):
    with pytest.raises(ValueError, match="Checkpoints takes a positive integer or None"):
        Checkpoints(tmp_path, **arguments)


def run_script(tmp_path, directory, kill_after=None):
    result = tmp_path / "weights.npz"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / directory), str(result)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout.readline() == "begin\n"
    if kill_after is not None:
        time.sleep(kill_after)
        process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    return killed, None if killed else list(np.load(result).values())


@pytest.mark.slow
def test_killed_five_times_and_resumed_is_equal(tmp_path):
    _, expected = run_script(tmp_path, "uninterrupted")
    generator, kills, seconds = random.Random(7), 0, 6.0
    while kills < 5:
        killed, weights = run_script(tmp_path, "killed", kill_after=generator.uniform(0.7, 1.3) * seconds)
        if killed:
            kills += 1
        else:  # a quick machine was done before the kill
            shutil.rmtree(tmp_path / "killed")
            kills, seconds = 0, seconds * 0.6
    _, weights = run_script(tmp_path, "killed")
    assert_same(weights, expected)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="elsewhere Keras' dropout draws from a saved seed")
@pytest.mark.parametrize("seed", [None, 7])
def test_dropout_that_no_checkpoint_restores_is_named(seed, tmp_path):
    dropout = keras.layers.Dropout(0.5, seed=seed, name="culprit")
    model = keras.Sequential([keras.Input((3,)), keras.Sequential([keras.layers.Dense(2), dropout])])
    model.compile("sgd", "mse")
    model.fit(np.ones((5, 3)), np.ones((5, 2)), callbacks=[Checkpoints(tmp_path)], verbose=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Checkpoints(tmp_path).resume(model)
    told = [str(x.message) for x in caught if "'culprit'" in str(x.message)]
    assert ["seed=" in message for message in told] == [True] * (seed is None)
