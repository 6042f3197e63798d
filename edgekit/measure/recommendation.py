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

from edgekit.measure.bundles import MeasureSpec
from edgekit.measure.gates import unsteady
from edgekit.measure.latency import APART, Timed, ratio, spread, time_in_turns, unreliable
from edgekit.measure.machine import measuring_versions
from edgekit.measure.settings import Timing
from edgekit.report.document import Recommendation
from edgekit.report.figure import Interval
from edgekit.report.row import F32, Row, in_format
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.session import open_session
from edgekit.support.progress import Reporter, each_bundle

NEAR = 1.25
"""Largest p50 of a finalist, as a multiple of the shortest one."""
AS_SMALL = 1.05
"""Ratio of sizes up to which the more accurate of two bundles is shipped, and not the smaller one."""


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


def finalists(rows: Sequence[Row]) -> list[Row]:
    """The fastest bundle of each runtime on one device that passed, unless it is clearly slower than another one.

    A median from unreliable timing excludes none.
    """
    fastest: dict[str, Row] = {}
    for row in rows:
        if row.verdict == "pass" and not row.device.emulated:
            fastest[row.target] = min(row, fastest.get(row.target, row), key=_time_and_size)
    best = min((row.best_ms for row in fastest.values()), default=0.0)
    near = [row for row in fastest.values() if row.best_ms <= NEAR * best or unsteady(row)]
    return near if len(near) > 1 else []


def _time_and_size(row: Row) -> tuple[float, int]:
    return row.best_ms, row.size_bytes or 0


def _threads(row: Row) -> int:
    return row.latency_ms.threads if row.latency_ms else 1


def time_finals(
    rows: Sequence[Row], bundles: Mapping[str, Bundle], spec: MeasureSpec, reporter: Reporter
) -> Finals | None:
    """Time the finalists of this machine in turns, or take the times of an interrupted run; None if there is no final.

    Each has its row's number of threads. It takes as many inferences of each as the timing of its runtime did, at most
    a few hundred.
    """
    chosen = finalists(rows)
    if not chosen:
        return None
    versions = {row.target: str(measuring_versions(row.target)) for row in chosen}
    group = {row.name: bundles[row.name] for row in chosen}
    calls = {f"call of {row.name}": f"{row.best_format}, threads: {_threads(row)}" for row in chosen}
    inputs = spec.inputs(group, chosen[0].device, {**versions, **calls})
    if spec.run is None:
        return _time(chosen, group, spec.timing, reporter)
    return spec.run.once("row-finals", inputs, Finals, lambda: _time(chosen, group, spec.timing, reporter))


def _time(chosen: Sequence[Row], group: Mapping[str, Bundle], timing: Timing, reporter: Reporter) -> Finals:
    row_of = {row.name: row for row in chosen}
    with ExitStack() as stack:

        def opened(name: str) -> Callable[[], object]:
            bundle = group[name]
            session = stack.enter_context(open_session(bundle, _threads(row_of[name])))
            if row_of[name].best_format != F32 and (low := session.in_low_precision()) is not None:
                session = stack.enter_context(low)
            return partial(session, bundle.manifest.input_of(bundle.golden().pixels[0]))

        calls, _ = each_bundle(group, opened, reporter, "final")
        threads = max(map(_threads, chosen))
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
    passed = [row for row in rows if row.verdict == "pass"]
    if not passed:
        return Recommendation(device, None, "no bundle passed its gates: see the rows' reasons.")
    tied = _fastest(passed, finals)
    best = shipped_of(tied)
    why = f"fastest of the {len(passed)} that passed: {_words(best, finals)}"
    if len(tied) > 1:
        others = ", ".join(f"{each.name} ({_words(each, finals)})" for each in tied if each is not best)
        turns = "timed in turns" if finals and best.name in finals.results else "not timed in turns"
        smaller = best.size_bytes == min(row.size_bytes or 0 for row in tied)
        quality = "smallest" if smaller else "most accurate of the small ones"
        why = f"{_words(best, finals)}; {turns}, it can't be told from {others} in speed, and is the {quality}"
    if best.precision == "float":
        why += "; ship float: no int8 bundle that passed is faster"
        if best.best_format != F32:
            why += f" than float in {best.best_format}, which edgekit.load(…, low_precision=True) chooses"
    doubts = finals.unreliable if finals and best.name in finals.results else unsteady(best)
    why += "".join(f"; {doubt}" for doubt in doubts)
    others_missed = [f"{row.target}-{row.precision}" for row in rows if row.verdict != "pass"]
    if others_missed:
        why += f"; not passed: {', '.join(others_missed)}"
    return Recommendation(device, best.bundle, why + ".")


def _fastest(passed: Sequence[Row], finals: Finals | None) -> list[Row]:
    """The fastest bundle, and those of other runtimes that tie with it."""
    if finals and len(finals.results) > 1:
        return [row for row in passed if row.name in finals.results and finals.results[row.name].ties]
    best = min(passed, key=_time_and_size)
    near = [row for row in passed if row.target != best.target and row.best_ms <= APART * best.best_ms]
    return [best, *near]


def shipped_of(tied: Sequence[Row]) -> Row:
    """The smallest of bundles that are equally fast or, among those as small, the most accurate."""
    least = AS_SMALL * min(row.size_bytes or 0 for row in tied)
    small = [row for row in tied if (row.size_bytes or 0) <= least]

    def rank(row: Row) -> tuple[float, float, int]:
        accuracy = row.accuracy
        return (-accuracy.value, -accuracy.agreement, row.size_bytes or 0) if accuracy else (0, 0, 0)

    return min(small, key=rank)


def _words(row: Row, finals: Finals | None) -> str:
    """The figures of a bundle: its median, in turns with the other finalists if there was a final."""
    final = finals.results.get(row.name) if finals else None
    p50, speedup = final.p50_ms if final else row.best_ms, row.speedup
    faster = f", {speedup.ratio:.2f}x its {in_format('float', speedup.versus_precision)}" if speedup else ""
    return f"p50 {p50:.2f} ms{faster}, {(row.size_bytes or 0) / 1e6:.2f} MB"
