"""Comparison of two runs: changes, and regressions beyond the noise of both runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, hypot, log
from typing import Literal

from edgekit.report.answer import unsteady
from edgekit.report.document import Report
from edgekit.report.figure import Figure, Interval, all_figures, lookup
from edgekit.report.page import Block, Item
from edgekit.report.row import Row, Verdict
from edgekit.report.sentences import layer_names

SPEEDUP, P50 = "speedup_ratio", "latency_p50_ms"
"""Columns of the two figures that are judged together."""
MAX_SLOWDOWN = 10.0
"""Slowdown of p50, in percent, up to which it is no regression: where in memory a session lies makes the same file up
to 5 % faster or slower in each run."""
SMALLEST = 1e-9
"""Smallest ratio or time, in milliseconds, that is no error of its document."""
BEST_FIRST: tuple[str, ...] = ("pass", "inconclusive", "fail", "error")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure in both runs, in the units of report.json.

    `ci95` is derived from the intervals of both runs (Zou and Donner, 2008). It treats the runs as independent, so it
    is too wide if both evaluated the same images. The quartiles of the timed inferences stand for the interval of p50:
    they are one of at least 95 % for 20 independent inferences, and those that are timed resemble their neighbours.
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
    """Other differences between the runs, such as weights or recipes, which may explain the changes."""
    reasons: tuple[str, ...] = ()
    """Reasons why the verdict is inconclusive; empty for another one."""
    results: tuple[RowComparison, ...]
    """One comparison for each bundle on each device."""
    regressions: tuple[str, ...]
    """Regressions of all rows, each with its bundle and device."""
    max_slowdown_percent: float = MAX_SLOWDOWN
    """Slowdown of p50, in percent, up to which it is no regression."""
    verdict: Literal["pass", "fail", "inconclusive"]
    """`inconclusive` for runs of different models or evaluation images without `--different`; otherwise `fail` if there
    is any regression."""

    @property
    def title(self) -> str:
        """Heading of the outputs."""
        return "edgekit compare"

    def page(self) -> Iterator[Block]:
        """What leaves the verdict open, what got worse, then the notes on both runs and every change."""
        yield from (Item(text, "bold") for text in inconclusive(self))
        yield from (Item(f"worse: {text}") for text in self.regressions)
        if not self.regressions:
            yield UNCHANGED
        yield from (Item(f"note: {note}") for note in self.notes)
        for row in self.results:
            first, second = row.verdicts
            yield Item(f"{row.label}: {first or 'missing'} -> {second or 'missing'}")
            for figure in compared_figures():
                if change := row.changes.get(figure.csv_column):
                    yield Item(f"  {figure.title}: {describe_change(figure, change)}")


UNCHANGED = "nothing got worse beyond the noise"


OTHER = {"model.name": "models", "evaluation.sha256": "evaluation images"}
"""What makes figures those of something else, so that their intervals don't tell a regression, by its path."""
NOTED = {
    "model.weights_sha256": "weights",
    "calibration.sha256": "calibration images",
    "calibration.recipe": "recipes",
    "edgekit": "versions of edgekit",
}
"""What may explain a change, by its path."""


def compare_runs(
    before: Report, after: Report, max_slowdown: float = MAX_SLOWDOWN, different: bool = False
) -> Comparison:
    """Changes and regressions of each bundle on each device from the first run to the second.

    The verdict on runs of different models or evaluation images is inconclusive unless `different`.
    p50 is compared between runs on the same processor with the same number of threads, or with the number that each run
    found fastest. It is a regression if its whole interval lies above its former value, and if it is more than
    `max_slowdown` percent higher.
    """
    old = {_key(row): row for row in before.results}
    new = {_key(row): row for row in after.results}
    meaningful = before.model.accuracy_meaningful and after.model.accuracy_meaningful
    keys = dict.fromkeys((*old, *new))
    pairs = [(old[key], new[key]) for key in old if key in new]
    rows = tuple(_compare(key, old.get(key), new.get(key), meaningful, max_slowdown) for key in keys)
    other = tuple(_differences(before, after, OTHER))
    reasons = () if different else other
    notes = (*_notes(before, after, meaningful), *_other_layers(pairs), *_untimed(pairs))
    return Comparison(
        notes=(*(other if different else ()), *notes),
        reasons=reasons,
        results=rows,
        regressions=(worse := tuple(f"{row.label}: {text}" for row in rows for text in row.regressions)),
        max_slowdown_percent=max_slowdown,
        verdict="inconclusive" if reasons else "fail" if worse else "pass",
    )


def inconclusive(comparison: Comparison) -> list[str]:
    """Why the verdict is inconclusive, in a sentence; empty for another one."""
    reasons = "; ".join(comparison.reasons)
    return [f"The comparison is inconclusive: {reasons}. `--different` judges it nevertheless."] if reasons else []


def compared_figures() -> list[Figure]:
    """Figures that have a better and a worse direction."""
    return [figure for figure in all_figures() if figure.better]


def _key(row: Row) -> tuple[str, str]:
    return row.device.name, f"{row.target}-{row.precision}"


def _notes(before: Report, after: Report, meaningful: bool) -> list[str]:
    notes = [] if meaningful else ["accuracy is not compared because at least one run has random weights"]
    notes += _differences(before, after, NOTED)
    for run, report in (("first", before), ("second", after)):
        notes += [f"{run} run: {warning}" for warning in unsteady(report.results)]
    return notes


def _other_layers(pairs: Iterable[tuple[Row, Row]]) -> Iterator[str]:
    """The layers of INT8 bundles that were in float in one run alone, each of which places and repairs for itself."""
    for old, new in pairs:
        before, after = (set((row.int8 and row.int8.float_layers) or ()) for row in (old, new))
        if before != after and old.precision == "int8" and old.int8 and new.int8:
            first, second = (layer_names(sorted(names)) for names in (before - after, after - before))
            yield f"{new.label}: layers in float in the first run alone: {first}; in the second run alone: {second}"


def _differences(before: Report, after: Report, facts: Mapping[str, str]) -> Iterator[str]:
    for path, what in facts.items():
        a, b = lookup(before, path), lookup(after, path)
        if a != b:
            yield f"different {what}: {str(a)[:40]} and {str(b)[:40]}"


def _untimed(pairs: Iterable[tuple[Row, Row]]) -> list[str]:
    """The reasons why p50 is not judged, each with the rows that it concerns."""
    concerned: dict[str, list[str]] = {}
    for old, new in pairs:
        if reason := _other_machine(old, new):
            concerned.setdefault(reason, []).append(new.label)
    return [f"p50 is not judged, because {reason}: {', '.join(labels)}" for reason, labels in concerned.items()]


def _other_machine(old: Row, new: Row) -> str | None:
    """Why the latencies of two rows can't be compared; None if they can, or if there are none."""
    if old.latency_ms is None or new.latency_ms is None:
        return None
    if old.device.emulated or new.device.emulated:
        return "QEMU emulates the device"
    if old.device.cpu is None or new.device.cpu is None:
        return "the processor is not known"
    if old.device.cpu != new.device.cpu:
        return f"the processors differ ({old.device.cpu} and {new.device.cpu})"
    threads_differ = old.latency_ms.threads != new.latency_ms.threads
    are_chosen = bool(old.latency_ms.by_threads and new.latency_ms.by_threads)
    if (threads_differ and not are_chosen) or old.latency_ms.batch != new.latency_ms.batch:
        return f"the numbers of threads differ ({old.latency_ms.threads} and {new.latency_ms.threads})"
    return None


def _compare(
    key: tuple[str, str], old: Row | None, new: Row | None, meaningful: bool, max_slowdown: float
) -> RowComparison:
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
    figures = (regression(figure, comparison, max_slowdown) for figure in compared_figures())
    return replace(comparison, regressions=(*_worse_verdicts(old, new), *filter(None, figures)))


def _change(figure: Figure, old: Row, new: Row) -> Change | None:
    """The figure in both rows, with the interval of its change; None if a row lacks the figure."""
    a, b = lookup(old, figure.path), lookup(new, figure.path)
    if a is None or b is None:
        return None
    ends_a, ends_b = (_interval(figure, row) for row in (old, new))
    if ends_a is None or ends_b is None or (figure.csv_column == P50 and _other_machine(old, new)):
        return Change(before=a, after=b)
    if not figure.is_ratio:
        return Change(before=a, after=b, difference=b - a, ci95=_of_difference(a, ends_a, b, ends_b))
    if min(a, b, *ends_a, *ends_b) < SMALLEST:
        return Change(before=a, after=b)
    low, high = _of_difference(log(a), tuple(map(log, ends_a)), log(b), tuple(map(log, ends_b)))
    return Change(before=a, after=b, ratio=b / a, ci95=(exp(low), exp(high)))


def _interval(figure: Figure, row: Row) -> Interval | None:
    """The interval of a figure of a row; that of p50 is from the lower to the upper quartile."""
    if figure.csv_column == P50 and row.latency_ms:
        return row.latency_ms.p25, row.latency_ms.p75
    ends: Interval | None = lookup(row, figure.interval) if figure.interval else None
    return ends


def _of_difference(a: float, ends_a: Sequence[float], b: float, ends_b: Sequence[float]) -> Interval:
    """Interval of b - a, from the intervals of both."""
    (low_a, high_a), (low_b, high_b) = ends_a, ends_b
    return b - a - hypot(b - low_b, high_a - a), b - a + hypot(high_b - b, a - low_a)


def _worse_verdicts(old: Row, new: Row) -> Iterator[str]:
    """The row's verdict if it became worse, or else those of single gates, and of a float bundle in bf16 or f16."""
    if _became_worse(old.verdict, new.verdict):
        yield f"the verdict changed from {old.verdict} to {new.verdict}: {'; '.join(new.reasons)}"
        return
    before = {gate.name: gate.verdict for gate in old.gates}
    for gate in new.gates:
        if _became_worse(was := before.get(gate.name), gate.verdict):
            yield f"the gate {gate.name} changed from {was} to {gate.verdict}: {'; '.join(gate.reasons)}"
    if old.low_precision and new.low_precision and _became_worse(old.low_precision.verdict, new.low_precision.verdict):
        yield f"the verdict in {new.low_precision.computes_in} changed from pass to fail"


def _became_worse(before: str | None, after: str | None) -> bool:
    """Whether a verdict is worse than another one; false for a gate that was skipped, and where there is none."""
    return before in BEST_FIRST and after in BEST_FIRST[BEST_FIRST.index(before) + 1 :]


def regression(figure: Figure, row: RowComparison, max_slowdown: float) -> str | None:
    """Description of a figure that got worse beyond the noise; None if it did not."""
    change, p50 = row.changes.get(figure.csv_column), row.changes.get(P50)
    if change is None or not _is_worse(figure, change):
        return None
    if figure.csv_column == SPEEDUP and (p50 is None or p50.after <= p50.before):
        return None  # INT8 did not get slower, the float bundle got faster
    if figure.csv_column == P50 and change.after <= change.before * (1 + max_slowdown / 100):
        return None
    return f"{figure.title} got worse: {describe_change(figure, change)}"


def _is_worse(figure: Figure, change: Change) -> bool:
    """Whether a figure got worse beyond its interval, or beyond its tolerance if it has no interval."""
    lower = figure.better == "lower"
    if change.ci95 is not None:
        low, high = change.ci95
        same = 1.0 if change.ratio is not None else 0.0
        return low > same if lower else high < same
    if figure.tolerance is None:
        return False
    worse_by = change.after - change.before if lower else change.before - change.after
    return worse_by > figure.tolerance * (change.before if lower else 1)


def describe_change(figure: Figure, change: Change) -> str:
    """A change in the figure's unit, such as "2.9 -> 3.1 MB"."""
    a, b = (figure.number(value * figure.scale) for value in (change.before, change.after))
    text = f"{a} -> {b} {figure.unit}".rstrip()
    if change.ci95 is None:
        return text
    what, scale, value = (
        ("ratio", 1.0, change.ratio) if change.ratio else ("difference", figure.scale, change.difference)
    )
    value, low, high = (number * scale for number in (value or 0.0, *change.ci95))
    return f"{text} ({what} {value:.2f}, 95 % interval {low:.2f} to {high:.2f})"
