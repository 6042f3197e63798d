"""The report as a self-contained HTML page."""

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from edgekit.report.confidence import sentences as note_sentences
from edgekit.report.document import Report
from edgekit.report.figure import Figure
from edgekit.report.plot import draw
from edgekit.report.provenance import provenance
from edgekit.report.row import Accuracy, LowPrecision, Row, all_figures, table_figures
from edgekit.report.sensitivity import advice, draw_sensitivity, whole
from edgekit.report.sentences import conditions, heading, layer_names, recommendation, warnings
from edgekit.report.telemetry_text import energy_words, heat_words
from edgekit.report.time_bars import timings
from edgekit.report.timeline import draw_heat, draw_spread
from edgekit.report.tuning import draw_tuning, lines
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from jinja2 import Template

HEADLINES = ("speedup.ratio", "latency_ms.p50", "accuracy.drop_top1_points", "size_bytes")
"""Paths of the figures at the top of the page."""
CLASSES = 10
"""Number of classes with changed predictions that the page shows for each bundle."""


def render_html(report: Report) -> str:
    """The whole page. Raises MissingExtraError if jinja2 or matplotlib is not installed."""
    return _template().render(
        report=report,
        heading=heading(report),
        recommendation=recommendation(report),
        conditions=conditions(report),
        headlines=_headlines(report),
        columns=_columns(report),
        pictures=_pictures(report, draw),
        spreads=_pictures(report, draw_spread),
        heats=_pictures(report, draw_heat),
        timings=timings(report),
        changed=_changed(report),
        most_classes=CLASSES,
        sensitivity=_sensitivity(report),
        tuning=_tuning(report),
        warnings=warnings(report),
        details=[(row, _details(report, row)) for row in report.results],
        provenance=provenance(report),
        several=len(report.devices) > 1,
        sentences=note_sentences,
    )


def _columns(report: Report) -> list[Figure]:
    """Figures of the table, the most important first."""
    return sorted(table_figures(report.results), key=lambda figure: figure.rank or 0)


def _pictures(report: Report, draw_one: Callable[[Report, str], tuple[str, str] | None]) -> list[dict[str, str]]:
    """One picture for each device whose rows have the figures that `draw_one` needs."""
    labels = {row.device.name: row.device.label for row in report.results}
    drawings = {device: draw_one(report, device) for device in report.devices}
    return [
        {"device": labels[name], "svg": drawing[0], "words": drawing[1]}
        for name, drawing in drawings.items()
        if drawing is not None
    ]


def _changed(report: Report) -> list[Row]:
    """The INT8 rows with changed predictions; none if accuracies mean nothing."""
    if not report.model.accuracy_meaningful:
        return []
    return [row for row in report.results if row.precision == "int8" and row.accuracy and row.accuracy.changes]


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


def _headlines(report: Report) -> list[tuple[str, str, str]]:
    """(title, figure with unit, note) for the headline figures of the bundle to ship."""
    shipped = report.recommendation
    for row in report.results:
        if row.bundle and (row.bundle, row.device.name) == (shipped.bundle, shipped.device):
            figures = {figure.path: figure for figure in all_figures()}
            return [_headline(figures[path], report, row) for path in HEADLINES]
    return []


def _headline(figure: Figure, report: Report, row: Row) -> tuple[str, str, str]:
    """Title, figure with unit, and a note with the interval."""
    meaningful = report.model.accuracy_meaningful
    unit = "" if figure.value(row, meaningful) is None else f" {figure.unit}"
    ends = figure.ends(row, meaningful)
    interval = f"95 %: {figure.number(ends[0])} to {figure.number(ends[1])}" if ends else ""
    note = {
        "speedup.ratio": f"over {row.speedup.baseline}" if row.speedup else "not compared with a float bundle",
        "latency_ms.p50": _runs(row),
        "accuracy.drop_top1_points": f"n = {row.accuracy.count:,} images" if row.accuracy and meaningful else "",
    }.get(figure.path, "")
    return figure.title, figure.text(row, meaningful) + unit, ", ".join(filter(None, (interval, note)))


def _details(report: Report, row: Row) -> dict[str, str]:
    """Details that the table has no room for, by title; those that were not measured are left out."""
    int8 = row.int8 if row.precision == "int8" else None
    latency = row.latency_ms
    details = {
        "Scheme": row.scheme,
        "Timing": _runs(row),
        "Mean": latency and f"{_scaled(latency.mean)}, standard deviation {_scaled(latency.std)}",
        "Load": latency and _scaled(latency.load),
        "First inference": latency and _scaled(latency.first),
        "In low precision": _low_precision(row.low_precision, report.model.accuracy_meaningful),
        "At the class's nominal rate": row.limit and _scaled(row.limit.bound_ms),
        "Source of INT8 share": int8 and int8.method,
        "Layers in float": layer_names(int8.float_layers) if int8 else None,
        "Energy": energy_words(row.energy),
        "Temperature and clocks": heat_words(row.thermal),
        "Changed predictions": _flips(row.accuracy),
        "Reasons": "; ".join(row.reasons),
        "Remarks": "; ".join(row.remarks),
    }
    return {title: text for title, text in details.items() if text}


def _low_precision(low: LowPrecision | None, meaningful: bool) -> str:
    """Latency and accuracy of a float bundle in bf16 or f16."""
    if low is None:
        return ""
    words = f"{low.computes_in}: p50 {_scaled(low.p50_ms)}"
    if low.accuracy:
        drop = f", drop {low.accuracy.drop_top1_points:.2f} points" if meaningful else ""
        words += f"{drop}, agreement {low.accuracy.agreement:.1%}"
    return f"{words}; the drop exceeds the limit" if low.verdict == "fail" else words


def _flips(accuracy: Accuracy | None) -> str:
    """Numbers of images that became right or wrong, and McNemar's test of the difference."""
    if accuracy is None:
        return ""
    return (
        f"{accuracy.right_to_wrong:,} right to wrong, {accuracy.wrong_to_right:,} wrong to right of "
        f"{accuracy.count:,} images, McNemar p = {accuracy.mcnemar_p:.2g}"
    )


def _runs(row: Row) -> str:
    latency = row.latency_ms
    return f"n = {latency.count:,} runs, threads: {latency.threads}" if latency else ""


def _scaled(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f} ms"
