"""Verdicts: which rows of a report pass, what to remark on them, and over which bundle a speed-up is measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Literal

import numpy as np

from edgekit.config.runtimes import DeviceClass, Runtime
from edgekit.errors import UsageError
from edgekit.measure.latency import FEWEST_FOR_INTERVAL, Times, speedup, throttled, unreliable
from edgekit.measure.settings import Gates
from edgekit.measure.statistics import images_for_width, images_needed
from edgekit.report.figure import counted, points
from edgekit.report.row import F32, Accuracy, Bound, Gate, Measurement, Row, Speedup, Verdict, in_format
from edgekit.report.sentences import crossing
from edgekit.runtime.bundle import Bundle

NOT_INT8 = "this gate applies to int8 bundles"
COMPARED = "the other bundles are compared with this one"
NO_ACCURACY = "random weights have no accuracy"
NO_LABELS = "images without labels show no accuracy"
NEAR_CHANCE = "the reference is near chance, so no accuracy means anything"
TOO_FEW_RUNS = (
    f"a speedup from fewer than {FEWEST_FOR_INTERVAL} runs has no interval that could confirm it: use --iterations "
    f"{FEWEST_FOR_INTERVAL} or more"
)
EMULATED = "timings of an emulated device are not comparable"


def judge(measured: Measurement, gates: Gates, random_weights: bool, near_chance: bool = False) -> Row:
    """Turn a measurement into a row with a verdict.

    The user's gates apply to INT8. A reference near chance leaves every row inconclusive, and unreliable timing does so
    if the user stated a speed-up. Times of an emulated device don't count, because no real device has them. A failed
    measurement has the verdict "error".
    """
    only_int8 = None if measured.precision == "int8" else NOT_INT8
    drop = accuracy_gate(measured.accuracy, gates, only_int8 or (NO_ACCURACY if random_weights else None))
    outcomes = (
        chance_gate(random_weights, near_chance, measured.accuracy),
        drop,
        speed_gate(measured, gates, only_int8),
        _timing_gate(measured, gates),
    )
    accuracy, low = measured.accuracy, measured.low_precision
    if accuracy and drop.verdict in ("pass", "inconclusive"):
        accuracy = replace(accuracy, bound=bound_of(accuracy, gates.max_drop))
    if low:
        kept = random_weights or low.accuracy is None or gates.allow(low.accuracy.drop_points)
        low = replace(low, verdict="pass" if kept else "fail")
    return _row(replace(measured, accuracy=accuracy, low_precision=low), outcomes, gates.needs_steady_timing)


def judge_latency(measured: Measurement, gates: Gates | None = None, group: "Group | None" = None) -> Row:
    """Turn a measurement into a row of `edgekit benchmark`, which has gates only if the user stated a speed-up.

    `group` are the bundles of the benchmark, some of which this one may have to beat.
    """
    if gates is None:
        return _row(measured, (), needs_steady_timing=False)
    baselines = baselines_of(measured.name, group) if group and measured.name in group else ()
    speed = speed_gate(measured, gates, None if baselines else COMPARED, baselines)
    return _row(measured, (speed, _timing_gate(measured, gates)), gates.needs_steady_timing)


def _row(measured: Measurement, gates: Sequence[Gate], needs_steady_timing: bool) -> Row:
    facts = {field.name: getattr(measured, field.name) for field in fields(Measurement)}
    if measured.failure:
        return Row(**facts, verdict="error", reasons=(str(measured.failure),))
    verdict, reasons = verdict_of(gates)
    steadiness = () if needs_steady_timing else unsteady(measured)
    remarks = (*remarks_on(measured), *_reasons(gates, "pass"), *steadiness)
    return Row(**facts, verdict=verdict, reasons=reasons, remarks=remarks, gates=tuple(gates))


def verdict_of(gates: Sequence[Gate]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict that these gates give together, and the reasons of those that did not pass."""
    outcomes = {gate.verdict for gate in gates}
    verdict: Verdict = "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"
    return verdict, (*_reasons(gates, "fail"), *_reasons(gates, "inconclusive"))


def _reasons(gates: Sequence[Gate], verdict: str) -> list[str]:
    """The reasons of all gates with this outcome."""
    return [reason for gate in gates if gate.verdict == verdict for reason in gate.reasons]


def chance_gate(random_weights: bool, near_chance: bool, accuracy: Accuracy | None) -> Gate:
    """Demand that the accuracy of the reference is not that of guessing, as far as the images show that."""
    gate = Gate(name="above-chance", verdict="pass")
    if random_weights:
        return _ended(gate, "skipped", NO_ACCURACY)
    if accuracy and accuracy.without_labels:
        return _ended(gate, "skipped", NO_LABELS)
    return _ended(gate, "inconclusive", NEAR_CHANCE) if near_chance else gate


def accuracy_gate(accuracy: Accuracy | None, gates: Gates, not_applicable: str | None = None) -> Gate:
    """Compare the drop of the metric with the largest one allowed, unless the gate does not apply for a reason.

    To pass, the whole interval must be within a bound that the user states; otherwise the gate fails only if the whole
    interval is beyond it. For images without labels it is the gate on the agreement, and `gates` are those of
    `Gates.for_images`.
    """
    least = 100 - gates.max_drop
    gate = Gate(
        name="max-drop",
        verdict="pass",
        figure="accuracy.drop_score_points" if accuracy and accuracy.score else "accuracy.drop_top1_points",
        limit=gates.max_drop,
        whole_interval=gates.must_show_drop,
    )
    if accuracy and accuracy.without_labels:
        gate = replace(gate, name="min-agreement", figure="accuracy.score.value", limit=least / 100)
    if not_applicable or accuracy is None:
        return _ended(gate, "skipped", not_applicable or "accuracy was not measured")
    drop, (low, high) = accuracy.drop_points, accuracy.drop_ci95_points
    bound = bound_of(accuracy, gates.max_drop)
    measured, *ends = drop, low, high
    reached, required = f"drops by {drop:.2f} points", f"at most {gates.max_drop:g} is allowed"
    claim = f"a drop of at most {points(gates.max_drop)}"
    if accuracy.without_labels:
        measured, *ends = 100 - drop, 100 - high, 100 - low
        reached, required = f"is {measured:.2f} %", f"at least {least:g} % is required"
        claim = f"an agreement of at least {least:g} %"
    images = f"95 % interval {ends[0]:.2f} to {ends[1]:.2f}, n = {accuracy.count:,}"
    if not gates.allow(drop if gates.must_show_drop else low):
        return _ended(gate, "fail", f"{accuracy.metric} {reached} ({images}), but {required}")
    if bound.shown:
        return gate
    needed = f"about {bound.images_needed:,} images are needed" if bound.images_needed else "more images would not help"
    unconfirmed = f"cannot confirm {claim} (measured {measured:.2f}, {images}); {needed}"
    return _ended(gate, "inconclusive" if gates.must_show_drop else "pass", unconfirmed)


def speed_gate(
    measured: Measurement, gates: Gates, not_applicable: str | None = None, baselines: Sequence[str] = ()
) -> Gate:
    """Compare the speed-up with the smallest one required, unless there is a reason why the gate doesn't apply.

    `baselines` are the names of the bundles to beat; without them, it is the runtime's float bundle.
    """
    gate = Gate(
        name="min-speedup", verdict="pass", figure="speedup.ratio", limit=gates.min_speedup, whole_interval=True
    )
    not_applicable = not_applicable or (EMULATED if measured.device.emulated else None)
    if not_applicable or gates.min_speedup <= 0:
        return _ended(gate, "skipped", not_applicable or "--min-speedup 0 turns this gate off")
    speedup = measured.speedup
    if speedup is None:
        names = " or ".join(baselines) or "the float bundle"
        return _ended(gate, "fail", f"{names} could not be timed, so there is no baseline for the speed-up")
    if not speedup.exceeds(gates.min_speedup):
        baseline = speedup.baseline if baselines else f"its {in_format('float', speedup.versus_precision)}"
        ends = "too few runs for an interval"
        if speedup.ci95:
            ends = "95 % interval {:.2f} to {:.2f}".format(*speedup.ci95)
        required = f"but more than {gates.min_speedup:g} is required"
        return _ended(gate, "fail", f"{speedup.ratio:.2f}x {baseline} ({ends}), {required}")
    if speedup.ci95:
        return gate
    return _ended(gate, "inconclusive" if gates.needs_steady_timing else "pass", TOO_FEW_RUNS)


def _timing_gate(measured: Measurement, gates: Gates) -> Gate:
    """Demand a reliable latency where the user stated a speed-up."""
    gate = Gate(name="steady-timing", verdict="pass")
    if measured.device.emulated:
        return _ended(gate, "skipped", EMULATED)
    if not gates.needs_steady_timing:
        return _ended(gate, "skipped", "only a --min-speedup that you state needs steady timing")
    reasons = unsteady(measured)
    return _ended(gate, "inconclusive", *reasons) if reasons else gate


def _ended(gate: Gate, verdict: Literal["pass", "fail", "inconclusive", "skipped"], *reasons: str) -> Gate:
    return replace(gate, verdict=verdict, reasons=reasons)


def unsteady(measured: Measurement) -> list[str]:
    """Reasons why the latency is unreliable. A sustained run measures heat and drift, so there only load counts."""
    latency, conditions = measured.latency_ms, measured.thermal
    if measured.device.emulated or latency is None or conditions is None:
        return []
    if measured.sustain:
        reasons = unreliable(replace(conditions, throttled=None), latency.threads, None)
    else:
        reasons = unreliable(conditions, latency.threads, latency.spread)
    return [f"unreliable timing: {reason}" for reason in reasons]


def bound_of(accuracy: Accuracy, most: float) -> Bound:
    """Check whether the interval of the drop confirms that at most `most` points are lost.

    If the user stated the bound, a row must confirm it to pass. Otherwise the row only gets a remark, because the
    interval of a few hundred images is rarely narrow enough.
    """
    lost, won, high = accuracy.right_to_wrong, accuracy.wrong_to_right, accuracy.drop_ci95_points[1]
    if lost is None or won is None:
        needed = images_for_width(accuracy.drop_points, high, accuracy.count, most)
    else:
        needed = images_needed(lost, won, accuracy.count, most / 100)
    return Bound(max_drop_points=most, shown=high <= most, images_needed=needed)


SIMULATED = "INT8 is simulated: the runtime computes it in floating point here, so it is smaller but not faster"
SATURATING = "pairs of INT8 weights can saturate on x86 processors without VNNI, where this bundle is less accurate"
DOT_PRODUCTS = {
    "emulated": "the browser emulates the integer dot product here, so INT8 gains less than on a processor that has it",
    "absent": "the browser lacks the integer dot product (relaxed SIMD), so INT8 gains less than in one that has it",
}
"""Remarks on INT8 in a browser, by the state of its dot product."""


def remarks_on(measured: Measurement) -> Iterator[str]:
    """Yield what a reader must know about the figures: simulation, saturation, heat, and streams that wait."""
    if measured.int8 and measured.int8.simulated:
        yield SIMULATED
    class_ = measured.device.device_class
    is_arm = class_ in DeviceClass.listed() and DeviceClass.load(str(class_)).is_arm
    if measured.int8 and measured.int8.pairs_that_can_saturate and not is_arm:
        yield f"{measured.int8.pairs_that_can_saturate:,} {SATURATING}"
    yield from crossing(measured.accuracy)
    browser = measured.device.browser
    if browser and measured.precision == "int8" and browser.dot_product in DOT_PRODUCTS:
        yield DOT_PRODUCTS[browser.dot_product]
    if measured.sustain and measured.thermal and not measured.device.emulated and (hot := throttled(measured.thermal)):
        yield hot
    energy = measured.energy
    throughput = measured.throughput
    cores = measured.device.cores
    if energy and energy.inference_mj is not None and energy.inference_mj <= 0:
        yield f"energy: {energy.source} does not show more power under load than idle, so the net energy means nothing"
    if throughput and cores and throughput.streams > 1 and throughput.streams * throughput.threads > cores:
        threads, on = counted(throughput.threads, "thread"), counted(cores, "core")
        yield f"{throughput.streams} streams, with {threads} each, wait for each other on {on}"


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
    runtime = {
        other: bundle.manifest.precision for other, bundle in group.items() if bundle.manifest.target == manifest.target
    }
    if len(set(runtime.values())) > 1:
        floats = tuple(other for other, precision in runtime.items() if precision == "float")
        return floats if manifest.precision == "int8" else ()
    first = next(iter(runtime))
    return () if name == first else (first,)


def is_baseline(name: str, group: Group) -> bool:
    """Whether any other bundle has to beat this one."""
    return any(name in baselines_of(other, group) for other in group)


def check_comparable(group: Group) -> None:
    """Raise UsageError for a bundle that has nothing to beat, and that no other bundle has to beat."""
    for name, bundle in group.items():
        if not baselines_of(name, group) and not is_baseline(name, group):
            raise UsageError(
                f"--min-speedup compares bundles of one runtime, and '{name}' is the only one for "
                f"{Runtime.find(bundle.manifest.target).title}",
                fix="Also give the float bundle of this runtime, or leave out `--min-speedup`",
            )


def speedup_of(name: str, group: Group, times: Mapping[Call, Times], in_any_format: bool = True) -> Speedup | None:
    """Speed-up over the fastest baseline, in f32, bf16 or f16, or in f32 alone; None if all baselines failed.

    A bundle without a baseline is compared with the first one that works, of any runtime.
    """
    baselines = baselines_of(name, group)
    if baselines:
        calls = [call for call in times if call[0] in baselines and (in_any_format or call[1] == F32)]
    else:
        calls = [call for call in times if call[1] == F32][:1]
    if not calls or calls[0][0] == name:
        return None
    fastest = min(calls, key=lambda call: float(np.median(times[call])))
    return speedup(fastest[0], times[fastest], times[name, F32], fastest[1])


def over_accurate(measured: Sequence[Measurement], max_drop: float) -> list[Measurement]:
    """Measurements of one device with speed-ups over floats that may ship: in bf16 or f16 if these keep `max_drop`."""
    lossy = {
        row.name
        for row in measured
        if row.low_precision and (low := row.low_precision.accuracy) and low.drop_points > max_drop
    }
    return [
        replace(row, speedup=row.speedup_f32, speedup_f32=None)
        if row.speedup_f32 and row.speedup and row.speedup.versus in lossy
        else row
        for row in measured
    ]
