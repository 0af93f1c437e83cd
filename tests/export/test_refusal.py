"""An export that cannot be made, or that is not equal to Python, is refused, and what was there before stays."""

import sys

import keras
import numpy as np
import pytest

import keras_transformer as kt

pytestmark = pytest.mark.tensorflow

EXPORTS = {
    "saved_model": (kt.export.saved_model, {}),
    "litert": (kt.export.litert, {"source_length": 5}),
}


@pytest.fixture(params=EXPORTS)
def export(request):
    """Either exporter, as a function of what to export and where, and its name."""
    function, options = EXPORTS[request.param]
    return lambda *args, **kwargs: function(*args, **{**options, **kwargs})


@pytest.fixture
def model():
    inputs = keras.Input((5,), name="inputs")
    return keras.Model(inputs, keras.layers.Dense(3)(inputs), name="small")


@pytest.fixture
def old(tmp_path):
    """What was there before: a folder with something in it."""
    path = tmp_path / "export"
    path.mkdir()
    (path / "precious").write_text("old")
    return path


@pytest.fixture
def weights_change_after_writing(monkeypatch):
    """What is written holds other weights than the model then has."""
    archive_class = type(keras.export.ExportArchive())
    write_out = archive_class.write_out
    changed = []

    def write_and_change(archive, *args, **kwargs):
        write_out(archive, *args, **kwargs)
        for weight in changed[0].weights:
            weight.assign(-weight + 0.5)

    monkeypatch.setattr(archive_class, "write_out", write_and_change)
    return changed.append


def fail_with(error):
    def fail(*args, **kwargs):
        raise error

    return fail


def test_existing_path_is_refused(export, model, old):
    with pytest.raises(ValueError, match="exists.*overwrite=True"):
        export(model, old)
    assert [path.name for path in old.iterdir()] == ["precious"]


def test_existing_path_is_replaced_on_request(export, model, old):
    export(model, old, overwrite=True)
    assert not (old / "precious").exists()
    assert [path.name for path in old.parent.iterdir()] == ["export"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_failure_leaves_the_old_export_and_nothing_else(error, export, model, old, monkeypatch):
    for name in EXPORTS:
        monkeypatch.setattr(sys.modules[f"keras_transformer.export.{name}"], "check_outputs", fail_with(error))
    with pytest.raises(type(error)):
        export(model, old, overwrite=True)
    assert (old / "precious").read_text() == "old"
    assert [path.name for path in old.parent.iterdir()] == ["export"]
    with pytest.raises(type(error)):
        export(model, old.parent / "new")
    assert [path.name for path in old.parent.iterdir()] == ["export"]


def test_without_verification_nothing_is_compared(export, model, tmp_path, monkeypatch):
    for name in EXPORTS:
        monkeypatch.setattr(sys.modules[f"keras_transformer.export.{name}"], "check_outputs", fail_with(RuntimeError()))
    export(model, tmp_path / "export", verify=False)
    assert (tmp_path / "export").exists()


def test_model_that_differs_is_refused(export, model, tmp_path, weights_change_after_writing):
    weights_change_after_writing(model)
    with pytest.raises(kt.export.ExportMismatchError, match="of 'small' differs from Python"):
        export(model, tmp_path / "export")
    assert list(tmp_path.iterdir()) == []


def test_generator_that_differs_is_refused(export, decoder_only, tmp_path, weights_change_after_writing):
    weights = decoder_only.model.get_weights()
    weights_change_after_writing(decoder_only.model)
    try:
        with pytest.raises(kt.export.ExportMismatchError, match="differs from Python in row"):
            export(decoder_only, tmp_path / "export")
    finally:
        decoder_only.model.set_weights(weights)
    assert list(tmp_path.iterdir()) == []


def test_path_that_cannot_be_written(export, model, tmp_path):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(ValueError, match="cannot be written"):
        export(model, tmp_path / "file" / "export")


def test_folders_on_the_way_are_made(model, tmp_path):
    kt.export.saved_model(model, tmp_path / "a" / "b" / "export")
    assert (tmp_path / "a" / "b" / "export" / "saved_model.pb").exists()


def test_relative_path_as_a_string(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kt.export.litert(model, "model.tflite")
    assert (tmp_path / "model.tflite").exists()


def test_weights_that_are_not_numbers(export, model, tmp_path):
    model.layers[-1].kernel.assign(np.full((5, 3), np.nan))
    with pytest.raises(kt.export.ExportMismatchError):
        export(model, tmp_path / "export")


def test_neither_generator_nor_model(export, tmp_path):
    with pytest.raises(ValueError, match="Generator"):
        export(keras.layers.Dense(3), tmp_path / "export")


def test_other_backend_is_told_the_way(fresh_process, tmp_path):
    pytest.importorskip("jax")
    fresh_process(
        """
        import keras
        import keras_transformer as kt

        inputs = keras.Input((5,))
        model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
        for export in (kt.export.saved_model, kt.export.litert):
            try:
                export(model, "export")
            except ValueError as error:
                assert "KERAS_BACKEND=tensorflow" in str(error) and "jax" in str(error), error
            else:
                raise AssertionError("exported")
        """,
        cwd=tmp_path,
        KERAS_BACKEND="jax",
    )
    assert list(tmp_path.iterdir()) == []
