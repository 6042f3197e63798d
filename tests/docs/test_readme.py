"""README and docs as a code host shows them: links lead somewhere, and nothing is left for the site to fill in."""

import re
from pathlib import Path

import pytest

from edgekit.config.runtimes import RUNTIMES
from edgekit.images.dataset import LAYOUTS
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


def test_what_runs_where_agrees_with_the_runtimes() -> None:
    rows = re.findall(
        r"^\| (\S+(?: \S+)?) \| f32.*? \| (yes|no) \| (yes|no) \|", (ROOT / "README.md").read_text(), re.M
    )
    schemes = {runtime.title: runtime.schemes for runtime in RUNTIMES.values()}
    assert {title: (int8, weights) for title, int8, weights in rows} == {
        title: ("yes" if "w8a8" in own else "no", "yes" if "w8" in own else "no") for title, own in schemes.items()
    }


def test_data_layouts_lists_every_layout() -> None:
    text = (ROOT / "docs/how-to/data-layouts.md").read_text()
    table, _, _ = text.partition("| --- |")[2].partition("\n\n")
    assert len(table.splitlines()) == 1 + len(LAYOUTS)
