"""Finds the test files that a change can break: `pytest --changed COMMIT` runs these alone.

Tests mirror the rooms of the package, so a change in a room runs the tests of this room, and of the rooms above it the
files that import from it themselves: the others use it through rooms that have tests too. Everything uses the two
lowest layers. A change there, or outside of the package, therefore runs each file that imports it, directly or through
others. A change that can't be placed runs everything.
"""

import re
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import grimp
import pytest

from benchmarks.house import levels
from tests.helpers.sharing import ROOT

PACKAGES = ("edgekit", "tests", "benchmarks", "docs")
DATA = {"calibration": "config", "targets": "config"}
"""Rooms whose data is in a folder beside the package."""
TOP = -1
"""The level of the tests beside the rooms, such as those of whole jobs."""


class Affected:
    """The pytest plugin that collects the affected files only."""

    def __init__(self, base: str) -> None:
        self._files = affected(changed_since(base or default_base()))

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        if self._files is None or collection_path.is_dir():
            return None
        return collection_path.relative_to(ROOT).as_posix() not in self._files or None

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


def git(*arguments: str) -> list[str]:
    """The lines that git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def default_base() -> str:
    """The commit at which the branch left its upstream, or the last commit but one."""
    try:
        return git("merge-base", "HEAD", "@{upstream}")[0]
    except subprocess.CalledProcessError:
        return "HEAD~"


def changed_since(base: str) -> set[str]:
    """Files that differ from those of a commit, or are new."""
    return {*git("diff", "--name-only", "--no-renames", base), *git("ls-files", "--others", "--exclude-standard")}


@cache
def imports() -> grimp.ImportGraph:
    """The imports between the modules of the checkout that run."""
    return grimp.build_graph(*PACKAGES, cache_dir=None, exclude_type_checking_imports=True)


def affected(changed: Iterable[str]) -> set[str] | None:
    """The test files and pages that changes of these files can break, or None for all."""
    graph, level_of = imports(), levels()
    tests = {module for module in graph.modules if re.fullmatch(r"tests\.(.*\.)?test_\w+", module)}
    found = set[str]()
    for file in changed:
        top, *rest = Path(file).with_suffix("").parts
        module = ".".join((top, *rest))
        room = DATA.get(top) or (rest[0] if top == "edgekit" else "")
        if file.endswith(".md"):
            found |= {file, *(_file(test) for test in tests if test.startswith("tests.docs."))}
        elif room in level_of:
            found |= {_file(test) for test in tests if _can_break(graph, test, room, level_of)}
        elif top != "edgekit" and module in graph.modules and rest[-1] != "conftest":
            found |= {_file(test) for test in tests & {module, *graph.find_downstream_modules(module)}}
        elif (ROOT / file).exists() or not module.startswith("tests."):
            return None
    return found


def _can_break(graph: grimp.ImportGraph, test: str, room: str, level_of: dict[str, int]) -> bool:
    own, level = test.split(".")[1], level_of[room]
    if level_of.get(own, TOP) >= level:
        return own == room
    lowest = level > max(level_of.values()) - 2
    imported = graph.find_upstream_modules(test) if lowest else graph.find_modules_directly_imported_by(test)
    return any(f"{module}.".startswith(f"edgekit.{room}.") for module in imported)


def _file(module: str) -> str:
    return f"{module.replace('.', '/')}.py"
