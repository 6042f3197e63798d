"""Ctrl-C in a process of its own, at each stage of a real job, and the same command going on from there."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.report import load_report
from edgekit.runtime.bundle import read_bundle

STAGES = [
    ("read evaluation images:", "export"),
    ("onnx-float: rewrite:", "compile"),
    ("export:", "calibrate"),
    ("crop evaluation images:", "evaluate"),
    ("onnx-int8: evaluate:", "time"),
]
"""The line after which Ctrl-C comes, and the stage that it hits."""

# As the console script does. With -m Python itself may end by the signal, though the exit code was set.
EDGEKIT = [sys.executable, "-c", "from edgekit.cli.main import entry; entry()"]


def run_until(command: list[str], line: str) -> tuple[int, str]:
    """Run in a process, press Ctrl-C after a line of stderr. Exit code and stderr."""
    process = subprocess.Popen(
        [*EDGEKIT, *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        said = []
        for each in process.stderr:
            said.append(each)
            if each.startswith(line):
                time.sleep(0.05)
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: children get it too
                said += process.stderr
        return process.wait(), "".join(said)


def test_ctrl_c_at_each_stage(
    finished_run: Path, job_arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    # Long enough to be hit while it times.
    slow = [*job_arguments[: job_arguments.index("--iterations")], "--iterations", "20000", "--min-speedup", "0"]
    job = [*slow, "--threads", "1", "--max-drop", "100", "--target", "onnx"]
    made: set[str] = set()
    for line, stage in STAGES:
        code, err = run_until(["deploy", *job, "-o", str(folder)], line)
        assert code == 130, (stage, err)
        assert err.endswith("interrupted: what was finished is kept; the same command goes on from there.\n"), err
        assert "Traceback" not in err, stage
        found = {each.name for each in folder.iterdir()} if folder.exists() else set()
        assert found <= {".edgekit", "calibration.json", "onnx-float", "onnx-int8"}, stage
        assert made <= found, "what was finished must stay"
        made = found & {"onnx-float", "onnx-int8"}
        for name in made:
            read_bundle(folder / name)
    assert main(["deploy", *job, "--iterations", "5", "-o", str(folder)]) == 0
    err = capfd.readouterr().err
    assert "onnx-float: kept from an earlier run" in err
    assert "onnx-int8: kept from an earlier run" in err
    assert "evaluate torch" not in err
    undisturbed = {row["bundle"]: row for row in load_report(finished_run)["results"]}
    for row in load_report(folder)["results"]:
        for key in ("size_bytes", "accuracy", "scheme", "int8", "verdict"):
            assert row[key] == undisturbed[row["bundle"]][key]
    assert sorted(each.name for each in (folder / ".edgekit").glob("*.json")) == ["reference.json"]


def test_ctrl_c_while_it_starts(job_arguments: list[str], tmp_path: Path) -> None:
    process: Any = subprocess.Popen(
        [*EDGEKIT, "deploy", *job_arguments, "-o", str(tmp_path / "run")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    err = process.communicate()[1]
    assert process.returncode == 130
    assert err == "interrupted: what was finished is kept; the same command goes on from there.\n"
    assert not (tmp_path / "run").exists()
