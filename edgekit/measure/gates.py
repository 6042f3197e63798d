"""Verdicts: which rows of a report pass, and which bundle to ship."""

from collections.abc import Sequence

from edgekit.measure.paired import images_needed
from edgekit.measure.rows import Row, remarks_on
from edgekit.measure.settings import Settings
from edgekit.measure.steadiness import _heat, unfit


def judge(row: Row, settings: Settings, random_weights: bool) -> Row:
    """The row with the verdict of the gates, which float rows have none of, and of steadiness; failed rows stay.

    Times of an emulated device are no device's: nothing is judged by them.
    """
    if row["verdict"] == "error":
        return row
    known = remarks_on(row.get("int8"))
    row = row | {"remarks": [*row.get("remarks", ()), *known]} if known else row
    if row["precision"] == "int8":
        row = _judge_int8(row, settings, random_weights)
    elif low := row.get("low_precision"):
        reason = None if random_weights else _drop_reason(low["accuracy"], settings.max_drop)
        row = row | {"low_precision": low | {"verdict": "fail" if reason else "pass"}}
    return row if row["device"].get("emulated") else judge_steadiness(row, settings.must_be_fit)


def _judge_int8(row: Row, settings: Settings, random_weights: bool) -> Row:
    drop = None if random_weights else _drop_reason(row["accuracy"], settings.max_drop)
    speed = None if row["device"].get("emulated") else _speed_reason(row["speedup"], settings.min_speedup)
    reasons = [reason for reason in (drop, speed) if reason]
    row = row | {"verdict": "fail" if reasons else "pass", "reasons": reasons}
    return row if random_weights or drop else _judge_interval(row, settings)


def _judge_interval(row: Row, settings: Settings) -> Row:
    """The row with `accuracy.bound`: whether its interval shows that no more is lost than `max_drop`.

    Where the user stated that bound, a row that doesn't show it isn't passed; else it's remarked on: the measured drop
    is all that a few hundred images can be held to unasked.
    """
    accuracy, most = row["accuracy"], settings.max_drop
    shown = accuracy["drop_ci95_points"][1] <= most
    needed = images_needed(accuracy["right_to_wrong"], accuracy["wrong_to_right"], accuracy["count"], most / 100)
    bound = {"max_drop_points": most, "shown": shown, "images_needed": needed}
    row = row | {"accuracy": accuracy | {"bound": bound}}
    if shown:
        return row
    words = _not_shown(accuracy, most, needed)
    if not settings.must_show_drop:
        return row | {"remarks": [*row.get("remarks", ()), words]}
    return row | {"verdict": "not shown" if row["verdict"] == "pass" else "fail", "reasons": [*row["reasons"], words]}


def _not_shown(accuracy: Row, most: float, needed: int | None) -> str:
    low, high = accuracy["drop_ci95_points"]
    advice = f"about {needed:,} images would show it" if needed else "no number of images would"
    return (
        f"a drop of at most {most:g} is not shown: measured {accuracy['drop_top1_points']:.2f} points, "
        f"95 % interval {low:.2f} to {high:.2f}, n = {accuracy['count']:,}; {advice}"
    )


def _drop_reason(accuracy: Row, most: float) -> str | None:
    drop = accuracy["drop_top1_points"]
    if drop <= most:
        return None
    low, high = accuracy["drop_ci95_points"]
    return (
        f"top-1 drops {drop:.2f} points (95 % interval {low:.2f} to {high:.2f}, n = {accuracy['count']}), "
        f"at most {most:g} is allowed"
    )


def _speed_reason(speedup: Row | None, least: float) -> str | None:
    if least <= 0:
        return None
    if speedup is None:
        return "its float bundle could not be timed: nothing to be faster than"
    low, high = speedup["ci95"]
    if low > least:
        return None
    return (
        f"{speedup['ratio']:.2f}x its {best_float(speedup)} (95 % interval {low:.2f} to {high:.2f}), "
        f"more than {least:g} is asked for"
    )


def best_float(speedup: Row) -> str:
    """The float that an int8 bundle is compared with: "float", or "float in bf16" where that was the faster one."""
    computed_in = speedup.get("versus_precision", "f32")
    return "float" if computed_in == "f32" else f"float in {computed_in}"


def recommend(rows: Sequence[Row]) -> Row:
    """What to ship to the first device, which the bundles are made for, and why; `others` has the other devices'."""
    names = list(dict.fromkeys(row["device"]["name"] for row in rows)) or ["local"]
    first, *others = [recommend_for(name, [row for row in rows if row["device"]["name"] == name]) for name in names]
    return first | {"others": others} if others else first


def recommend_for(device: str, rows: Sequence[Row]) -> Row:
    """The fastest bundle on one device among those that passed every gate, int8 or float, and why."""
    passed = [row for row in rows if row["verdict"] == "pass"]
    if any(row["device"].get("emulated") for row in rows):
        return {
            "device": device,
            "bundle": None,
            "why": "it is emulated by QEMU: its times can't tell what is fastest.",
        }
    if not passed:
        return {"device": device, "bundle": None, "why": "no bundle passed its gates: see the rows' reasons."}
    best = min(passed, key=lambda row: (_fastest(row)[0], row["size_bytes"]))
    lost = [f"{row['target']}-{row['precision']}" for row in rows if row["verdict"] != "pass"]
    p50, computed_in = _fastest(best)
    why = f"fastest of the {len(passed)} that passed: p50 {p50:.2f} ms"
    if best["speedup"]:
        why += f", {best['speedup']['ratio']:.2f}x its {best_float(best['speedup'])}"
    why += f", {best['size_bytes'] / 1e6:.2f} MB"
    if best["precision"] == "float":
        why += "; ship float: no int8 bundle that passed is faster"
    if computed_in:
        why += f" than it is in {computed_in}, as edgekit.load(…, low_precision=True) runs it"
    if lost:
        why += f"; not passed: {', '.join(lost)}"
    return {"device": device, "bundle": best["bundle"], "why": why + "."}


def _fastest(row: Row) -> tuple[float, str | None]:
    """(p50 in ms, what the float bundle computes in for it where that isn't f32)."""
    low, p50 = row.get("low_precision"), float(row["latency_ms"]["p50"])
    if low and low["verdict"] == "pass" and low["p50_ms"] < p50:
        return float(low["p50_ms"]), str(low["computes_in"])
    return p50, None


def judge_steadiness(row: Row, claimed: bool) -> Row:
    """The row with what makes its latency unfit to quote: as remarks, or where a speedup is `claimed` as reasons why it
    is "not shown" if it passed so far. Leaves the given one as it is."""
    latency = row["latency_ms"]
    if row["verdict"] == "error" or not latency:
        return row
    conditions, threads = row.get("thermal") or {}, latency.get("threads") or 1
    if row.get("sustain"):
        heat = _heat(conditions)
        row = row | {"remarks": [*row.get("remarks", ()), *([heat] if heat else ())]}
        reasons = unfit(conditions | {"throttled": None}, threads, None)
    else:
        reasons = unfit(conditions, threads, latency.get("spread"))
    if not reasons:
        return row
    words = [f"unfit to quote: {each}" for each in reasons]
    if not claimed:
        return row | {"remarks": [*row.get("remarks", ()), *words]}
    verdict = "not shown" if row["verdict"] == "pass" else row["verdict"]
    return row | {"verdict": verdict, "reasons": [*row["reasons"], *words]}
