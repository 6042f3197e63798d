"""The report as a self-contained HTML page."""

import base64
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from edgekit.report import sentences
from edgekit.report.answer import (
    UNCONFIRMED_WORD,
    alerts,
    all_remarks,
    decision,
    float_line,
    over_float,
    verdict_word,
)
from edgekit.report.document import Reference, Report
from edgekit.report.figure import Figure, figure_at, score_figures, table_figures
from edgekit.report.measurement import Accuracy, LowPrecision
from edgekit.report.next_steps import RUN, steps_in_report
from edgekit.report.pictures import draw, draw_heat, draw_spread, timings
from edgekit.report.plot import Picture, templates
from edgekit.report.provenance import origin, provenance
from edgekit.report.row import Row
from edgekit.report.sensitivity_document import draw_sensitivity, sentences_of


def details(report: Report, row: Row) -> dict[str, str]:
    """Details that the table has no room for, by title; those that were not measured are left out."""
    int8 = row.int8 if row.precision == "int8" else None
    latency, meaningful = row.latency_ms, report.model.accuracy_meaningful
    texts = {
        "Runtime": row.engine,
        "Scheme": row.scheme,
        "Gates": sentences.outcomes(row),
        "Timing": runs_words(row),
        "Mean": latency and f"{_ms(latency.mean)}, standard deviation {_ms(latency.std)}",
        "Load": latency and _ms(latency.load),
        "First inference": latency and _ms(latency.first),
        "In low precision": _low_precision(row.low_precision, meaningful),
        "At the class's nominal rate": row.limit and _ms(row.limit.bound_ms),
        "Source of INT8 share": int8 and int8.method,
        "Layers in float": sentences.layer_names(int8.float_layers) if int8 else None,
        "Energy": sentences.energy_words(row.energy),
        "Temperature and clocks": sentences.heat_words(row.thermal),
        "Changed predictions": _flips(row.accuracy),
        "More on accuracy": sentences.task_details(row.accuracy) if meaningful else "",
        "Confidence": sentences.confidence_details(row.accuracy.confidence) if row.accuracy and meaningful else "",
        "Reasons": "; ".join(row.reasons),
        "Remarks": "; ".join(row.remarks),
    }
    return {title: text for title, text in texts.items() if text}


def runs_words(row: Row) -> str:
    """The number of timed inferences and of threads; empty for a failed row."""
    latency = row.latency_ms
    return f"n = {latency.count:,} runs, threads: {latency.threads}" if latency else ""


def _low_precision(low: LowPrecision | None, meaningful: bool) -> str:
    """Latency and accuracy of a float bundle in bf16 or f16."""
    if low is None:
        return ""
    words = f"{low.computes_in}: p50 {_ms(low.p50_ms)}"
    if low.accuracy:
        drop = f", drop {low.accuracy.drop_points:.2f} points" if meaningful else ""
        words += f"{drop}, agreement {low.accuracy.agreement:.1%}"
    return f"{words}; the drop exceeds the limit" if low.verdict == "fail" else words


def _flips(accuracy: Accuracy | None) -> str:
    """Numbers of images that became right or wrong, and McNemar's test of the difference."""
    to_wrong, to_right = (accuracy.right_to_wrong, accuracy.wrong_to_right) if accuracy else (None, None)
    if accuracy is None or to_wrong is None or to_right is None or accuracy.mcnemar_p is None:
        return ""
    return (
        f"{to_wrong:,} right to wrong, {to_right:,} wrong to right of "
        f"{accuracy.count:,} images, McNemar p = {accuracy.mcnemar_p:.2g}"
    )


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f} ms"


CLASSES = 10
"""Number of classes that the page shows without a click, and of changed classes of a bundle that it shows at all."""
EXAMPLES = 3
"""Number of flipped images that the page shows for each changed class."""


@dataclass(frozen=True)
class ClassLine:
    """Accuracy of one class in percent: the share of its images that are right, or F1 where images have several."""

    label: str
    images: int
    reference: float
    bundles: tuple[float, ...]
    """Accuracy of each bundle of the table."""

    @property
    def losses(self) -> tuple[float, ...]:
        """Percentage points that each bundle loses."""
        return tuple(self.reference - accuracy for accuracy in self.bundles)


@dataclass(frozen=True)
class ClassTable:
    """Accuracy of each class in the reference and in the INT8 bundles of a device, the largest loss first."""

    device: str
    figure: str
    """Name of the figure in all lines."""
    bundles: tuple[str, ...]
    lines: tuple[ClassLine, ...]


def class_tables(report: Report) -> list[ClassTable]:
    """A table for each device with INT8 bundles; none if accuracies mean nothing, or aren't known class by class."""
    classes = report.evaluation.classes
    if not report.model.accuracy_meaningful or not classes or report.reference.right_by_class is None:
        return []
    tables = []
    for device in report.devices:
        rows = [row for row in report.rows_on(device) if row.precision == "int8"]
        known = {row.name: row.accuracy for row in rows if row.accuracy and row.accuracy.right_by_class}
        if not known:
            continue
        lines = [
            ClassLine(
                label=each.label,
                images=each.images,
                reference=_of_class(report.reference, index, each.images),
                bundles=tuple(_of_class(accuracy, index, each.images) for accuracy in known.values()),
            )
            for index, each in enumerate(classes)
        ]
        lines.sort(key=lambda line: (-max(line.losses), line.reference, line.label))
        figure = "right" if report.reference.given_by_class is None else "F1"
        tables.append(ClassTable(device, figure, tuple(known), tuple(lines)))
    return tables


def _of_class(counts: Reference | Accuracy, index: int, images: int) -> float:
    """Percent of a class's images that are right, or F1 where images have several classes."""
    right, given = (counts.right_by_class or ())[index], counts.given_by_class
    return 100 * right / images if given is None else 200 * right / (images + given[index])


def changed_rows(report: Report) -> list[Row]:
    """The INT8 rows with changed predictions; none if accuracies mean nothing."""
    if not report.model.accuracy_meaningful:
        return []
    return [row for row in report.results if row.precision == "int8" and row.accuracy and row.accuracy.changes]


def shown_images(rows: Sequence[Row]) -> Iterator[str]:
    """What the page shows of these rows: names of flipped images, and both answers, which may be names of images."""
    for row in rows:
        for change in (row.accuracy.changes or ())[:CLASSES] if row.accuracy else ():
            for shown in change.examples[:EXAMPLES]:
                yield from (shown.image, shown.before, shown.after)


HEADLINES = ("speedup.ratio", "latency_ms.p50", "size_bytes")
"""Paths of the figures at the top of the page, beside the metric and its drop."""


def render_html(report: Report, thumbnails: Mapping[str, bytes] = MappingProxyType({})) -> str:
    """The whole page; `thumbnails` are JPEG files by the names of evaluation images.

    Raises MissingExtraError if jinja2 is not installed.
    """
    int8, float_ = ([row for row in report.results if row.precision == kind] for kind in ("int8", "float"))
    template = templates().get_template("report.html.j2")
    return template.render(
        report=report,
        title=report.title,
        heading=sentences.heading(report),
        origin=origin(report),
        alerts=alerts(report),
        decisions=[decision(report, advice) for advice in report.recommendations],
        ships=any(advice.bundle for advice in report.recommendations),
        limits=sentences.limits(report.results),
        steps=[(step.purpose, shlex.join(step.command)) for step in steps_in_report(report)],
        run=RUN,
        headlines=_headlines(report),
        conditions=sentences.measured_with(report),
        columns=sorted(table_figures(report.results), key=lambda figure: figure.rank or 0),
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
        neighbours=report.model.task == "embedding",
        classes=CLASSES,
        examples=EXAMPLES,
        thumbnails={name: base64.b64encode(jpeg).decode() for name, jpeg in thumbnails.items()},
        sensitivity=draw_sensitivity(report.sensitivity) if report.sensitivity and report.sensitivity.targets else None,
        sensitivity_sentences=sentences_of,
        details=lambda row: details(report, row),
        verdict=verdict_word,
        style=lambda row: "inconclusive" if verdict_word(row) == UNCONFIRMED_WORD else row.verdict,
        provenance=provenance(report),
        several=report.has_several_devices,
    )


def _pictures(report: Report, draw_one: Callable[[Report, str], Picture | None]) -> list[tuple[str, Picture]]:
    """(processor, or name if there are several devices; picture) of devices with the figures that `draw_one` needs."""
    machines = [report.facts_of(device) for device in report.devices]
    names = [facts.label if report.has_several_devices else facts.cpu or facts.label for facts in machines]
    pictures = [draw_one(report, device) for device in report.devices]
    return [(name, picture) for name, picture in zip(names, pictures, strict=True) if picture]


def _headlines(report: Report) -> list[tuple[Figure, str, str]]:
    """(figure, its value with the unit, note) for the headline figures of the bundle to ship."""
    advice, meaningful = report.recommendation, report.model.accuracy_meaningful
    row = next((row for row in report.rows_on(advice.device) if row.bundle and row.bundle == advice.bundle), None)
    if row is None:
        return []
    images = f"n = {row.accuracy.count:,} images" if row.accuracy and meaningful else ""
    score, drop = score_figures([row])
    best, ratio = over_float(row, report.rows_on(advice.device))
    notes = {
        "speedup.ratio": f"over {best.best_name}" if best else "",
        "latency_ms.p50": runs_words(row),
        score.path: f"{report.reference.engine}: {100 * report.reference.value:.2f} %" if images else "",
        drop.path: images,
    }
    headlines = []
    speed, p50, size = map(figure_at, HEADLINES)
    for figure in (speed, p50, score, drop, size):
        value, ends = figure.value(row, meaningful), figure.ends(row, meaningful)
        if figure is speed and value not in (None, ratio):
            value, ends = ratio if best else None, None  # over the float bundle that the decision names
        if value is not None:
            interval = f"95 %: {figure.number(ends[0])} to {figure.number(ends[1])}" if ends else ""
            note = ", ".join(filter(None, (interval, notes.get(figure.path))))
            headlines.append((figure, f"{figure.number(value)} {figure.unit}", note))
    return headlines
