"""Scripts of examples/, run as a user runs them."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run_script(name: str, folder: Path, *arguments: str) -> None:
    """Run a script in a folder; an assertion fails with what it wrote if it ends with an error."""
    process = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stdout + process.stderr
