"""Takes turns on a machine: workers compute side by side, and each one times alone.

A worker that calibrates on all cores would distort the latencies that another one measures at that moment.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """The turns of all workers on this machine that share a database of trials."""

    def __init__(self, database: Path) -> None:
        self._file = database.with_name(f".{database.name}.{socket.gethostname()}.turns")

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Wait until no worker times, and keep others from timing inside the block."""
        with self._held(alone=False):
            yield

    @contextmanager
    def timing(self) -> Iterator[None]:
        """Wait until no other worker computes or times, and keep all from both inside the block."""
        with self._held(alone=True):
            yield

    @contextmanager
    def _held(self, alone: bool) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # Windows, where workers take turns for all their work
            from filelock import FileLock

            with FileLock(self._file):
                yield
            return
        with self._file.open("w") as file:  # closing it, or the end of the process, releases the lock
            fcntl.flock(file, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
