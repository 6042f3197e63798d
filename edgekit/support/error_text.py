"""The text of errors on the command line, the general meaning of each kind, and tracebacks.

Tracebacks are for users who ask with `--traceback`, and those of bugs in edgekit for its developers.
"""

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekit import errors
from edgekit.errors import EdgekitError


@dataclass(frozen=True)
class Explanation:
    """The meaning of an error, from the docstring of its class."""

    name: str
    """Name of the class, such as "BundleError"."""
    summary: str
    """Meaning of the error, in one sentence."""
    cause: str
    """Usual causes."""
    cure: str
    """Ways to fix it."""
    exit_code: int
    """Exit status of a command that ends with the error."""


def explain(name: str) -> Explanation:
    """The explanation of the error with this name, one of `errors.error_names()`."""
    kind = getattr(errors, name)
    summary, _, rest = inspect.cleandoc(kind.__doc__).partition("Cause: ")
    cause, _, cure = rest.partition("Cure: ")
    return Explanation(name, _line(summary), _line(cause), _line(cure), kind.exit_code)


def lines_of(error: EdgekitError) -> Iterator[str]:
    """An error as the command line prints it, one field per line."""
    yield f"edgekit: error: {error.problem}"
    for label, text in (("valid", error.valid), ("fix", error.fix)):
        if text:
            yield f"  {label + ':':<6} {text}"


def _line(paragraph: str) -> str:
    return " ".join(paragraph.split())


TRACEBACK_OPTION = "--traceback"
PLEASE_REPORT = (
    "this is a bug in edgekit, not in your input. A report needs the command, the lines above, what `edgekit doctor` "
    "prints, and library-output.log from the run folder's .edgekit if there is one."
)
PACKAGE = Path(__file__).resolve().parent.parent
_wanted = False


@contextmanager
def tracebacks_shown(wanted: bool) -> Iterator[None]:
    """If `wanted`, show the traceback of every error that is reported inside the block."""
    global _wanted
    before, _wanted = _wanted, wanted
    try:
        yield
    finally:
        _wanted = before


def tracebacks_wanted() -> bool:
    """Whether tracebacks are to be shown."""
    return _wanted


class BugElsewhere(Exception):
    """A bug in edgekit that ended another process, which sent its `kind_of`, `summary_of` and `text_of`."""

    def __init__(self, kind: str, summary: str, traceback: str) -> None:
        super().__init__(summary)
        self.kind = kind
        self.add_note(f"In the other process: {traceback}")


def kind_of(bug: Exception) -> str:
    """Name of the class of a bug's exception."""
    return bug.kind if isinstance(bug, BugElsewhere) else type(bug).__name__


def summary_of(bug: Exception) -> str:
    """One line about a bug: the exception, and the last line of edgekit's code that it came through."""
    if isinstance(bug, BugElsewhere):
        return str(bug)
    words = traceback.format_exception_only(bug)[-1].strip().splitlines()[0]
    own = [frame for frame in traceback.extract_tb(bug.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)]
    return f"{words} (edgekit/{Path(own[-1].filename).relative_to(PACKAGE)}:{own[-1].lineno})" if own else words


def text_of(error: BaseException) -> str:
    """The traceback of an error and of its causes."""
    return "".join(traceback.format_exception(error)).rstrip()
