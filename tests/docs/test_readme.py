"""The README: its links lead somewhere."""

import re

from tests.helpers.tiny import ROOT

README = ROOT / "README.md"


def test_its_links_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", README.read_text())
    assert targets
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []


def test_it_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
