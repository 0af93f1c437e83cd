"""The names under which the packages are installed, and what became of another project with the same import name."""

import importlib.util
import warnings
from pathlib import Path

DISTRIBUTION, RUNTIME = "keras-transformer-layers", "keras-transformer-runtime"

# keras-transformer 0.40.0 on PyPI has these and an `__init__.py`; of that, whoever is installed last writes his own.
OTHER_PROJECT = ("gelu.py", "transformer.py")


def installed() -> str:
    """The distribution whose extras are of use here: that of both packages, or the runtime where it is alone."""
    return RUNTIME if importlib.util.find_spec("keras_transformer") is None else DISTRIBUTION


def check_place() -> None:
    """Warn if the files of `keras_transformer` are mixed with those of the other project, or not ours at all."""
    spec = importlib.util.find_spec("keras_transformer")
    if spec is None:  # the runtime alone
        return
    for folder in map(Path, spec.submodule_search_locations or ()):
        if spec.origin is None or all((folder / name).is_file() for name in OTHER_PROJECT):
            found = "lacks its __init__.py" if spec.origin is None else "holds files of another project"
            warnings.warn(
                f"'{folder}' {found}. The distribution 'keras-transformer' on PyPI is not this one, but has the same "
                "import name, so installing or removing it changes our files. Mend it with: pip uninstall "
                f"keras-transformer, and then pip install --force-reinstall --no-deps {DISTRIBUTION} (or the path of a "
                "clone).",
                stacklevel=2,
            )
