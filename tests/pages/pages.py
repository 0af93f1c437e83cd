"""Pages of documentation are run as they stand: their Python in order, beside what they say that it prints."""

import contextlib
import doctest
import io
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = re.compile(r"^```python\n(.*?)^```$(?:\n+^```\n(.*?)^```$)?", flags=re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def python_in(text: str) -> list[str]:
    """The blocks of Python of a page, in order."""
    return [match[1] for match in PYTHON.finditer(text)]


def run_page(path: str) -> dict:
    """The names that the Python of a page leaves, run in order in a namespace of its own.

    A block without a language right behind one of Python is what that prints, "..." standing for anything, as in
    doctests.

    Args:
        path: Of the page, from the root of the repository.
    """
    text, names = (ROOT / path).read_text(encoding="utf-8"), {"__name__": Path(path).stem}
    for match in PYTHON.finditer(text):
        line, printed = text.count("\n", 0, match.start(1)), io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * line + match[1], path, "exec"), names)  # with the page's numbers of lines
        if match[2] is not None:
            expected, found = match[2], printed.getvalue()
            assert doctest.OutputChecker().check_output(expected, found, OPTIONS), (
                f"{path}, line {line + 1}: the page says that this is printed\n{expected}and it is\n{found}"
            )
    return names
