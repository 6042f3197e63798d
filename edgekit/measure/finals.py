"""The last comparison before a recommendation: the fastest bundles of several runtimes are timed in turns.

Each runtime's bundles are timed in turns, but minutes after those of another one, when the machine may be faster or
slower. A difference between their medians therefore decides nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from edgekit.measure.baselines import F32
from edgekit.measure.gates import unsteady
from edgekit.measure.latency import ratio
from edgekit.measure.measurement_store import Machine, MeasurementStore
from edgekit.measure.settings import Timing
from edgekit.measure.steadiness import spread, unreliable
from edgekit.measure.timing import Timed, time_in_turns
from edgekit.measure.versions import measuring_versions
from edgekit.report.figure import Interval
from edgekit.report.row import Row
from edgekit.runtime.bundle import Bundle
from edgekit.runtime.session import open_session
from edgekit.support.progress import Reporter, each_bundle

NEAR = 1.25
"""Largest p50 of a finalist, as a multiple of the shortest one."""


@dataclass(frozen=True)
class Candidate:
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


def candidate(row: Row) -> Candidate:
    """The row with its shortest median, which a float bundle may have in bf16 or f16."""
    low, p50 = row.low_precision, row.latency_ms.p50 if row.latency_ms else float("inf")
    if low and low.verdict == "pass" and low.p50_ms < p50:
        return Candidate(row, low.p50_ms, low.computes_in)
    return Candidate(row, p50)


def finalists(rows: Sequence[Row]) -> list[Candidate]:
    """The fastest bundle of each runtime on one device that passed, unless it is clearly slower than another one.

    A median from unreliable timing excludes none.
    """
    fastest: dict[str, Candidate] = {}
    for row in rows:
        if row.verdict == "pass" and not row.device.emulated:
            pair = [candidate(row), *filter(None, [fastest.get(row.target)])]
            fastest[row.target] = min(pair, key=lambda each: (each.p50_ms, each.row.size_bytes or 0))
    best = min((each.p50_ms for each in fastest.values()), default=0.0)
    near = [each for each in fastest.values() if each.p50_ms <= NEAR * best or unsteady(each.row)]
    return near if len(near) > 1 else []


def time_finals(
    rows: Sequence[Row], bundles: Mapping[str, Bundle], store: MeasurementStore, reporter: Reporter
) -> Finals | None:
    """Time the finalists of this machine in turns, or take the times of an interrupted run; None if there is no final.

    It takes as many inferences of each as the timing of its runtime did, at most a few hundred.
    """
    chosen = finalists(rows)
    if not chosen:
        return None
    versions = {each.row.target: str(measuring_versions(each.row.target)) for each in chosen}
    group = {each.name: bundles[each.name] for each in chosen}
    formats = {f"format of {each.name}": each.computes_in for each in chosen}
    inputs = store.inputs(group, Machine(chosen[0].row.device, {**versions, **formats}))
    finals = store.run.recall("row-finals", inputs, Finals)
    if finals is None:
        finals = _time(chosen, group, store.timing, reporter)
        store.run.remember("row-finals", inputs, finals)
    return finals


def _time(chosen: Sequence[Candidate], group: Mapping[str, Bundle], timing: Timing, reporter: Reporter) -> Finals:
    calls_of = {each.name: (each.name, each.computes_in) for each in chosen}
    with ExitStack() as stack:

        def opened(name: str) -> Callable[[], object]:
            bundle = group[name]
            session = stack.enter_context(open_session(bundle, timing.threads))
            if calls_of[name][1] != F32 and (low := session.in_low_precision()) is not None:
                session = stack.enter_context(low)
            return partial(session, bundle.manifest.preprocessing.normalize(bundle.golden().pixels[0]))

        calls, _ = each_bundle(group, opened, reporter, "final")
        threads = max((each.row.latency_ms.threads for each in chosen if each.row.latency_ms), default=1)
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
