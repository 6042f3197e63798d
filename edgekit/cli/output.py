"""The two streams: stdout carries the result and nothing else; progress and messages go to stderr."""

import contextlib
import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from edgekit.errors import UsageError
from edgekit.support.files import append_text, check_file, replace_text, writing

if TYPE_CHECKING:
    from edgekit.report.figure import Line
    from edgekit.report.sentences import NextStep, Words

INDENT = "  "
CONTINUED = " \\"
NO_DEVICES = "no devices: add one with edgekit devices add NAME ssh://USER@HOST"


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
    from edgekit.report.answer import WIDTH

    return min(shutil.get_terminal_size().columns, WIDTH)


def wrapped(text: str, width: int) -> list[str]:
    """A paragraph whose lines are not longer than this; the indentation of a line stays."""
    indent = text[: len(text) - len(text.lstrip())]
    return textwrap.wrap(text, width, subsequent_indent=f"{indent}  ", break_on_hyphens=False)


def all_pass(rows: Iterable[Any]) -> bool:
    """Whether no row has another verdict."""
    return all(row.verdict == "pass" for row in rows)


@dataclass(frozen=True)
class Answer:
    """What a command found, how it is printed, and whether it passed."""

    document: Any
    """Document that `--json` prints."""
    shown: "Iterable[str | Line]"
    """Lines of text, which may have colours."""
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
            from edgekit.report.document import to_json

            out.write(to_json(self.document))
            return
        for line in (*self.shown, *step_lines(self.steps, answer_width()), *self.last):
            if isinstance(line, str):
                out.write(f"{line}\n")
            else:
                _print(line, out)


def _print(line: "Line", out: TextIO) -> None:
    """A line in its colour, however long it is."""
    from rich.console import Console
    from rich.text import Text

    text = Text(line.text)
    text.stylize(line.style, line.start)
    Console(file=out).print(text, no_wrap=True, crop=False, overflow="ignore")


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

    def write(self, junit: Callable[[], str] | None, summary: Callable[[], str] | None) -> None:
        """Write the files that the user named. A JUnit file replaces an earlier one, a summary is appended."""
        if self.junit is not None and junit is not None:
            with writing(self.junit, "--junit"):
                replace_text(self.junit.resolve(), junit())
        if self.summary is not None and summary is not None:
            with writing(self.summary, "--summary"):
                append_text(self.summary, summary())


def step_lines(steps: "Iterable[NextStep]", width: int) -> list[str]:
    """The next commands, behind an empty line if there are any. Those of a command can be pasted into a shell."""
    lines: list[str] = []
    for step in steps:
        line = f"{'Or' if lines else 'Next,'} {step.purpose}"
        if step.command:
            short = f"{line}: {shlex.join(step.command)}"
            lines += [short] if len(short) <= width else [f"{line}:", *command_lines(step.command, width)]
        else:
            lines += textwrap.wrap(step.purpose, width)
    return ["", *lines] if lines else []


def command_lines(words: "Words", width: int) -> list[str]:
    """A command, quoted for a shell and broken between words. A word that is longer than a line stays whole."""
    lines = [INDENT + words[0]]
    for word, following in zip(words[1:], [*words[2:], "-"], strict=True):
        quoted = shlex.quote(word)
        with_value = word.startswith("-") and not following.startswith("-")
        needed = len(quoted) + (1 + len(shlex.quote(following)) if with_value else 0)
        if len(lines[-1]) + 1 + needed + len(CONTINUED) <= width or lines == [INDENT + words[0]]:
            lines[-1] += f" {quoted}"
        else:
            lines[-1] += CONTINUED
            lines.append(f"{INDENT * 3}{quoted}")
    return lines
