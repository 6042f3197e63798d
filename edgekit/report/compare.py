"""Comparison of two runs: changes, and regressions beyond the noise of both runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import exp, hypot, log
from typing import Literal

from edgekit.report.document import Report
from edgekit.report.figure import Figure, lookup
from edgekit.report.measurement import Interval
from edgekit.report.row import Row, Verdict, all_figures

SPEEDUP, P50 = "speedup_ratio", "latency_p50_ms"
"""Columns of the two figures that are judged together."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure in both runs, in the units of report.json.

    `ci95` is derived from the intervals of both runs (Zou and Donner, 2008). It treats the runs as independent, so it
    is too wide if both evaluated the same images.
    """

    before: float
    """Value in the first run."""
    after: float
    """Value in the second run."""
    difference: float | None = None
    """Second value minus first; null for figures that are compared by their ratio or have no interval."""
    ratio: float | None = None
    """Second value divided by first; null for figures that are compared by their difference or have no interval."""
    ci95: Interval | None = None
    """95 % interval of the difference or the ratio."""


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """One bundle on one device in both runs."""

    device: str
    """Name of the device."""
    bundle: str
    """Name of the bundle."""
    verdicts: tuple[Verdict | None, Verdict | None]
    """Verdicts in the first and the second run; null where the run has no such row."""
    changes: dict[str, Change] = field(default_factory=dict)
    """Figures that both runs have, by their column in report.csv."""
    regressions: tuple[str, ...] = ()
    """Descriptions of everything that got worse beyond the noise."""

    @property
    def label(self) -> str:
        """Name of the bundle and of the device, such as "onnx-int8 on local"."""
        return f"{self.bundle} on {self.device}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The document of `edgekit compare`."""

    schema_version: Literal[1] = 1
    """Version of the document's format."""
    notes: tuple[str, ...]
    """Other differences between the runs, such as weights or images, which may explain or confound the changes."""
    results: tuple[RowComparison, ...]
    """One comparison for each bundle on each device."""
    regressions: tuple[str, ...]
    """Regressions of all rows, each with its bundle and device."""
    verdict: Literal["pass", "fail"]
    """`fail` if there is any regression."""


def compare_runs(before: Report, after: Report) -> Comparison:
    """Changes and regressions of each bundle on each device from the first run to the second."""
    old = {_key(row): row for row in before.results}
    new = {_key(row): row for row in after.results}
    meaningful = before.model.accuracy_meaningful and after.model.accuracy_meaningful
    rows = tuple(_compare(key, old.get(key), new.get(key), meaningful) for key in dict.fromkeys((*old, *new)))
    worse = tuple(f"{row.label}: {text}" for row in rows for text in row.regressions)
    notes = tuple(_notes(before, after, meaningful))
    return Comparison(notes=notes, results=rows, regressions=worse, verdict="fail" if worse else "pass")


def compared_figures() -> list[Figure]:
    """Figures that have a better and a worse direction."""
    return [figure for figure in all_figures() if figure.better]


def _key(row: Row) -> tuple[str, str]:
    return row.device.name, f"{row.target}-{row.precision}"


def _notes(before: Report, after: Report, meaningful: bool) -> list[str]:
    notes = [] if meaningful else ["accuracy is not compared because at least one run has random weights"]
    for path, what in (
        ("model.name", "models"),
        ("model.weights_sha256", "weights"),
        ("evaluation.sha256", "evaluation images"),
        ("calibration.sha256", "calibration images"),
        ("calibration.recipe", "recipes"),
        ("edgekit", "versions of edgekit"),
    ):
        a, b = lookup(before, path), lookup(after, path)
        if a != b:
            notes.append(f"different {what}: {str(a)[:40]} and {str(b)[:40]}")
    machines = [sorted({str(row.device.cpu) for row in report.results}) for report in (before, after)]
    if machines[0] != machines[1]:
        notes.append(f"different processors: {', '.join(machines[0])} and {', '.join(machines[1])}")
    return notes


def _compare(key: tuple[str, str], old: Row | None, new: Row | None, meaningful: bool) -> RowComparison:
    device, name = key
    verdicts = (old.verdict if old else None, new.verdict if new else None)
    if old is None or new is None:
        missing = ("missing in the second run",) if new is None else ()
        return RowComparison(device=device, bundle=name, verdicts=verdicts, regressions=missing)
    changes = {}
    for figure in compared_figures():
        change = None if figure.is_accuracy and not meaningful else _change(figure, old, new)
        if change is not None:
            changes[figure.csv_column] = change
    comparison = RowComparison(device=device, bundle=new.name, verdicts=verdicts, changes=changes)
    return replace(comparison, regressions=tuple(_regressions(comparison, new)))


def _change(figure: Figure, old: Row, new: Row) -> Change | None:
    """The figure in both rows, with the interval of its change; None if a row lacks the figure."""
    a, b = lookup(old, figure.path), lookup(new, figure.path)
    if a is None or b is None:
        return None
    ends_a, ends_b = (lookup(row, figure.interval) if figure.interval else None for row in (old, new))
    if ends_a is None or ends_b is None:
        return Change(before=a, after=b)
    if not figure.is_ratio:
        return Change(before=a, after=b, difference=b - a, ci95=_of_difference(a, ends_a, b, ends_b))
    if min(a, b, *ends_a, *ends_b) <= 0:
        return Change(before=a, after=b)
    low, high = _of_difference(log(a), tuple(map(log, ends_a)), log(b), tuple(map(log, ends_b)))
    return Change(before=a, after=b, ratio=b / a, ci95=(exp(low), exp(high)))


def _of_difference(a: float, ends_a: Sequence[float], b: float, ends_b: Sequence[float]) -> Interval:
    """Interval of b - a, from the intervals of both."""
    (low_a, high_a), (low_b, high_b) = ends_a, ends_b
    return b - a - hypot(b - low_b, high_a - a), b - a + hypot(high_b - b, a - low_a)


def _regressions(row: RowComparison, new: Row) -> list[str]:
    regressions = []
    if row.verdicts[0] == "pass" and new.verdict != "pass":
        regressions.append(f"the verdict changed from pass to {new.verdict}: {'; '.join(new.reasons)}")
    return [*regressions, *filter(None, (regression(figure, row) for figure in compared_figures()))]


def regression(figure: Figure, row: RowComparison) -> str | None:
    """Description of a figure that got worse beyond the noise; None if it did not."""
    change = row.changes.get(figure.csv_column)
    if change and _is_worse(figure, change) and not _is_only_relative(figure, row):
        return f"{figure.title} got worse: {describe_change(figure, change)}"
    return None


def _is_worse(figure: Figure, change: Change) -> bool:
    """Whether a figure got worse beyond its interval, or beyond its tolerance if it has no interval."""
    sign = 1 if figure.better == "lower" else -1
    if change.ci95 is not None:
        low, high = change.ci95
        same = 1.0 if change.ratio is not None else 0.0
        return low > same if figure.better == "lower" else high < same
    if figure.tolerance is None:
        return False
    return sign * (change.after - change.before) > figure.tolerance * (change.before if figure.better == "lower" else 1)


def _is_only_relative(figure: Figure, row: RowComparison) -> bool:
    """Whether only the float bundle got faster, which lowers the speedup although INT8 did not get slower."""
    p50 = row.changes.get(P50)
    return figure.csv_column == SPEEDUP and (p50 is None or p50.after <= p50.before)


def describe_change(figure: Figure, change: Change) -> str:
    """A change in the figure's unit, such as "2.9 -> 3.1 MB"."""
    a, b = (figure.number(value * figure.scale) for value in (change.before, change.after))
    text = f"{a} -> {b} {figure.unit}".rstrip()
    if change.ci95 is None:
        return text
    if change.ratio is not None:
        what, value, (low, high) = "ratio", change.ratio, change.ci95
    else:
        what, value, (low, high) = "difference", change.difference or 0.0, change.ci95
        value, low, high = (number * figure.scale for number in (value, low, high))
    return f"{text} ({what} {value:.2f}, 95 % interval {low:.2f} to {high:.2f})"
