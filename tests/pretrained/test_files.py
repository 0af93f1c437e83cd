"""Files of tensors: read one at a time, and refused where they are not what they say."""

import json

import ml_dtypes
import numpy as np
import pytest

from keras_transformer.pretrained.layouts import SAME, TRANSPOSED, interleaved, joined
from keras_transformer.pretrained.weights import find, read_header, write

ARRAYS = {
    "a": np.arange(6, dtype="float32").reshape(2, 3),
    "b": np.arange(5).astype(ml_dtypes.bfloat16),
    "c": np.zeros((0, 7), "float16"),
    "d": np.array(3, "int64"),
    "e": np.array([True, False]),
}


def save(folder, size=10**9, arrays=ARRAYS):
    folder.mkdir(exist_ok=True)
    write(folder, {name: (x.dtype, x.shape) for name, x in arrays.items()}, list(arrays.values()), size)


@pytest.mark.parametrize("size", [10**9, 30])
def test_what_was_written_is_read(tmp_path, size):
    save(tmp_path, size)
    found = find(tmp_path)
    assert (tmp_path / "model.safetensors").exists() == (size > 30)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        tensor = found[name].read()
        assert tensor.dtype == array.dtype and tensor.shape == array.shape and tensor.tobytes() == array.tobytes()


def test_safetensors_reads_what_was_written_and_the_other_way_round(tmp_path):
    package = pytest.importorskip("safetensors.numpy")
    save(tmp_path)
    theirs = package.load_file(tmp_path / "model.safetensors")
    assert all((theirs[name] == x).all() and theirs[name].dtype == x.dtype for name, x in ARRAYS.items())
    package.save_file({"x": ARRAYS["a"], "y": ARRAYS["b"]}, tmp_path / "model.safetensors")
    assert (find(tmp_path)["x"].read() == ARRAYS["a"]).all() and (find(tmp_path)["y"].read() == ARRAYS["b"]).all()


def test_shards_of_before_are_gone(tmp_path):
    save(tmp_path, 30)
    save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]


def test_a_folder_without_weights_and_one_with_a_pickle(tmp_path):
    with pytest.raises(ValueError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        find(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"pytorch_model.bin, a pickle.*save_pretrained"):
        find(tmp_path)


def test_shards_that_are_not_there(tmp_path):
    save(tmp_path, 30)
    shard = next(path for path in tmp_path.iterdir() if path.name.startswith("model-00001"))
    data = shard.read_bytes()
    shard.unlink()
    with pytest.raises(ValueError, match=rf"lacks the file {shard.name}, which holds . tensors, a among them"):
        find(tmp_path)
    shard.write_bytes(data)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"]["z"] = shard.name
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks tensors that the index promises: z"):
        find(tmp_path)
    index["weight_map"]["z"] = "../x.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="lies elsewhere"):
        find(tmp_path)


def damaged(data: bytes, header) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
WRONG = [
    {"dtype": ["F32"]},
    {"dtype": 32},
    {"shape": "1"},
    {"shape": [1.0]},
    {"shape": [True]},
    {"shape": [-1, -1]},
    {"data_offsets": ["0", "4"]},
    {"data_offsets": [0.0, 4.0]},
    {"data_offsets": [0, 4, 8]},
    {"data_offsets": None},
]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated one: of 0 bytes"),
        (b"\xff" * 40, "truncated one"),
        (damaged(b"", {})[:-1] + b"?", "header is no JSON"),
        (damaged(b"1234", {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), "truncated: the tensor a"),
        (
            damaged(b"1234", {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}),
            "has 4 bytes for the tensor a",
        ),
        (damaged(b"1234", {"a": {"dtype": "F4", "shape": [2], "data_offsets": [0, 4]}}), "in the type F4"),
        (damaged(b"1234", {"a": {"shape": [1], "data_offsets": [0, 4]}}), "nothing sensible of the tensor a"),
        (damaged(b"1234", {"a": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}), "tensor a"),
        (damaged(b"", [1]), "header holds a list"),
        (damaged(b"", "a"), "header holds a str"),
        *[(damaged(b"1234", {"a": {**ENTRY, **wrong}}), "nothing sensible of the tensor a") for wrong in WRONG],
        (damaged(b"1234", {"a": None}), "nothing sensible of the tensor a: None"),
        (damaged(b"123456", {"a": ENTRY, "b": {**ENTRY, "data_offsets": [2, 6]}}), "tensor b begins within a"),
        (damaged(b"1234", {"a": ENTRY, "b": ENTRY}), "tensor b begins within a"),
        (damaged(b"12345678", {"a": {**ENTRY, "data_offsets": [4, 8]}}), "4 bytes between the header and a"),
        (damaged(b"1234567", {"a": ENTRY}), "3 bytes between a and the end of the file"),
    ],
)
def test_damaged_files(tmp_path, data, message):
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "index.json' is no JSON"),
        ("[" * 100_000, "index.json' is no JSON"),
        ("[]", "index.json' holds a list where a dict was expected"),
        ("{}", "has no 'weight_map'"),
        ('{"weight_map": ["a"]}', "has no 'weight_map'"),
        ('{"weight_map": {"a": 7}}', "has no 'weight_map'"),
    ],
)
def test_a_damaged_index(tmp_path, index, message):
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(ValueError, match=message):
        find(tmp_path)


@pytest.mark.parametrize(
    ("layout", "shapes"),
    [
        (SAME, [(7, 5)]),
        (TRANSPOSED, [(7, 5)]),
        (joined(6, 4, 4), [(6, 5), (4, 5), (4, 5)]),
        (joined(6, 4, 4), [(6,), (4,), (4,)]),
        (interleaved(2, 3, 1, 1, head_dim=7), [(70, 5)]),
        (interleaved(1, 3, 1, 1, head_dim=7), [(35,)]),
    ],
)
def test_layouts_have_an_inverse(layout, shapes):
    tensors = [np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes)]
    variable = layout.read(tensors)
    assert [tuple(shape) for shape in layout.shapes(variable.shape)] == shapes
    for tensor, back in zip(tensors, layout.write(variable), strict=True):
        np.testing.assert_array_equal(tensor, back)


def test_heads_that_are_interleaved():
    rows = [f"{group}{kind}" for group in "ab" for kind in ("q0", "q1", "k", "v") for _ in range(3)]
    found = interleaved(2, 2, 1, 1, head_dim=3).read([np.array(rows)])
    assert found[::3].tolist() == ["aq0", "aq1", "bq0", "bq1", "ak", "bk", "av", "bv"]
