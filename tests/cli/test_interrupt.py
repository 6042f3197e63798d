"""Ctrl-C in a process of its own, at each stage of a real job, and the same command going on from there."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.cli.main import main
from edgekit.report import load_report
from edgekit.runtime.bundle import read_bundle

STAGES = ["export", "onnx-float: compile", "onnx-int8: calibrate", "onnx-int8: evaluate", "onnx-float, onnx-int8: time"]
"""Ctrl-C comes when this one begins."""

# As the console script does. With -m Python itself may end by the signal, though the exit code was set.
ENTRY = "from edgekit.cli.main import entry; entry()"
INTERRUPTED = "Interrupted. Completed work was saved; run the same command again to resume."
STAGES_ANNOUNCED = f"""
import os
from edgekit.support.progress import Reporter

stage, announcements = Reporter.stage, os.fdopen(os.dup(2), "w")  # libraries' noise is kept off the usual ones

def announced(self, title, total=None):
    print("begins:", title, file=announcements, flush=True)
    return stage(self, title, total)

Reporter.stage = announced
{ENTRY}
"""
TORCH_ANNOUNCED = f"""
import os, sys

announcements = os.fdopen(os.dup(2), "w")

class Announcer:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print("begins: torch", file=announcements, flush=True)

sys.meta_path.insert(0, Announcer())
{ENTRY}
"""


def run_until(code: str, command: list[str], event: str) -> tuple[int, list[str]]:
    """Run in a process and press Ctrl-C when `event` begins. Exit code, and the lines of stderr after that."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        before = []
        for line in process.stderr:
            before.append(line)
            if line == f"begins: {event}\n":
                break
        else:
            pytest.fail(f"{event} never began: {''.join(before)}")
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: children get it too
        return process.wait(), process.stderr.read().splitlines()


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
        code, said = run_until(STAGES_ANNOUNCED, ["deploy", *job, "-o", str(folder)], stage)
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
    kept = sorted(each.name for each in (folder / ".edgekit").glob("*.json"))
    assert kept == ["reference-logits.json", "reference.json"]


def test_ctrl_c_while_it_starts(job_arguments: list[str], tmp_path: Path) -> None:
    command = ["deploy", *job_arguments, "-o", str(tmp_path / "run")]
    assert run_until(TORCH_ANNOUNCED, command, "torch") == (130, [INTERRUPTED])
    assert not (tmp_path / "run").exists()
