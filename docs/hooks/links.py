"""Pages and links of the site, as mkdocs asks for them: what lies outside of docs/ is reached from the site, too.

On GitHub a page links to files beside it, wherever they lie. Here a link to a file that is no page of the site becomes
one to the repository, a few files outside of docs/ become pages, and the public names in a text lead to the reference.
"""

import posixpath
import re
from html import unescape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
# Files outside of docs/ that are pages, and where.
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/browser/README.md": "examples/browser.md",
    "examples/ray/README.md": "examples/ray.md",
    "examples/serving/README.md": "examples/serving.md",
    "examples/serving/mobile.md": "examples/mobile.md",
}
CODE_OR_LINK = re.compile(r"^```.*?^```$|(?<=\]\()[^)\s]+(?=\))|\[?`[^`\n]+`", re.M | re.S)
NAME = re.compile(r"`((?:kt\.|keras_transformer_runtime\.)[\w.]+|[A-Z]\w+)(\([^`]*\))?`")


def public_names() -> dict[str, str]:
    """What is written for a public name, `kt.ops.rotate` or, of a class, `Greedy`, and its place in the reference."""
    paths = re.findall(r"^::: (\S+)$", "\n".join(page.read_text() for page in sorted(DOCS.glob("api/*.md"))), re.M)
    names = {}
    for path in paths:
        name = re.sub(r"\.(\w+)\.\1$", r".\1", path)  # a function in a module of its name
        names[name.replace("keras_transformer.", "kt.")] = path
        if path.rpartition(".")[2][0].isupper():
            names[path.rpartition(".")[2]] = path
    return names


def linked(text: str, names: dict[str, str]) -> str:
    """A text whose inline code leads to the reference, if it is a public name.

    >>> print(linked("`kt.Greedy()` or `None`", {"kt.Greedy": "keras_transformer.Greedy"}))
    [`kt.Greedy()`][keras_transformer.Greedy] or `None`
    """
    return NAME.sub(lambda found: f"[{found[0]}][{names[found[1]]}]" if found[1] in names else found[0], text)


def on_config(config):
    """An entry "folder/" of the navigation stands for its pages."""
    config.nav = expanded(config.nav)
    return config


def expanded(nav: list) -> list:
    """The navigation with the pages of folders in it."""
    missing = [page for path, page in PAGES.items() if not (ROOT / path).exists()]
    entries = []
    for entry in nav:
        (title, value), *_ = entry.items() if isinstance(entry, dict) else [(None, entry)]
        if isinstance(value, list):
            value = expanded(value)
        elif value.endswith("/"):
            value = sorted(page.relative_to(DOCS).as_posix() for page in (DOCS / value).glob("*.md"))
        elif value in missing:
            continue
        if value:
            entries.append({title: value} if title else value)
    return entries


def on_files(files, config):
    """Adds the pages that lie outside of docs/."""
    from mkdocs.structure.files import File

    for path, page in PAGES.items():
        if (ROOT / path).exists():
            files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Directs the links of a page to where they lead on the site."""
    names = public_names()
    sources = {place: path for path, place in PAGES.items()}
    source = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def rewrite(found):
        text = found[0]
        if text.startswith("```") or text.startswith("["):
            return text
        if text.startswith("`"):
            return linked(text, names)
        return directed(text, source, page.file.src_uri, config.repo_url)

    return CODE_OR_LINK.sub(rewrite, markdown)


def directed(link: str, source: str, page: str, repository: str) -> str:
    """A link of a file of the repository, as the page that the file has become is to have it.

    >>> directed("../examples/dates.py", "docs/training.md", "training.md", "https://host/us")
    'https://host/us/blob/main/examples/dates.py'
    >>> directed("docs/training.md#lora", "CHANGELOG.md", "changelog.md", "https://host/us")
    'training.md#lora'
    """
    path, anchor, fragment = link.partition("#")
    if not path or re.match(r"\w+:", path):
        return link
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    if path in PAGES or path.startswith("docs/") and kind == "blob":
        place = PAGES.get(path, path.removeprefix("docs/"))
        return posixpath.relpath(place, posixpath.dirname(page) or ".") + anchor + fragment
    return f"{repository}/{kind}/main/{path}{anchor}{fragment}"


def on_page_content(html, page, config, files):
    """Formulas as MathML, which browsers draw without a script."""
    from latex2mathml.converter import convert

    def drawn(found):
        display = "block" if found[1] == "div" else "inline"
        return convert(unescape(found[2]), display=display)

    return re.sub(r'<(div|span) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', drawn, html, flags=re.S)
