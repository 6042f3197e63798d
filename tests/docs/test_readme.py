"""README and docs as a code host shows them: links lead somewhere, and nothing is left for the site to fill in."""

import re
from pathlib import Path

import pytest

from tests.helpers.tiny import ROOT

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "benchmarks").glob("*.md")), *DOCS)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    assert [target for target in targets if "://" not in target and not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_nothing_that_only_the_site_fills_or_understands(page: Path) -> None:
    text = re.sub(r"```.*?```|`.*?`", "code", page.read_text(), flags=re.DOTALL)
    assert re.findall(r"<!-- generate|^:::|^!!!|^\?\?\?|^===|\{#", text, re.MULTILINE) == []
    assert re.findall(r"\[\[\[cog.*?\]\]\] -->\s*<!-- \[\[\[end", text) == []


def test_it_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
