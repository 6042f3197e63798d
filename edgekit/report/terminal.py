"""The report as a table for a terminal, or for a pipe."""

from typing import TYPE_CHECKING

from edgekit.report import columns as c
from edgekit.report.columns import Column, Report, Row, devices, row_name, said, shown_device
from edgekit.report.sentences import conditions, heading, recommendation
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

COLUMNS = (
    c.SIZE, c.TOP1, c.DROP, c.AGREEMENT, c.P50, c.P90, c.P99, c.SPEEDUP, c.INT8, c.LIMIT, c.PEAK, c.VERDICT,
)  # fmt: skip
COLOURS = {"pass": "green", "fail": "red", "not shown": "yellow", "error": "bold red"}


def render_table(report: Report, console: "Console") -> None:
    """Prints what was measured, one row per bundle; then why rows didn't pass, and what to ship.

    Columns are left out, the less telling first, until the table fits the console.
    """
    import_needed("rich", "cli")
    from rich.text import Text

    console.print(Text(heading(report), style="bold"))
    for line in conditions(report):
        console.print(Text(line))
    table, left_out = _fitting(report, console)
    console.print(table)
    if left_out:
        console.print(Text(f"Not shown at this width: {', '.join(left_out)} (all are in report.html and report.csv)."))
    for row in report["results"]:
        if row["verdict"] != "pass" or row.get("remarks"):
            console.print(_why(row, several=len(devices(report)) > 1))
    console.print(Text(recommendation(report), style="bold"))


def _fitting(report: Report, console: "Console") -> tuple["Table", list[str]]:
    """The table with as many columns as fit, and the titles of the others."""
    from rich.measure import Measurement

    columns, left_out = list(COLUMNS), list[str]()
    if len(devices(report)) > 1:
        columns.insert(0, c.DEVICE)
    broken = False
    while True:
        table = _table(report, columns, broken)
        width = Measurement.get(console, console.options.update(width=10_000), table).maximum
        droppable = [column for column in columns if column.rank]
        if width <= console.width or (broken and not droppable):
            return table, left_out
        if broken:
            worst = max(droppable, key=lambda column: column.rank)
            columns.remove(worst)
            left_out.append(worst.title)
        broken = True


def _table(report: Report, columns: list[Column], broken: bool) -> "Table":
    """The table of these columns; `broken` puts intervals on a second line."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("bundle", no_wrap=True)
    for column in columns:
        unit = column.unit + (" [95 %]" if column.interval else "")
        header = f"{column.title}\n{unit}" if unit else column.title
        table.add_column(_text(header, broken), justify="right" if unit else "left", no_wrap=True)
    for row in report["results"]:
        cells = [_text(column.text(report, row), broken, row) for column in columns]
        table.add_row(_text(row_name(row), False), *cells)
    return table


def _text(text: str, broken: bool, row: Row | None = None) -> "Text":
    """Text that rich takes as it is, brackets and all; a verdict in its colour."""
    from rich.text import Text

    style = COLOURS.get(text, "") if row and text == row["verdict"] else ""
    return Text(text.replace(" [", "\n[") if broken else text, style=style)


def _why(row: Row, several: bool) -> "Text":
    """Why a row didn't pass, and what is remarked on it."""
    from rich.text import Text

    where = f" on {shown_device(row)}" if several else ""
    reasons = "; ".join(said(row)) or "no reason was given"
    return Text.assemble((f"{row_name(row)}{where}: {row['verdict']}", COLOURS[row["verdict"]]), f": {reasons}")
