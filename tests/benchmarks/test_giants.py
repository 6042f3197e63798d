"""benchmarks/giants.py: a deploy whose processes' memory is measured."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import giants
from benchmarks.machine import memory_of, memory_of_tree, peak_of_this_process
from tests.helpers.tiny import TINY_MODEL


@pytest.mark.slow
def test_a_row_has_memory_seconds_and_bundles(photos: Path, tmp_path: Path) -> None:
    name, *more = TINY_MODEL
    rows = giants.deploy(name, ("onnx", "openvino"), photos, [*more, "--precision", "int8"], tmp_path)
    assert [row["target"] for row in rows] == ["onnx", "openvino"]
    for row, other in zip(rows, ("openvino", "onnx"), strict=True):
        assert row["stages"]["calibrate"] > 0
        assert "export" in row["stages"]
        assert not any(title.startswith(other) for title in row["stages"])
        (bundle,) = row["bundles"]
        assert row["peak_bytes"] > bundle["run_peak_bytes"], "torch and NNCF need more than a session alone"
        assert bundle["verdict"] == "pass"
        assert bundle["size_bytes"] > 90_000
        assert bundle["p50_ms"] > 0


def test_a_row_leaves_out_the_stages_of_other_targets() -> None:
    stages = [("load x", 1.0), ("a-int8: compile", 2.0), ("b-int8: compile", 3.0)]
    samples = [giants.Sample(*each) for each in ((0, 5, 0.5), (0, 6, 1.0), (1, 9, 2.5), (2, 7, 4.0), (2, 1, 5.5))]
    assert giants.needed(samples, stages, ["b"]) == {
        "peak_bytes": 9, "cpu_seconds": 2.5, "stages": {"load x": 1.0, "a-int8: compile": 2.0},
    }  # fmt: skip
    assert giants.needed(samples, stages, ["a"])["peak_bytes"] == 7
    assert giants.needed(samples, stages, ["a"])["cpu_seconds"] == 4.0


def test_a_stage_too_short_for_a_sample_adds_no_seconds() -> None:
    stages = [("load x", 1.0), ("read images", 0.0), ("a-int8: compile", 2.0)]
    samples = [giants.Sample(*each) for each in ((0, 5, 1.0), (2, 6, 4.0))]
    assert giants.needed(samples, stages, [])["cpu_seconds"] == 4.0


HOLD = """
import subprocess, sys
held = bytearray(b"x") * int(sys.argv[1])
child = subprocess.Popen([sys.executable, "-c", sys.argv[3], sys.argv[2], "0", ""]) if sys.argv[3] else None
print("held", flush=True)
sys.stdin.read()
"""
"""Allocates as many bytes as the first argument, and starts a process that allocates as many as the second."""


def test_memory_counts_a_process_and_its_descendants() -> None:
    own, below = 200_000_000, 100_000_000
    command = [sys.executable, "-c", HOLD, str(own), str(below), HOLD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["held\n"] * 2
        size = memory_of_tree(process.pid)
        process.communicate("")
    assert size == pytest.approx(own + below, abs=40e6)
    assert memory_of_tree(process.pid) == 0


def test_memory_leaves_out_mapped_files(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as out:
        out.write(b"x" * 50_000_000)
        os.fsync(out.fileno())
    with peak_of_this_process() as peak:
        mapped = np.memmap(file, np.uint8, "r")
        before = memory_of(os.getpid())
        assert mapped.sum() == 50_000_000 * ord("x")
        assert memory_of(os.getpid()) == pytest.approx(before, abs=20e6)
        held = np.full(100_000_000, 1, np.uint8)
        while peak.value < before + len(held) - 20e6:
            time.sleep(0.01)


@pytest.mark.slow
def test_a_refused_job_has_the_whole_error(photos: Path, tmp_path: Path) -> None:
    (row,) = giants.deploy("convnextv2_atto", ["onnx"], photos, ["--device-class", "raspberry-pi-6"], tmp_path)
    (error,) = row["refused"]
    assert "'raspberry-pi-6'" in error
    assert "raspberry-pi-5" in error
