"""Files that the user names to be written, such as those of `--junit` and `--summary`."""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import OutputError, UsageError
from edgekit.support.files import append_text, replace_text


@dataclass(frozen=True)
class ForPipelines:
    """Files in which a pipeline looks for the result. They are also written if a gate fails."""

    junit: Path | None
    summary: Path | None

    def check(self) -> None:
        """Raise an InputError for a file that can't be written. Writes nothing."""
        check_file("--junit", self.junit)
        check_file("--summary", self.summary)
        if self.junit is not None and self.summary is not None and self.junit.resolve() == self.summary.resolve():
            raise UsageError(f"--junit and --summary are both '{self.junit}'", valid="two different files")

    def write(self, junit: Callable[[], str], summary: Callable[[], str]) -> None:
        """Write the files that the user named. A JUnit file replaces an earlier one, a summary is appended."""
        if self.junit is not None:
            with writing("--junit", self.junit):
                replace_text(self.junit.resolve(), junit())
        if self.summary is not None:
            with writing("--summary", self.summary):
                append_text(self.summary, summary())


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Turn errors of the file system into OutputError."""
    try:
        yield
    except OSError as error:
        fix = f"Free some space, or choose another file with {option}"
        raise OutputError(f"can't write '{path}': {error.strerror or error}", fix=fix) from error


def check_file(option: str, path: Path | None) -> None:
    """Raise OutputError unless a file can be written there. Writes nothing."""
    if path is None:
        return
    try:
        problem, fix = _obstacle(path)
    except OSError as error:
        problem, fix = error.strerror or str(error), "Choose another file"
    if problem:
        raise OutputError(
            f"{option} can't write '{path}': {problem}", valid="the path of a file in an existing folder", fix=fix
        )


def _obstacle(path: Path) -> tuple[str, str]:
    """The problem that prevents a file from being written, and its fix; two empty strings without a problem."""
    folder = path.absolute().parent
    if path.is_dir():
        return "it is a folder", f"Name a file in it, such as {path / 'NAME'}"
    if path.exists() and not path.is_file():
        return "it is not a regular file", "Choose another file"
    if not folder.is_dir():
        return f"the folder '{folder}' does not exist", f"Run: mkdir -p {shlex.quote(str(folder))}"
    if not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.R_OK | os.W_OK)):
        return "you have no permission", "Choose another file, or change the permissions"
    return "", ""
