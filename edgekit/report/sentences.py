"""Sentences about a whole report, for the terminal and the page."""

from collections.abc import Iterable, Sequence

from edgekit.report.document import Reference, Report, Stability
from edgekit.report.row import Row

RANDOM = "Accuracy is meaningless: the weights are random."
SHOWN = 8
"""Number of names in a list before it is cut short."""


def heading(report: Report) -> str:
    """A one-line summary of the model."""
    model = report.model
    size = f"{model.params / 1e6:.2f} M parameters, {model.macs / 1e9:.2f} GMAC"
    shape = "×".join(map(str, model.input_shape))  # noqa: RUF001
    return f"{model.name} ({model.source}, weights {model.weights}): {size}, input {shape}"


def warnings(report: Report) -> list[str]:
    """The facts that the reader must know before any figure: every output has it at its top."""
    if not report.model.accuracy_meaningful:
        return [RANDOM]
    return near_chance(report.reference, report.evaluation.count)


def near_chance(reference: Reference, images: int) -> list[str]:
    """The warning of a reference near chance, with its likely causes; empty for any other."""
    if not reference.near_chance or reference.top1_ci95 is None or reference.chance is None:
        return []
    top1, low, high, chance = (
        f"{share * 100:.1f}" for share in (reference.top1, *reference.top1_ci95, reference.chance)
    )
    return [
        f"The reference is near chance: {reference.engine} reaches top-1 {top1} % (95 % interval {low} to {high} %) on "
        f"{images:,} images, and chance is {chance} %. No accuracy means anything until this is settled. Likely "
        "causes: the classes have another order (list them with `--labels`), the images are normalized otherwise than "
        "in training (`--mean`, `--std`), or the head is not that of these classes."
    ]


def conditions(report: Report) -> list[str]:
    """Sentences on the conditions under which the figures were measured."""
    return [*measured_with(report), *emulated(report.results)]


def emulated(rows: Iterable[Row]) -> list[str]:
    """The warning of emulated devices; empty if there are none."""
    names = ", ".join(dict.fromkeys(row.device.name for row in rows if row.device.emulated))
    return [
        f"Emulated by QEMU: {names}. Timings of an emulated device are not comparable, so no gate judges them."
    ] * bool(names)


def measured_with(report: Report) -> list[str]:
    """Sentences on how accuracy and latency were measured."""
    timing = (
        f"Latency: {timing_words(report.results)}. "
        f"Speedup: over the runtime's fastest float bundle{_low_precision(report.results)}."
    )
    if not report.model.accuracy_meaningful:
        return [timing]
    reference = report.reference
    top1, top5 = (f"{share * 100:.2f} %" for share in (reference.top1, reference.top5))
    images = f"{report.evaluation.count:,} images"
    return [
        f"Accuracy: {images}; {reference.engine} reaches top-1 {top1}, top-5 {top5}. A drop above 0 is worse.",
        timing,
    ]


def timing_words(rows: Iterable[Row]) -> str:
    """How the latencies of these rows were measured."""
    timed = [row.latency_ms for row in rows if row.latency_ms]
    runs, threads = _range(latency.count for latency in timed), _range(latency.threads for latency in timed)
    return f"model alone, batch 1, {runs} timed runs, threads: {threads}"


def _low_precision(rows: Iterable[Row]) -> str:
    """Names of the float bundles that were fastest in bf16 or f16, because the float rows themselves are in f32."""
    baselines = dict.fromkeys(row.speedup.baseline for row in rows if row.speedup)
    low_precision = [name for name in baselines if " in " in name]
    return f" ({', '.join(low_precision)})" if low_precision else ""


def _range(counts: Iterable[int]) -> str:
    """ "200", or "100 to 200", or "no"."""
    distinct = set(counts)
    return " to ".join(f"{count:,}" for count in sorted({min(distinct), max(distinct)})) if distinct else "no"


def layer_names(names: Sequence[str] | None) -> str:
    """The first names, and the number of further ones."""
    if names is None:
        return ""
    more = f" and {len(names) - SHOWN} more (report.json lists all)" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


def stability_words(stability: Stability) -> str:
    """The comparison of two INT8 models from two halves of the calibration images, in words."""
    one, other = stability.images
    ranges = stability.range_ratio
    first, second, between = map(_decibels, (*stability.snr_db, stability.snr_between_db))
    return (
        f"between two calibrations, on {one} and {other} of the images, ranges differ by a median factor of "
        f"{ranges.median:.2f} and by at most {ranges.greatest:.2f} (at {ranges.layer}); the signal-to-noise ratio is "
        f"{first} and {second} against float, {between} between the two; they agree on {stability.agreement:.1%} of "
        f"{stability.evaluation_images:,} images"
    )


def _decibels(value: float | None) -> str:
    return "infinite" if value is None else f"{value:.1f} dB"
