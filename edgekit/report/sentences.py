"""What the terminal and the page say in words about a whole report."""

from collections.abc import Iterable

from edgekit.report.document import Recommendation, Report, Stability
from edgekit.report.row import Row

RANDOM = "Accuracy is meaningless: the weights are random."


def recommendation(report: Report) -> str:
    """What to ship and why: a sentence for each device."""
    first = report.recommendation
    return "\n".join(_advice(each) for each in (first, *first.others))


def _advice(advice: Recommendation) -> str:
    where = f" on {advice.device}" if advice.device else ""
    return f"Ship {advice.bundle or 'nothing'}{where}: {advice.why}"


def heading(report: Report) -> str:
    """The model in one line."""
    model = report.model
    size = f"{model.params / 1e6:.2f} M parameters, {model.macs / 1e9:.2f} GMAC"
    shape = "×".join(map(str, model.input_shape))  # noqa: RUF001
    return f"{model.name} ({model.source}, weights {model.weights}): {size}, input {shape}"


def conditions(report: Report) -> list[str]:
    """What the figures were measured with, a sentence each."""
    emulated = list(dict.fromkeys(row.device.name for row in report.results if row.device.emulated))
    if not emulated:
        return _measured_with(report)
    names = ", ".join(emulated)
    return [*_measured_with(report), f"Emulated by QEMU: {names}. No gate judges times from an emulated device."]


def _measured_with(report: Report) -> list[str]:
    timed = [row.latency_ms for row in report.results if row.latency_ms]
    runs, threads = _range(each.count for each in timed), _range(each.threads for each in timed)
    timing = (
        f"Latency: model alone, batch 1, timed runs: {runs}, threads: {threads}. "
        f"Speedup: over the target's fastest float{_low_precision(report.results)}."
    )
    if not report.model.accuracy_meaningful:
        return [RANDOM, timing]
    reference = report.reference
    top1, top5 = (f"{share * 100:.2f} %" for share in (reference.top1, reference.top5))
    images = f"{report.evaluation.count:,} images"
    return [f"Accuracy: {images}; {reference.engine} has top-1 {top1}, top-5 {top5}; drop above 0 is worse.", timing]


def _low_precision(rows: Iterable[Row]) -> str:
    """Which floats were fastest in bf16 or f16: the float rows themselves are f32."""
    baselines = dict.fromkeys(row.speedup.baseline for row in rows if row.speedup)
    named = [each for each in baselines if " in " in each]
    return f" ({', '.join(named)})" if named else ""


def _range(counts: Iterable[int]) -> str:
    """ "200", or "100 to 200", or "no"."""
    known = set(counts)
    return " to ".join(f"{count:,}" for count in sorted({min(known), max(known)})) if known else "no"


def stability_words(stability: Stability) -> str:
    """How far apart INT8 of one target came out of two halves of the calibration images."""
    one, other = stability.images
    ranges = stability.range_ratio
    first, second, between = map(_decibels, (*stability.snr_db, stability.snr_between_db))
    return (
        f"calibrated on {one} of the images and on {other} others, ranges differ by a median factor of "
        f"{ranges.median:.2f}, {ranges.greatest:.2f} at most (at {ranges.layer}); signal to noise {first} and "
        f"{second}, between the two {between}; {stability.agreement:.1%} of {stability.evaluation_images:,} answers "
        "agree"
    )


def _decibels(value: float | None) -> str:
    return "without noise" if value is None else f"{value:.1f} dB"
