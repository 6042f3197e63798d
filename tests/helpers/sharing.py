"""Lets pytest processes share a run: each test file runs in one of them, and expensive resources are made once.

`pytest --shared FOLDER` joins the run of this folder. `make test` starts two such processes, one for each core. Each
claims the next file when it has finished one, so both end at about the same time, and if one dies the other continues.
The first process begins with the files that take longest, the others with the rest, whose lines appear at once.
"""

import inspect
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from hashlib import sha256
from importlib.metadata import distributions
from itertools import chain, groupby, pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[2]
LONGEST = (
    "devices/test_emulated.py",
    "pipeline/test_networks.py",
    "pipeline/test_deploy.py",
    "pipeline/test_builder.py",
    "pipeline/test_variants.py",
    "docs/test_notebook.py",
    "how-to/model-card.md",
    "tests/test_packaging.py",
    "tutorials/int8-gains-too-little.md",
    "tutorials/your-own-model.md",
)
"""Files that take long. The first process begins with them, so that none is left with one at the end."""
READ = ("edgekit", "calibration", "targets", "tests/helpers", "tests/conftest.py", "conftest.py")
"""Files and folders of the checkout that the making of any kept resource can read."""
EVERY_S = 10.0
"""Seconds without a line of output after which a process says how far it is in its file."""


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


def kept(folder: Path, name: str, make: Callable[[Path], object], checkout: Path = ROOT) -> Path:
    """Like `made_once`, but later runs get copies of what `make` made, until something that it can read changes.

    Tests get a copy, so what they do to it can't reach a later run. `READ`, the file of `make`, the installed packages,
    the machine and the folder are the key.
    """

    def copy(place: Path) -> None:
        stored = folder.with_name(f"{folder.name}-kept") / name / inputs_sha256(make, place, checkout)
        if stored.exists():
            shutil.copytree(stored, place, symlinks=True, dirs_exist_ok=True)
            return
        make(place)
        shutil.rmtree(stored.parent, ignore_errors=True)  # with the ones that nothing will ask for
        unfinished = shutil.copytree(place, stored.with_suffix(".unfinished"), symlinks=True)
        unfinished.rename(stored)

    return made_once(folder, name, copy)


def inputs_sha256(make: Callable[[Path], object], place: Path, checkout: Path) -> str:
    """SHA-256 of everything that `make` can read, and of the place, whose path reports contain."""
    installed = sorted(f"{each.name} {each.version}" for each in distributions())
    digest = sha256("\n".join([str(place), platform.node(), platform.python_version(), *installed]).encode())
    files = [file for name in READ for file in [checkout / name, *sorted((checkout / name).rglob("*"))]]
    for file in [*files, Path(inspect.getfile(make))]:
        if file.is_file() and file.suffix != ".pyc":
            digest.update(f"\n{file} {sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def shared_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder for what `made_once` and `kept` make, which all processes share. Copy it before you change it."""
    folder: Path | None = pytestconfig.getoption("shared", None)
    # Pages of the documentation run in folders of their own, so the current one isn't that of the option.
    return pytestconfig.invocation_params.dir / folder if folder else tmp_path_factory.mktemp("shared")


class SharedRun:
    """The pytest plugin of a process that shares a run.

    Says a line for each file that is finished and each test that fails, and every few seconds in between, instead of a
    letter for each test, so that the output of several processes can be read on one terminal.
    """

    def __init__(self, folder: Path, terminal: pytest.TerminalReporter, every_s: float = EVERY_S) -> None:
        self._terminal = terminal
        self._every_s = every_s
        self._claims = folder / "claims"
        self._claims.mkdir(parents=True, exist_ok=True)
        self._first = _create(folder / "first")
        self._sizes: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._said = monotonic()
        self._collected = 0
        if self._first:
            self._say("Collecting the tests.")

    def pytest_itemcollected(self) -> None:
        self._collected += 1
        if self._first and self._is_late():
            self._say(f"{self._collected} tests so far")

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        def rank(item: pytest.Item) -> int:
            others = len(LONGEST) if self._first else -1
            return next((at for at, name in enumerate(LONGEST) if _file_of(item.nodeid).endswith(name)), others)

        items.sort(key=rank)
        self._sizes = Counter(self._claim_of(item).name for item in items)
        if self._first:
            self._say(f"{len(items)} tests in {len(self._sizes)} files")

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Like pytest's own loop, but only for files that no other process has claimed."""
        if session.config.option.collectonly or session.testsfailed:
            return None
        began = monotonic()
        # pytest tears down the fixtures that the next test doesn't need, so claim the next one before this one runs.
        for item, following in pairwise(chain(self._claimed(session.items), (None,))):
            assert item is not None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            if session.shouldstop:
                raise session.Interrupted(session.shouldstop)
            if following is None or self._claim_of(following) != self._claim_of(item):
                self._say_finished(item, monotonic() - began)
                began = monotonic()
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """Leave out the letter and the word of each test."""
        category, *_ = yield
        return category, "", ""

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self._is_late():
            file = _file_of(nodeid)
            self._say(f"{self._share()} {file}: {self._outcomes.total()} of {self._sizes[_claim_name(file)]} tests")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self._outcomes[report.outcome] += 1
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = f": {crash.message.splitlines()[0]}" if crash else ""
            self._say(f"FAILED {report.nodeid}{why}")

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_terminal_summary(self) -> Generator[None, None, None]:
        """Let one process after the other tell its failures."""
        with FileLock(self._claims.with_name("summary.lock")):
            yield
            self._terminal.flush()

    def _is_late(self) -> bool:
        return monotonic() - self._said >= self._every_s

    def _say(self, line: str) -> None:
        self._terminal.write_line(line, flush=True)
        self._said = monotonic()

    def _say_finished(self, item: pytest.Item, seconds: float) -> None:
        self._claim_of(item).write_text("finished")
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self._outcomes.items())
        self._outcomes.clear()
        self._say(f"{self._share()} {_file_of(item.nodeid)}: {outcomes} in {seconds:.1f} s")

    def _share(self) -> str:
        """The share of the tests whose files are finished in any process."""
        finished = sum(self._sizes[claim.name] for claim in self._claims.iterdir() if claim.stat().st_size)
        return f"[{finished / self._sizes.total():4.0%}]"

    def _claimed(self, items: Sequence[pytest.Item]) -> Iterator[pytest.Item]:
        for _, tests in groupby(items, key=lambda item: _file_of(item.nodeid)):
            first, *others = tests
            if _create(self._claim_of(first)):
                yield from (first, *others)

    def _claim_of(self, item: pytest.Item) -> Path:
        return self._claims / _claim_name(_file_of(item.nodeid))


def _create(path: Path) -> bool:
    """Create a file, unless another process has."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _claim_name(file: str) -> str:
    return file.replace("/", ".")


def _file_of(nodeid: str) -> str:
    return nodeid.partition("::")[0]
