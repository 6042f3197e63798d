"""The answer that a run or a benchmark gives: what to ship, what it gains, what it costs and how sure that is.

It is lines of text within 80 columns, for a terminal or a pipe.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from edgekit.report import sentences
from edgekit.report.document import Recommendation, Report
from edgekit.report.figure import NOTHING, DeviceFacts, Figure, counted, figure_at, score_figures
from edgekit.report.page import (
    COLOURS,
    WIDTH,
    Block,
    Column,
    Item,
    Line,
    NextStep,
    Paragraph,
    TextTable,
    lines_of,
    page_of,
)
from edgekit.report.row import F32, Accuracy, Row, Verdict
from edgekit.report.sentences import Note

METRIC_WIDTH = 12
"""Most characters of a line in the heading of the metric's column."""
VERBS: dict[Verdict, str] = {
    "pass": "",
    "fail": " failed",
    "inconclusive": " is inconclusive",
    "error": " has an error",
}
"""What leads from a bundle's name to a reason of its verdict."""
UNCONFIRMED_VERBS: dict[Verdict, str] = {"pass": " passes:", "inconclusive": " is inconclusive."}
"""What leads from its name to a loss that is not confirmed; a bundle that failed has other reasons too."""


def alerts(report: Report) -> list[str]:
    """What to know before the decision: warnings of the whole run, emulated devices, and unreliable timing."""
    return [*sentences.warnings(report), *sentences.emulated(report.results), *unsteady(report.results)]


def decision(report: Report, advice: Recommendation) -> list[str]:
    """The bundle to ship to one device with its gain over the fastest float, and the accuracy that it costs."""
    rows = report.rows_on(advice.device)
    where = "" if len(report.devices) == 1 and advice.device in (None, "local") else f" on {advice.device}"
    shipped = next((row for row in rows if row.bundle == advice.bundle and row.latency_ms), None)
    if advice.bundle is None or shipped is None:
        return [
            f"Ship {advice.bundle or 'nothing'}{where}: {sentences.ended(advice.why.partition(': see the rows')[0])}"
        ]
    if shipped.precision == "float":
        figures = f"{shipped.best_ms:.2f} ms, {_megabytes(shipped)} MB"
        why = [*_why_float(shipped, rows), *_by_threads(shipped), *_preparation(shipped)]
        return [f"Ship {shipped.best_name}{where}: {figures}.", *why]
    headline = f"Ship {shipped.name}{where}: {_gain(shipped, rows)}."
    if shipped.accuracy is None:
        return [headline, "What it costs in accuracy was not measured.", *_by_threads(shipped)]
    return [
        headline,
        *_by_threads(shipped),
        *_cost(shipped.accuracy, report.reference.value, report.model.accuracy_meaningful),
        *prices([shipped]),
        *_preparation(shipped),
    ]


def _gain(row: Row, rows: Sequence[Row]) -> str:
    """The latency and size of an INT8 bundle beside those of the fastest float bundle of any runtime."""
    best, ratio = over_float(row, rows)
    if best is None:
        return f"{row.p50:.2f} ms, {_megabytes(row)} MB; there is no float bundle to compare with"
    return (
        f"{row.p50:.2f} ms instead of {best.best_ms:.2f} ({ratio:.2f}x) and {_megabytes(row)} MB instead of "
        f"{_megabytes(best)}, compared with the fastest float, {best.best_name}"
    )


def over_float(row: Row, rows: Sequence[Row]) -> tuple[Row | None, float]:
    """The fastest float bundle of any runtime among the rows of a device, and the speedup of an INT8 bundle over it."""
    floats = [other for other in rows if other.precision == "float" and other.verdict == "pass"]
    best = min(floats, key=lambda row: row.best_ms, default=None)
    if best and row.speedup and row.speedup.baseline == best.best_name:
        return best, row.speedup.ratio  # of times that were measured in turns
    return best, best.best_ms / row.p50 if best else 0.0


def _by_threads(row: Row) -> Iterator[str]:
    """Why the row has its number of threads. The times are of another comparison than the row's, so ratios suffice."""
    latency = row.latency_ms
    p50 = {each.threads: each.p50 for each in latency.by_threads} if latency else {}
    chosen = p50.pop(latency.threads, None) if latency else None
    if latency is None or not chosen or not p50:
        return
    others = ", ".join(f"{ms / chosen:.2f} times as long with {threads}" for threads, ms in p50.items())
    fastest = f"Fastest with {counted(latency.threads, 'thread')}"
    if chosen > min(p50.values()):
        fastest = f"No other number of threads is clearly faster than {latency.threads}"
    yield f"{fastest}: it takes {others}."


def _preparation(row: Row) -> Iterator[str]:
    """What an image costs before the model sees it."""
    if words := sentences.preparation_words(row):
        yield f"{_begun(words)}."


def _cost(accuracy: Accuracy, reference: float, meaningful: bool) -> Iterator[str]:
    """The metric that a bundle keeps, and whether the images confirm it."""
    if not meaningful:
        yield "What it costs in accuracy is unknown, because the weights are random."
        return
    if accuracy.without_labels:
        yield f"The images have no labels. {_begun(accuracy.metric)} is {100 * accuracy.value:.2f} %."
    else:
        yield f"{_begun(accuracy.metric)} is {100 * accuracy.value:.2f} % instead of {100 * reference:.2f} %."
    yield sentences.confidence(accuracy)
    if more := sentences.task_details(accuracy):
        yield f"{_begun(more)}."


def _begun(text: str) -> str:
    """The text as the beginning of a sentence."""
    return text if text[1:2].isupper() else f"{text[:1].upper()}{text[1:]}"  # mAP stays as it is


def _why_float(shipped: Row, rows: Sequence[Row]) -> Iterator[str]:
    """How to run the float bundle, and why no INT8 bundle is better."""
    if shipped.best_format != F32:
        yield "Load it with edgekit.load(…, low_precision=True)."
    int8 = [row for row in rows if row.precision == "int8"]
    if passed := [row for row in int8 if row.verdict == "pass"]:
        best = min(passed, key=lambda row: row.p50)
        yield f"No INT8 bundle that passed is faster: {best.name} takes {best.p50:.2f} ms."
    elif int8:
        yield "No INT8 bundle passed."
    yield from prices(int8)


def prices(rows: Sequence[Row]) -> Iterator[str]:
    """What the fastest attempt of a repair within the bound costs, for the rows that have one."""
    for repair, name in ((row.repair, row.name) for row in rows if row.repair):
        own, *attempts = repair.attempts
        within = [attempt for attempt in attempts if attempt.is_within(repair.max_drop_points)]
        if not within:
            continue
        kept = min(within, key=lambda attempt: (-(attempt.speedup or 0.0), attempt.changes))
        speed, before = (f" at {each.speedup:.2f}x float" if each.speedup is not None else "" for each in (kept, own))
        yield (
            f"{name} keeps the bound with {kept.layers}{speed}{repair.where}; "
            f"without repair it loses {own.points} points{before}."
        )


def columns(rows: Sequence[Row], meaningful: bool) -> list[Column]:
    """A table of INT8 bundles: latency, speed-up, size, accuracy and its loss, and the verdict."""
    p50, p99, ratio, size = map(figure_at, ("latency_ms.p50", "latency_ms.p99", "speedup.ratio", "size_bytes"))
    score, loss = score_figures(rows)
    speedups = [ratio.text(row) for row in rows]
    return [
        Column("", [row.name for row in rows], left=True),
        Column("ms", [p50.text(row) for row in rows]),
        Column("p99", [p99.text(row) for row in rows], rank=4),
        Column("speedup", [text if text == NOTHING else f"{text}x" for text in speedups]),
        Column("MB", [size.text(row) for row in rows], rank=2),
        Column(textwrap.fill(score.title, METRIC_WIDTH), [score.text(row, meaningful) for row in rows], rank=3),
        Column("loss, points (95 %)", [with_interval(loss, row, meaningful) for row in rows], rank=1),
        Column("verdict", [row.verdict for row in rows], left=True),
    ]


def with_interval(figure: Figure, row: object, meaningful: bool = True) -> str:
    """A figure with its interval, such as "0.40 (-0.58 to 1.57)"."""
    text, ends = figure.text(row, meaningful), figure.ends(row, meaningful)
    return f"{text} ({figure.number(ends[0])} to {figure.number(ends[1])})" if ends else text


def float_line(rows: Sequence[Row]) -> str:
    """The latency of each runtime's float bundle on one line; empty if there is none."""
    floats = [row for row in rows if row.precision == "float"]
    timed = [row for row in floats if row.latency_ms]
    words = [f"{row.target} {row.p50:.2f}{'' if index else ' ms'}{_low(row)}" for index, row in enumerate(timed)]
    words += [f"{row.target} failed" for row in floats if not row.latency_ms]
    return f"Float: {', '.join(words)}." if words else ""


def _low(row: Row) -> str:
    return f" ({row.low_precision.p50_ms:.2f} in {row.low_precision.computes_in})" if row.low_precision else ""


def caption(report: Report) -> str:
    """How the figures of the table were measured."""
    loss = f" Loss: against {report.reference.engine}, {report.evaluation.count:,} images."
    order = (
        f" Classes: in {name} order, which fits the network's answers." if (name := report.model.class_order) else ""
    )
    return (
        f"Latency: {sentences.timing_words(report.results)}.{loss if report.model.accuracy_meaningful else ''}{order}"
    )


def all_remarks(report: Report) -> list[tuple[Row, str]]:
    """The remarks on each row."""
    shipped = {(advice.device, advice.bundle) for advice in report.recommendations}
    several = report.has_several_devices
    return [
        (row, remark)
        for row in report.results
        for remark in remarks(row, (row.device.name, row.bundle) in shipped, several)
    ]


def unsteady(rows: Sequence[Row]) -> list[str]:
    """Warnings of unreliable latencies, each with its reason and all rows that it concerns."""
    concerned: dict[str, list[Row]] = {}
    several = len({row.device.name for row in rows}) > 1
    for row in rows:
        for note in sentences.notes_of(row):
            if note.kind == "unsteady":
                concerned.setdefault(note.cause, []).append(row)

    def named(rows: Sequence[Row]) -> str:
        return ", ".join(row.label if several else row.name for row in rows)

    warnings = []
    for cause, unreliable in concerned.items():
        compared = {(row.device.name, row.name) for row in unreliable}
        others = [row for row in rows if row.speedup and (row.device.name, row.speedup.versus) in compared]
        others = [row for row in others if row not in unreliable]
        warning = f"Unreliable timing of {named(unreliable)}: {cause}"
        warnings.append(f"{warning} The speedup of {named(others)} depends on it." if others else warning)
    return warnings


def remarks(row: Row, shipped: bool, several: bool) -> list[str]:
    """Sentences on a row: why it did not pass, and what to know about it beyond the decision and the warnings."""
    name = row.label if several else row.name
    lines = []
    for note in sentences.notes_of(row):
        if note.kind == "unconfirmed" and not shipped:
            lines.append(f"{name}{UNCONFIRMED_VERBS.get(row.verdict, ':')} {note.sentence}")
        elif note.kind == "other":
            lines.append(f"{name}{_verb(row, note)}: {note.sentence}")
    return lines


def _verb(row: Row, note: Note) -> str:
    """What leads from a bundle's name to a note. What only leaves a gate inconclusive isn't why a bundle failed."""
    unsettled = [
        sentences.ended(reason) for gate in row.gates if gate.verdict == "inconclusive" for reason in gate.reasons
    ]
    explains = note.is_reason and (row.verdict != "fail" or note.sentence not in unsettled)
    return VERBS[row.verdict] if explains else ""


def _megabytes(row: Row) -> str:
    return figure_at("size_bytes").text(row)


@page_of.register
def answer_page(report: Report) -> Iterator[Block]:
    """Warnings, what to ship and what that gains and costs, a line for each INT8 bundle, and one for float.

    The page and the CSV have all figures.
    """
    yield from (Paragraph(alert, "bold red") for alert in alerts(report))
    for advice in report.recommendations:
        headline, *details = decision(report, advice)
        yield Paragraph(headline, "bold")
        yield Paragraph(" ".join(details))
    for advice in report.recommendations:
        rows = report.rows_on(advice.device)
        int8 = [row for row in rows if row.precision == "int8"]
        yield ""
        if len(report.recommendations) > 1:
            yield Paragraph(f"On {rows[0].device.label if rows else advice.device}:")
        if int8:
            yield TextTable(columns(int8, report.model.accuracy_meaningful))
        yield Paragraph(float_line(rows))
    yield ""
    yield Paragraph(caption(report))
    yield from (Item(remark, COLOURS[row.verdict]) for row, remark in all_remarks(report))


def answer_lines(report: Report, width: int = WIDTH) -> Iterator[Line]:
    """The answer as lines of text."""
    return lines_of(answer_page(report), min(width, WIDTH))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The document of `edgekit benchmark`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    device: DeviceFacts
    """The first device. Each row also names its own."""
    results: tuple[Row, ...]
    """One row for each bundle and device."""

    @property
    def title(self) -> str:
        """Heading of the outputs."""
        return "edgekit benchmark"

    def page(self) -> Iterator[Block]:
        """The warnings; for each device the fastest bundle, a table, the conditions, and more on each bundle."""
        for warning in (*sentences.emulated(self.results), *unsteady(self.results)):
            yield Item(f"warning: {warning}", "bold red")
        several = len({row.device.name for row in self.results}) > 1
        for device in dict.fromkeys(row.device.name for row in self.results):
            measured = [row for row in self.results if row.device.name == device]
            yield Item(_fastest(measured, several))
            yield ""
            yield TextTable(_columns(measured))
            yield Item(f"Latency: {sentences.timing_words(measured)}.")
            for row in measured:
                yield from map(Item, _more_on(row, several))

    def steps(self) -> Iterator[NextStep]:
        """The next commands."""
        if slow := sentences.rows_whose_gate(self.results, ["min-speedup"], "fail"):
            yield NextStep("see which of its layers run in float", ("edgekit", "inspect", slow[0].name))
        if sentences.rows_whose_gate(self.results, ["steady-timing"], "inconclusive"):
            yield NextStep("Run the same command again while nothing else runs.")
        yield from sentences.after_failures(self.results)


def _fastest(rows: Sequence[Row], several: bool) -> str:
    """The fastest bundle on a device, with its latency and speed-up."""
    where = f" on {rows[0].device.label}" if several or not rows[0].device.is_local else ""
    timed = [(row.latency_ms.p50, row) for row in rows if row.latency_ms]
    if not timed:
        return f"No bundle could be timed{where}."
    p50, row = min(timed, key=lambda pair: pair[0])
    versus = f", {row.speedup.ratio:.2f}x {row.speedup.baseline}" if row.speedup else ""
    return f"Fastest{where}: {row.name}, {p50:.2f} ms{versus}."


def _columns(rows: Sequence[Row]) -> list[Column]:
    p50, p99, ratio, peak = map(figure_at, ("latency_ms.p50", "latency_ms.p99", "speedup.ratio", "peak_rss_bytes"))
    return [
        Column("", [row.name for row in rows], left=True),
        Column("p50 ms", [p50.text(row) for row in rows]),
        Column("p99 ms", [p99.text(row) for row in rows], rank=2),
        Column("speedup (95 %)", [with_interval(ratio, row) for row in rows], rank=1),
        Column("peak MB", [peak.text(row) for row in rows], rank=3),
        Column("verdict", [row.verdict for row in rows], left=True),
    ]


def _more_on(row: Row, several: bool) -> Iterator[str]:
    """A row's energy where a sensor was read, its streams, its sustained run, and the notes on it."""
    emulation = " (emulated: timings are not comparable)" if row.device.emulated else ""
    name = f"{row.device.name}{emulation}: {row.name}" if several or emulation else row.name
    if row.energy and row.energy.inference_mj is not None:
        yield f"{name}: {sentences.energy_words(row.energy)}"
    for words in filter(None, (sentences.stream_words(row), sentences.camera_words(row))):
        yield f"{name}: {words}"
    yield from sentences.sustain_lines(name, row)
    verdict = "" if row.failure else f"{row.verdict}: "
    yield from (f"{name}: {verdict}{note.sentence}" for note in sentences.notes_of(row) if note.kind != "unsteady")
