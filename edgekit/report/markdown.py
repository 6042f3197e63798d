"""Markdown summaries of results, such as GitHub shows on the page of a job."""

import re
from collections.abc import Iterable, Sequence

from edgekit.report.compare import Comparison, compared_figures, describe_change
from edgekit.report.confidence import sentences
from edgekit.report.document import Report
from edgekit.report.figure import NOTHING, Figure
from edgekit.report.judged import Judged, main_figures
from edgekit.report.sentences import conditions, heading, recommendation, warnings

UNCHANGED = "Nothing got worse beyond the noise."


def summary_of_report(report: Report) -> str:
    """The model, warnings, the bundle to ship, a table of the rows, why rows did not pass, and the conditions."""
    meaningful = report.model.accuracy_meaningful
    return _page(
        heading(report),
        bold(warnings(report)),
        bold(recommendation(report).splitlines()),
        table_of_rows(report.results, meaningful),
        bullets(_notes(report.results)),
        *map(escaped, conditions(report)),
    )


def summary_of_rows(title: str, rows: Sequence[Judged], meaningful: bool = True, warnings: Sequence[str] = ()) -> str:
    """Warnings, a table of the rows, and the notes on them; `meaningful` is false for random weights."""
    return _page(title, bold(warnings), table_of_rows(rows, meaningful), bullets(_notes(rows)))


def summary_of_comparison(comparison: Comparison) -> str:
    """The regressions, and a table of what changed in each row."""
    figures = [
        figure for figure in compared_figures() if any(figure.csv_column in row.changes for row in comparison.results)
    ]
    rows = []
    for row in comparison.results:
        changes = [(figure, row.changes.get(figure.csv_column)) for figure in figures]
        cells = [describe_change(figure, change) if change else NOTHING for figure, change in changes]
        rows.append([escaped(row.label), " -> ".join(verdict or "missing" for verdict in row.verdicts), *cells])
    return _page(
        "edgekit compare",
        bullets(f"worse: {text}" for text in comparison.regressions) or UNCHANGED,
        table(["row", "verdict", *(figure.title for figure in figures)], rows),
        bullets(comparison.notes),
    )


def table_of_rows(rows: Sequence[Judged], meaningful: bool = True) -> str:
    """A table of the rows with their verdicts and figures; `meaningful` is false for random weights."""
    figures = main_figures(rows, meaningful)
    heads = ["row", "verdict", *(_head(figure) for figure in figures)]
    return table(heads, [[escaped(row.label), _verdict(row), *_cells(row, figures, meaningful)] for row in rows])


def _head(figure: Figure) -> str:
    return f"{figure.title} {figure.unit}{' [95 %]' if figure.interval else ''}"


def _verdict(row: Judged) -> str:
    return row.verdict if row.verdict == "pass" else f"**{row.verdict}**"


def _cells(row: Judged, figures: Iterable[Figure], meaningful: bool) -> list[str]:
    return [
        f"{figure.text(row, meaningful)} {figure.interval_text(row, meaningful)}".rstrip()
        if figure.is_part_of(row)
        else NOTHING
        for figure in figures
    ]


def _notes(rows: Iterable[Judged]) -> list[str]:
    return [f"{row.label}: {row.verdict}: {note}" for row in rows for note in sentences(row)]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], names: int = 2) -> str:
    """A table, whose cells are Markdown without line breaks and bars. Columns after the first `names` have numbers."""
    rule = ["---"] * names + ["---:"] * (len(heads) - names)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *rows))


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def bold(lines: Iterable[str]) -> str:
    return "\n\n".join(f"**{escaped(line)}**" for line in lines)


def escaped(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return re.sub(r"([\\`*_|<&~\[])", r"\\\1", " ".join(text.split()))


def _page(title: str, *parts: str) -> str:
    """A section of Markdown, to which another one can be appended."""
    return "\n\n".join(filter(None, (f"## {escaped(title)}", *parts))) + "\n\n"
