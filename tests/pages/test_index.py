"""docs/tasks and docs/migrate: each page is in its index, is short, begins with code, and its links lead somewhere."""

import re

import pytest

from .pages import ROOT, python_in

PAGES = sorted(path for folder in ("tasks", "migrate") for path in (ROOT / "docs" / folder).glob("*.md"))


@pytest.mark.once
@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
class TestPage:
    def test_its_links_lead_somewhere(self, page):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        lost = []
        for link, place in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
            target = (page.parent / link).resolve() if link else page
            if not target.exists():
                lost.append(link)
            elif place:
                headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
                lost += [] if place in slugs else [f"{link}#{place}"]
        assert lost == []

    def test_it_is_in_its_index(self, page):
        assert page.stem == "README" or f"({page.name})" in page.with_name("README.md").read_text(encoding="utf-8")

    def test_its_code_is_short(self, page):
        blocks = python_in(page.read_text(encoding="utf-8"))
        assert page.stem == "README" or blocks
        lines = [line for block in blocks for line in block.splitlines()]
        assert max(map(len, lines), default=0) <= 120
        if page.parent.name == "tasks":
            assert len(lines) <= 90
