"""The folder of a run: claimed once, written beside-and-rename, and what makes the same command go on."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit.errors import OutputError
from edgekit.support import library_log
from edgekit.support.files import write_json, writing
from edgekit.support.tracebacks import text_of

STATE = ".edgekit"
"""Folder inside a run: marks it as one, and keeps what a resumed command reuses."""
LOCK = "lock"
"""File in that folder. The process that works in the run holds a lock on it; the operating system frees the lock of a
process that was killed."""
LEFTOVERS = (f"{STATE}/build-*", ".*.tmp-*", ".*.old-*", ".*.compile-*")
"""What a killed process can leave behind."""


class RunFolder:
    """A run's output folder, held by one process."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, path / STATE

    def remember(self, name: str, key: str, value: Any) -> None:
        """Keep a JSON value for a command that is resumed with the same key."""
        write_json(self.state / f"{name}.json", {"key": key, "value": value})

    def recall(self, name: str, key: str) -> Any:
        """What `remember` kept under this name and key, or None."""
        try:
            kept = json.loads((self.state / f"{name}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return kept.get("value") if isinstance(kept, dict) and kept.get("key") == key else None

    def forget(self) -> None:
        """The run is complete: the next one measures again."""
        for each in self.state.glob("row-*.json"):
            each.unlink()

    @contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """A folder inside the run that is gone afterwards."""
        folder = self.state / f"build-{name}-{os.getpid()}"
        try:
            with writing(folder):
                folder.mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_run(path: Path) -> Iterator[RunFolder]:
    """Claim `path` as a run folder until the block ends; OutputError as `check_output` says, or if it is in use.

    What libraries print meanwhile is kept in its `library_log`.
    """
    from filelock import FileLock, Timeout  # a device reads bundles through this module and has no filelock

    check_output(path)
    run = RunFolder(path)
    lock = FileLock(run.state / LOCK)
    with writing(path):
        run.state.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise OutputError(
                f"another edgekit command is working in '{path}': wait for it, or choose another with --output DIR."
            ) from None
    try:
        for left in (each for pattern in LEFTOVERS for each in path.glob(pattern)):
            with writing(left):
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        with library_log.kept_in(run.state / library_log.NAME):
            library_log.note(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {shlex.join(sys.argv)}")
            try:
                yield run
            except Exception as error:
                library_log.note("the command ended with an error", text_of(error))
                raise
    finally:
        lock.release()


def check_output(path: Path) -> None:
    """Raise OutputError unless `path` is new, empty or a run already, and can be written. Writes nothing."""
    with writing(path):
        _check_output(path)


def _check_output(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"the output '{path}' is a file: give a folder with --output DIR.")
    place = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not place.is_dir():
        raise OutputError(f"the output '{path}' lies in '{place}', a file: give a folder with --output DIR.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(f"can't write '{path}': '{place}' is read-only. Choose another place with --output DIR.")
    if path.is_dir() and not (path / STATE).is_dir() and any(path.iterdir()):
        some = ", ".join(sorted(each.name for each in path.iterdir())[:3])
        raise OutputError(
            f"the output folder '{path}' holds something else ({some}): it must be new, empty or an earlier run. "
            "Choose another with --output DIR."
        )
