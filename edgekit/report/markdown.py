"""Markdown summaries of results, such as GitHub shows on the page of a job."""

import re
import shlex
from collections.abc import Iterable, Sequence

from edgekit.report.answer import alerts, all_remarks, decision
from edgekit.report.compare import Comparison, compared_figures, describe_change
from edgekit.report.document import Recommendation, Report
from edgekit.report.figure import NOTHING, main_figures
from edgekit.report.next_steps import RUN, steps_in_report
from edgekit.report.row import Judged
from edgekit.report.sentences import heading, limits, measured_with, notes_of
from edgekit.report.table import Column, figure_column, markdown_of

UNCHANGED = "Nothing got worse beyond the noise."


def summary_of_report(report: Report) -> str:
    """Alerts, the decision for each device, the limits, a table of the rows, remarks, next steps and the conditions."""
    return _page(
        report.title,
        bold(alerts(report)),
        *(part for advice in report.recommendations for part in decision_parts(report, advice)),
        escaped(limits(report.results)),
        table_of_rows(report.results, report.model.accuracy_meaningful),
        bullets(remark for _, remark in all_remarks(report)),
        _steps(report),
        escaped(heading(report)),
        *map(escaped, measured_with(report)),
    )


def decision_parts(report: Report, advice: Recommendation) -> list[str]:
    """Paragraphs with the bundle to ship to a device, and what that gains and costs."""
    headline, *details = decision(report, advice)
    return [bold([headline]), escaped(" ".join(details))]


def _steps(report: Report) -> str:
    """The next steps, with their commands."""
    steps = [
        f"- {escaped(step.purpose)}{f': `{shlex.join(step.command)}`' if step.command else ''}"
        for step in steps_in_report(report)
    ]
    return "\n".join([f"Next, with {RUN} for the run folder:", "", *steps]) if steps else ""


def summary_of_rows(title: str, rows: Sequence[Judged], meaningful: bool = True, warnings: Sequence[str] = ()) -> str:
    """Warnings, a table of the rows, and the notes on them; `meaningful` is false for random weights."""
    return _page(title, bold(warnings), table_of_rows(rows, meaningful), bullets(_notes(rows)))


def summary_of_comparison(comparison: Comparison) -> str:
    """The regressions, and a table of what changed in each row."""
    rows = comparison.results
    changes = {figure: [row.changes.get(figure.csv_column) for row in rows] for figure in compared_figures()}
    verdicts = [" -> ".join(verdict or "missing" for verdict in row.verdicts) for row in rows]
    columns = [
        Column("row", [escaped(row.label) for row in rows], left=True),
        Column("verdict", verdicts, left=True),
        *(
            Column(figure.title, [describe_change(figure, change) if change else NOTHING for change in of_rows])
            for figure, of_rows in changes.items()
            if any(of_rows)
        ),
    ]
    return _page(
        "edgekit compare",
        bullets(f"worse: {text}" for text in comparison.regressions) or UNCHANGED,
        markdown_of(columns),
        bullets(comparison.notes),
    )


def table_of_rows(rows: Sequence[Judged], meaningful: bool) -> str:
    """A table of the rows with their verdicts and figures; `meaningful` is false for random weights."""
    figures = main_figures(rows, meaningful)
    verdicts = [row.verdict if row.verdict == "pass" else f"**{row.verdict}**" for row in rows]
    names = [Column("row", [escaped(row.label) for row in rows], left=True), Column("verdict", verdicts, left=True)]
    return markdown_of([*names, *(figure_column(figure, rows, meaningful) for figure in figures)])


def _notes(rows: Iterable[Judged]) -> list[str]:
    return [f"{row.label}: {row.verdict}: {note.sentence}" for row in rows for note in notes_of(row)]


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
