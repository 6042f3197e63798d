"""benchmarks/giants.py: a deploy whose processes' memory is measured."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import giants
from tests.helpers.tiny import TINY_MODEL


def test_a_row_has_memory_seconds_and_bundles(photos: Path, tmp_path: Path) -> None:
    name, *more = TINY_MODEL
    row = giants.deploy(name, "onnx", photos, [*more, "--precision", "int8"], tmp_path)
    assert 0 < row["stages"]["onnx-int8: calibrate"] < row["seconds"]
    (bundle,) = row["bundles"]
    assert row["peak_bytes"] > bundle["run_peak_bytes"], "torch and NNCF need more than a session alone"
    assert row["largest_process_bytes"] > bundle["run_peak_bytes"]
    assert bundle["verdict"] == "pass"
    assert bundle["size_bytes"] > 90_000
    assert bundle["p50_ms"] > 0


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
        sizes = giants.memory(process.pid)
        process.communicate("")
    resident = sorted(rss for _, rss in sizes)
    assert resident == pytest.approx([below, own], abs=30e6)
    assert sum(pss for pss, _ in sizes) == pytest.approx(own + below, abs=40e6)
    assert giants.memory(process.pid) == []


def test_a_refused_job_has_the_whole_error(photos: Path, tmp_path: Path) -> None:
    row = giants.deploy("convnextv2_atoo", "onnx", photos, [], tmp_path)
    (error,) = row["refused"]
    assert "unknown model 'convnextv2_atoo'" in error
    assert "convnextv2_atto" in error
