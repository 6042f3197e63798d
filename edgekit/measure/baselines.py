"""The bundle over which each bundle's speed-up is measured."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from edgekit.measure.latency import speedup
from edgekit.measure.timing import Timed
from edgekit.report.measurement import Measurement
from edgekit.report.times import F32, Speedup
from edgekit.runtime.bundle import Bundle

Group = Mapping[str, Bundle]
"""Bundles by name."""
Call = tuple[str, str]
"""Name of a bundle, and the number format that it computes in."""


def baselines_of(name: str, group: Group) -> tuple[str, ...]:
    """Names of the bundles that a bundle has to beat, of which the fastest counts; none for a baseline itself.

    An int8 bundle has to beat the float bundles of its runtime. If all bundles of the runtime have the same precision,
    each has to beat the first one.
    """
    manifest = group[name].manifest
    runtime = {other: bundle.manifest.precision for other, bundle in group.items()
               if bundle.manifest.target == manifest.target}  # fmt: skip
    if len(set(runtime.values())) > 1:
        floats = tuple(other for other, precision in runtime.items() if precision == "float")
        return floats if manifest.precision == "int8" else ()
    first = next(iter(runtime))
    return () if name == first else (first,)


def is_baseline(name: str, group: Group) -> bool:
    """Whether any other bundle has to beat this one."""
    return any(name in baselines_of(other, group) for other in group)


def speedup_of(name: str, group: Group, timed: Timed[Call], in_any_format: bool = True) -> Speedup | None:
    """Speed-up over the fastest baseline, in f32, bf16 or f16, or in f32 alone; None if all baselines failed.

    A bundle without a baseline is compared with the first one that works, of any runtime.
    """
    baselines = baselines_of(name, group)
    if baselines:
        calls = [call for call in timed.times if call[0] in baselines and (in_any_format or call[1] == F32)]
    else:
        calls = [call for call in timed.times if call[1] == F32][:1]
    if not calls or calls[0][0] == name:
        return None
    fastest = min(calls, key=lambda call: float(np.median(timed.times[call])))
    return speedup(fastest[0], timed.times[fastest], timed.times[name, F32], fastest[1])


def over_accurate(measured: Sequence[Measurement], max_drop: float) -> list[Measurement]:
    """Measurements of one device with speed-ups over floats that may ship: in bf16 or f16 if these keep `max_drop`."""
    lows = {row.name: row.low_precision.accuracy for row in measured if row.low_precision}
    lossy = {name for name, accuracy in lows.items() if accuracy and accuracy.drop_points > max_drop}
    return [
        replace(row, speedup=row.speedup_f32, speedup_f32=None)
        if row.speedup_f32 and row.speedup and row.speedup.versus in lossy
        else row
        for row in measured
    ]
