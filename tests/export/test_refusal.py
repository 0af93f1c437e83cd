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
def old(export, model, tmp_path):
    """What was there before: an export of the same kind."""
    export(model, tmp_path / "export", verify=False)
    return tmp_path / "export"


def contents(path):
    """What is in a file, or in the files of a folder."""
    return {str(x): x.read_bytes() for x in ([path] if path.is_file() else path.rglob("*")) if x.is_file()}


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
    before = contents(old)
    with pytest.raises(ValueError, match="exists.*overwrite=True"):
        export(model, old)
    assert contents(old) == before


def test_existing_export_is_replaced_on_request(export, model, old):
    model.layers[-1].bias.assign(np.ones(3))
    export(model, old, overwrite=True)
    (output,) = kt.export.load(old)(np.zeros((1, 5), "float32")).values()
    np.testing.assert_array_equal(output, np.ones((1, 3)))
    assert [path.name for path in old.parent.iterdir()] == ["export"]


def _precious(path):
    path.mkdir()
    (path / "precious").write_text("old")


def _file(path):
    path.write_text("old")


def _dangling(path):
    path.symlink_to("nowhere")


@pytest.mark.parametrize("there", [_precious, _file, _dangling])
@pytest.mark.parametrize("overwrite", [False, True])
def test_nothing_but_an_export_of_the_same_kind_is_overwritten(there, overwrite, export, model, tmp_path):
    there(tmp_path / "export")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="exists and is not a .*which is all that overwrite=True replaces"):
        export(model, tmp_path / "export", overwrite=overwrite)
    assert contents(tmp_path) == before and (tmp_path / "export").is_symlink() == (there is _dangling)
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_neither_format_overwrites_the_other(model, tmp_path):
    kt.export.saved_model(model, tmp_path / "saved_model", verify=False)
    kt.export.litert(model, tmp_path / "litert", verify=False)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="it is a file"):
        kt.export.saved_model(model, tmp_path / "litert", overwrite=True)
    with pytest.raises(ValueError, match="it is a folder"):
        kt.export.litert(model, tmp_path / "saved_model", overwrite=True)
    (tmp_path / "saved_model" / "assets.extra" / "tf_serving_warmup_requests").write_text("of a user")
    with pytest.raises(ValueError, match="it holds .*warmup"):
        kt.export.saved_model(model, tmp_path / "saved_model", overwrite=True)
    (tmp_path / "saved_model" / "assets.extra" / "tf_serving_warmup_requests").unlink()
    assert contents(tmp_path) == before


def test_empty_places_and_links_to_exports(model, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):  # the second time over the first
        kt.export.saved_model(model, tmp_path / "folder", overwrite=True, verify=False)
        kt.export.litert(model, tmp_path / "file", overwrite=True, verify=False)
    (tmp_path / "link").symlink_to("folder")
    kt.export.saved_model(model, tmp_path / "link", overwrite=True, verify=False)
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]


@pytest.mark.parametrize("exchange", [True, False], ids=["in one step", "in two"])
def test_a_process_that_dies_leaves_the_old_export_or_the_new(exchange, model, tmp_path, fresh_process):
    """It dies at each of its renames in turn; what it leaves is removed by the next export, or put back."""
    from keras_transformer.export import files

    path = tmp_path / "export"
    kt.export.saved_model(model, path, verify=False)
    old = contents(path)
    for deadly in range(1, 3 - exchange):
        fresh_process(
            f"""
            import os, sys
            from pathlib import Path
            from keras_transformer.export import files

            count = 0
            def die(*args, real=os.replace):
                global count
                count += 1
                if count == {deadly}:
                    os._exit(0)
                real(*args)

            if {exchange}:
                files._exchange = lambda *args: os._exit(0)
            else:
                files._exchange = lambda *args: False
                os.replace = die
            with files.replacing({str(path)!r}, files.Kind("anything", True, lambda path: None), overwrite=True) as new:
                new.mkdir()
                (new / "file").write_text("new")
            raise AssertionError("lives")
            """,
            cwd=tmp_path,
        )
        assert len(list(tmp_path.iterdir())) == (2 if path.exists() else 1)
        assert path.exists() == (deadly == 1)
        with pytest.raises(ZeroDivisionError):
            with files.replacing(path, files.Kind("anything", True, lambda path: None), overwrite=True):
                1 / 0  # noqa: B018
        assert contents(path) == old
        assert [x.name for x in tmp_path.iterdir()] == ["export"]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_failure_leaves_the_old_export_and_nothing_else(error, export, model, old, monkeypatch):
    for name in EXPORTS:
        monkeypatch.setattr(sys.modules[f"keras_transformer.export.{name}"], "check_outputs", fail_with(error))
    before = contents(old)
    with pytest.raises(type(error)):
        export(model, old, overwrite=True)
    assert contents(old) == before
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
