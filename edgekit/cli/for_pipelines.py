"""The files that `--junit` and `--summary` write."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgekit.cli.checks import check_file
from edgekit.cli.groups import ForPipelines
from edgekit.errors import OutputError, UsageError
from edgekit.support.files import append_text, replace_text


def check_files(files: ForPipelines) -> None:
    """Raise an InputError for a file that can't be written. Writes nothing."""
    check_file("--junit", files.junit)
    check_file("--summary", files.summary)
    if files.junit is not None and files.summary is not None and files.junit.resolve() == files.summary.resolve():
        raise UsageError(f"--junit and --summary are both '{files.junit}'", valid="two different files")


def write_files(files: ForPipelines, junit: Callable[[], str], summary: Callable[[], str]) -> None:
    """Write the files that the user named. A JUnit file replaces an earlier one, a summary is appended."""
    if files.junit is not None:
        with writing("--junit", files.junit):
            replace_text(files.junit.resolve(), junit())
    if files.summary is not None:
        with writing("--summary", files.summary):
            append_text(files.summary, summary())


@contextmanager
def writing(option: str, path: Path) -> Iterator[None]:
    """Turn errors of the file system into OutputError."""
    try:
        yield
    except OSError as error:
        fix = f"Free some space, or choose another file with {option}"
        raise OutputError(f"can't write '{path}': {error.strerror or error}", fix=fix) from error
