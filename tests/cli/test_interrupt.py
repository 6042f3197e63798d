"""Ctrl-C in a separate process, at each stage of a real job, and the same command resumes from there."""

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from edgekit.cli.main import entry, main
from edgekit.report import load_report
from edgekit.runtime.bundle import read_bundle
from edgekit.support.progress import Reporter

STAGES = ["export", "onnx-float: compile", "calibrate", "onnx-int8: evaluate", "onnx-float, onnx-int8: time"]
"""Ctrl-C comes when this one begins."""

INTERRUPTED = "Interrupted. Completed work was saved; run the same command again to resume."
IMPORTED = ["edgekit.cli.jobs", "edgekit.pipeline.deploy", "edgekit.runtime.onnx.backend", "onnxruntime", "timm"]
"""Modules that take seconds to import, which the processes of the stages share."""
# As the console script does. With -m Python itself may end by the signal, though the exit code was set.
TORCH_ANNOUNCED = """
import os, sys
from edgekit.cli.main import entry

announcements = os.fdopen(os.dup(2), "w")

class Announcer:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print("begins: torch", file=announcements, flush=True)

sys.meta_path.insert(0, Announcer())
entry()
"""


def press_ctrl_c(stderr: IO[str], group: int, event: str) -> list[str]:
    """Press Ctrl-C when a process group says that `event` begins. Returns its lines after that."""
    before = []
    for line in stderr:
        before.append(line)
        if line == f"begins: {event}\n":
            break
    else:
        pytest.fail(f"{event} never began: {''.join(before)}")
    os.killpg(group, signal.SIGINT)  # as a terminal does: children get it too
    return stderr.read().splitlines()


def announce_stages(command: list[str], stderr: Path) -> None:
    """Run edgekit in this process, and print a line to stderr when a stage begins."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(stderr, os.O_WRONLY), 2)
    stage, announcements = Reporter.stage, os.fdopen(os.dup(2), "w")  # libraries' noise is kept off the usual ones

    def announced(self: Reporter, title: str, total: int | None = None) -> Any:
        print("begins:", title, file=announcements, flush=True)
        return stage(self, title, total)

    Reporter.stage = announced  # type: ignore[method-assign]
    sys.argv = ["edgekit", *command]
    try:
        entry()
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(int(end.code or 0))


def run_until(stage: str, command: list[str], folder: Path) -> tuple[int | None, list[str]]:
    """Run in a process and press Ctrl-C when a stage begins. Exit code, and the lines of stderr after that."""
    stderr = folder / "stderr"
    stderr.unlink(missing_ok=True)
    os.mkfifo(stderr)
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(IMPORTED)
    process = processes.Process(target=announce_stages, args=(command, stderr))
    process.start()
    assert process.pid is not None
    with stderr.open() as lines:
        after = press_ctrl_c(lines, process.pid, stage)
    process.join()
    return process.exitcode, after


@pytest.mark.slow
def test_ctrl_c_at_each_stage(
    finished_run: Path, job_arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    # Long enough to be hit while it times.
    slow = [*job_arguments[: job_arguments.index("--iterations")], "--iterations", "20000", "--min-speedup", "0"]
    job = [*slow, "--threads", "1", "--max-drop", "100", "--target", "onnx"]
    made: set[str] = set()
    for stage in STAGES:
        code, said = run_until(stage, ["deploy", *job, "-o", str(folder)], tmp_path)
        assert (code, said[-1:]) == (130, [INTERRUPTED]), (stage, said)
        assert "Traceback (most recent call last):" not in said, stage
        found = {each.name for each in folder.iterdir()} if folder.exists() else set()
        assert found <= {".edgekit", "calibration.json", "onnx-float", "onnx-int8"}, stage
        assert made <= found, "what was finished must stay"
        made = found & {"onnx-float", "onnx-int8"}
        for name in made:
            read_bundle(folder / name)
    assert main(["deploy", *job, "--iterations", "5", "-o", str(folder)]) == 0
    err = capfd.readouterr().err
    assert "onnx-float: reused from an earlier run" in err
    assert "onnx-int8: reused from an earlier run" in err
    assert "evaluate torch" not in err
    undisturbed = {row.bundle: row for row in load_report(finished_run).results}
    for row in load_report(folder).results:
        for name in ("size_bytes", "accuracy", "scheme", "int8", "verdict"):
            assert getattr(row, name) == getattr(undisturbed[row.bundle], name)
    kept = {each.stem for each in (folder / ".edgekit").glob("*.json")}
    results = {"measured-onnx", "placement-onnx", "repair-onnx", "reference-logits", "reference", "thumbnails"}
    assert kept == {"job", *results}


@pytest.mark.slow
def test_ctrl_c_while_it_starts(job_arguments: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", TORCH_ANNOUNCED, "deploy", *job_arguments, "-o", str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        after = press_ctrl_c(process.stderr, process.pid, "torch")
    assert (process.returncode, after) == (130, [INTERRUPTED])
    assert not (tmp_path / "run").exists()
