"""Which bundle to ship to each device.

Each runtime's bundles are timed in turns, but minutes after those of another one, when the machine may be faster or
slower. A difference between their medians therefore decides nothing: the fastest bundles of several runtimes are timed
in turns before one is recommended.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgekit.measure.baselines import F32
from edgekit.measure.gates import float_of, unsteady
from edgekit.measure.latency import ratio
from edgekit.measure.machine import measuring_versions
from edgekit.measure.measurement_store import Machine, MeasurementStore
from edgekit.measure.settings import Timing
from edgekit.measure.steadiness import spread, unreliable
from edgekit.measure.thread_choice import APART
from edgekit.measure.timing import Timed, time_in_turns
from edgekit.report.document import Recommendation
from edgekit.report.figure import Interval
from edgekit.report.row import Row
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.session import open_session
from edgekit.support.progress import Reporter, each_bundle

NEAR = 1.25
"""Largest p50 of a finalist, as a multiple of the shortest one."""
AS_SMALL = 1.05
"""Ratio of sizes up to which the more accurate of two bundles is shipped, and not the smaller one."""


@dataclass(frozen=True)
class Finalist:
    """A row that may be recommended."""

    row: Row
    p50_ms: float
    """Shortest median, in the best number format."""
    computes_in: str = F32
    """Number format of that median: f32, bf16 or f16."""

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.row.bundle or self.row.name

    @property
    def threads(self) -> int:
        """Number of threads of that median."""
        return self.row.latency_ms.threads if self.row.latency_ms else 1


@dataclass(frozen=True)
class Final:
    """How much slower a finalist was than the fastest one, when they were timed in turns."""

    p50_ms: float
    ratio: float
    """Median latency divided by that of the fastest finalist."""
    ci95: Interval | None
    """95 % interval of the ratio; None for few rounds."""

    @property
    def ties(self) -> bool:
        """Whether it can't be told from the fastest."""
        return self.ci95 is None or self.ci95[0] <= 1


@dataclass(frozen=True)
class Finals:
    """The finalists of one device, by the name of the bundle."""

    results: dict[str, Final]
    unreliable: tuple[str, ...] = ()
    """Reasons why their timing was unreliable, as remarks on a row give them."""


def finalist(row: Row) -> Finalist:
    """The row with its shortest median, which a float bundle may have in bf16 or f16."""
    low, p50 = row.low_precision, row.latency_ms.p50 if row.latency_ms else float("inf")
    if low and low.verdict == "pass" and low.p50_ms < p50:
        return Finalist(row, low.p50_ms, low.computes_in)
    return Finalist(row, p50)


def finalists(rows: Sequence[Row]) -> list[Finalist]:
    """The fastest bundle of each runtime on one device that passed, unless it is clearly slower than another one.

    A median from unreliable timing excludes none.
    """
    fastest: dict[str, Finalist] = {}
    for row in rows:
        if row.verdict == "pass" and not row.device.emulated:
            pair = [finalist(row), *filter(None, [fastest.get(row.target)])]
            fastest[row.target] = min(pair, key=lambda each: (each.p50_ms, each.row.size_bytes or 0))
    best = min((each.p50_ms for each in fastest.values()), default=0.0)
    near = [each for each in fastest.values() if each.p50_ms <= NEAR * best or unsteady(each.row)]
    return near if len(near) > 1 else []


def time_finals(
    rows: Sequence[Row], bundles: Mapping[str, Bundle], store: MeasurementStore, reporter: Reporter
) -> Finals | None:
    """Time the finalists of this machine in turns, or take the times of an interrupted run; None if there is no final.

    Each has its row's number of threads. It takes as many inferences of each as the timing of its runtime did, at most
    a few hundred.
    """
    chosen = finalists(rows)
    if not chosen:
        return None
    versions = {each.row.target: str(measuring_versions(each.row.target)) for each in chosen}
    group = {each.name: bundles[each.name] for each in chosen}
    calls = {f"call of {each.name}": f"{each.computes_in}, threads: {each.threads}" for each in chosen}
    inputs = store.inputs(group, Machine(chosen[0].row.device, {**versions, **calls}))
    finals = store.run.recall("row-finals", inputs, Finals)
    if finals is None:
        finals = _time(chosen, group, store.timing, reporter)
        store.run.remember("row-finals", inputs, finals)
    return finals


def _time(chosen: Sequence[Finalist], group: Mapping[str, Bundle], timing: Timing, reporter: Reporter) -> Finals:
    chosen_by = {each.name: each for each in chosen}
    with ExitStack() as stack:

        def opened(name: str) -> Callable[[], object]:
            bundle = group[name]
            session = stack.enter_context(open_session(bundle, chosen_by[name].threads))
            if chosen_by[name].computes_in != F32 and (low := session.in_low_precision()) is not None:
                session = stack.enter_context(low)
            return partial(session, bundle.manifest.preprocessing.normalize(bundle.golden().pixels[0]))

        calls, _ = each_bundle(group, opened, reporter, "final")
        threads = max(each.threads for each in chosen)
        timed: Timed[str] = time_in_turns(
            calls, threads, replace(timing, sustain_s=None), f"{', '.join(calls)}: time in turns", reporter
        )
    return finals_of(timed, threads)


def finals_of(timed: Timed[str], threads: int) -> Finals:
    """Each finalist's ratio to the fastest one, from times of the same rounds."""
    times = timed.times
    if not times or timed.conditions is None:
        return Finals({})
    p50 = {name: float(np.median(each)) for name, each in times.items()}
    fastest = min(p50, key=lambda name: p50[name])
    results = {name: Final(p50[name], *ratio(each, times[fastest])) for name, each in times.items()}
    drift = max((spread(each) or 0 for each in times.values()), default=0)
    reasons = unreliable(timed.conditions, threads, drift)
    return Finals(results, tuple(f"unreliable timing: {reason}" for reason in reasons))


def recommend(rows: Sequence[Row], finals: Finals | None = None) -> Recommendation:
    """Recommend a bundle for the first device, for which the bundles were made; `others` has one per other device.

    `finals` has the times in turns of the finalists on this machine.
    """
    names = list(dict.fromkeys(row.device.name for row in rows)) or ["local"]
    first, *others = [
        recommend_for(name, [row for row in rows if row.device.name == name], finals if name == "local" else None)
        for name in names
    ]
    return replace(first, others=tuple(others))


def recommend_for(device: str, rows: Sequence[Row], finals: Finals | None) -> Recommendation:
    """Recommend the fastest bundle on one device, INT8 or float, among those that passed every gate.

    Of several that can't be told apart, it is the smallest or, if they are as small, the most accurate.
    """
    if any(row.device.emulated for row in rows):
        return Recommendation(device, None, "emulated under QEMU, where timings are not comparable.")
    passed = [finalist(row) for row in rows if row.verdict == "pass"]
    if not passed:
        return Recommendation(device, None, "no bundle passed its gates: see the rows' reasons.")
    tied = _fastest(passed, finals)
    best = shipped_of(tied)
    why = f"fastest of the {len(passed)} that passed: {_words(best, finals)}"
    if len(tied) > 1:
        others = ", ".join(f"{each.name} ({_words(each, finals)})" for each in tied if each is not best)
        turns = "timed in turns" if finals and best.name in finals.results else "not timed in turns"
        smaller = best.row.size_bytes == min(each.row.size_bytes or 0 for each in tied)
        quality = "smallest" if smaller else "most accurate of the small ones"
        why = f"{_words(best, finals)}; {turns}, it can't be told from {others} in speed, and is the {quality}"
    if best.row.precision == "float":
        why += "; ship float: no int8 bundle that passed is faster"
        if best.computes_in != F32:
            why += f" than float in {best.computes_in}, which edgekit.load(…, low_precision=True) chooses"
    doubts = finals.unreliable if finals and best.name in finals.results else unsteady(best.row)
    why += "".join(f"; {doubt}" for doubt in doubts)
    others_missed = [f"{row.target}-{row.precision}" for row in rows if row.verdict != "pass"]
    if others_missed:
        why += f"; not passed: {', '.join(others_missed)}"
    return Recommendation(device, best.row.bundle, why + ".")


def _fastest(passed: Sequence[Finalist], finals: Finals | None) -> list[Finalist]:
    """The fastest bundle, and those of other runtimes that tie with it."""
    if finals and len(finals.results) > 1:
        return [each for each in passed if each.name in finals.results and finals.results[each.name].ties]
    best = min(passed, key=lambda each: (each.p50_ms, each.row.size_bytes))
    near = [each for each in passed if each.row.target != best.row.target and each.p50_ms <= APART * best.p50_ms]
    return [best, *near]


def shipped_of(tied: Sequence[Finalist]) -> Finalist:
    """The smallest of bundles that are equally fast or, among those as small, the most accurate."""
    least = AS_SMALL * min(each.row.size_bytes or 0 for each in tied)
    small = [each for each in tied if (each.row.size_bytes or 0) <= least]

    def rank(each: Finalist) -> tuple[float, float, int]:
        accuracy = each.row.accuracy
        return (-accuracy.value, -accuracy.agreement, each.row.size_bytes or 0) if accuracy else (0, 0, 0)

    return min(small, key=rank)


def _words(each: Finalist, finals: Finals | None) -> str:
    """The figures of a bundle: its median, in turns with the other finalists if there was a final."""
    final = finals.results.get(each.name) if finals else None
    p50, speedup = final.p50_ms if final else each.p50_ms, each.row.speedup
    faster = f", {speedup.ratio:.2f}x its {float_of(speedup)}" if speedup else ""
    return f"p50 {p50:.2f} ms{faster}, {(each.row.size_bytes or 0) / 1e6:.2f} MB"
