"""Texts that are compared with recorded ones, which a reviewer of a change reads as a diff."""

from collections.abc import Callable
from difflib import unified_diff
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "data" / "same"
MOST = 10_000
"""Characters of a difference that a failure shows."""
Recorded = Callable[[str, str], None]
"""Checks a text, after the name of the file that has the recorded one."""


@pytest.fixture(scope="session")
def recorded(pytestconfig: pytest.Config) -> Recorded:
    """Compares a text with the recorded one of this name; `pytest --record` records it instead."""

    def check(name: str, text: str) -> None:
        file = FOLDER / name
        if pytestconfig.getoption("record"):
            file.write_text(text)
        before, now = file.read_text().splitlines(), text.splitlines()
        difference = "\n".join(unified_diff(before, now, "recorded", "now", lineterm="", n=1))
        assert not difference, f"{file} (pytest --record renews it):\n{difference[:MOST]}"

    return check
