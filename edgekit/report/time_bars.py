"""Times for report.html: kinds of operation as bars, and the slowest layers, float next to INT8."""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass

from edgekit.report.document import Report
from edgekit.report.plot import GROUND, SERIES, STYLE, inline, svg_of
from edgekit.report.row import Row
from edgekit.report.time_profile import TimedKind, TimedLayer
from edgekit.support.libraries import import_needed

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
    """Milliseconds in each bundle, None where the profiler doesn't list the layer."""
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
    picture: tuple[str, str] | None
    """SVG element of the bars, and its description in words; None if no bundle has times."""
    layers: tuple[LayerLine, ...]


def timings(report: Report) -> list[Timing]:
    """Times of each runtime on each device. Raises MissingExtraError if matplotlib is not installed."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in sorted(report.results, key=lambda row: row.precision != "float"):
        if row.profile is not None:
            groups.setdefault((row.device.label, row.target), []).append(row)
    several = len(report.devices) > 1
    order = dict.fromkeys((row.device.label, row.target) for row in report.results)
    return [
        _timing(f"{place[1]} on {place[0]}" if several else place[1], groups[place])
        for place in order
        if place in groups
    ]


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
        picture=_draw(title, kinds, {row.name for row in rows if row.precision == "int8"}) if kinds else None,
        layers=_slowest_layers(layers),
    )


def _by_operation(kinds: Iterable[TimedKind]) -> dict[str, float]:
    """Milliseconds by operation, whatever number format it computes in, so that float and INT8 stand side by side."""
    total: dict[str, float] = {}
    for kind in kinds:
        operation = NUMBER_FORMAT.sub("", re.sub(" (int8|float)$", "", kind.kind))
        total[operation] = total.get(operation, 0.0) + kind.ms
    return total


def _slowest_layers(layers: dict[str, tuple[TimedLayer, ...]]) -> tuple[LayerLine, ...]:
    times: dict[str, dict[str, float]] = {}
    kernels: dict[str, str] = {}
    last = next(reversed(layers), None)
    for bundle, profiled in layers.items():
        for layer in profiled:
            own = times.setdefault(layer.name, {})
            own[bundle] = own.get(bundle, 0.0) + layer.ms
            if bundle == last:
                kernels[layer.name] = layer.kernel
    slowest = sorted(times, key=lambda name: -max(times[name].values()))[:LAYERS]
    return tuple(
        LayerLine(name, tuple(times[name].get(bundle) for bundle in layers), kernels.get(name, "")) for name in slowest
    )


def _draw(title: str, kinds: Mapping[str, Mapping[str, float]], filled: Container[str]) -> tuple[str, str]:
    """(SVG element, description in words) of the slowest operations, with a bar for each bundle."""
    import_needed("matplotlib", "build")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    operations = dict.fromkeys(operation for times in kinds.values() for operation in times)
    slowest = sorted(operations, key=lambda operation: -max(times.get(operation, 0.0) for times in kinds.values()))
    shown = slowest[:KINDS]
    bars = {name: [times.get(operation, 0.0) for operation in shown] for name, times in kinds.items()}
    if len(slowest) > KINDS:
        shown = [*shown, OTHERS]
        for name, times in kinds.items():
            bars[name].append(sum(times.get(operation, 0.0) for operation in slowest[KINDS:]))
    height = 0.8 / len(bars)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 1.1 + 0.42 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        for index, (name, values) in enumerate(bars.items()):
            places = [place + (index - (len(bars) - 1) / 2) * height for place in range(len(shown))]
            fill = SERIES[0] if name in filled else GROUND
            axes.barh(places, values, height=height, color=fill, edgecolor=SERIES[0], linewidth=1.2, label=name)
        axes.set_yticks(range(len(shown)), shown, fontsize=9)
        axes.invert_yaxis()
        axes.set_xlabel("time of one inference, ms (lower is better)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="x", linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        drawn = inline(svg_of(figure))
    figures = [
        f"{name}: {', '.join(f'{operation} {ms:.3f} ms' for operation, ms in zip(shown, values, strict=True))}"
        for name, values in bars.items()
    ]
    return drawn, f"Time by kind of operation with {title}. {'; '.join(figures)}."
