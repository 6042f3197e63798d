"""Pictures of the page: accuracy against latency, the spread of latencies, temperature and clocks, operations."""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from edgekit.report.device import Conditions
from edgekit.report.document import Report
from edgekit.report.figure import figure_at
from edgekit.report.plot import Mark, Panel, Picture, bar
from edgekit.report.row import Row
from edgekit.report.sentences import heat_words
from edgekit.report.times import TimedKind, TimedLayer


def draw(report: Report, device: str) -> Picture | None:
    """Accuracy against latency of the rows of one device, or None if accuracy or latency is unknown.

    Each row has a point: colour and shape for the runtime, filled for int8, with a line for the drop's interval.
    """
    reference, rows = report.reference, report.rows_on(device)
    known = [(row, row.latency_ms.p50, row.accuracy) for row in rows if row.latency_ms and row.accuracy]
    if not report.model.accuracy_meaningful or not known:
        return None
    targets = list(dict.fromkeys(row.target for row, _, _ in known))
    level = 100 * reference.value
    marks = [Mark("line", [(0, level), (max(p50 for _, p50, _ in known), level)], dashes=1, label=reference.engine)]
    for row, p50, accuracy in known:
        series, value = targets.index(row.target), 100 * accuracy.value
        ends = [(p50, value + accuracy.drop_points - end) for end in accuracy.drop_ci95_points]
        marks.append(Mark("line", ends, series))
        marks.append(Mark("point", [(p50, value)], series, row.precision == "int8", label=row.name))
    points = [f"{row.name} {p50:.2f} ms, {100 * accuracy.value:.2f} %" for row, p50, accuracy in known]
    panel = Panel(
        marks=marks, label="latency p50, ms (lower is better)", title=f"{reference.metric}, % (higher is better)"
    )
    return Picture(f"{reference.metric} against latency on {device}: {'; '.join(points)}.", [[panel]])


P99 = figure_at("latency_ms.p99")
FEWEST_SAMPLES = 3
"""Fewest samples with which a time series is drawn."""


def draw_spread(report: Report, device: str) -> Picture | None:
    """The spread of the latencies of one device's rows, or None if there are none."""
    timed = [(row, row.latency_ms) for row in report.rows_on(device) if row.latency_ms]
    if not timed:
        return None
    marks = []
    for index, (row, ms) in enumerate(timed):
        top, middle, bottom = index + 0.48, index + 0.66, index + 0.84
        marks.append(Mark("line", [(ms.p5, middle), (ms.p95, middle)]))
        marks.append(Mark("bar", [(ms.p25, top), (ms.p75, bottom)], 0, row.precision == "int8"))
        ticks = [ms.p50, P99.value(row)]
        marks += [Mark("line", [(tick, top), (tick, bottom)]) for tick in ticks if tick is not None]
    figures = [
        f"{row.name} p50 {ms.p50:.2f} ms, p5 to p95 {ms.p5:.2f} to {ms.p95:.2f}, p99 {P99.text(row)}"
        for row, ms in timed
    ]
    panel = Panel(marks=marks, label="latency, ms (lower is better)", names=[row.name for row, _ in timed])
    return Picture(f"Latency on {device}: {'; '.join(figures)}.", [[panel]])


def draw_heat(report: Report, device: str) -> Picture | None:
    """A device's temperature and clocks while its rows were timed.

    None if the device does not report its temperature, or the timing was too short for a time series.
    """
    by_target: dict[str, Conditions] = {}
    for row in report.rows_on(device):  # rows of one target were timed together
        if row.thermal and len(_samples(row.thermal, "celsius")) >= FEWEST_SAMPLES:
            by_target.setdefault(row.target, row.thermal)
    if not by_target:
        return None
    panels = []
    for key, title in {"celsius": "temperature, °C", "clock_mhz": "clock, MHz"}.items():
        lines = {target: _samples(thermal, key) for target, thermal in by_target.items()}
        if any(len(line) >= FEWEST_SAMPLES for line in lines.values()):
            marks = [
                Mark("line", line, index, dashes=index, label=target)
                for index, (target, line) in enumerate(lines.items())
            ]
            panels.append([Panel(marks=marks, label="seconds since the start of the timing", title=title)])
    words = "; ".join(f"{target}: {heat_words(thermal)}" for target, thermal in by_target.items())
    return Picture(f"Temperature and clocks of {device} during the timing. {words}.", panels)


def _samples(thermal: Conditions, key: str) -> list[tuple[float, float]]:
    """(seconds, value) of the samples that have this value."""
    return [(sample.s, value) for sample in thermal.series if (value := getattr(sample, key)) is not None]


KINDS, LAYERS = 8, 10
"""Number of kinds of operation and of layers that the page shows."""
OTHERS = "all others"
TOLERANCE = 0.1
"""Largest difference between the profiler's sum and the measured latency, as a share of the latency."""
NUMBER_FORMAT = re.compile(r"^(DynamicQuantize|QLinear|Fused|Dynamic |Q(?=[A-Z]))|(IntegerToFloat|Integer|Quantized)$")
"""Part of an operation's name for which a runtime has another number format, or another operation fused into it."""


@dataclass(frozen=True)
class LayerLine:
    """A line of the table of the slowest layers."""

    name: str
    times: tuple[float | None, ...]
    """Milliseconds in each bundle with what surrounds the layer, None where the profiler doesn't list it."""
    kernel: str
    """Kernel of the last bundle, which is the INT8 one where there are two; empty where that doesn't list the layer."""


@dataclass(frozen=True)
class Timing:
    """The times of one runtime's bundles on one device."""

    title: str
    bundles: tuple[str, ...]
    """Names of the bundles that have times, float first."""
    sentences: tuple[str, ...]
    """The profiler's sum next to the measured latency for each bundle, or the reason why there are no times."""
    picture: Picture | None
    """The bars; None if no bundle has times."""
    layers: tuple[LayerLine, ...]


def timings(report: Report) -> list[Timing]:
    """Times of each runtime on each device."""
    groups: dict[tuple[str, str], list[Row]] = {(row.target, row.device.label): [] for row in report.results}
    for row in sorted(report.results, key=lambda row: row.precision != "float"):
        if row.profile is not None:
            groups[row.target, row.device.label].append(row)
    several = report.has_several_devices
    return [_timing(" on ".join(place) if several else place[0], rows) for place, rows in groups.items() if rows]


def sum_words(row: Row) -> str:
    """The profiler's sum next to the measured latency, or the reason why there are no times."""
    profile, latency = row.profile, row.latency_ms
    if profile is None or profile.sum_ms is None or latency is None:
        reason = (profile.missing if profile else None) or "it was not profiled"
        return f"{row.name} has no times by operation: {reason.removesuffix('.')}"
    total, measured = profile.sum_ms, latency.p50
    digits = 2 if min(total, measured) >= 1 else 3
    words = f"{row.name}: the profiler's sum {total:.{digits}f} ms, measured {measured:.{digits}f} ms"
    if total > measured * (1 + TOLERANCE):
        return f"{words}; profiling itself adds time"
    if total < measured * (1 - TOLERANCE):
        return f"{words}; the rest passes outside these operations, or the machine was busier while it was timed"
    return words


def _timing(title: str, rows: list[Row]) -> Timing:
    timed = {row.name: row.profile for row in rows if row.profile and row.profile.missing is None}
    kinds = {name: _by_operation(profile.kinds) for name, profile in timed.items()}
    layers = {name: profile.layers for name, profile in timed.items()}
    return Timing(
        title=title,
        bundles=tuple(timed),
        sentences=tuple(map(sum_words, rows)),
        picture=_draw_bars(title, kinds, {row.name for row in rows if row.precision == "int8"}) if kinds else None,
        layers=_slowest_layers(layers),
    )


def _by_operation(kinds: Iterable[TimedKind]) -> dict[str, float]:
    """Milliseconds by operation, whatever number format it computes in, so that float and INT8 stand side by side."""
    total: dict[str, float] = defaultdict(float)
    for kind in kinds:
        total[NUMBER_FORMAT.sub("", re.sub(" (int8|float)$", "", kind.kind))] += kind.ms
    return total


def _slowest_layers(layers: dict[str, tuple[TimedLayer, ...]]) -> tuple[LayerLine, ...]:
    times: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for bundle, profiled in layers.items():
        for layer in profiled:
            times[layer.name][bundle] += layer.ms + layer.around_ms
    kernels = {layer.name: layer.kernel for layer in next(reversed(layers.values()), ())}
    slowest = sorted(times, key=lambda name: -max(times[name].values()))[:LAYERS]
    return tuple(
        LayerLine(name, tuple(times[name].get(bundle) for bundle in layers), kernels.get(name, "")) for name in slowest
    )


def _draw_bars(title: str, kinds: Mapping[str, Mapping[str, float]], filled: Container[str]) -> Picture:
    """The times of the slowest operations, with a bar for each bundle."""
    operations = dict.fromkeys(operation for times in kinds.values() for operation in times)
    slowest = sorted(operations, key=lambda operation: -max(times.get(operation, 0.0) for times in kinds.values()))
    bars = {
        name: {operation: times.get(operation, 0.0) for operation in slowest[:KINDS]} for name, times in kinds.items()
    }
    if len(slowest) > KINDS:
        for name, times in kinds.items():
            bars[name][OTHERS] = sum(times.get(operation, 0.0) for operation in slowest[KINDS:])
    marks = [
        bar(row, ms, 0, name in filled, nth, len(bars), label=name)
        for nth, (name, times) in enumerate(bars.items())
        for row, ms in enumerate(times.values())
    ]
    texts = [
        f"{name}: {', '.join(f'{what} {ms:.3f} ms' for what, ms in times.items())}" for name, times in bars.items()
    ]
    shown = list(next(iter(bars.values())))
    panel = Panel(marks=marks, label="time of one inference, ms (lower is better)", names=shown)
    return Picture(f"Time by kind of operation with {title}. {'; '.join(texts)}.", [[panel]])
