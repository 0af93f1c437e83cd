"""The package as a whole: what importing it does, what it is called, and what it says where something is missing."""

import configparser
import importlib.util
import json
import pathlib
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
import types
import warnings

import keras
import pytest
import setuptools

import keras_transformer as kt
from keras_transformer_runtime import distribution, packages
from keras_transformer_runtime import version as versions

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
PUBLIC_NAMES = """
    TokenEmbedding PositionalEncoding LearnedPositionalEncoding RotaryPosition AlibiPosition RelativePosition
    MultiHeadSelfAttention MultiHeadCrossAttention FeedForward EncoderLayer DecoderLayer
    RecurrentDecoderLayer DotAttention
    Generator Greedy attention_weights models training export ops
""".split()


def test_import_under_jax_does_not_import_tensorflow(fresh_process):
    pytest.importorskip("jax")
    fresh_process(
        """
        import sys
        import keras_transformer
        found = sorted(name for name in sys.modules if name.split(".")[0] == "tensorflow")
        assert not found, found
        """,
        KERAS_BACKEND="jax",
    )


def test_import_loads_no_optional_package(fresh_process):
    fresh_process(
        """
        import sys
        import keras
        before = set(sys.modules)
        import keras_transformer
        new = {name.split(".")[0] for name in set(sys.modules) - before}
        optional = {"tensorflow_text", "sentencepiece", "ai_edge_litert", "matplotlib", "torch", "keras_hub"}
        assert not new & optional, new & optional
        """
    )


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_public_name(name):
    assert hasattr(kt, name)


# The distributions


@pytest.fixture(scope="module")
def setup():
    parser = configparser.ConfigParser()
    parser.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parser


@pytest.fixture(scope="module")
def runtime():
    return tomllib.loads((REPOSITORY / "keras_transformer_runtime/pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]


def arguments_of_setup(folder: pathlib.Path, monkeypatch, *command: str) -> dict:
    """What setup.py of a folder hands to setuptools."""
    found = {}
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: found.update(arguments))
    monkeypatch.setattr(sys, "argv", ["setup.py", *command])
    runpy.run_path(str(folder / "setup.py"))
    return found


def test_the_distributions_have_names_of_their_own(setup, runtime):
    assert setup["metadata"]["name"] == distribution.DISTRIBUTION == "keras-transformer-layers"
    assert runtime["name"] == distribution.RUNTIME == "keras-transformer-runtime"


def test_a_release_requires_the_runtime_of_its_version(monkeypatch, tmp_path):
    for name in ("setup.py", "setup.cfg", "README.md", "keras_transformer/__init__.py", "keras_transformer/version.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, tmp_path / name)
    required = f"keras-transformer-runtime=={versions.__version__}"
    source = arguments_of_setup(REPOSITORY, monkeypatch, "sdist")
    for found in (source, arguments_of_setup(tmp_path, monkeypatch, "bdist_wheel")):  # a wheel is made from the source
        assert required in found["install_requires"] and "entry_points" not in found
        assert "keras_transformer" in found["packages"] and "keras_transformer_runtime" not in found["packages"]
    assert "keras_transformer.layers" in source["packages"]
    assert kt.__version__ == versions.__version__


@pytest.mark.parametrize("command", ["bdist_wheel", "editable_wheel", "egg_info"])
def test_a_clone_brings_the_runtime_along(command, monkeypatch, runtime):
    found = arguments_of_setup(REPOSITORY, monkeypatch, command)
    assert not any("runtime" in requirement for requirement in found["install_requires"])
    assert {"keras_transformer", "keras_transformer.layers", "keras_transformer_runtime"} <= set(found["packages"])
    scripts = [f"{name} = {target}" for name, target in runtime["scripts"].items()]
    assert (
        found["entry_points"]["console_scripts"]
        == scripts
        == ["keras-transformer = keras_transformer_runtime.command:script"]
    )


def test_the_runtime_needs_neither_keras_nor_tensorflow(setup, runtime):
    assert runtime["dependencies"] == ["numpy"]
    assert set(runtime["optional-dependencies"]) <= set(setup["options.extras_require"])
    for extra, brought in runtime["optional-dependencies"].items():  # what runs an export is what writes it, or less
        assert set(brought) <= set(setup["options.extras_require"][extra].split()), extra
    for name in ("license", "requires-python"):
        assert runtime[name] == {**setup["metadata"], "requires-python": setup["options"]["python_requires"]}[name]
    licences = [(REPOSITORY / folder / "LICENSE").read_bytes() for folder in (".", "keras_transformer_runtime")]
    assert licences[0] == licences[1]


def test_badges_say_what_is_so(setup):
    page = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    badges = [x.replace("_%7C_", ", ") for x in re.findall(r"img\.shields\.io/badge/(\S+?)\)", page)]
    versions = re.findall(r"Python :: (\d\.\d+)$", setup["metadata"]["classifiers"], flags=re.MULTILINE)
    backends = "TensorFlow, JAX, PyTorch"
    assert badges == [f"Python-{', '.join(versions)}-blue", f"Keras_3-{backends}-d00000", "licence-Apache--2.0-green"]
    assert {"tensorflow", "jax", "torch"} <= set(setup["options.extras_require"])
    assert setup["metadata"]["license"] == "Apache-2.0"
    assert (REPOSITORY / ".github/workflows" / re.search(r"workflows/(\S+?)/badge", page)[1]).is_file()


def test_the_description_that_is_uploaded_has_no_link_of_a_file(monkeypatch, setup):
    page = arguments_of_setup(REPOSITORY, monkeypatch, "sdist")["long_description"]
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert links and not [link for link in links if not re.match("https://|#", link)]
    url, tag = setup["metadata"]["url"], f"v{kt.__version__}"
    pictures = re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page)
    assert f"{url}/raw/{tag}/docs/attention.png" in pictures
    assert f"{url}/blob/{tag}/docs/architecture.md" in links
    ours = [link.partition(f"{tag}/")[2].partition("#")[0] for link in links if f"/{tag}/" in link]
    assert not [path for path in ours if not (REPOSITORY / path).exists()]


def test_the_address_of_the_repository_is_the_same_everywhere(setup):
    """It stands in setup.cfg; a file that has another, or one of another form, is named."""
    url = setup["metadata"]["url"]
    owner = re.escape(url.rsplit("/", 1)[0].split("//")[1])
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git repository")
    found = {}
    for name in filter(None, listed.stdout.split("\0")):
        path = REPOSITORY / name
        suffixes = (".md", ".cfg", ".toml", ".py", ".ipynb", ".yml", ".yaml", ".cff", ".html")
        if path.suffix in suffixes and path.is_file():
            text = path.read_text(encoding="utf-8")
            badges = re.findall(r"colab\S+?/github/([\w.-]+/[\w.-]+)", text)
            found[name] = re.findall(rf"{owner}/[\w.-]+", text) + badges
    named = {name: addresses for name, addresses in found.items() if addresses}
    assert {"setup.cfg", "keras_transformer_runtime/pyproject.toml", "CONTRIBUTING.md", "CITATION.cff"} <= set(named)
    for name, addresses in named.items():
        for address in addresses:
            assert url.endswith(address.removesuffix(".git").rstrip(".")), (name, address)


def test_every_optional_package_is_brought_by_the_extra_that_errors_name(setup):
    extras = {extra: packages.split() for extra, packages in setup["options.extras_require"].items()}
    for package, extra in packages.PACKAGES.values():
        assert package in extras[extra]


@pytest.mark.parametrize(
    "module, extra",
    [
        ("ai_edge_litert", "litert"),
        ("litert_lm", "litertlm"),
        ("onnxruntime", "onnx"),
        ("sentencepiece", "text"),
        ("tensorflow", "tensorflow"),
        ("tensorflow_text", "text"),
    ],
)
def test_where_the_runtime_is_alone_its_own_extra_is_named(module, extra, monkeypatch, runtime):
    assert f"keras-transformer-layers[{extra}]" in packages.missing(module, "It")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert f"keras-transformer-runtime[{extra}]" in packages.missing(module, "It")
    assert packages.PACKAGES[module][0] in runtime["optional-dependencies"][extra]


@pytest.mark.parametrize("package", [kt, packages])
def test_type_checkers_find_the_marker_of_types(package):
    assert (pathlib.Path(package.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    "files, has_init, message",
    [
        (["layers", "models"], True, None),
        (["layers", "gelu.py", "transformer.py"], True, "files of another project"),  # whoever was installed last
        (["layers"], False, "lacks its __init__.py"),  # the other project was removed, and took ours with it
    ],
)
def test_files_of_the_other_project_are_named(files, has_init, message, tmp_path, monkeypatch):
    for name in files:
        (tmp_path / name).touch()
    spec = types.SimpleNamespace(
        origin=str(tmp_path / "__init__.py") if has_init else None, submodule_search_locations=[str(tmp_path)]
    )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        distribution.check_place()
    said = "\n".join(str(warning.message) for warning in caught)
    assert (message or "") in said and bool(said) == bool(message)
    if message:
        assert str(tmp_path) in said
        assert "pip uninstall keras-transformer," in said and "keras-transformer-layers" in said


def test_the_import_that_finds_the_other_project_says_so(fresh_process, tmp_path):
    (tmp_path / "keras_transformer").mkdir()
    for name in ("__init__.py", *distribution.OTHER_PROJECT):
        (tmp_path / "keras_transformer" / name).touch()
    (tmp_path / "keras_transformer_runtime").symlink_to(REPOSITORY / "keras_transformer_runtime")
    printed = fresh_process(
        f"""
        import sys, warnings
        sys.path.insert(0, {str(tmp_path)!r})
        with warnings.catch_warnings(record=True) as caught:
            import keras_transformer_runtime
        print([str(x.message) for x in caught])
        """
    )
    assert "another project" in printed and str(tmp_path) in printed


# What is not installed

MISSING = """
    import sys
    sys.modules.update(dict.fromkeys({without!r}))
    import json
    import numpy as np, keras_transformer as kt
    from keras_transformer_runtime import packages
    texts = ["the cat sat", "the dog sat"]
    said = {{}}
    for name, call in {{
        "characters": lambda: kt.text.CharacterTokenizer("abc")(["cab"]),
        "read characters": lambda: kt.text.CharacterTokenizer("abc").detokenize([[4, 5]]),
        "bytes": lambda: kt.text.ByteTokenizer()(["cab"]),
        "word pieces": lambda: kt.text.WordPieceTokenizer(["<pad>", "<unk>", "<s>", "</s>", "a"]),
        "learned word pieces": lambda: kt.text.WordPieceTokenizer.train(texts, 40),
        "sentence pieces": lambda: kt.text.SentencePieceTokenizer.train(texts, 16),
        "batches": lambda: kt.training.TokenBatches([[2, 5, 3]] * 4, tokens_per_batch=12).dataset(),
        "packed batches": lambda: kt.training.PackedBatches([[2, 5, 3]] * 4, length=7, batch_size=2).dataset(),
        "BLEU": lambda: kt.training.Bleu(len, [[1]], ["a"], str),
        "plot": lambda: kt.insight.plot_attention([], "maps.png"),
        "SavedModel": lambda: packages.needed("tensorflow", "A SavedModel"),
        "LiteRT": lambda: packages.needed("ai_edge_litert.interpreter", "A .tflite file"),
        "int4": lambda: kt.export.quantization.check_quantize("int4"),
        "ONNX": lambda: packages.needed("tf2onnx", "An ONNX export"),
    }}.items():
        try:
            call()
            said[name] = "nothing"
        except Exception as error:
            said[name] = f"{{type(error).__name__}}: {{error}}"
    print(json.dumps(said))
"""


@pytest.mark.parametrize("blocked", [[name for name in packages.PACKAGES if name != "jax"], ["tensorflow"]])
def test_a_missing_package_is_named_with_its_extra(blocked, fresh_process, tmp_path):
    pytest.importorskip("jax")
    without = [*blocked, "sklearn"]  # which Keras imports where it is there, and which looks into PyTorch
    printed = fresh_process(MISSING.format(without=without), cwd=tmp_path, KERAS_BACKEND="jax")
    said = json.loads(printed.splitlines()[-1])
    if blocked == [
        "tensorflow"
    ]:  # as it is where only JAX was installed, but TensorFlow Text, which needs it, is there
        said = {name: said[name] for name in ("characters", "bytes", "word pieces", "learned word pieces", "batches")}
        expected = dict.fromkeys(said, "tensorflow")
    else:
        expected = {
            "word pieces": "tensorflow", "learned word pieces": "tensorflow_text", "sentence pieces": "sentencepiece",
            "BLEU": "sacrebleu", "plot": "matplotlib", "LiteRT": "ai_edge_litert", "int4": "ai_edge_quantizer",
            "ONNX": "tf2onnx",
        }  # fmt: skip
    for name, message in said.items():
        package, extra = packages.PACKAGES[expected.get(name, "tensorflow")]
        assert message.startswith("ImportError: "), (name, message)
        assert f"needs the package {package}, which is not installed: pip install {package}, or" in message, name
        assert f"keras-transformer-layers[{extra}]" in message, name


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_a_missing_backend_is_named_with_its_extra(backend, fresh_process):
    printed = fresh_process(
        f"""
        import sys
        sys.modules[{backend!r}] = None
        try:
            import keras_transformer
        except ImportError as error:
            print(error)
        """,
        KERAS_BACKEND=backend,
    )
    assert f"keras-transformer-layers[{backend}]" in printed and "KERAS_BACKEND" in printed


def test_an_error_within_an_installed_package_comes_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "sacrebleu.py").write_text("import a_package_that_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(importlib.sys.modules, "sacrebleu", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_nobody_has"):
        packages.needed("sacrebleu", "Bleu")


def test_a_saved_model_names_the_package_to_import(fresh_process, tmp_path):
    tokens = keras.Input((None,), dtype="int32")
    keras.Model(tokens, kt.TokenEmbedding(11, 7)(tokens)).save(tmp_path / "model.keras")
    printed = fresh_process(
        """
        import keras
        try:
            keras.saving.load_model("model.keras")
        except TypeError as error:
            print(error)
        import keras_transformer
        print(keras.saving.load_model("model.keras").layers[1].vocabulary_size)
        """,
        cwd=tmp_path,
    )
    assert "keras_transformer.layers.embedding" in printed and printed.split()[-1] == "11"
