"""The report for a terminal or a pipe: the answer within 80 columns, or a table with every column that fits."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgekit.report.answer import (
    UNCONFIRMED_WORD,
    advised,
    alerts,
    all_remarks,
    caption,
    columns,
    decision,
    float_line,
    rows_on,
)
from edgekit.report.document import Recommendation, Report
from edgekit.report.figure import DETAIL_RANK, Figure, table_figures
from edgekit.report.row import Row, Verdict
from edgekit.report.sentences import conditions, heading, sentences, warnings
from edgekit.report.table import lines_of
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

COLOURS: dict[Verdict, str] = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "bold red"}

WIDTH = 80
"""Most columns of the answer, however wide the terminal is."""


def render_answer(report: Report, console: "Console") -> None:
    """Print warnings, what to ship and what that gains and costs, a line for each INT8 bundle, and one for float.

    No line is longer than 80 columns or the console. `render_table` shows more figures.
    """
    import_needed("rich", "cli")
    for alert in alerts(report):
        write(console, alert, "bold red")
    recommendations = advised(report)
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
    from rich.text import Text

    rows = rows_on(report, advice.device)
    int8 = [row for row in rows if row.precision == "int8"]
    console.print()
    if several:
        write(console, f"On {rows[0].device.label}:" if rows else f"On {advice.device}:")
    if int8:
        lines = lines_of(columns(int8, report.model.accuracy_meaningful), width_of(console))
        for line in lines:
            verdict = next((row.verdict for row in int8 if line.endswith(f"  {row.verdict}")), None)
            text = Text(line)
            if verdict:
                text.stylize(COLOURS[verdict], len(line) - len(verdict))
            elif line.endswith(UNCONFIRMED_WORD):
                text.stylize(COLOURS["inconclusive"], len(line) - len(UNCONFIRMED_WORD))
            console.print(text, no_wrap=True, crop=False, overflow="ignore")
    write(console, float_line(rows))


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
    table, dropped = _fitting(report, console)
    console.print(table)
    if dropped:
        titles = ", ".join(figure.title for figure in dropped)
        console.print(Text(f"Hidden at this width: {titles} (report.html and report.csv have every column)."))
    for row in report.results:
        if row.verdict != "pass" or row.remarks:
            console.print(_why(row, several=len(report.devices) > 1))
    for advice in advised(report):
        headline, *details = decision(report, advice)
        console.print(Text(headline, style="bold"), Text(" ".join(details)), sep="\n" if details else "")


def _fitting(report: Report, console: "Console") -> tuple["Table", list[Figure]]:
    """The table with as many columns as fit, and the figures whose columns were dropped."""
    from rich.measure import Measurement

    figures = table_figures(report.results)
    dropped: list[Figure] = []
    broken = False
    while True:
        table = _table(report, figures, broken)
        width = Measurement.get(console, console.options.update(width=10_000), table).maximum
        last = max(figures, key=lambda figure: figure.rank or 0)
        if width <= console.width or (broken and not last.rank):
            return table, dropped
        if broken or (last.rank or 0) >= DETAIL_RANK:
            figures.remove(last)
            dropped.append(last)
        else:
            broken = True


def _table(report: Report, figures: Sequence[Figure], broken: bool) -> "Table":
    """A table of these figures. `broken` puts intervals on a second line."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    several = len(report.devices) > 1
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("bundle", no_wrap=True)
    if several:
        table.add_column("device", no_wrap=True)
    for figure in figures:
        unit = _joined(figure.unit, "[95 %]" if figure.interval else "", broken)
        table.add_column(Text(f"{figure.title}\n{unit}"), justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    meaningful = report.model.accuracy_meaningful
    for row in report.results:
        texts = [
            _joined(figure.text(row, meaningful), figure.interval_text(row, meaningful), broken) for figure in figures
        ]
        names = [row.name, row.device.label] if several else [row.name]
        verdict = Text(row.verdict, style=COLOURS[row.verdict])
        table.add_row(*map(Text, (*names, *texts)), verdict)
    return table


def _joined(text: str, interval: str, broken: bool) -> str:
    """A figure with its interval, if it has one."""
    separator = "\n" if broken else " "
    return f"{text}{separator}{interval}" if interval else text


def _why(row: Row, several: bool) -> "Text":
    """The reasons why a row did not pass, and the remarks on it."""
    from rich.text import Text

    where = f" on {row.device.label}" if several else ""
    notes = " ".join(sentences(row)) or "no reason recorded"
    return Text.assemble((f"{row.name}{where}: {row.verdict}", COLOURS[row.verdict]), f": {notes}")
