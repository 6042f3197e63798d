"""The report for a terminal or a pipe: the answer within 80 columns, or a table with every column that fits."""

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING

from edgekit.report.answer import UNCONFIRMED_WORD, alerts, all_remarks, caption, columns, decision, float_line
from edgekit.report.document import Recommendation, Report
from edgekit.report.figure import table_figures
from edgekit.report.row import Row
from edgekit.report.sentences import conditions, heading, notes_of, warnings
from edgekit.report.table import Column, figure_column, fitting, lines_of
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", UNCONFIRMED_WORD: "yellow", "error": "bold red"}
"""Colours of verdicts."""

WIDTH = 80
"""Most columns of the answer, however wide the terminal is."""


def render_answer(report: Report, console: "Console") -> None:
    """Print warnings, what to ship and what that gains and costs, a line for each INT8 bundle, and one for float.

    No line is longer than 80 columns or the console. `render_table` shows more figures.
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


def render_table(report: Report, console: "Console") -> None:
    """Print one line per row, then the reasons of rows that did not pass, and the decision for each device.

    Columns are dropped, highest rank first, until the table fits the console. Details are dropped before intervals move
    to a second line.
    """
    import_needed("rich", "cli")
    from rich.text import Text

    console.print(Text(heading(report), style="bold"))
    for warning in warnings(report):
        console.print(Text(warning, style="bold red"))
    for line in conditions(report):
        console.print(Text(line))
    columns = _columns(report)
    kept = {_title(column) for column in fitting(columns, console.width)}
    _print_rows(console, lines_of(columns, console.width, rule="─"))
    hidden = sorted((column for column in columns if _title(column) not in kept), key=lambda column: -column.rank)
    if hidden:
        titles = ", ".join(map(_title, hidden))
        console.print(Text(f"Hidden at this width: {titles} (report.html and report.csv have every column)."))
    for row in report.results:
        if row.verdict != "pass" or row.remarks:
            console.print(_why(row, several=report.has_several_devices))
    for advice in report.recommendations:
        headline, *details = decision(report, advice)
        console.print(Text(headline, style="bold"), Text(" ".join(details)), sep="\n" if details else "")


def _columns(report: Report) -> list[Column]:
    """The table of the rows, with every figure that has a rank."""
    rows, devices = report.results, [row.device.label for row in report.results]
    return [
        Column("bundle", [row.name for row in rows], left=True),
        *([Column("device", devices, left=True)] if report.has_several_devices else []),
        *(figure_column(figure, rows, report.model.accuracy_meaningful) for figure in table_figures(rows)),
        Column("verdict", [row.verdict for row in rows], left=True),
    ]


def _title(column: Column) -> str:
    return column.head.partition("\n")[0]


def _why(row: Row, several: bool) -> "Text":
    """The reasons why a row did not pass, and the remarks on it."""
    from rich.text import Text

    where = f" on {row.device.label}" if several else ""
    notes = " ".join(note.sentence for note in notes_of(row)) or "no reason recorded"
    return Text.assemble((f"{row.name}{where}: {row.verdict}", COLOURS[row.verdict]), f": {notes}")
