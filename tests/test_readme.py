"""README.md and docs/training.md are tested as they stand: their Python runs, and the make targets named exist."""

import pathlib
import re

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def readme():
    return (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.tensorflow
@pytest.mark.parametrize("page", ["README.md", "docs/training.md"])
def test_python_blocks_run_in_order(page, fresh_process, tmp_path):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert blocks, f"{page} shows no Python"
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
