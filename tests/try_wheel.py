"""Tries what `make dist` built: the files inside, and for each extra a new environment that gets the wheels alone,
where README.md's first example runs as it stands, and then what the extra is for.

python tests/try_wheel.py dist                                     every extra
python tests/try_wheel.py dist litert onnx --python python3.12     two of them, with another Python
"""

import argparse
import configparser
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from email.parser import HeaderParser
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = {"keras-transformer-layers": "keras_transformer", "keras-transformer-runtime": "keras_transformer_runtime"}
BACKENDS = ("tensorflow", "jax", "torch")

# What the first example of the page has to end in.
RIGHT = "assert generator(digits[:1])['tokens'][0, 0].tolist() == [2, *digits[0, ::-1], 3]"

WITHOUT_EXTRA = """
import keras_transformer_runtime
try:
    import keras_transformer
    raise SystemExit("keras_transformer was imported without a backend")
except ImportError as error:
    assert "keras-transformer-layers[tensorflow]" in str(error), error
    print(error)
"""

# What an extra is for, behind the first example. `litert` is what the page needs, and gets the rest of it, too.
PURPOSES = {
    "text": """
words = kt.text.SentencePieceTokenizer.train(["the cat sat", "the dog sat"], 16)
assert words.detokenize(words(["the dog sat"])).numpy().tolist() == [b"the dog sat"]
""",
    "pretrained": """
import gguf, huggingface_hub, jinja2, tokenizers
pairs = tokenizers.Tokenizer(tokenizers.models.BPE())
pairs.pre_tokenizer, pairs.decoder = tokenizers.pre_tokenizers.ByteLevel(), tokenizers.decoders.ByteLevel()
alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
trainer = tokenizers.trainers.BpeTrainer(special_tokens=["<pad>"], initial_alphabet=alphabet)
pairs.train_from_iterator(["the cat"], trainer)
pairs = kt.text.PretrainedTokenizer(pairs.to_str(), named_tokens={"pad_token": "<pad>"})
assert pairs.detokenize(pairs(["the cat"])).numpy()[0].decode().strip() == "the cat"
""",
    "litertlm": """
letters = kt.text.ByteTokenizer()
writer = kt.models.language_model(letters.vocabulary_size, num_layers=1, dim=16, num_heads=2, intermediate_dim=32)
writer = kt.Generator(writer, max_length=12, end_token=letters.end_id, target_tokenizer=letters)
assert kt.export.litertlm(writer, "writer.litertlm").agreement == 1.0
assert kt.export.load("writer.litertlm")(["ab"])["texts"] == writer(["ab"])["texts"]
""",
    "int4": """
kt.export.litert(generator, "small.tflite", source_length=7, quantize="int4")
assert kt.export.load("small.tflite")(digits[:1])["tokens"].shape == (1, 1, 9)
""",
    "onnx": """
kt.export.onnx(generator, "steps", source_length=7)
assert kt.export.load("steps")(digits[:1])["tokens"][0, 0].tolist() == [2, *digits[0, ::-1], 3]
""",
    "bleu": """
echo = lambda ids: {"tokens": np.asarray(ids)[:, None]}
letters = lambda ids: " ".join("_abcdefg"[i] for i in ids)
assert round(kt.training.Bleu(echo, [[1, 2, 3, 4]], ["a b c d"], letters).score()) == 100
""",
    "plot": """
kt.insight.plot_attention([(np.eye(2), ["a", "b"], ["c", "d"], "a map")], "maps.png")
""",
    "cli": """
import rich.progress
""",
}


def main(folder: Path, extras: list[str], python: str) -> None:
    """Check the files, then try the extras, all of setup.cfg unless some are given."""
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    brought = {name: packages.split() for name, packages in setup["options.extras_require"].items()}
    unknown = sorted({*extras} - {"", *brought})
    check(not unknown, f"setup.cfg has no extra {unknown}, only {sorted(brought)}")
    wheels = check_files(folder)
    for extra in extras or ["", *brought]:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            try_extra(wheels, extra, brought.get(extra, []), python, Path(place))
        print(f"{python}: [{extra}] works ({time.monotonic() - start:.0f} s)", flush=True)


def check_files(folder: Path) -> list[Path]:
    """The wheels, if they and the sources have all that they need, and nothing else."""
    wheels = []
    for distribution, package in PACKAGES.items():
        name = distribution.replace("-", "_")
        found = [[*folder.glob(f"{name}-*{end}")] for end in (".whl", ".tar.gz")]
        check(
            [len(files) for files in found] == [1, 1], f"{folder} has of {distribution} {found}: `make dist` builds it"
        )
        (wheel,), (source,) = found
        version = wheel.name.split("-")[1]
        with zipfile.ZipFile(wheel) as file:
            inside = file.namelist()
            about = HeaderParser().parsestr(file.read(f"{name}-{version}.dist-info/METADATA").decode())
        for path in (f"{package}/__init__.py", f"{package}/py.typed", f"{name}-{version}.dist-info/licenses/LICENSE"):
            check(path in inside, f"{wheel.name} lacks {path}")
        other = [x for x in inside if not re.match(rf"{package}/(.*\.py|py\.typed)$|{name}-[^/]+\.dist-info/", x)]
        check(not other, f"{wheel.name} has beside its package {other}")
        with tarfile.open(source) as file:
            sources = [x.partition("/")[2] for x in file.getnames()]
        other = [x for x in sources if re.match(r"(tests|examples|benchmarks|notebooks|docs|data)\b", x)]
        check(not other, f"{source.name} has {other}")
        check({"LICENSE", "README.md", "pyproject.toml"} <= set(sources), f"{source.name} has only {sources}")
        required = [x for x in about.get_all("Requires-Dist") if "extra ==" not in x]
        if package == "keras_transformer":
            check(f"keras-transformer-runtime=={version}" in required, f"{wheel.name} requires only {required}")
        else:
            check(required == ["numpy"], f"{wheel.name} requires {required}")
        scripts = [x for x in inside if x.endswith("entry_points.txt")]
        check(bool(scripts) == (package == "keras_transformer_runtime"), f"{wheel.name} has {scripts}")
        links = re.findall(r"\]\((?!https://|#)[^)]*\)", about.get_payload())
        check(not links, f"The description in {wheel.name} has links that lead nowhere elsewhere: {links}")
        wheels.append(wheel.resolve())
    return wheels


def check(true: bool, otherwise: str) -> None:
    """End with a word unless it is true."""
    if not true:
        raise SystemExit(otherwise)


def try_extra(wheels: list[Path], extra: str, brought: list[str], python: str, folder: Path) -> None:
    """Install the wheels with an extra into a new environment in `folder`, and run what it is for."""
    subprocess.run([python, "-m", "venv", folder / "environment"], check=True)
    python = folder / "environment" / "bin" / "python"
    work = folder / "work"
    work.mkdir()

    def run(*arguments, **environment):
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KERAS_BACKEND")}
        subprocess.run([python, *arguments], cwd=work, env={**inherited, **environment}, check=True)

    layers, runtime = wheels
    backends = [name for name in BACKENDS if any(x.startswith(name) for x in brought)]
    extras = [extra] if backends else [extra, "tensorflow"] if extra else []
    run("-m", "pip", "install", "--quiet", runtime, f"{layers}[{','.join(extras)}]" if extras else layers)
    run("-m", "pip", "check")
    run("-c", "import keras_transformer_runtime")
    run("-m", "keras_transformer_runtime", "--version")
    if not extras:
        run("-c", WITHOUT_EXTRA)
        return
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    page = [first, RIGHT, *(others if extra == "litert" else ()), PURPOSES.get(extra, "")]
    run("-c", "\n".join(page), KERAS_BACKEND=(backends or BACKENDS)[0])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("extras", nargs="*")
    parser.add_argument("--python", default=sys.executable)
    options = parser.parse_args()
    main(options.folder, options.extras, options.python)
