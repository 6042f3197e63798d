"""What to ship of several runs, such as of several models for one board: a table over them, and its chart."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from typing import Literal

from edgekit.errors import UsageError
from edgekit.report.answer import with_interval
from edgekit.report.document import Report
from edgekit.report.figure import NOTHING, figure_at, score_figures
from edgekit.report.page import Block, Column, Item, Paragraph, TextTable
from edgekit.report.plot import Mark, Panel, Picture, bar
from edgekit.report.row import TOP1, Row
from edgekit.report.sentences import warnings

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
            yield from (Paragraph(f"{run}: {warning}", "bold red") for warning in warnings(report))
        for device in self.ships:
            rows = rows_on(self.reports, device)
            yield Paragraph(self._headline(device, rows), "bold")
            yield ""
            yield TextTable(self._columns(rows))
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

    def _columns(self, rows: Rows) -> list[Column]:
        """The fastest bundle of each run that passed: latency, frames per second, size, accuracy and its loss."""
        every, meaningful = [*rows.values()], self.accuracy_meaningful
        (score, loss), size = score_figures(every), figure_at("size_bytes")
        return [
            Column("", [f"{run}/{row.best_name}" for run, row in rows.items()], left=True),
            Column("ms", [f"{row.best_ms:.2f}" if row.latency_ms else NOTHING for row in every]),
            Column("frames/s", [f"{1000 / row.best_ms:.0f}" if row.latency_ms else NOTHING for row in every], rank=2),
            Column("MB", [size.text(row) for row in every]),
            Column(score.title, [score.text(row, meaningful) for row in every]),
            Column("loss, points (95 %)", [with_interval(loss, row, meaningful) for row in every], rank=1),
            Column("verdict", [row.verdict for row in every], left=True),
        ]

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
