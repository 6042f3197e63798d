"""Pictures of the page: accuracy against latency, the spread of latencies, temperature and clocks, operations."""

import re
import textwrap
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgekit.report.device import Conditions
from edgekit.report.document import Report
from edgekit.report.figure import figure_at
from edgekit.report.plot import GROUND, INK, SERIES, Picture, drawing, svg_of
from edgekit.report.row import Row
from edgekit.report.sentences import heat_words
from edgekit.report.times import TimedKind, TimedLayer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHAPES = ("o", "s", "^", "D")
LABEL_WIDTH = 30
"""Most characters of a line beside an axis."""


def draw(report: Report, device: str) -> Picture | None:
    """Accuracy against latency of the rows of one device, or None if accuracy or latency is unknown.

    Raises MissingExtraError if matplotlib is not installed.
    """
    rows = [row for row in report.rows_on(device) if row.latency_ms]
    if not report.model.accuracy_meaningful or all(row.accuracy is None for row in rows):
        return None
    with drawing(3.9) as figure:
        _accuracy_against_latency(figure.add_subplot(), report, rows)
        figure.legend(loc="outside lower center", ncols=2)
        svg = svg_of(figure)
    points = [
        f"{row.name} {row.latency_ms.p50:.2f} ms, {100 * row.accuracy.value:.2f} %"
        for row in rows
        if row.latency_ms and row.accuracy
    ]
    return Picture(svg, f"{report.reference.metric} against latency on {device}: {'; '.join(points)}.")


def _accuracy_against_latency(axes: "Axes", report: Report, rows: list[Row]) -> None:
    """Draw a point for each row: colour and shape for the runtime, filled for int8, bars for the drop's interval."""
    targets = list(dict.fromkeys(row.target for row in rows))
    for row in rows:
        if row.accuracy is None or row.latency_ms is None:
            continue
        index = targets.index(row.target) % len(SERIES)
        x, y, colour = row.latency_ms.p50, 100 * row.accuracy.value, SERIES[index]
        fill = colour if row.precision == "int8" else GROUND
        drop, (low, high) = row.accuracy.drop_points, row.accuracy.drop_ci95_points
        bar = [[max(high - drop, 0)], [max(drop - low, 0)]]
        axes.errorbar(x, y, yerr=bar, fmt="none", ecolor=colour, capsize=3, elinewidth=1.2)
        axes.plot(x, y, SHAPES[index], color=colour, mfc=fill, ms=8, mew=1.6, label=row.name)
    reference = report.reference
    axes.axhline(100 * reference.value, color=INK, linewidth=1, linestyle="--", label=reference.engine)
    axes.set_xlim(left=0)
    axes.margins(x=0.1)
    axes.set_xlabel("latency p50, ms (lower is better)")
    axes.set_ylabel(textwrap.fill(f"{reference.metric}, % (higher is better)", LABEL_WIDTH))


P99 = figure_at("latency_ms.p99")
BOX = {"whislo": "p5", "q1": "p25", "med": "p50", "q3": "p75", "whishi": "p95"}
FEWEST_SAMPLES = 3
"""Fewest samples with which a time series is drawn."""
Series = Literal["celsius", "clock_mhz"]


def draw_spread(report: Report, device: str) -> Picture | None:
    """The spread of the latencies of one device's rows, or None if there are none.

    Raises MissingExtraError if matplotlib is not installed.
    """
    timed = [(row, row.latency_ms) for row in report.rows_on(device) if row.latency_ms]
    if not timed:
        return None
    with drawing(0.9 + 0.42 * len(timed)) as figure:
        axes = figure.add_subplot()
        boxes = [{part: getattr(latency, field) for part, field in BOX.items()} for _, latency in timed]
        drawn = axes.bxp(
            boxes, positions=range(len(timed)), orientation="horizontal", widths=0.55, showfliers=False,
            patch_artist=True, medianprops={"color": INK, "linewidth": 1.6}, boxprops={"edgecolor": SERIES[0]},
            whiskerprops={"color": INK}, capprops={"color": INK},
        )  # fmt: skip
        for place, ((row, _), box) in enumerate(zip(timed, drawn["boxes"], strict=True)):
            box.set_facecolor(SERIES[0] if row.precision == "int8" else GROUND)
            if (p99 := P99.value(row)) is not None:
                axes.plot(p99, place, "|", color=INK, ms=9)
        axes.set_yticks(range(len(timed)), [row.name for row, _ in timed])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("latency, ms (lower is better)")
        svg = svg_of(figure)
    figures = [
        f"{row.name} p50 {ms.p50:.2f} ms, p5 to p95 {ms.p5:.2f} to {ms.p95:.2f}, p99 {P99.text(row)}"
        for row, ms in timed
    ]
    return Picture(svg, f"Latency on {device}: {'; '.join(figures)}.")


def draw_heat(report: Report, device: str) -> Picture | None:
    """A device's temperature and clocks while its rows were timed.

    None if the device does not report its temperature, or the timing was too short for a time series. Raises
    MissingExtraError if matplotlib is not installed.
    """
    by_target: dict[str, Conditions] = {}
    for row in report.rows_on(device):  # rows of one target were timed together
        if row.thermal and len(_samples(row.thermal, "celsius")) >= FEWEST_SAMPLES:
            by_target.setdefault(row.target, row.thermal)
    if not by_target:
        return None
    clocks = any(len(_samples(thermal, "clock_mhz")) >= FEWEST_SAMPLES for thermal in by_target.values())
    kinds: dict[Series, str] = {"celsius": "temperature, °C", **({"clock_mhz": "clock, MHz"} if clocks else {})}
    with drawing(0.8 + 1.7 * len(kinds)) as figure:
        for axes, (key, title) in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds.items(), strict=True):
            _draw_series(axes, by_target, key)
            axes.set_ylabel(title)
        axes.set_xlabel("seconds since the start of the timing")
        figure.legend(loc="outside lower center", ncols=3)
        svg = svg_of(figure)
    words = "; ".join(f"{target}: {heat_words(thermal)}" for target, thermal in by_target.items())
    return Picture(svg, f"Temperature and clocks of {device} during the timing. {words}.")


def _draw_series(axes: "Axes", by_target: Mapping[str, Conditions], key: Series) -> None:
    """Draw a line for each runtime. Only the plot of the temperature adds them to the legend."""
    for index, (target, thermal) in enumerate(by_target.items()):
        if samples := _samples(thermal, key):
            colour, dashes = SERIES[index % len(SERIES)], ("-", "--", ":", "-.")[index % 4]
            label = target if key == "celsius" else None
            axes.plot(*zip(*samples, strict=True), dashes, color=colour, label=label)


def _samples(thermal: Conditions, key: Series) -> list[tuple[float, float]]:
    """(seconds, value) of the samples that have this value."""
    samples = [(sample.s, sample.celsius if key == "celsius" else sample.clock_mhz) for sample in thermal.series]
    return [(s, value) for s, value in samples if value is not None]


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
    """Times of each runtime on each device. Raises MissingExtraError if matplotlib is not installed."""
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
    shown = list(next(iter(bars.values())))
    height = 0.8 / len(bars)
    with drawing(1.1 + 0.42 * len(shown)) as figure:
        axes = figure.add_subplot()
        for index, (name, times) in enumerate(bars.items()):
            places = [place + (index - (len(bars) - 1) / 2) * height for place in range(len(shown))]
            fill = SERIES[0] if name in filled else GROUND
            axes.barh(
                places, [*times.values()], height=height, color=fill, edgecolor=SERIES[0], linewidth=1.2, label=name
            )
        axes.set_yticks(range(len(shown)), shown, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlabel("time of one inference, ms (lower is better)")
        axes.grid(False, axis="y")
        figure.legend(loc="outside lower center", ncols=2)
        svg = svg_of(figure)
    texts = [
        f"{name}: {', '.join(f'{what} {ms:.3f} ms' for what, ms in times.items())}" for name, times in bars.items()
    ]
    return Picture(svg, f"Time by kind of operation with {title}. {'; '.join(texts)}.")
