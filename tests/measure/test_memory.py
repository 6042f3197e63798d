"""Memory of this machine and of processes, with and without psutil."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit.measure.memory import machine_memory, peak_rss_bytes


def test_a_device_without_psutil_has_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    host = machine_memory()
    monkeypatch.setitem(sys.modules, "psutil", None)
    device = machine_memory()
    assert device.total == host.total
    assert host.total is not None
    for available in (host.available, device.available):
        assert available is not None
        assert 0 < available < host.total


def test_the_peak_includes_memory_that_was_freed() -> None:
    code = """
import numpy as np
from edgekit.measure.memory import peak_rss_bytes
before = peak_rss_bytes()
np.ones(200_000_000, np.uint8)
print(peak_rss_bytes() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(200e6, rel=0.1)


def test_the_peak_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts KiB
    assert before <= peak_rss_bytes() <= 1.1 * before
