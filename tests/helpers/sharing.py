"""Several pytest processes share one run: each test file runs in one of them, and what is expensive is made once.

`pytest --shared FOLDER` takes part in the run whose folder that is. `make test` starts two of them, one for each core.
A process takes a file when it comes to it, so both end at about the same time, and if one dies the other goes on.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby, pairwise
from pathlib import Path

import pytest
from filelock import FileLock

LONGEST = (
    "devices/test_emulated.py",
    "test_families.py",
    "pipeline/test_deploy.py",
    "tuning/test_search.py",
    "cli/test_interrupt.py",
)
"""Files that take minutes are taken first, so that neither process is left with one at the end."""


def made_once(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """A folder of this name that `make` has filled. One process makes it while the others wait."""
    place, done = folder / name, folder / f"{name}.done"
    with FileLock(folder / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)  # of a process that failed or was killed
            place.mkdir()
            make(place)
            done.touch()
    return place


class SharedRun:
    """The plugin of a process that takes part in a run."""

    def __init__(self, folder: Path) -> None:
        self._claims = folder / "claims"
        self._claims.mkdir(parents=True, exist_ok=True)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: next((at for at, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST)))

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """As pytest's own loop, but of the files that no other process has taken."""
        if session.config.option.collectonly or session.testsfailed:
            return None
        # pytest tears down what the next test doesn't need, so the next one must be claimed before this one runs.
        for item, following in pairwise(chain(self._claimed(session.items), (None,))):
            assert item is not None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
        return True

    def _claimed(self, items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
        for name, tests in groupby(items, key=lambda item: item.nodeid.partition("::")[0]):
            if self._claim(name):
                yield from tests

    def _claim(self, name: str) -> bool:
        try:
            os.close(os.open(self._claims / name.replace("/", "."), os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True
