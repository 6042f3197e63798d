"""The two streams: stdout carries the result and nothing else; progress and messages go to stderr."""

import contextlib
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.errors import UsageError
from edgekit.support.files import append_text, check_file, replace_text, writing

if TYPE_CHECKING:
    from edgekit.report.page import Block, Line, NextStep


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


def all_pass(rows: Iterable[Any]) -> bool:
    """Whether no row has another verdict."""
    return all(row.verdict == "pass" for row in rows)


@dataclass(frozen=True)
class Answer:
    """What a command found, how it is printed, and whether it passed."""

    document: Any
    """Document that `--json` prints, whose page is printed otherwise."""
    shown: "Iterable[Block] | None" = None
    """What is printed instead of the document's page."""
    steps: "Iterable[NextStep]" = ()
    """The next commands, which follow the text."""
    last: Iterable[str] = ()
    """Lines that follow the next commands."""
    widest: int | None = None
    """Most columns of a line; None for those of a paragraph."""
    passed: bool = True
    """Whether the exit code is 0, and not 1."""
    error: BaseException | None = None
    """Raised when the answer was printed."""

    def show(self, out: TextIO, json_: bool) -> None:
        """Print the document as JSON, or else the text and the next commands."""
        if json_:
            from edgekit.report.document import to_json

            out.write(to_json(self.document))
            return
        from edgekit.report.page import WIDTH, Steps, lines_of, page_of

        page = page_of(self.document) if self.shown is None else self.shown
        width = min(shutil.get_terminal_size().columns, self.widest or WIDTH)
        lines = [*lines_of([*page, Steps(tuple(self.steps)), *self.last], width)]
        if any(line.style for line in lines):
            _print_styled(lines, out)
        else:
            out.writelines(f"{line}\n" for line in lines)


def _print_styled(lines: "Iterable[Line]", out: TextIO) -> None:
    """Lines in their colours, however long they are."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=out)
    for line in lines:
        text = Text(line.text)
        text.stylize(line.style, line.start)
        console.print(text, no_wrap=True, crop=False, overflow="ignore")


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

    def write(self, document: Any) -> None:
        """Write the files that the user named, of a document with results. A JUnit file replaces an earlier one."""
        from edgekit.report.formats import junit, summary

        if not hasattr(document, "results"):  # a plan
            return
        if self.junit is not None:
            with writing(self.junit, "--junit"):
                replace_text(self.junit.resolve(), junit(document))
        if self.summary is not None:
            with writing(self.summary, "--summary"):
                append_text(self.summary, summary(document))
