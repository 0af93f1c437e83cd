"""The site: each public name is in the reference, each page in the navigation, each link leads somewhere."""

import doctest
import html
import importlib
import importlib.util
import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import pytest

import keras_transformer as kt
import keras_transformer_runtime

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
CONFIG = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
PAGES = sorted(page for page in DOCS.glob("**/*.md") if not page.name.endswith(".template.md"))
READ_ON_GITHUB = [*PAGES, *ROOT.glob("*.md"), *ROOT.glob("examples/*/*.md")]

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def hooks():
    """docs/hooks/links.py, which mkdocs loads by its path."""
    spec = importlib.util.spec_from_file_location("links", DOCS / "hooks" / "links.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The reference


def public_names(module: types.ModuleType) -> dict[str, object]:
    """What a package's `__all__` names, and what the modules among it name, by path."""
    names = {}
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, types.ModuleType):
            names |= public_names(value)
        elif not isinstance(value, str):
            names[f"{module.__name__}.{name}"] = value
    return names


PUBLIC = {**public_names(kt), **public_names(keras_transformer_runtime)}
REFERENCE = [
    path for page in DOCS.glob("api/*.md") for path in re.findall(r"^::: (\S+)$", page.read_text("utf-8"), re.MULTILINE)
]


def value_at(path: str) -> object:
    """What stands at a path as mkdocstrings reads it: a function may be named as its module is."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError:
        return getattr(value_at(module), name)


def test_every_public_name_is_in_the_reference():
    assert len(PUBLIC) > 80
    shown = {id(value_at(path)) for path in REFERENCE}
    missing = [path for path, value in PUBLIC.items() if id(value) not in shown]
    assert missing == [], "each needs a line `::: name` on a page of docs/api"


def test_every_position_is_in_the_table_of_compose():
    table = (DOCS / "compose.md").read_text(encoding="utf-8").partition("## Positions\n")[2].partition("\n## ")[0]
    positions = [x for x in vars(kt).values() if inspect.isclass(x) and issubclass(x, kt.AttentionPosition)]
    assert len(positions) > 3
    named = set(re.findall(r"^\| `position=kt\.(\w+)", table, re.MULTILINE))
    assert named == {x.__name__ for x in positions} - {"AttentionPosition"}


def test_no_name_is_there_twice():
    assert sorted(set(REFERENCE)) == sorted(REFERENCE)


def test_every_public_name_has_a_docstring():
    assert [path for path, value in PUBLIC.items() if not inspect.getdoc(value)] == []


def test_names_in_texts_lead_to_the_reference(hooks):
    names = hooks.public_names()
    assert set(names.values()) == set(REFERENCE)
    assert hooks.linked("`kt.export.litert(...)`, `Greedy()`, `None`, `greedy`", names) == (
        "[`kt.export.litert(...)`][keras_transformer.export.litert.litert], [`Greedy()`][keras_transformer.Greedy], "
        "`None`, `greedy`"
    )


def test_examples_of_the_hooks(hooks):
    assert doctest.testmod(hooks) == (0, 3)


# Pages and links


def test_every_page_is_in_the_navigation(hooks):
    navigation = CONFIG.partition("\nnav:\n")[2]
    entries = re.findall(r"([\w./]+(?:\.md|/))$", navigation, re.MULTILINE)
    outside = {page for path, page in hooks.PAGES.items() if (ROOT / path).exists()}
    pages = {page.relative_to(DOCS).as_posix() for page in PAGES} | outside
    named = {entry for entry in entries if entry.endswith(".md")}
    folders = tuple(entry for entry in entries if entry.endswith("/"))
    assert len(entries) == len(set(entries))
    assert {page for page in pages if not page.startswith(folders)} - named == set()
    assert named - pages <= set(hooks.PAGES.values())


def links_of(text: str) -> list[str]:
    """Where the links and pictures of a page lead, but for those in code."""
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w -]", "", heading).replace(" ", "-") for heading in plain}


def broken_links(page: pathlib.Path) -> list[str]:
    """The links of a page that lead to no file, or to no heading of one."""
    broken = []
    for link in links_of(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if re.match(r"\w+:", path):
            continue
        target = (page.parent / path) if path else page
        has_headings = target.suffix == ".md" and target.exists()
        if not target.exists() or (anchor and has_headings and anchor not in anchors_of(target.read_text("utf-8"))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", READ_ON_GITHUB, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_pictures_lead_somewhere(page):
    assert broken_links(page) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c!\n[a](#a-b-c) [b](#b) [c](page.md#a-b-c) [d](none.md) ![e](e.png) `[f](f)` [g](https://g)"
    )
    assert broken_links(page) == ["#b", "none.md", "e.png"]


# The site itself


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built as `make docs` does."""
    for package in ("mkdocs", "material", "mkdocstrings_handlers.python", "latex2mathml"):
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            pytest.skip(f"{package} is not installed: the extra `docs`, which `make docs` brings")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return folder


@pytest.mark.slow
class TestSite:
    def test_has_every_public_name(self, site):
        shown = {
            found for page in site.glob("api/*/index.html") for found in re.findall(r'id="([\w.]+)"', page.read_text())
        }
        assert set(REFERENCE) - shown == set()

    def test_examples_of_the_extension(self, site):
        command = [sys.executable, "-m", "doctest", "-v", DOCS / "hooks" / "docstrings.py"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout

    def test_docstrings_are_understood(self, site):
        """Examples are code, no section is unknown, no list of arguments was lost, and defaults are values."""
        for page in site.glob("api/*/index.html"):
            text = page.read_text()
            assert "<blockquote>" not in text and 'class="admonition' not in text
            assert not re.search(r"<p>[^<]*&gt;&gt;&gt;", text) and not re.search(r"</?(s|pad|unk|mask)>", text)
            prose = re.sub(r"<pre.*?</pre>|<[^>]*>", "", text, flags=re.DOTALL)
            without_default = set(re.findall(r"(\w+)\s*\([^()]*default:\s*\.\.\.", prose))
            assert without_default <= {"padding_id", "chat_template"}  # whose default depends on the model
            blocks = [re.sub(r"<[^>]*>", "", block) for block in re.findall(r"<pre.*?</pre>", text, re.DOTALL)]
            signatures = [html.unescape(block) for block in blocks if "&gt;&gt;&gt;" not in block]
            assert not re.search(r"= [A-Z_]{2,}\b", "\n".join(signatures))
        layers = (site / "api" / "layers" / "index.html").read_text()
        assert "kernel_initializer, bias_initializer, kernel_regularizer, bias_regularizer" in layers
        assert layers.count("Call arguments") > 10

    def test_formulas_are_drawn(self, site):
        for page in ("lecture", "lecture.ko"):
            text = (site / page / "index.html").read_text()
            formulas = (DOCS / f"{page}.md").read_text().count("$$") // 2
            assert formulas > 10 and text.count("<math") == formulas and "$$" not in text

    def test_links_out_of_it_lead_to_files_of_the_repository(self, site):
        address = re.search(r"^repo_url: (.*)$", CONFIG, re.MULTILINE)[1]
        found = set()
        for page in site.glob("**/*.html"):
            found |= set(re.findall(rf'href="{address}/(?:blob|tree)/main/([^"#]+)', page.read_text()))
        assert len(found) > 20
        assert [path for path in found if not (ROOT / html.unescape(path)).exists()] == []

    def test_links_within_it_lead_somewhere(self, site):
        for page in site.glob("**/index.html"):
            for link in re.findall(r'(?:href|src)="([^"#:]+)(?:#[^"]*)?"', page.read_text()):
                target = page.parent / html.unescape(link)
                assert target.is_file() or (target / "index.html").is_file(), f"{page.relative_to(site)}: {link}"

    def test_a_broken_link_fails_the_build(self, site, tmp_path):
        for name in ("docs", "keras_transformer", "keras_transformer_runtime", "examples"):
            heavy = ("node_modules", "models") if name == "examples" else ("__pycache__",)
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns(*heavy))
        for path in (ROOT / "mkdocs.yml", *ROOT.glob("*.md")):
            shutil.copy(path, tmp_path)
        with (tmp_path / "docs" / "install.md").open("a") as page:
            page.write("\n[a](none.md) [b](#none)\n")
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode != 0 and "'none.md'" in done.stderr and "'#none'" in done.stderr
