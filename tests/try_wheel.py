"""Installs a wheel in an empty environment for each extra, and runs there what README.md shows. See `make dist`.

python tests/try_wheel.py dist/*.whl [extra ...]
"""

import configparser
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("keras_transformer", "keras_transformer_runtime")

# What can be done without a backend: the runtime, and being told what is missing.
WITHOUT_BACKEND = """
import keras_transformer_runtime
try:
    import keras_transformer
    raise SystemExit("keras_transformer was imported without a backend")
except ImportError as error:
    assert "keras-transformer-layers[tensorflow]" in str(error), error
    print(error)
"""


# What the first example of the page has to end in.
RIGHT = "assert generator(digits[:1])['tokens'][0, 0].tolist() == [2, *digits[0, ::-1], 3]"


def main(wheel: Path, extras: list[str]) -> None:
    """Try the wheel with each extra; all of setup.cfg, unless some are given."""
    check_files(wheel)
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    brought = {name: packages.split() for name, packages in setup["options.extras_require"].items()}
    for extra in extras or brought:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try_extra(wheel, extra, brought[extra], Path(folder))
        print(f"[{extra}] works ({time.monotonic() - start:.0f} s)", flush=True)


def check_files(wheel: Path) -> None:
    """Raise SystemExit unless the wheel has both packages, each with its marker of types, and nothing else."""
    names = zipfile.ZipFile(wheel).namelist()
    missing = [f"{package}/py.typed" for package in PACKAGES if f"{package}/py.typed" not in names]
    other = [name for name in names if not re.match(rf"({'|'.join(PACKAGES)})/|[^/]+\.dist-info/", name)]
    if missing or other:
        raise SystemExit(f"{wheel.name} lacks {missing} and has beside the packages {other}.")


def try_extra(wheel: Path, extra: str, brought: list[str], folder: Path) -> None:
    """Install the wheel with an extra into a new environment in `folder`, and run what it is for."""
    venv.create(folder / "environment", with_pip=True)
    python = folder / "environment" / "bin" / "python"
    work = folder / "work"
    work.mkdir()

    def run(*arguments, **environment):
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "KERAS_BACKEND")}
        subprocess.run([python, *arguments], cwd=work, env={**inherited, **environment}, check=True)

    run("-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel.resolve()}[{extra}]")
    run("-m", "pip", "check", "--disable-pip-version-check")
    backends = [name for name in ("tensorflow", "jax", "torch") if any(x.startswith(name) for x in brought)]
    if not backends:
        run("-c", WITHOUT_BACKEND)
        return
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    first, *others = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    page = [first, RIGHT, *(others if extra == "litert" else ())]
    run("-c", "\n".join(page), KERAS_BACKEND=backends[0])
    run("-c", "import keras_transformer_runtime")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
