"""Decide which rows of a report pass, and what to remark on them."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

from edgekit.config.device_classes import list_device_classes, load_device_class
from edgekit.measure.latency import FEWEST_FOR_INTERVAL
from edgekit.measure.paired import images_needed
from edgekit.measure.settings import Gates
from edgekit.measure.steadiness import throttled, unreliable
from edgekit.report.figure import counted, points
from edgekit.report.measurement import Accuracy, Bound, LowPrecision, Measurement
from edgekit.report.row import Gate, Row, Verdict
from edgekit.report.times import Speedup

NOT_INT8 = "this gate applies to int8 bundles"
COMPARED = "the other bundles are compared with this one"
NO_ACCURACY = "random weights have no accuracy"
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
    if measured.failure:
        return _row(measured, "error", [str(measured.failure)])
    only_int8 = None if measured.precision == "int8" else NOT_INT8
    drop = drop_gate(measured.accuracy, gates, only_int8 or (NO_ACCURACY if random_weights else None))
    outcomes = (
        chance_gate(random_weights, near_chance),
        drop,
        speed_gate(measured, gates, only_int8),
        _timing_gate(measured, gates),
    )
    verdict, reasons = verdict_of(outcomes)
    remarks = [*remarks_on(measured), *_reasons(outcomes, "pass")]
    if not gates.needs_steady_timing:
        remarks += unsteady(measured)
    accuracy = measured.accuracy
    if accuracy and drop.verdict in ("pass", "inconclusive"):
        accuracy = replace(accuracy, bound=bound_of(accuracy, gates.max_drop))
    low = _judge_low(measured.low_precision, gates, random_weights)
    judged = replace(measured, accuracy=accuracy, low_precision=low)
    return _row(judged, verdict, reasons, remarks, outcomes)


def verdict_of(gates: Sequence[Gate]) -> tuple[Verdict, tuple[str, ...]]:
    """The verdict that these gates give together, and the reasons of those that did not pass."""
    outcomes = {gate.verdict for gate in gates}
    verdict: Verdict = "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"
    return verdict, (*_reasons(gates, "fail"), *_reasons(gates, "inconclusive"))


def _reasons(gates: Sequence[Gate], verdict: str) -> list[str]:
    """The reasons of all gates with this outcome."""
    return [reason for gate in gates if gate.verdict == verdict for reason in gate.reasons]


def chance_gate(random_weights: bool, near_chance: bool) -> Gate:
    """Demand that the accuracy of the reference is not that of guessing."""
    gate = Gate(name="above-chance", verdict="pass")
    if random_weights:
        return _skipped(gate, NO_ACCURACY)
    return replace(gate, verdict="inconclusive", reasons=(NEAR_CHANCE,)) if near_chance else gate


def drop_gate(accuracy: Accuracy | None, gates: Gates, not_applicable: str | None = None) -> Gate:
    """Compare the drop of top-1 with the largest one allowed, unless there is a reason why the gate doesn't apply."""
    gate = Gate(
        name="max-drop",
        verdict="pass",
        figure="accuracy.drop_top1_points",
        limit=gates.max_drop,
        whole_interval=gates.must_show_drop,
    )
    if not_applicable:
        return _skipped(gate, not_applicable)
    if accuracy is None:
        return _skipped(gate, "accuracy was not measured")
    if not _keeps_accuracy(accuracy, gates.max_drop):
        return replace(gate, verdict="fail", reasons=(_drop_reason(accuracy, gates.max_drop),))
    bound = bound_of(accuracy, gates.max_drop)
    if bound.shown:
        return gate
    unconfirmed = _unconfirmed_reason(accuracy, bound)
    return replace(gate, verdict="inconclusive" if gates.must_show_drop else "pass", reasons=(unconfirmed,))


def speed_gate(
    measured: Measurement, gates: Gates, not_applicable: str | None = None, baselines: Sequence[str] = ()
) -> Gate:
    """Compare the speed-up with the smallest one required, unless there is a reason why the gate doesn't apply.

    `baselines` are the names of the bundles to beat; without them, it is the runtime's float bundle.
    """
    gate = Gate(
        name="min-speedup", verdict="pass", figure="speedup.ratio", limit=gates.min_speedup, whole_interval=True
    )
    if not_applicable:
        return _skipped(gate, not_applicable)
    if measured.device.emulated:
        return _skipped(gate, EMULATED)
    if gates.min_speedup <= 0:
        return _skipped(gate, "--min-speedup 0 turns this gate off")
    speedup = measured.speedup
    if speedup is None:
        names = " or ".join(baselines) or "the float bundle"
        reason = f"{names} could not be timed, so there is no baseline for the speed-up"
        return replace(gate, verdict="fail", reasons=(reason,))
    if not speedup.exceeds(gates.min_speedup):
        return replace(gate, verdict="fail", reasons=(_speed_reason(speedup, gates.min_speedup, baselines),))
    if speedup.ci95:
        return gate
    return replace(gate, verdict="inconclusive" if gates.needs_steady_timing else "pass", reasons=(TOO_FEW_RUNS,))


def _timing_gate(measured: Measurement, gates: Gates) -> Gate:
    """Demand a reliable latency where the user stated a speed-up."""
    gate = Gate(name="steady-timing", verdict="pass")
    if measured.device.emulated:
        return _skipped(gate, EMULATED)
    if not gates.needs_steady_timing:
        return _skipped(gate, "only a --min-speedup that you state needs steady timing")
    reasons = tuple(unsteady(measured))
    return replace(gate, verdict="inconclusive", reasons=reasons) if reasons else gate


def _skipped(gate: Gate, reason: str) -> Gate:
    return replace(gate, verdict="skipped", reasons=(reason,))


def judge_latency(measured: Measurement, gates: Gates | None = None, baselines: Sequence[str] = ()) -> Row:
    """Turn a measurement into a row of `edgekit benchmark`, which has gates only if the user stated a speed-up.

    `baselines` are the names of the bundles that this one has to beat.
    """
    if measured.failure:
        return _row(measured, "error", [str(measured.failure)])
    if gates is None:
        return _row(measured, "pass", (), [*remarks_on(measured), *unsteady(measured)])
    speed = speed_gate(measured, gates, None if baselines else COMPARED, baselines)
    outcomes = (speed, _timing_gate(measured, gates))
    verdict, reasons = verdict_of(outcomes)
    steady = () if gates.needs_steady_timing else unsteady(measured)
    return _row(measured, verdict, reasons, [*remarks_on(measured), *steady], outcomes)


def _row(
    measured: Measurement,
    verdict: Verdict,
    reasons: Sequence[str],
    remarks: Sequence[str] = (),
    gates: Sequence[Gate] = (),
) -> Row:
    facts = {field.name: getattr(measured, field.name) for field in fields(Measurement)}
    return Row(**facts, verdict=verdict, reasons=tuple(reasons), remarks=tuple(remarks), gates=tuple(gates))


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


def _judge_low(low: LowPrecision | None, gates: Gates, random_weights: bool) -> LowPrecision | None:
    if low is None:
        return None
    judged = None if random_weights else low.accuracy
    return replace(low, verdict="pass" if judged is None or _keeps_accuracy(judged, gates.max_drop) else "fail")


def bound_of(accuracy: Accuracy, most: float) -> Bound:
    """Check whether the interval of the drop confirms that at most `most` points are lost.

    If the user stated the bound, a row must confirm it to pass. Otherwise the row only gets a remark, because the
    interval of a few hundred images is rarely narrow enough.
    """
    needed = images_needed(accuracy.right_to_wrong, accuracy.wrong_to_right, accuracy.count, most / 100)
    return Bound(max_drop_points=most, shown=accuracy.drop_ci95_points[1] <= most, images_needed=needed)


def _unconfirmed_reason(accuracy: Accuracy, bound: Bound) -> str:
    low, high = accuracy.drop_ci95_points
    needed = f"about {bound.images_needed:,} images are needed" if bound.images_needed else "more images would not help"
    return (
        f"cannot confirm a drop of at most {points(bound.max_drop_points)} (measured {accuracy.drop_top1_points:.2f}, "
        f"95 % interval {low:.2f} to {high:.2f}, n = {accuracy.count:,}); {needed}"
    )


def _keeps_accuracy(accuracy: Accuracy, most: float) -> bool:
    """Whether top-1 drops by at most `most` points."""
    return accuracy.drop_top1_points <= most


def _drop_reason(accuracy: Accuracy, most: float) -> str:
    low, high = accuracy.drop_ci95_points
    return (
        f"top-1 drops by {accuracy.drop_top1_points:.2f} points (95 % interval {low:.2f} to {high:.2f}, "
        f"n = {accuracy.count:,}), but at most {most:g} is allowed"
    )


def _speed_reason(speedup: Speedup, least: float, baselines: Sequence[str]) -> str:
    baseline = speedup.baseline if baselines else f"its {float_of(speedup)}"
    ends = "95 % interval {:.2f} to {:.2f}".format(*speedup.ci95) if speedup.ci95 else "too few runs for an interval"
    return f"{speedup.ratio:.2f}x {baseline} ({ends}), but more than {least:g} is required"


def float_of(speedup: Speedup) -> str:
    """Baseline of an INT8 bundle: "float", or "float in bf16" if that was faster."""
    computed_in = speedup.versus_precision or "f32"
    return "float" if computed_in == "f32" else f"float in {computed_in}"


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
    if measured.int8 and measured.int8.pairs_that_can_saturate and not _is_arm(measured.device.device_class):
        yield f"{measured.int8.pairs_that_can_saturate:,} {SATURATING}"
    browser = measured.device.browser
    if browser and measured.precision == "int8" and browser.dot_product in DOT_PRODUCTS:
        yield DOT_PRODUCTS[browser.dot_product]
    if measured.sustain and measured.thermal and not measured.device.emulated and (hot := throttled(measured.thermal)):
        yield hot
    energy, throughput, cores = measured.energy, measured.throughput, measured.device.cores
    if energy and energy.inference_mj is not None and energy.inference_mj <= 0:
        yield f"energy: {energy.source} does not show more power under load than idle, so the net energy means nothing"
    if throughput and cores and throughput.streams > 1 and throughput.streams * throughput.threads > cores:
        threads, on = counted(throughput.threads, "thread"), counted(cores, "core")
        yield f"{throughput.streams} streams, with {threads} each, wait for each other on {on}"


def _is_arm(device_class: str | None) -> bool:
    return device_class in list_device_classes() and load_device_class(str(device_class)).is_arm
