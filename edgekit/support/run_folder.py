"""Run folders: locked by one process, written atomically, with the state that lets the same command resume."""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from edgekit.errors import OutputError
from edgekit.support import child_process
from edgekit.support.files import Inputs, digest, write_json, writing
from edgekit.support.progress import text_of

T = TypeVar("T")

STATE = ".edgekit"
"""Folder inside a run that marks it as one and stores the results that a resumed command reuses."""
LOCK = "lock"
"""File in that folder that the process working in the run has locked. The operating system releases the lock of a
process that was killed."""
JOB = f"{STATE}/job.json"
"""File with the options of the run's job, which contains local paths: it is never copied elsewhere."""
ATTEMPTS = "attempts"
"""Folder in `STATE` with bundles that `edgekit deploy` tried when it repaired one."""
LEFTOVERS = (f"{STATE}/build-*", f"{STATE}/{ATTEMPTS}/.*", ".*.tmp-*", ".*.old-*", ".*.compile-*")
"""Glob patterns of the files that a killed process, this one or one that it started, can leave behind."""


VALID_OUTPUT = "a folder that is new, empty or an earlier run"
OTHER_OUTPUT = "Choose another folder with --output DIR"


def keeps_job(run: Path) -> bool:
    """Whether a run folder stands for its job, so that other commands take it as their model."""
    return (run / JOB).is_file()


class RunFolder:
    """A run's output folder, locked by one process."""

    def __init__(self, path: Path) -> None:
        self.path, self.state = path, path / STATE

    def remember(self, name: str, inputs: Inputs, result: Any) -> None:
        """Store a result that was made from these inputs, for `recall`."""
        write_json(self.state / f"{name}.json", {"key": inputs.key, "value": msgspec.to_builtins(result)})

    def recall(self, name: str, inputs: Inputs, kind: type[T]) -> T | None:
        """The result of this type that `remember` stored under this name for equal inputs; None if there is none."""
        try:
            stored = json.loads((self.state / f"{name}.json").read_text("utf-8"))
            if stored["key"] == inputs.key:
                return msgspec.convert(stored["value"], kind)
        except (OSError, ValueError, TypeError, KeyError):  # not there, damaged, or not of this type
            pass
        return None

    def once(self, name: str, inputs: Inputs, kind: type[T], make: Callable[[], T]) -> T:
        """The result of this type under this name for equal inputs, which is made and stored if there is none."""
        result = self.recall(name, inputs, kind)
        if result is None:
            result = make()
            self.remember(name, inputs, result)
        return result

    def attempt(self, name: str, kinds: Sequence[str]) -> Path:
        """Folder of the bundle that was tried instead of the run's bundle `name`, with these kinds of layers."""
        return self.state / ATTEMPTS / f"{name}-{digest(*kinds)[:12]}"

    def attempts(self, name: str) -> list[Path]:
        """Folders of the bundles that were tried instead of the run's bundle `name`, sorted."""
        return sorted((self.state / ATTEMPTS).glob(f"{name}-*"))

    def keep_job(self, options: Mapping[str, Any] | None) -> None:
        """Keep the options of the job that works in this run, and no longer those of an earlier one."""
        if options is None:
            (self.path / JOB).unlink(missing_ok=True)
        else:
            write_json(self.path / JOB, options)

    def complete(self) -> None:
        """Set the stored rows, called row-NAME, of a completed run aside as measured-NAME: the next run measures again.

        Those of the completed run before are replaced.
        """
        for row in self.state.glob("row-*.json"):
            row.replace(row.with_name(f"measured-{row.name.removeprefix('row-')}"))

    @contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """A temporary folder inside the run, deleted when the block ends."""
        folder = self.state / f"build-{name}-{os.getpid()}"
        try:
            with writing(folder):
                folder.mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def open_run(path: Path) -> Iterator[RunFolder]:
    """Lock `path` as a run folder until the block ends; OutputError as in `check_output`, or if it is in use.

    The output of libraries inside the block goes to the run's `library_log`. Files that killed processes left behind
    are removed when the block begins, and again when it ends: Ctrl-C kills the processes that build bundles.
    """
    from filelock import FileLock, Timeout  # devices import this module to read bundles, and don't have filelock

    check_output(path)
    run = RunFolder(path)
    lock = FileLock(run.state / LOCK)
    with writing(path):
        run.state.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            fix = "Wait until it ends, or choose another folder with --output DIR"
            raise OutputError(f"another edgekit command is using '{path}'", fix=fix) from None
    try:
        _remove_leftovers(path)
        with child_process.kept_in(run.state / child_process.NAME):
            child_process.note(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: {shlex.join(sys.argv)}")
            try:
                yield run
            except Exception as error:
                child_process.note("the command ended with an error", text_of(error))
                raise
            finally:
                with suppress(OutputError):  # the next command that opens the run tries again
                    _remove_leftovers(path)
    finally:
        lock.release()


def _remove_leftovers(path: Path) -> None:
    for left in (file for pattern in LEFTOVERS for file in path.glob(pattern)):
        with writing(left):
            name, is_old, _ = left.name.removeprefix(".").rpartition(".old-")
            if is_old and not left.with_name(name).exists():
                left.rename(left.with_name(name))  # the process was killed before the new one was there
            elif left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


def check_output(path: Path) -> None:
    """Raise OutputError unless `path` is new, empty or an earlier run, and writable. Writes nothing."""
    with writing(path):
        if path.exists() and not path.is_dir():
            raise OutputError(f"the output '{path}' is a file", valid=VALID_OUTPUT, fix=OTHER_OUTPUT)
        place = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
        if not place.is_dir():
            raise OutputError(f"the output '{path}' is inside '{place}', a file", valid=VALID_OUTPUT, fix=OTHER_OUTPUT)
        if not os.access(place, os.W_OK | os.X_OK):
            raise OutputError(f"can't write '{path}': '{place}' is read-only", fix=OTHER_OUTPUT)
        if path.is_dir() and not (path / STATE).is_dir() and any(path.iterdir()):
            some = ", ".join(sorted(file.name for file in path.iterdir())[:3])
            problem = f"the output folder '{path}' contains files that aren't from edgekit ({some})"
            raise OutputError(problem, valid=VALID_OUTPUT, fix=OTHER_OUTPUT)
