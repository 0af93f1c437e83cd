"""Makes the notebooks of the scripts beside it, and executes each from top to bottom.

    python notebooks/make.py                    all of them: `make notebooks`
    python notebooks/make.py generate           one

A script in jupytext's percent format is what is written and tested; the .ipynb is made of it, with what it printed and
drew. They run in an empty folder. A cell that fails ends it all.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

HERE = Path(__file__).resolve().parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def make(script: Path) -> None:
    """Execute one, and write it beside its script."""
    begin = time.monotonic()
    notebook = jupytext.read(script)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
        if cell.cell_type == "code":  # what libraries say of the machine is of no use to a reader
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    CoalesceStreamsPreprocessor().preprocess(notebook, {})  # what is printed at different times is one text
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if "text" in output:  # TensorFlow tells of each file that it writes
                output.text = re.sub(r"^INFO:tensorflow:.*\n", "", output.text, flags=re.MULTILINE)
    nbformat.write(notebook, script.with_suffix(".ipynb"))
    print(f"{script.with_suffix('.ipynb').name}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    # What the kernels import is what this process would.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    scripts = sorted(path for path in HERE.glob("*.py") if path != Path(__file__).resolve())
    unknown = set(sys.argv[1:]) - {path.stem for path in scripts}
    if unknown:
        raise SystemExit(f"There is no notebook {sorted(unknown)}; there are {[path.stem for path in scripts]}.")
    for path in scripts:
        if len(sys.argv) == 1 or path.stem in sys.argv[1:]:
            make(path)
