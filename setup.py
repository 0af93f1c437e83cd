"""What setup.cfg cannot say: where the runtime comes from, and README.md as a page elsewhere shows it.

keras_transformer_runtime is a distribution of its own (keras_transformer_runtime/pyproject.toml), which a release of
this one requires. In a clone it lies beside this file, and is installed from there: `pip install --editable .` and
`pip install path/to/the/clone` need no index to have it, and cannot mix versions.
"""

import re
import runpy
import sys
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
RUNTIME = "keras_transformer_runtime"

# No backend stands here, as none stands in Keras' own requirements. A backend is the user's choice
# (tensorflow, tensorflow-cpu, a CUDA build of jax, ...), pip cannot take a requirement back, and a JAX
# user should not have to download TensorFlow. TensorFlow is what Keras uses unless told otherwise:
# `pip install "keras-transformer-layers[tensorflow]"` brings it, as do `text`, `litert`, `int4` and `onnx`.
REQUIREMENTS = ["keras>=3.12", "numpy"]


def runtime(version: str) -> dict:
    """The arguments that bring the runtime: the folder of a clone, or, of a release, the other distribution."""
    packages = find_packages(str(HERE), include=["keras_transformer", "keras_transformer.*"])
    if "sdist" in sys.argv or not (HERE / RUNTIME).is_dir():
        return {"packages": packages, "install_requires": [*REQUIREMENTS, f"keras-transformer-runtime=={version}"]}
    return {
        "packages": [*packages, RUNTIME],
        "install_requires": REQUIREMENTS,
        "entry_points": {"console_scripts": [f"keras-transformer = {RUNTIME}.command:script"]},
    }


def page(version: str) -> str:
    """README.md with the files and pictures that it links to as they are in the repository, at this version."""
    settings = ConfigParser()
    settings.read(HERE / "setup.cfg", encoding="utf-8")
    url = settings["metadata"]["url"]

    text = (HERE / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^\]]*\]\()(?!https?:)([^)\s]+)\)", rf"\g<1>{url}/raw/v{version}/\g<2>)", text)
    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", rf"]({url}/blob/v{version}/\g<1>)", text)


VERSION = runpy.run_path(str(HERE / "keras_transformer" / "version.py"))["__version__"]
setup(**runtime(VERSION), long_description=page(VERSION), long_description_content_type="text/markdown")
