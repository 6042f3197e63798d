"""Real faults while a deploy measures on a device: the message, the rows that survive, and the resumed run.

The device is this machine behind sshd, so that the tests can lend it environments. Boards use the same code.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.devices import setup
from edgekit.report import load_report
from edgekit.report.document import Recommendation, Report
from edgekit.report.row import Row
from edgekit.runtime.bundle import read_bundle
from edgekit.support.run_folder import STATE
from tests.helpers.measurements import latency, without_fresh_processes
from tests.helpers.missing import missing
from tests.helpers.ssh_server import (
    SSHD,
    Server,
    agents_at_work,
    lend_environment,
    serve,
    signal_agents,
    wait_for_port,
)  # fmt: skip
from tests.helpers.waiting import wait_until, when

pytestmark = pytest.mark.slow
TARGETS = ("onnx", "tflite")
Undo = Callable[[], object]


@pytest.fixture(scope="module", autouse=True)
def here_in_this_process() -> Iterator[None]:
    """Measure on this machine without new processes. The device starts them."""
    with without_fresh_processes():
        yield


@pytest.fixture(scope="module")
def board(finished_run: Path, key_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A device that has environments for two runtimes."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch, serve(folder / "server", key_folder) as server:
        patch.setenv("EDGEKIT_DEVICES_FILE", str(folder / "devices.toml"))
        assert main(["devices", "add", "board", "ssh://device", "--ssh-config", str(server.config)]) == 0
        for target in TARGETS:
            minimum = read_bundle(finished_run / f"{target}-int8").manifest.engine["minimum"]
            lend_environment(server, target, minimum)
        yield server
        server.process.terminate()
        server.process.wait(10)


@pytest.fixture(scope="module")
def command(job_arguments: list[str]) -> list[str]:
    """The command of `finished_run`, which reuses its bundles, here and on the device."""
    targets = [word for target in TARGETS for word in ("--target", target)]
    return ["deploy", *job_arguments, *targets, "--device", "local", "--device", "board", "--quiet", "-o"]


def fresh_copy(finished_run: Path, folder: Path) -> Path:
    """A copy with nothing but the run's bundles, as an interrupted run leaves them."""
    (folder / STATE).mkdir(parents=True)
    for target in TARGETS:
        for precision in ("float", "int8"):
            name = f"{target}-{precision}"
            shutil.copytree(finished_run / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def undisturbed(
    board: Server, command: list[str], finished_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Report:
    """The report of the job without a fault."""
    run = fresh_copy(finished_run, tmp_path_factory.mktemp("undisturbed") / "run")
    assert main([*command, str(run)]) == 0
    shutil.rmtree(board.cache / "files")
    return load_report(run)


@pytest.fixture(scope="module")
def measured_here(
    board: Server, command: list[str], finished_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run that couldn't reach the board. Copies of it need no more measurements on this machine."""
    run = fresh_copy(finished_run, tmp_path_factory.mktemp("here") / "run")
    start = stop_server(board, None)
    try:
        assert main([*command, str(run)]) == 1
    finally:
        start()
    return run


def meanwhile(board: Server, action: Callable[[], object]) -> Undo:
    """Perform the action as soon as an agent works on the board."""
    stack = ExitStack()
    stack.enter_context(when(lambda: agents_at_work(board), action))
    return stack.close


def kill_agent(board: Server, patch: pytest.MonkeyPatch) -> Undo:
    return meanwhile(board, lambda: signal_agents(board, signal.SIGKILL))


def cut_connection(board: Server, patch: pytest.MonkeyPatch) -> Undo:
    return meanwhile(board, board.cut)


def cut_a_copy(board: Server, patch: pytest.MonkeyPatch) -> Undo:
    """Cut the connection during a copy, and shorten one of the files that had arrived."""
    feed = setup._feed

    def half(pipe: Any, paths: Any, moved: Callable[[], None]) -> bool:
        if len(paths) < 2:
            return feed(pipe, paths, moved)
        patch.setattr(setup, "_feed", feed)
        with suppress(BrokenPipeError):
            for path in list(paths)[:-1]:
                pipe.write(path.read_bytes())
            pipe.flush()
        (arrived,) = wait_for_files(board, 1)
        board.cut()
        os.truncate(arrived, arrived.stat().st_size // 2)
        with suppress(BrokenPipeError):
            pipe.close()
        return False

    patch.setattr(setup, "_feed", half)
    return lambda: None


def wait_for_files(board: Server, count: int) -> list[Path]:
    """Wait for the first files to arrive."""

    def arrived() -> list[Path] | None:
        paths = [path for path in (board.cache / "files").glob("*") if not path.name.startswith(".")]
        return paths[:count] if len(paths) >= count else None

    return wait_until(arrived, "a file arrived") or []


def fill_disk(board: Server, patch: pytest.MonkeyPatch) -> Undo:
    """Mount a disk that is too small for the bundles, while the probe reports another one's free space."""
    files = board.cache / "files"
    files.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(files)], capture_output=True, text=True
    )
    if done.returncode != 0:
        missing(f"a small disk can't be mounted: {done.stderr}")
    return lambda: subprocess.run(["umount", str(files)], check=True)


def stop_server(board: Server, patch: pytest.MonkeyPatch | None) -> Undo:
    board.process.terminate()
    board.process.wait(10)

    def start() -> None:
        board.process = subprocess.Popen([SSHD, "-D", "-f", str(board.folder / "sshd_config")])
        wait_for_port(board)

    return start


def change_host_key(board: Server, patch: pytest.MonkeyPatch) -> Undo:
    """Replace the known host key with another one."""
    known = board.folder / "known_hosts"
    before = known.read_text()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(board.folder / "other")], check=True)
    key = (board.folder / "other.pub").read_text().split()[:2]
    known.write_text(" ".join([before.split()[0], *key]) + "\n")
    return lambda: known.write_text(before)


@pytest.mark.parametrize(
    ("faults", "lost"),
    [
        (
            {
                kill_agent: "the measurement was killed (SIGKILL)",
                cut_connection: "the connection was cut",
                cut_a_copy: "the connection was cut",
            },
            ["onnx"],
        ),
        (
            {
                fill_disk: "ran out of disk space",
                stop_server: "no connection",
                change_host_key: "the host key has changed",
            },
            ["onnx", "tflite"],
        ),
    ],
    ids=["of one group", "of the device"],
)
def test_faults_and_the_run_after_them(
    faults: dict[Callable[[Server, pytest.MonkeyPatch], Undo], str], lost: list[str], board: Server,
    command: list[str], measured_here: Path, undisturbed: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Each fault hits the run that resumes the one before it, so all but the first also show what the last one left."""
    run = shutil.copytree(measured_here, tmp_path / "run")
    passed: list[Row] = []
    for fault, problem in faults.items():
        shutil.rmtree(board.cache / "files", ignore_errors=True)
        undo = fault(board, monkeypatch)
        try:
            assert main([*command, str(run)]) == 1
        finally:
            undo()
        assert "Traceback" not in capfd.readouterr().err
        rows = load_report(run).results
        there = [row for row in rows if row.device.name == "board"]
        assert [row.verdict for row in rows if row.device.name == "local"] == ["pass"] * 4
        assert [row.target for row in there if row.verdict == "error"] == [target for target in lost for _ in range(2)]
        for failure in (row.failure for row in there if row.failure):
            assert failure.stage == "device"
            assert failure.message.startswith("board: ")
            assert problem in failure.message
        assert [row for row in rows if row in passed] == passed, "only the missing rows are measured"
        passed = [row for row in rows if row.verdict == "pass"]
    assert main([*command, str(run)]) == 0
    resumed = load_report(run)
    assert without_times(resumed) == without_times(undisturbed)
    assert [row for row in resumed.results if row in passed] == passed, "only the missing rows are measured"


def without_times(report: Report) -> Report:
    """A report without the fields that differ between runs."""
    assert {row.verdict for row in report.results} == {"pass"}
    rows = tuple(map(without_latency, report.results))
    nothing = Recommendation(None, None, "")
    return replace(report, name=None, created="2026-01-01T00:00:00Z", command=(), recommendation=nothing, results=rows)


def without_latency(row: Row) -> Row:
    """A row with a fixed latency and without what depends on this or another measurement of time."""
    return replace(
        row,
        latency_ms=latency(1.0),
        end_to_end_ms=None,
        speedup=None,
        limit=None,
        peak_rss_bytes=None,
        thermal=None,
        profile=None,
        energy=None,
        gates=(),
        reasons=(),
    )
