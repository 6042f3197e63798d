"""Summaries in Markdown, such as GitHub shows on the page of a job, and model cards, as model hubs show them."""

import re
import shlex
from collections.abc import Iterable, Sequence

from edgekit.report.answer import alerts, all_remarks, decision
from edgekit.report.compare import Comparison, compared_figures, describe_change, inconclusive
from edgekit.report.document import Recommendation, Report
from edgekit.report.figure import NOTHING, Figure, figure_at, main_figures, score_figures
from edgekit.report.next_steps import RUN, steps_in_report
from edgekit.report.plot import templates
from edgekit.report.provenance import license_id, license_text, provenance
from edgekit.report.row import Judged, Row
from edgekit.report.sentences import conditions, heading, layer_names, limits, measured_with, notes_of, warnings
from edgekit.report.table import Column, escaped, markdown_of

UNCHANGED = "Nothing got worse beyond the noise."


def summary_of_report(report: Report) -> str:
    """Alerts, the decision for each device, the limits, a table of the rows, remarks, next steps and the conditions."""
    return _page(
        report.title,
        bold(alerts(report)),
        *(part for advice in report.recommendations for part in _decision(report, advice)),
        escaped(limits(report.results)),
        table_of_rows(report.results, report.model.accuracy_meaningful),
        bullets(remark for _, remark in all_remarks(report)),
        _steps(report),
        escaped(heading(report)),
        *map(escaped, measured_with(report)),
    )


def _decision(report: Report, advice: Recommendation) -> list[str]:
    """Paragraphs with the bundle to ship to a device, and what that gains and costs."""
    headline, *details = decision(report, advice)
    return [bold([headline]), escaped(" ".join(details))]


def _steps(report: Report) -> str:
    """The next steps, with their commands."""
    steps = [
        f"- {escaped(step.purpose)}{f': {_code(shlex.join(step.command))}' if step.command else ''}"
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
        bold(inconclusive(comparison)),
        bullets(f"worse: {text}" for text in comparison.regressions) or UNCHANGED,
        markdown_of(columns),
        bullets(comparison.notes),
    )


def table_of_rows(rows: Sequence[Judged], meaningful: bool) -> str:
    """A table of the rows with their verdicts and figures; `meaningful` is false for random weights."""
    figures = main_figures(rows, meaningful)
    verdicts = [row.verdict if row.verdict == "pass" else f"**{row.verdict}**" for row in rows]
    names = [Column("row", [escaped(row.label) for row in rows], left=True), Column("verdict", verdicts, left=True)]
    return markdown_of([*names, *(_column(figure, rows, meaningful) for figure in figures)])


def _column(figure: Figure, rows: Sequence[Judged], meaningful: bool) -> Column:
    """The column of a figure. Rows of some documents lack it."""
    texts = [
        f"{figure.text(row, meaningful)} {figure.interval_text(row, meaningful)}".rstrip()
        if figure.is_part_of(row)
        else NOTHING
        for row in rows
    ]
    return Column(f"{figure.title} {figure.unit}{' [95 %]' if figure.interval else ''}", texts)


def _notes(rows: Iterable[Judged]) -> list[str]:
    return [f"{row.label}: {row.verdict}: {note.sentence}" for row in rows for note in notes_of(row)]


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)


def bold(lines: Iterable[str]) -> str:
    return "\n\n".join(f"**{escaped(line)}**" for line in lines)


def _code(text: str) -> str:
    """A code span, on one line."""
    ticks, space = _backticks(text, 1), " " * ("`" in text)
    return f"{ticks}{space}{' '.join(text.splitlines())}{space}{ticks}"


def _backticks(text: str, fewest: int) -> str:
    """A row of backticks that is in no text which it encloses."""
    return "`" * max(fewest, *(len(row) + 1 for row in re.findall("`+", text)), 1)


def _page(title: str, *parts: str) -> str:
    """A section of Markdown, to which another one can be appended."""
    return "\n\n".join(filter(None, (f"## {escaped(title)}", *parts))) + "\n\n"


OF_DEVICES = ("latency_ms.p50", "speedup.ratio")
"""Paths of the figures that each device has for itself."""
KINDS = {"float": "original", "int8": "optimized"}


def render_card(report: Report) -> str:
    """The whole card. Raises MissingExtraError if jinja2 is not installed."""
    model, pair, command = report.model, _pair(report), shlex.join(("edgekit", *report.command))
    card = templates().get_template("card.md.j2")
    return card.render(
        report=report,
        pair=pair,
        scored=[row for row in pair if row.accuracy and model.accuracy_meaningful],
        kinds=KINDS,
        license_id=license_id(model),
        tags=dict.fromkeys(["edgekit", "int8", *(row.target for row in report.results)]),
        heading=heading(report),
        warnings=warnings(report),
        decisions=[decision(report, advice) for advice in report.recommendations],
        comparison=_comparison(report, pair) if pair else "No bundle was measured.",
        conditions=conditions(report),
        findings=[_in_int8(row) for row in pair if row.precision == "int8"],
        table=table_of_rows(report.results, model.accuracy_meaningful),
        license=license_text(model),
        provenance=provenance(report),
        command=command,
        fence=_backticks(command, 3),
        escaped=escaped,
    )


def _pair(report: Report) -> list[Row]:
    """The rows of the runtime to ship, float before int8: on each device, the original and the optimized model.

    If no bundle is recommended, the rows are those of the first runtime with an int8 bundle, or with any bundle.
    """
    measured = sorted((row for row in report.results if not row.failure), key=lambda row: row.precision == "float")
    shipped = [row for row in measured if row.bundle == report.recommendation.bundle]
    target = next((row.target for row in (*shipped, *measured)), None)
    return sorted((row for row in measured if row.target == target), key=lambda row: row.precision)


def _comparison(report: Report, pair: Sequence[Row]) -> str:
    """A table with a line for each figure, and a column for the original and for the optimized model."""
    of_bundles = (figure_at("size_bytes"), *score_figures(pair), figure_at("int8.share_of_macs"))
    lines = [(figure, "", {row.precision: row for row in reversed(pair)}) for figure in of_bundles]
    for device in dict.fromkeys(row.device for row in pair):
        rows = {row.precision: row for row in pair if row.device.name == device.name}
        lines += [(figure_at(path), f" on {escaped(device.label)}", rows) for path in OF_DEVICES]
    meaningful = report.model.accuracy_meaningful
    shown = [line for line in lines if any(line[0].value(row, meaningful) is not None for row in line[2].values())]
    columns = [Column("figure", [f"{escaped(figure.title)}{where}" for figure, where, _ in shown], left=True)]
    for kind in dict.fromkeys(row.precision for row in pair):
        texts = [_cell(figure, rows.get(kind), meaningful) for figure, _, rows in shown]
        columns.append(Column(f"{KINDS[kind]} ({pair[0].target}-{kind})", texts))
    return markdown_of(columns)


def _cell(figure: Figure, row: Row | None, meaningful: bool) -> str:
    return figure.words(row, meaningful) if row and figure.value(row, meaningful) is not None else ""


def _in_int8(row: Row) -> str:
    """The finding of the runtime's profiler for a row."""
    if row.int8 is None or row.int8.share_of_macs is None:
        return f"{row.label}: unknown{f' ({row.int8.method})' if row.int8 else ''}"
    share = f"{row.int8.share_of_macs * 100:.0f} % of the multiply-accumulates ran in integer kernels"
    simulated = ", most of them simulated in floating point" if row.int8.simulated else ""
    layers = layer_names(row.int8.float_layers)
    in_float = f" Layers in float: {layers}." if layers else ""
    return f"{row.label}: {share}{simulated}.{in_float} Source: {row.int8.method.rstrip('.')}."
