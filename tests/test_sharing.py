"""Processes that share a run: each test runs in one of them, and shared resources are made once."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import sharing
from tests.helpers.sharing import LONGEST, READ, kept, made_once
from tests.helpers.tiny import ROOT

CONFTEST = """
from pathlib import Path
import pytest
from tests.helpers.sharing import SharedRun

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    terminal = config.pluginmanager.getplugin("terminalreporter")
    config.pluginmanager.register(SharedRun(Path("shared").absolute(), terminal))

@pytest.fixture(scope="module")
def opened():
    print("open")
    yield
    print("close")
"""
TESTS = "import pytest\n\n@pytest.mark.parametrize('at', range(2))\ndef test_it(at, opened):\n    print(__name__, at)\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of three files with two tests each, in two packages."""
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("one/test_a", "one/test_b", "two/test_c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).parent.joinpath("__init__.py").touch()
        (tmp_path / f"{name}.py").write_text(TESTS)
    return tmp_path


def printed(project: Path, code: int = 0) -> list[str]:
    """Run the tests in one process, which exits with this code; return the lines that they print."""
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["--rootdir", ".", "."]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return [re.sub(r"\d+\.\d s$", "N s", line) for line in done.stdout.splitlines()]


def finished(lines: list[str]) -> list[str]:
    """The files of these lines that are finished, in this order."""
    return [match[1] for line in lines if (match := re.fullmatch(r"\[.*\] (.*): 2 passed in N s", line))]


def test_a_file_that_another_process_has_claimed_is_skipped(project: Path) -> None:
    claims = project / "shared" / "claims"
    claims.mkdir(parents=True)
    (claims / "one.test_b.py").touch()
    lines = printed(project)
    assert lines[:12] == [
        "Collecting the tests.", "6 tests in 3 files",
        "open", "one.test_a 0", "one.test_a 1", "close", "[ 33%] one/test_a.py: 2 passed in N s",
        "open", "two.test_c 0", "two.test_c 1", "close", "[ 67%] two/test_c.py: 2 passed in N s",
    ]  # fmt: skip
    assert {path.name for path in claims.iterdir()} == {"one.test_a.py", "one.test_b.py", "two.test_c.py"}
    assert "test_" not in "".join(printed(project)), "nothing is left for a third process"


def test_the_first_process_begins_with_the_longest_file_and_the_others_with_the_rest(project: Path) -> None:
    longest = project / LONGEST[0]
    longest.parent.mkdir()
    (project / "two" / "test_c.py").rename(longest)
    order = ["one/test_a.py", "one/test_b.py", LONGEST[0]]
    assert finished(printed(project)) == [LONGEST[0], *order[:2]]
    shutil.rmtree(project / "shared" / "claims")
    assert finished(printed(project)) == order


def test_a_long_file_says_how_far_it_is(project: Path) -> None:
    conftest = project / "conftest.py"
    conftest.write_text(conftest.read_text().replace("terminal))", "terminal, every_s=0))"))
    said = [line for line in printed(project) if "test_b" in line and line.startswith("[")]
    ends = ("[ 33%] one/test_b.py: 0 of 2 tests", "[ 33%] one/test_b.py: 1 of 2 tests")
    assert said == [*ends, "[ 67%] one/test_b.py: 2 passed in N s"]


def test_a_file_stays_in_one_piece(project: Path) -> None:
    """Also when a parameter reads like the name of a file that runs first."""
    file = project / "one" / "test_b.py"
    file.write_text(file.read_text().replace("range(2)", f"(0, {LONGEST[0]!r})"))
    assert "[ 67%] one/test_b.py: 2 passed in N s" in printed(project)


def test_a_failure_is_named_when_it_happens(project: Path) -> None:
    failing = project / "one" / "test_a.py"
    failing.write_text(failing.read_text() + "    assert at == 0, 'at is not 0'\n")
    lines = printed(project, code=1)
    failure = lines.index("FAILED one/test_a.py::test_it[1]: AssertionError: at is not 0")
    assert lines[failure + 2] == "[ 33%] one/test_a.py: 1 passed, 1 failed in N s"


def test_a_resource_is_made_once_and_again_after_a_failure(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        made_once(tmp_path, "thing", fail)
    folder = made_once(tmp_path, "thing", lambda folder: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert made_once(tmp_path, "thing", fail) == folder


def test_a_later_run_gets_what_was_made_until_its_inputs_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make(folder: Path) -> None:
        made.append("")
        (folder / "file").write_text("sound")

    def of_a_new_run() -> str:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        (tmp_path / "run").mkdir()
        file = kept(tmp_path / "run", "thing", make, tmp_path) / "file"
        content = file.read_text()
        file.write_text("changed by a test")
        return content

    assert [of_a_new_run(), of_a_new_run(), len(made)] == ["sound", "sound", 1]
    for count, name in enumerate(READ, 2):
        read = tmp_path / name if name.endswith(".py") else tmp_path / name / "inside" / "file.toml"
        read.parent.mkdir(parents=True, exist_ok=True)
        read.write_text("edited")
        assert [of_a_new_run(), of_a_new_run(), len(made)] == ["sound", "sound", count], name
    monkeypatch.setattr(sharing, "distributions", lambda: [])
    assert [of_a_new_run(), len(made)] == ["sound", len(READ) + 2], "other packages"
    assert len(list((tmp_path / "run-kept" / "thing").iterdir())) == 1, "only the last one can be asked for again"


def test_torch_has_the_threads_that_the_tests_ask_for() -> None:
    """It reads their number when it is imported. Processes with a thread for each core slow one another down."""
    assert torch.get_num_threads() == int(os.environ["OMP_NUM_THREADS"])
