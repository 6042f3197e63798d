"""How latency is spread, and how heat and clocks changed over time: pictures for report.html."""

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
"""Samples of heat that make a time series worth drawing."""
Series = Literal["celsius", "clock_mhz"]


def draw_spread(report: Report, device: str) -> tuple[str, str] | None:
    """(SVG element, what it shows in words) of the latencies of one device's rows; None without any.

    Raises MissingExtraError without matplotlib.
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
        boxes = [{each: getattr(latency, key) for each, key in BOX.items()} for _, latency in timed]
        drawn = axes.bxp(
            boxes, positions=range(len(timed)), orientation="horizontal", widths=0.55, showfliers=False,
            patch_artist=True, medianprops={"color": INK, "linewidth": 1.6}, boxprops={"edgecolor": SERIES[0]},
        )  # fmt: skip
        for place, ((row, latency), box) in enumerate(zip(timed, drawn["boxes"], strict=True)):
            box.set_facecolor(SERIES[0] if row.precision == "int8" else GROUND)
            axes.plot(latency.p99, place, "|", color=INK, ms=9)
        axes.set_yticks(range(len(timed)), [row.name for row, _ in timed])
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel("latency, ms (less is better)")
        _tidy(axes)
        svg = svg_of(figure)
    figures = [
        f"{row.name} p50 {each.p50:.2f} ms, p5 to p95 {each.p5:.2f} to {each.p95:.2f}, p99 {each.p99:.2f}"
        for row, each in timed
    ]
    return inline(svg), f"Latency on {device}: {'; '.join(figures)}."


def draw_heat(report: Report, device: str) -> tuple[str, str] | None:
    """(SVG element, what it shows in words): heat and clocks of one device while its rows were timed.

    None where the device reports neither, or the timing ended before it could. Raises MissingExtraError without
    matplotlib.
    """
    courses: dict[str, Conditions] = {}
    for row in _rows(report, device):  # rows of one target were timed together
        if row.thermal and len(_known(row.thermal, "celsius")) >= FEWEST_SAMPLES:
            courses.setdefault(row.target, row.thermal)
    if not courses:
        return None
    import_needed("matplotlib", "build")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    clocks = any(len(_known(thermal, "clock_mhz")) >= FEWEST_SAMPLES for thermal in courses.values())
    kinds: dict[Series, str] = {"celsius": "heat, °C", **({"clock_mhz": "clock, MHz"} if clocks else {})}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 0.8 + 1.7 * len(kinds)), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(len(kinds), 1, squeeze=False)[:, 0], kinds.items(), strict=True):
            _draw_courses(axes, courses, key)
            axes.set_ylabel(title)
            _tidy(axes)
        axes.set_xlabel("seconds since the target's timing began")
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        svg = svg_of(figure)
    words = "; ".join(f"{target}: {heat_words(thermal)}" for target, thermal in courses.items())
    return inline(svg), f"Heat and clocks of {device} while it was timed. {words}."


def _draw_courses(axes: "Axes", courses: Mapping[str, Conditions], key: Series) -> None:
    """A line for each target; the legend needs each of them once."""
    for index, (target, thermal) in enumerate(courses.items()):
        if samples := _known(thermal, key):
            colour, dashes = SERIES[index % len(SERIES)], ("-", "--", ":", "-.")[index % 4]
            label = target if key == "celsius" else None
            axes.plot(*zip(*samples, strict=True), dashes, color=colour, label=label)


def _rows(report: Report, device: str) -> list[Row]:
    return [row for row in report.results if row.device.name == device]


def _known(thermal: Conditions, key: Series) -> list[tuple[float, float]]:
    """(seconds, value) of the samples that have one."""
    samples = [(each.s, each.celsius if key == "celsius" else each.clock_mhz) for each in thermal.series]
    return [(s, value) for s, value in samples if value is not None]


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, axis="both", linewidth=0.5, alpha=0.6)
    axes.set_axisbelow(True)
