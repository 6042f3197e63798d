"""Words for what a row was measured under: temperature, clocks and other load, energy, a sustained run, streams."""

from collections.abc import Iterable, Iterator

from edgekit.report.conditions import Conditions, Sample, SustainedPoint
from edgekit.report.measurement import Measurement
from edgekit.report.under_load import Energy

LINES = 10
"""Number of points of a time series that the terminal shows."""


def heat_words(thermal: Conditions | None) -> str:
    """One line with the values that the system reported."""
    if thermal is None:
        return ""
    celsius = [thermal.before.celsius, *(sample.celsius for sample in thermal.series)]
    throttled, other = thermal.throttled, thermal.other_cpus
    parts = [
        _range(celsius, "°C"),
        _range((sample.clock_mhz for sample in thermal.series), "MHz"),
        None if throttled is None else f"throttled: {', '.join(throttled)}" if throttled else "not throttled",
        None if other is None else f"other processes used {other:.1f} of {thermal.cpus} CPUs",
    ]
    return ", ".join(filter(None, parts))


def energy_words(energy: Energy | None) -> str:
    """The energy of one inference with its source, or the reason why it is unknown."""
    if energy is None or energy.inference_mj is None:
        return energy.source if energy else ""
    return (
        f"{energy.inference_mj:.2f} mJ per inference ({energy.load_w:.2f} W under load, {energy.idle_w:.2f} W idle, "
        f"from {energy.source})"
    )


def stream_words(row: Measurement) -> str:
    """The throughput of several streams, next to the latency of a single one."""
    many, one = row.throughput, row.latency_ms
    if many is None or one is None:
        return ""
    return (
        f"{many.streams} {'stream' if many.streams == 1 else 'streams'}, threads {many.threads} each: "
        f"{many.images_per_second:.1f} images/s, p50 {many.p50_ms:.2f} ms, p99 {many.p99_ms:.2f}, n = {many.count:,}; "
        f"alone, threads {one.threads}: p50 {one.p50:.2f} ms, p99 {one.p99:.2f}"
    )


def sustain_lines(name: str, row: Measurement) -> Iterator[str]:
    """Latency in the first and the last minute of a sustained run, then its time series."""
    sustain = row.sustain
    if sustain is None:
        return
    minute = "minute" if sustain.window_s >= 60 else f"{sustain.window_s:.0f} s"
    first, last = sustain.first, sustain.last
    yield (
        f"{name}: sustained for {sustain.seconds:.0f} s: first {minute} p50 {first.p50:.2f} ms (n = {first.count:,}), "
        f"last {minute} p50 {last.p50:.2f} ms (n = {last.count:,}), {sustain.change:+.1%}"
    )
    if words := heat_words(row.thermal):
        yield f"  {words}"
    samples = row.thermal.series if row.thermal else ()
    for point in sustain.series[:: -(-len(sustain.series) // LINES)]:
        yield "  ".join(_point(point, min(samples, key=lambda sample: abs(sample.s - point.s), default=None)))


def _point(point: SustainedPoint, nearest: Sample | None) -> Iterator[str]:
    """One point of a sustained run, with the nearest sample of clock and temperature."""
    yield f"  {point.s:7.0f} s"
    yield f"p50 {point.p50:.2f} ms"
    if nearest is None:
        return
    if nearest.clock_mhz is not None:
        yield f"{nearest.clock_mhz:.0f} MHz"
    if nearest.celsius is not None:
        yield f"{nearest.celsius:.0f} °C"
    if nearest.throttled:
        yield ", ".join(nearest.throttled)


def _range(values: Iterable[float | None], unit: str) -> str | None:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    low, high = f"{min(numbers):.0f}", f"{max(numbers):.0f}"
    return f"{low} {unit}" if low == high else f"{low} to {high} {unit}"
