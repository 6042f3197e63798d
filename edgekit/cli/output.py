"""The two streams: stdout carries the result and nothing else; progress and messages go to stderr."""

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from edgekit.report.document import Report
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


def show_report(report: "Report", out: TextIO) -> None:
    """Print the answer of a run."""
    from rich.console import Console

    from edgekit.report import render_answer

    render_answer(report, Console(file=out))


def show_steps(steps: "Iterable[NextStep]", out: TextIO) -> None:
    """Print the next commands behind an empty line; nothing if there are none."""
    from edgekit.cli.next_steps import lines_of

    lines = lines_of(steps, answer_width())
    out.writelines(f"{line}\n" for line in ["", *lines] if lines)


def emit(out: TextIO, document: Any) -> None:
    """Write a document as JSON."""
    from edgekit.report.serialization import to_json

    out.write(to_json(document))


def show(out: TextIO, document: Any, lines: Iterable[str], json_: bool, steps: "Iterable[NextStep]" = ()) -> None:
    """Print a document as JSON, or else as these lines of text and the next commands."""
    if json_:
        emit(out, document)
    else:
        out.writelines(f"{line}\n" for line in lines)
        show_steps(steps, out)
