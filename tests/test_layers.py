"""The package obeys the layers in pyproject.toml, and `lint-imports` fails if a module breaks them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.tiny import ROOT

PLANTED = {
    "an import from a higher layer": ("measure/statistics.py", "from edgekit.pipeline import options"),
    "a cycle within a room": ("report/figure.py", "from edgekit.report import row"),
    "torch in the SDK": ("runtime/session.py", "import torch"),
}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    """Run `lint-imports`, as `make lint` does, on the package in a folder."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package's Python files and pyproject.toml."""
    shutil.copytree(ROOT / "edgekit", tmp_path / "edgekit", ignore=shutil.ignore_patterns("_assets", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_package_keeps_its_layers(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize("violation", PLANTED)
def test_a_planted_import_breaks_them(copy: Path, violation: str) -> None:
    file, line = PLANTED[violation]
    path = copy / "edgekit" / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert "1 broken" in done.stdout
