"""What the counter of the package's size counts, on packages of two rooms."""

from pathlib import Path

import pytest

from benchmarks.house import BUDGETS, ROOT, count, over_budget

LAYERS = '[[tool.importlinter.contracts]]\ntype = "layers"\nlayers = ["upper", "middle : beside", "lower"]\n'
UPPER = (
    '"""A room."""\n\nfrom edgekit.lower.it import Thing, price\nfrom edgekit.upper import other\n\nx = price(Thing)\n'
)
LOWER = 'class Thing:\n    """A thing,\n    described."""\n\n\ndef price(thing):  # in euros\n    return 1\n'


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a package of two rooms, of which the upper one imports two names of the lower one."""
    (tmp_path / "pyproject.toml").write_text(LAYERS)
    files = {"upper/it.py": UPPER, "upper/other.py": "", "upper/__init__.py": "", "lower/it.py": LOWER}
    for name, text in files.items():
        path = tmp_path / "edgekit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_prose_and_imports_within_a_room_do_not_count(package: Path) -> None:
    assert count(package) == {
        "tokens": 33,
        "tokens a line": 5.5,
        "files": 4,
        "lines of the longest file": 3,
        "names across walls": 2,
        "pairs of rooms in % of those that the layers allow": 20,
        "class names that exist twice": 0,
    }


def test_a_class_with_the_name_of_another_is_over_budget(package: Path) -> None:
    (package / "edgekit" / "upper" / "other.py").write_text("class Thing:\n    pass\n")
    figures = count(package)
    assert figures["class names that exist twice"] == 1
    assert over_budget(figures) == ["class names that exist twice"]


def test_edgekit_keeps_its_budgets() -> None:
    assert over_budget(count(ROOT)) == []
    assert count(ROOT).keys() == BUDGETS.keys()
