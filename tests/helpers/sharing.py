"""Lets pytest processes share a run: each test file runs in one of them, and expensive resources are made once.

`pytest --shared FOLDER` joins the run of this folder. `make test` starts two such processes, one for each core. Each
claims the next file when it has finished one, so both end at about the same time, and if one dies the other continues.
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
    "tutorials/int8-slower-or-less-accurate.md",
    "pipeline/test_families.py",
    "pipeline/test_deploy.py",
    "benchmarks/test_coverage.py",
    "tuning/test_search.py",
    "how-to/choose.md",
    "cli/test_bad_input.py",
    "cli/test_interrupt.py",
    "tutorials/your-own-model.md",
)
"""Files that take minutes and run first, so that no process is left with one at the end."""


def made_once(folder: Path, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder of this name that `make` has filled. One process makes it while the others wait."""
    place, done = folder / name, folder / f"{name}.done"
    with FileLock(folder / f"{name}.lock"):
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)  # left by a process that failed or was killed
            place.mkdir()
            make(place)
            done.touch()
    return place


@pytest.fixture(scope="session")
def shared_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for the resources of `made_once`, which all processes share. Copy them before you change them."""
    folder: Path | None = pytestconfig.getoption("shared", None)
    # Pages of the documentation run in folders of their own, so the current one isn't that of the option.
    return pytestconfig.invocation_params.dir / folder if folder else tmp_path_factory.mktemp("shared")


class SharedRun:
    """The pytest plugin of a process that shares a run."""

    def __init__(self, folder: Path) -> None:
        self._claims = folder / "claims"
        self._claims.mkdir(parents=True, exist_ok=True)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(
            key=lambda item: next((rank for rank, name in enumerate(LONGEST) if name in item.nodeid), len(LONGEST))
        )

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Like pytest's own loop, but only for files that no other process has claimed."""
        if session.config.option.collectonly or session.testsfailed:
            return None
        # pytest tears down the fixtures that the next test doesn't need, so claim the next one before this one runs.
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
