"""The answer that a run, a benchmark or several runs give: what to ship, what it gains and costs, and how sure that is.

It is lines of text within 80 columns, for a terminal or a pipe. Several runs, such as of several models for one board,
give a table over them, and its chart.
"""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Any, Literal

from edgekit.errors import UsageError
from edgekit.report import sentences
from edgekit.report.document import Recommendation, Report
from edgekit.report.figure import NOTHING, TIMES, DeviceFacts, counted, figure_at, score_figures
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
from edgekit.report.plot import Mark, Panel, Picture, bar
from edgekit.report.row import F32, TOP1, Accuracy, Row, Verdict
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


def figure_table(
    rows: Sequence[Any],
    columns: Iterable[Column | tuple[str, str, int]],
    names: Sequence[str],
    meaningful: bool = True,
    verdicts: Sequence[str] | None = None,
) -> TextTable:
    """The names of rows, their figures and their verdicts, by default those that they have.

    A column of figures has a heading, by default the figure's own, the path of the figure ("score" and "loss" are those
    of the task), and the rank with which it is left out. One whose heading has "95 %" has the interval of each figure,
    such as "0.40 (-0.58 to 1.57)".
    """
    task = dict(zip(("score", "loss"), score_figures(rows), strict=True))

    def column(head: str, path: str, rank: int) -> Column:
        figure = task.get(path) or figure_at(path)
        texts = [figure.text(row, meaningful) for row in rows]
        for place, row in enumerate(rows):
            if (ends := figure.ends(row, meaningful)) and "95 %" in head:
                texts[place] += f" ({figure.number(ends[0])} to {figure.number(ends[1])})"
            elif figure.unit == TIMES and "95 %" not in head and texts[place] != NOTHING:
                texts[place] += "x"
        return Column(head or textwrap.fill(figure.title, METRIC_WIDTH), texts, rank=rank)

    shown = [each if isinstance(each, Column) else column(*each) for each in columns]
    last = Column("verdict", verdicts or [row.verdict for row in rows], left=True)
    return TextTable([Column("", names, left=True), *shown, last])


INT8 = (
    ("ms", "latency_ms.p50", 0),
    ("p99", "latency_ms.p99", 4),
    ("speedup", "speedup.ratio", 0),
    ("MB", "size_bytes", 2),
    ("", "score", 3),
    ("loss, points (95 %)", "loss", 1),
)
"""Columns of a table of INT8 bundles."""


def float_line(rows: Sequence[Row]) -> str:
    """The latency of each runtime's float bundle on one line; empty if there is none."""
    floats = [row for row in rows if row.precision == "float"]
    timed = [row for row in floats if row.latency_ms]
    words = [f"{row.target} {row.p50:.2f}{'' if index else ' ms'}" for index, row in enumerate(timed)]
    for place, low in enumerate(row.low_precision for row in timed):
        words[place] += f" ({low.p50_ms:.2f} in {low.computes_in})" if low else ""
    words += [f"{row.target} failed" for row in floats if not row.latency_ms]
    return f"Float: {', '.join(words)}." if words else ""


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
            yield figure_table(int8, INT8, [row.name for row in int8], report.model.accuracy_meaningful)
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
            yield figure_table(measured, TIMED, [row.name for row in measured])
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


TIMED = (
    ("p50 ms", "latency_ms.p50", 0),
    ("p99 ms", "latency_ms.p99", 2),
    ("speedup (95 %)", "speedup.ratio", 1),
    ("peak MB", "peak_rss_bytes", 3),
)
"""Columns of a table of bundles that were only timed."""


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


Rows = Mapping[str, Row]
"""The row of one bundle of each run, by the name of the run."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The document of `edgekit report` for several runs, and of `edgekit deploy` for several models."""

    schema_version: Literal[1] = 1
    """Version of the document's format."""
    max_p50_ms: float | None = None
    """Largest p50 of a bundle to ship, in milliseconds; null for any."""
    ships: dict[str, str | None]
    """Bundle to ship to each device, as RUN/BUNDLE; null where none keeps the limit, or nothing tells which."""
    reports: dict[str, Report]
    """Report of each run, by the name of the run: the last part of its path, or the path if several have that."""

    @property
    def title(self) -> str:
        """Heading of the outputs."""
        return "edgekit report"

    @property
    def accuracy_meaningful(self) -> bool:
        """Whether all accuracies mean anything."""
        return all(report.model.accuracy_meaningful for report in self.reports.values())

    @property
    def results(self) -> tuple[Row, ...]:
        """The rows of all runs, whose bundles have the names of their runs in front."""
        rows = ((run, row) for run, report in self.reports.items() for row in report.results)
        return tuple(replace(row, bundle=f"{run}/{row.name}") for run, row in rows)

    def page(self) -> Iterator[Block]:
        """The warnings, then what to ship to each device, a table of the runs, and what to know about them."""
        for run, report in self.reports.items():
            yield from (Paragraph(f"{run}: {warning}", "bold red") for warning in sentences.warnings(report))
        for device in self.ships:
            rows = rows_on(self.reports, device)
            yield Paragraph(self._headline(device, rows), "bold")
            yield ""
            yield self._table(rows)
            yield ""
            yield from map(Item, self._remarks(device, rows))

    def _headline(self, device: str, rows: Rows) -> str:
        """What to ship to a device within the limit, or what the limit has to decide."""
        where = "" if list(self.ships) == ["local"] else f" on {device}"
        ready = passed(self.reports, rows, device)
        if not ready:
            return f"Ship nothing{where}: no run has a bundle that passed."
        if not _comparable(self.reports, ready):
            return f"Nothing tells which model to ship{where}, because their accuracies can't be compared."
        fastest = min(ready, key=lambda run: ready[run].best_ms)
        limit, best = self.max_p50_ms, self.ships[device]
        if best is None:
            return (
                f"Ship nothing{where}: {_words(fastest, ready[fastest])} is the fastest, and {limit:g} ms is allowed."
            )
        run, row = next((run, row) for run, row in ready.items() if f"{run}/{row.bundle}" == best)
        if limit is not None:
            return f"Ship {_words(run, row)}{where}: the most accurate of those that take at most {limit:g} ms."
        if run == fastest:
            return f"Ship {_words(run, row)}{where}: the most accurate and the fastest."
        return (
            f"{_words(run, row)} is the most accurate{where}, and {_words(fastest, ready[fastest])} the fastest. "
            "--max-p50 MS chooses the most accurate within a time."
        )

    def _table(self, rows: Rows) -> TextTable:
        """The fastest bundle of each run that passed: latency, frames per second, size, accuracy and its loss."""
        every = [*rows.values()]
        columns = (
            Column("ms", [f"{row.best_ms:.2f}" if row.latency_ms else NOTHING for row in every]),
            Column("frames/s", [f"{1000 / row.best_ms:.0f}" if row.latency_ms else NOTHING for row in every], rank=2),
            ("MB", "size_bytes", 0),
            ("", "score", 0),
            ("loss, points (95 %)", "loss", 1),
        )
        names = [f"{run}/{row.best_name}" for run, row in rows.items()]
        return figure_table(every, columns, names, self.accuracy_meaningful)

    def _remarks(self, device: str, rows: Rows) -> Iterator[str]:
        """Models that another one makes superfluous, accuracies that noise can explain, and other images."""
        ready = passed(self.reports, rows, device)
        if _comparable(self.reports, ready):
            for run, row in ready.items():
                faster = [(name, other) for name, other in ready.items() if other.best_ms < row.best_ms]
                alike = [name for name, other in faster if not is_better(row, other)]
                if alike:
                    images = row.accuracy.count if row.accuracy else 0
                    others = " and ".join(alike)
                    yield f"{run} is slower than {others}, and on {images:,} images no more accurate beyond noise."
        if len({report.evaluation.sha256 for report in self.reports.values()}) > 1:
            yield "The runs evaluated different images, so a part of the difference between accuracies is theirs."
        yield "The runs were timed one after the other; edgekit benchmark times the bundles of several in turns."


def choose(reports: Mapping[Path, Report], max_p50: float | None = None) -> Choice:
    """Choose the most accurate of the bundles that runs ship to each device, within a limit in milliseconds."""
    names = [path.name for path in reports]
    named = {
        path.name if names.count(path.name) == 1 and path.name else str(path): report
        for path, report in reports.items()
    }
    devices = dict.fromkeys(device for report in named.values() for device in report.devices)
    return Choice(
        max_p50_ms=max_p50, reports=named, ships={device: _shipped(named, device, max_p50) for device in devices}
    )


def _shipped(reports: Mapping[str, Report], device: str, max_p50: float | None) -> str | None:
    """RUN/BUNDLE of the bundle to ship to a device; None if there is none."""
    ready = passed(reports, rows_on(reports, device), device)
    if not _comparable(reports, ready):
        return None
    within = {run: row for run, row in ready.items() if max_p50 is None or row.best_ms <= max_p50}
    best = max(within, key=lambda run: (_value(within[run]), -within[run].best_ms), default=None)
    return None if best is None else f"{best}/{within[best].bundle}"


def rows_on(reports: Mapping[str, Report], device: str) -> dict[str, Row]:
    """The row of each run that was measured on a device: the one to ship or, without one, the fastest."""
    rows = {}
    for run, report in reports.items():
        shipped = _advised(report, device)
        if measured := report.rows_on(device):
            rows[run] = min(measured, key=lambda row: (row.bundle != shipped, row.precision != "int8", row.p50))
    return rows


def passed(reports: Mapping[str, Report], rows: Rows, device: str) -> dict[str, Row]:
    """Those of the rows whose run ships them to the device."""
    return {
        run: row for run, row in rows.items() if row.bundle is not None and row.bundle == _advised(reports[run], device)
    }


def _advised(report: Report, device: str) -> str | None:
    """Name of the bundle that a run's report ships to a device; None if it ships none."""
    return next((advice.bundle for advice in report.recommendations if advice.device == device), None)


def _comparable(reports: Mapping[str, Report], rows: Rows) -> bool:
    """Whether the accuracies of these rows all mean something, and are of one metric."""
    meaningful = all(report.model.accuracy_meaningful for report in reports.values())
    return meaningful and len({_metric(row) for row in rows.values()}) <= 1


def _metric(row: Row) -> str | None:
    return row.accuracy.metric if row.accuracy else None


def _value(row: Row) -> float:
    return row.accuracy.value if row.accuracy else 0.0


def is_better(row: Row, other: Row) -> bool:
    """Whether a metric is higher than another one beyond noise, as if the two had evaluated different images.

    That is a cautious rule for the same images, and for metrics that aren't shares of images an approximate one.
    """
    count = min((each.accuracy.count for each in (row, other) if each.accuracy), default=0)
    variances = [_value(each) * (1 - _value(each)) / max(count, 1) for each in (row, other)]
    return _value(row) - _value(other) > 1.96 * sqrt(max(sum(variances), 0.0))


def _words(run: str, row: Row) -> str:
    """A bundle with its time and its accuracy."""
    return f"{run}/{row.best_name} ({row.best_ms:.2f} ms, {_metric(row) or TOP1} {100 * _value(row):.2f} %)"


def draw_choice(choice: Choice) -> Picture:
    """A picture of the runs: their latency with the limit, and how far each is below the most accurate one."""
    panels, words = [], []
    for device in choice.ships:
        rows = {run: row for run, row in rows_on(choice.reports, device).items() if row.latency_ms}
        if not rows:
            continue
        names, best = [*rows], max(map(_value, rows.values()))
        times = [bar(place, row.best_ms, 0) for place, row in enumerate(rows.values())]
        if choice.max_p50_ms is not None:
            times.append(Mark("line", [(choice.max_p50_ms, 0), (choice.max_p50_ms, len(rows))], dashes=1))
        row = [Panel(marks=times, label="p50, ms\n(lower is better)", title=device, names=names)]
        if choice.accuracy_meaningful:
            behind = [100 * (best - _value(each)) for each in rows.values()]
            label = f"{_metric(next(iter(rows.values()))) or TOP1}, points below the best\n(lower is better)"
            row.append(Panel(marks=[bar(*each, 1) for each in enumerate(behind)], label=label, names=names))
        panels.append(row)
        words += [f"{_words(run, each)} on {device}" for run, each in rows.items()]
    if not panels:
        raise UsageError("no run has a latency to draw", fix="Leave out `--chart`")
    return Picture(f"Latency and accuracy of the runs: {'; '.join(words)}.", panels)
