"""README and docs as a code host shows them: links lead somewhere, and a page says which parts only the site has."""

import re
from pathlib import Path

import pytest

from docs.generate.parts import REPOSITORY_NOTE, fill
from tests.helpers.tiny import ROOT

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", DOCS, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_with_generated_parts_says_where_they_are(page: Path) -> None:
    text = page.read_text()
    generated = "<!-- generate: " in text or "\n::: " in text
    assert (REPOSITORY_NOTE.search(text) is not None) == generated
    assert "<!-- only" not in REPOSITORY_NOTE.sub("", text)


def test_the_site_has_no_notes_for_readers_of_the_repository() -> None:
    assert fill("one\n<!-- only in the repository -->\n> note\n<!-- end -->\n\ntwo\n") == "one\n\ntwo\n"


def test_it_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
