"""What the terminal and the page say in words about a whole report."""

from collections.abc import Iterable, Mapping
from typing import Any

from edgekit.report.columns import RANDOM, Report, Row, best_float, emulated_devices, is_meaningful, lookup, percent


def recommendation(report: Report) -> str:
    """What to ship and why: a sentence for each device."""
    advice = report["recommendation"]
    if not advice:
        return "No recommendation."
    return "\n".join(_advice(each) for each in (advice, *advice.get("others", ())))


def _advice(advice: Mapping[str, Any]) -> str:
    where = f" on {advice['device']}" if advice["device"] else ""
    return f"Ship {advice['bundle'] or 'nothing'}{where}: {advice['why']}"


def heading(report: Report) -> str:
    """The model in one line."""
    model = report["model"]
    size = f"{model['params'] / 1e6:.2f} M parameters, {model['macs'] / 1e9:.2f} GMAC"
    shape = "×".join(map(str, model["input_shape"]))  # noqa: RUF001
    return f"{model['name']} ({model['source']}, weights {model['weights']}): {size}, input {shape}"


def conditions(report: Report) -> list[str]:
    """What the figures were measured with, a sentence each."""
    names = emulated_devices(report)
    emulated = f"Emulated by QEMU: {', '.join(names)}. Times there are not a device's, and no gate judges them."
    return [*_measured_with(report), *([emulated] if names else [])]


def _measured_with(report: Report) -> list[str]:
    rows = report["results"]
    runs = _range(lookup(row, "latency_ms.count") for row in rows)
    threads = _range(lookup(row, "latency_ms.threads") for row in rows)
    timing = (
        f"Latency: model alone, batch 1, timed runs: {runs}, threads: {threads}. "
        f"Speedup: over the target's fastest float{_low_precision(rows)}."
    )
    if not is_meaningful(report):
        return [RANDOM, timing]
    images, reference = lookup(report, "evaluation.count"), report["reference"]
    if not images:
        return ["Accuracy was not measured.", timing]
    top1, top5 = (percent(lookup(reference, key)) for key in ("top1", "top5"))
    engine = lookup(reference, "engine")
    return [f"Accuracy: {images:,} images; {engine} has top-1 {top1}, top-5 {top5}; drop above 0 is worse.", timing]


def _low_precision(rows: Iterable[Row]) -> str:
    """Which floats were fastest in bf16 or f16: the float rows themselves are f32."""
    floats = dict.fromkeys(filter(None, map(best_float, rows)))
    named = [each for each in floats if " in " in each]
    return f" ({', '.join(named)})" if named else ""


def _range(counts: Iterable[int | None]) -> str:
    """ "200", or "100 to 200", or "no"."""
    known = {count for count in counts if count is not None}
    return " to ".join(f"{count:,}" for count in sorted({min(known), max(known)})) if known else "no"


def stability_words(found: Mapping[str, Any]) -> str:
    """How far apart INT8 of one target came out of two halves of the calibration images."""
    one, other = found["images"]
    ranges, snr = found["range_ratio"], [_decibels(each) for each in (*found["snr_db"], found["snr_between_db"])]
    return (
        f"calibrated on {one} of the images and on {other} others, ranges differ by a factor of {ranges['median']:.2f} "
        f"in the middle, {ranges['greatest']:.2f} at most (at {ranges['layer']}); signal to noise {snr[0]} and "
        f"{snr[1]}, between the two {snr[2]}; {found['agreement']:.1%} of {found['evaluation_images']:,} answers agree"
    )


def _decibels(value: float | None) -> str:
    return "without noise" if value is None else f"{value:.1f} dB"
