"""Pictures for report.html: the distribution of the latency, and temperature and clocks over time."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from edgekit.report.conditions import Conditions
from edgekit.report.document import Report
from edgekit.report.plot import GROUND, INK, SERIES, STYLE, inline, svg_of
from edgekit.report.row import Row
from edgekit.report.telemetry_text import heat_words
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BOX = {"whislo": "p5", "q1": "p25", "med": "p50", "q3": "p75", "whishi": "p95"}
FEWEST_SAMPLES = 3
"""Fewest samples with which a time series is drawn."""
Series = Literal["celsius", "clock_mhz"]


def draw_spread(report: Report, device: str) -> tuple[str, str] | None:
    """(SVG element, description in words) of the latencies of one device's rows, or None if there are none.

    Raises MissingExtraError if matplotlib is not installed.
    """
    timed = [(row, row.latency_ms) for row in _rows(report, device) if row.latency_ms]
    if not timed:
        return None
    import_needed("matplotlib", "build")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 0.9 + 0.42 * len(timed)), layout="constrained")
        axes = figure.add_subplot()
        boxes = [{part: getattr(latency, field) for part, field in BOX.items()} for _, latency in timed]
        drawn = axes.bxp(
            boxes, positions=range(len(timed)), orientation="horizontal", widths=0.55, showfliers=False,
            patch_artist=True, medianprops={"color": INK, "linewidth": 1.6}, boxprops={"edgecolor": SERIES[0]},
            whiskerprops={"color": INK}, capprops={"color": INK},
        )  # fmt: skip
        for place, ((row, latency), box) in enumerate(zip(timed, drawn["boxes"], strict=True)):
            box.set_facecolor(SERIES[0] if row.precision == "int8" else GROUND)
            axes.plot(latency.p99, place, "|", color=INK, ms=9)
        axes.set_yticks(range(len(timed)), [row.name for row, _ in timed])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("latency, ms (lower is better)")
        _tidy(axes)
        svg = svg_of(figure)
    figures = [
        f"{row.name} p50 {ms.p50:.2f} ms, p5 to p95 {ms.p5:.2f} to {ms.p95:.2f}, p99 {ms.p99:.2f}" for row, ms in timed
    ]
    return inline(svg), f"Latency on {device}: {'; '.join(figures)}."


def draw_heat(report: Report, device: str) -> tuple[str, str] | None:
    """(SVG element, description in words) of a device's temperature and clocks while its rows were timed.

    None if the device does not report its temperature, or the timing was too short for a time series. Raises
    MissingExtraError if matplotlib is not installed.
    """
    by_target: dict[str, Conditions] = {}
    for row in _rows(report, device):  # rows of one target were timed together
        if row.thermal and len(_samples(row.thermal, "celsius")) >= FEWEST_SAMPLES:
            by_target.setdefault(row.target, row.thermal)
    if not by_target:
        return None
    import_needed("matplotlib", "build")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    clocks = any(len(_samples(thermal, "clock_mhz")) >= FEWEST_SAMPLES for thermal in by_target.values())
    kinds: dict[Series, str] = {"celsius": "temperature, °C", **({"clock_mhz": "clock, MHz"} if clocks else {})}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 0.8 + 1.7 * len(kinds)), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds.items(), strict=True):
            _draw_series(axes, by_target, key)
            axes.set_ylabel(title)
            _tidy(axes)
        axes.set_xlabel("seconds since the start of the timing")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        svg = svg_of(figure)
    words = "; ".join(f"{target}: {heat_words(thermal)}" for target, thermal in by_target.items())
    return inline(svg), f"Temperature and clocks of {device} during the timing. {words}."


def _draw_series(axes: "Axes", by_target: Mapping[str, Conditions], key: Series) -> None:
    """Draw a line for each runtime. Only the plot of the temperature adds them to the legend."""
    for index, (target, thermal) in enumerate(by_target.items()):
        if samples := _samples(thermal, key):
            colour, dashes = SERIES[index % len(SERIES)], ("-", "--", ":", "-.")[index % 4]
            label = target if key == "celsius" else None
            axes.plot(*zip(*samples, strict=True), dashes, color=colour, label=label)


def _rows(report: Report, device: str) -> list[Row]:
    return [row for row in report.results if row.device.name == device]


def _samples(thermal: Conditions, key: Series) -> list[tuple[float, float]]:
    """(seconds, value) of the samples that have this value."""
    samples = [(sample.s, sample.celsius if key == "celsius" else sample.clock_mhz) for sample in thermal.series]
    return [(s, value) for s, value in samples if value is not None]


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="both", linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
