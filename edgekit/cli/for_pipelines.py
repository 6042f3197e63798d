"""The files that `--junit` and `--summary` write."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit.cli.checks import check_file
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
