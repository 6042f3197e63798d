"""The two streams: stdout carries the result and nothing else; progress and messages go to stderr."""

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

    from edgekit.report.next_steps import NextStep


@contextlib.contextmanager
def clean_stdout() -> Iterator[TextIO]:
    """Send whatever libraries print in the block to stderr; yields the real stdout, for the result."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with (
            os.fdopen(os.dup(stdout), "w", encoding="utf-8", errors="surrogateescape") as real,
            contextlib.redirect_stdout(sys.stderr),
        ):
            yield real
    finally:
        sys.stdout.flush()
        os.dup2(stdout, 1)
        os.close(stdout)


def answer_width() -> int:
    """Most columns of a line that a command prints."""
    from edgekit.report.terminal import WIDTH

    return min(shutil.get_terminal_size().columns, WIDTH)


def wrapped(text: str, width: int) -> list[str]:
    """A paragraph whose lines are not longer than this; the indentation of a line stays."""
    indent = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(text, width, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


@dataclass(frozen=True)
class Answer:
    """What a command found, how it is printed, and whether it passed."""

    document: Any
    """Document that `--json` prints."""
    shown: "Iterable[str] | Callable[[Console], None]"
    """Lines of text, or what prints the text."""
    steps: "Iterable[NextStep]" = ()
    """The next commands, which follow the text."""
    last: Iterable[str] = ()
    """Lines that follow the next commands."""
    passed: bool = True
    """Whether the exit code is 0, and not 1."""
    error: BaseException | None = None
    """Raised when the answer was printed."""
    junit: Callable[[], str] | None = None
    """Makes the file of `--junit`."""
    summary: Callable[[], str] | None = None
    """Makes the text of `--summary`."""

    def show(self, out: TextIO, json_: bool) -> None:
        """Print the document as JSON, or else the text and the next commands."""
        if json_:
            from edgekit.report.serialization import to_json

            out.write(to_json(self.document))
            return
        if callable(self.shown):
            from rich.console import Console

            self.shown(Console(file=out))
        else:
            out.writelines(f"{line}\n" for line in self.shown)
        out.writelines(f"{line}\n" for line in (*_lines_of(self.steps), *self.last))


def _lines_of(steps: "Iterable[NextStep]") -> list[str]:
    """The next commands behind an empty line; nothing if there are none."""
    from edgekit.cli.next_steps import lines_of

    lines = lines_of(steps, answer_width())
    return ["", *lines] if lines else []
