"""README.md and pages of docs are tested as they stand: their Python runs, and the make targets named exist."""

import pathlib
import re

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def readme():
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


def python_in(text: str) -> list[str]:
    """The blocks of Python of a page, in order."""
    return re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.tensorflow
def test_the_first_example_answers_right_and_may_run_again(readme, fresh_process, tmp_path):
    blocks = python_in(readme)
    exports = re.findall(r"kt\.export\..*", "\n".join(blocks))
    assert exports and all("overwrite=True" in export for export in exports)
    printed = fresh_process("\n".join(blocks), cwd=tmp_path)
    source, answer = re.search(r"^\[([\d ]+)\] \[\[\[([\d ]+)\]\]\]$", printed, flags=re.MULTILINE).groups()
    assert len(source.split()) == 7
    assert answer.split() == ["2", *reversed(source.split()), "3"]
    assert " ".join(source.split()) in " ".join(readme.split())  # the page shows what it prints
    assert printed.count("equal to Python: 100.0%") == len(exports)


PAGES_THAT_RUN = (
    "index install five_minutes compose generation serving training tokenizers performance custom_layers export".split()
)


def test_no_page_is_left_out():
    """Those of distributed.md are run by tests/test_distributed_page.py, those of pretrained.md by tests/pretrained."""
    pages = {page.stem for page in (REPOSITORY / "docs").glob("*.md") if python_in(page.read_text(encoding="utf-8"))}
    assert pages == {*PAGES_THAT_RUN, "distributed", "pretrained"}


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("page", PAGES_THAT_RUN)
def test_pages_run(page, fresh_process, tmp_path):
    blocks = python_in((REPOSITORY / f"docs/{page}.md").read_text(encoding="utf-8"))
    assert blocks
    fresh_process("\n".join(blocks), cwd=tmp_path)


def test_make_targets_exist(readme):
    named = set(re.findall(r"\bmake ([a-z][a-z-]*)", "\n".join(code_in(readme))))
    rules = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):(?!=)", rules, flags=re.MULTILINE))
    assert {"quickstart", "test"} <= named
    assert named <= targets


def code_in(markdown: str) -> list[str]:
    """The fenced blocks and the inline code of a Markdown text; prose may say "make" in its plain sense."""
    return re.findall(r"```.*?```|`[^`\n]+`", markdown, flags=re.DOTALL)
