"""The report as a self-contained HTML page."""

import base64
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING

from edgekit.report.answer import (
    UNCONFIRMED_WORD,
    advised,
    alerts,
    all_remarks,
    decision,
    figure_at,
    float_line,
    verdict_word,
)
from edgekit.report.by_class import CLASSES, EXAMPLES, changed_rows, class_tables
from edgekit.report.document import Report
from edgekit.report.figure import Figure
from edgekit.report.limits import limits
from edgekit.report.next_steps import RUN, steps_in_report
from edgekit.report.plot import draw
from edgekit.report.provenance import origin, provenance
from edgekit.report.row import Row, table_figures
from edgekit.report.row_details import details, runs_words
from edgekit.report.sensitivity import advice, draw_sensitivity, whole
from edgekit.report.sentences import heading, measured_with
from edgekit.report.time_bars import timings
from edgekit.report.timeline import draw_heat, draw_spread
from edgekit.report.tuning import draw_tuning, lines
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from jinja2 import Template

HEADLINES = ("speedup.ratio", "latency_ms.p50", "accuracy.top1", "accuracy.drop_top1_points", "size_bytes")
"""Paths of the figures at the top of the page."""


def render_html(report: Report, thumbnails: Mapping[str, bytes] = MappingProxyType({})) -> str:
    """The whole page; `thumbnails` are JPEG files by the names of evaluation images.

    Raises MissingExtraError if jinja2 or matplotlib is not installed.
    """
    int8, float_ = ([row for row in report.results if row.precision == kind] for kind in ("int8", "float"))
    return _template().render(
        report=report,
        title=report.title,
        heading=heading(report),
        origin=origin(report),
        alerts=alerts(report),
        decisions=[decision(report, advice) for advice in advised(report)],
        ships=any(advice.bundle for advice in advised(report)),
        limits=limits(report.results),
        steps=[(step.purpose, shlex.join(step.command)) for step in steps_in_report(report)],
        run=RUN,
        headlines=_headlines(report),
        conditions=measured_with(report),
        columns=_columns(report),
        int8=int8,
        floats=float_,
        float_line=float_line(float_) if len(report.devices) == 1 else "Float bundles.",
        open_floats=not int8 or report.recommendation.bundle in [row.bundle for row in float_],
        remarks=all_remarks(report),
        pictures=_pictures(report, draw),
        spreads=_pictures(report, draw_spread),
        heats=_pictures(report, draw_heat),
        timings=timings(report),
        by_class=class_tables(report),
        changed=changed_rows(report),
        classes=CLASSES,
        examples=EXAMPLES,
        thumbnails={name: base64.b64encode(jpeg).decode() for name, jpeg in thumbnails.items()},
        sensitivity=_sensitivity(report),
        tuning=_tuning(report),
        details=lambda row: details(report, row),
        verdict=verdict_word,
        style=lambda row: "inconclusive" if verdict_word(row) == UNCONFIRMED_WORD else row.verdict,
        provenance=provenance(report),
        several=len(report.devices) > 1,
    )


def _columns(report: Report) -> list[Figure]:
    """Figures of the table, the most important first."""
    return sorted(table_figures(report.results), key=lambda figure: figure.rank or 0)


def _pictures(report: Report, draw_one: Callable[[Report, str], tuple[str, str] | None]) -> list[dict[str, str]]:
    """One picture for each device whose rows have the figures that `draw_one` needs."""
    machines = {device: report.facts_of(device) for device in report.devices}
    several = len(machines) > 1
    drawings = {device: draw_one(report, device) for device in report.devices}
    return [
        {
            "device": machines[name].label if several else machines[name].cpu or machines[name].label,
            "svg": drawing[0],
            "words": drawing[1],
        }
        for name, drawing in drawings.items()
        if drawing is not None
    ]


def _sensitivity(report: Report) -> dict[str, object] | None:
    """The picture of the layers' sensitivity, and a sentence for each runtime."""
    sensitivity = report.sensitivity
    if sensitivity is None or not sensitivity.targets:
        return None
    svg, words = draw_sensitivity(sensitivity)
    sentences = [
        f"{part.target}: {whole(sensitivity, part)}. {advice(sensitivity, part)}" for part in sensitivity.targets
    ]
    return {"svg": svg, "words": words, "sentences": sentences, "images": sensitivity.evaluation.count}


def _tuning(report: Report) -> dict[str, object] | None:
    """The picture of a search, and a sentence for each runtime."""
    if report.tuning is None:
        return None
    svg, words = draw_tuning(report.tuning)
    return {"svg": svg, "words": words, "sentences": lines(report.tuning)}


@cache
def _template() -> "Template":
    import_needed("jinja2", "build")
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string((files("edgekit.report") / "report.html.j2").read_text(encoding="utf-8"))


def _headlines(report: Report) -> Sequence[tuple[Figure, str, str]]:
    """(figure, its value with the unit, note) for the headline figures of the bundle to ship."""
    shipped = report.recommendation
    for row in report.results:
        if row.bundle and (row.bundle, row.device.name) == (shipped.bundle, shipped.device):
            figures = map(figure_at, HEADLINES)
            return [
                _headline(figure, report, row)
                for figure in figures
                if figure.value(row, report.model.accuracy_meaningful) is not None
            ]
    return []


def _headline(figure: Figure, report: Report, row: Row) -> tuple[Figure, str, str]:
    """The figure, its value with the unit, and a note with the interval."""
    meaningful = report.model.accuracy_meaningful
    ends = figure.ends(row, meaningful)
    interval = f"95 %: {figure.number(ends[0])} to {figure.number(ends[1])}" if ends else ""
    images = f"n = {row.accuracy.count:,} images" if row.accuracy and meaningful else ""
    reference = f"{report.reference.engine}: {100 * report.reference.top1:.2f} %" if images else ""
    note = {
        "speedup.ratio": f"over {row.speedup.baseline}" if row.speedup else "",
        "latency_ms.p50": runs_words(row),
        "accuracy.top1": reference,
        "accuracy.drop_top1_points": images,
    }.get(figure.path, "")
    return figure, f"{figure.text(row, meaningful)} {figure.unit}", ", ".join(filter(None, (interval, note)))
