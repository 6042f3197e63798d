"""Measures the memory that processes need: without the pages of files, once written, which the system can drop."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

INTERVAL = 0.05
"""Seconds between two samples of a peak."""


def memory_of(pid: int) -> int:
    """Bytes that a process needs. Pages that several processes share count once (PSS).

    Pages of files count only while they wait to be written.
    """
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("Pss_Dirty:", "SwapPss:")))


def memory_of_tree(pid: int) -> int:
    """Bytes that a process and its descendants need together; 0 if it has ended."""
    total = 0
    with suppress(psutil.Error):
        for process in (parent := psutil.Process(pid), *parent.children(recursive=True)):
            with suppress(psutil.Error, OSError):  # the process has ended in the meantime
                total += memory_of(process.pid)
    return total


@contextmanager
def peak_of_this_process() -> Iterator[Any]:
    """Yields a shared value whose `value` is the largest memory so far, which may be set to 0. Another process samples.

    A thread of this process would wait for compilers that hold Python's lock.
    """
    context = multiprocessing.get_context("spawn")
    peak = context.Value("q", 0)
    sampler = context.Process(target=_sample, args=(os.getpid(), peak), daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        sampler.kill()
        sampler.join()


def _sample(pid: int, peak: Any) -> None:
    while True:
        start = time.monotonic()
        size = memory_of(pid)
        with peak.get_lock():
            peak.value = max(peak.value, size)
        # The kernel walks over all pages, during which the process can't get new ones.
        time.sleep(max(INTERVAL, 10 * (time.monotonic() - start)))
