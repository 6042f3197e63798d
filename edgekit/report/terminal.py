"""The report for a terminal or a pipe: the answer within 80 columns."""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgekit.report.answer import UNCONFIRMED_WORD, alerts, all_remarks, caption, columns, decision, float_line
from edgekit.report.document import Recommendation, Report
from edgekit.report.table import lines_of
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from rich.console import Console

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", UNCONFIRMED_WORD: "yellow", "error": "bold red"}
"""Colours of verdicts."""

WIDTH = 80
"""Most columns of the answer, however wide the terminal is."""


def render_answer(report: Report, console: "Console") -> None:
    """Print warnings, what to ship and what that gains and costs, a line for each INT8 bundle, and one for float.

    No line is longer than 80 columns or the console. The page and the CSV have all figures.
    """
    import_needed("rich", "cli")
    for alert in alerts(report):
        write(console, alert, "bold red")
    recommendations = report.recommendations
    for advice in recommendations:
        headline, *details = decision(report, advice)
        write(console, headline, "bold")
        write(console, " ".join(details))
    for advice in recommendations:
        _write_rows(report, advice, console, several=len(recommendations) > 1)
    console.print()
    write(console, caption(report))
    for row, remark in all_remarks(report):
        write(console, remark, COLOURS[row.verdict])


def _write_rows(report: Report, advice: Recommendation, console: "Console", several: bool) -> None:
    """The table of the INT8 bundles on one device, and a line with the float ones."""
    rows = report.rows_on(advice.device)
    int8 = [row for row in rows if row.precision == "int8"]
    console.print()
    if several:
        write(console, f"On {rows[0].device.label}:" if rows else f"On {advice.device}:")
    if int8:
        _print_rows(console, lines_of(columns(int8, report.model.accuracy_meaningful), width_of(console)))
    write(console, float_line(rows))


def _print_rows(console: "Console", lines: Iterable[str]) -> None:
    """Print the lines of a table, with a colour for the verdict at the end of a line."""
    from rich.text import Text

    for line in lines:
        text = Text(line)
        colour = COLOURS.get(line.rpartition("  ")[2])
        if colour:
            text.stylize(colour, line.rindex(" ") + 1)
        console.print(text, no_wrap=True, crop=False, overflow="ignore")


def write(console: "Console", text: str, style: str = "") -> None:
    """Print a paragraph whose lines fit the answer's width; nothing if it is empty."""
    from rich.text import Text

    for line in textwrap.wrap(text, width_of(console), break_on_hyphens=False):
        console.print(Text(line, style=style), no_wrap=True, crop=False, overflow="ignore")


def width_of(console: "Console") -> int:
    """The width of the answer on this console."""
    return min(console.width, WIDTH)
