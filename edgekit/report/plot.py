"""A plot of accuracy against latency, as SVG in the colours of the page."""

import io
import re
from typing import TYPE_CHECKING, Any

from edgekit.report.document import Report
from edgekit.report.measurement import Accuracy
from edgekit.report.row import Row
from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# matplotlib needs real colours. These are placeholders for the page's CSS variables, which depend on its colour scheme.
INK, MUTED, GROUND = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707")
VARIABLES = {INK: "ink", MUTED: "line", GROUND: "ground"} | {colour: f"series-{i}" for i, colour in enumerate(SERIES)}
PAPER = {INK: "#1c2024", MUTED: "#ccd3da", GROUND: "#ffffff", SERIES[0]: "#0b66c3", SERIES[1]: "#b4520a"}
"""Colours of the placeholders in a standalone file: those of the page's light scheme."""
SHAPES = ("o", "s", "^", "D")

STYLE: Any = {
    "svg.fonttype": "none",  # text instead of outlines: it has the page's font, and can be searched and read aloud
    "svg.hashsalt": "edgekit",
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "font.size": 11,
}


def draw(report: Report, device: str) -> tuple[str, str] | None:
    """(SVG element, description in words) for the rows of one device, or None if accuracy or latency is unknown.

    Raises MissingExtraError if matplotlib is not installed.
    """
    rows = [row for row in report.results if row.device.name == device and row.latency_ms]
    if not report.model.accuracy_meaningful or all(row.accuracy is None for row in rows):
        return None
    import_needed("matplotlib", "build")
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.9), layout="constrained")
        axes = figure.add_subplot()
        _accuracy_against_latency(axes, report, rows)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
        svg = svg_of(figure)
    return inline(svg), _words(device, rows)


def _accuracy_against_latency(axes: "Axes", report: Report, rows: list[Row]) -> None:
    """Draw a point for each row: colour and shape for the runtime, filled for int8, bars for the drop's interval."""
    targets = list(dict.fromkeys(row.target for row in rows))
    for row in rows:
        if row.accuracy is None or row.latency_ms is None:
            continue
        index = targets.index(row.target) % len(SERIES)
        x, y, colour = row.latency_ms.p50, 100 * row.accuracy.top1, SERIES[index]
        fill = colour if row.precision == "int8" else GROUND
        axes.errorbar(x, y, yerr=_interval(row.accuracy), fmt="none", ecolor=colour, capsize=3, elinewidth=1.2)
        axes.plot(x, y, SHAPES[index], color=colour, mfc=fill, ms=8, mew=1.6, label=row.name)
    reference = report.reference
    axes.axhline(100 * reference.top1, color=INK, linewidth=1, linestyle="--", label=reference.engine)
    axes.set_xlim(left=0)
    axes.margins(x=0.1)
    axes.set_xlabel("latency p50, ms (lower is better)")
    axes.set_ylabel("top-1, % (higher is better)")
    axes.grid(True, linewidth=0.5, alpha=0.6)


def _interval(accuracy: Accuracy) -> list[list[float]]:
    """Lengths of the error bar below and above the point, in percentage points."""
    drop, (low, high) = accuracy.drop_top1_points, accuracy.drop_ci95_points
    return [[max(high - drop, 0)], [max(drop - low, 0)]]


def _words(device: str, rows: list[Row]) -> str:
    """The picture in words, for readers who cannot see it."""
    points = [
        f"{row.name} {row.latency_ms.p50:.2f} ms, {100 * row.accuracy.top1:.2f} %"
        for row in rows
        if row.latency_ms and row.accuracy
    ]
    return f"Top-1 accuracy against latency on {device}: {'; '.join(points)}."


def svg_of(figure: "Figure") -> str:
    """matplotlib's SVG file of a figure. The same figure always gives the same bytes."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def inline(svg: str) -> str:
    """matplotlib's SVG file as an element of a page, which determines its size and colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, body = svg.split(">", 1)
    head = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", head)
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    return f'{head} aria-hidden="true">{body}'


def standalone_svg(svg: str) -> str:
    """matplotlib's SVG file with real colours on a white background."""
    for placeholder, colour in PAPER.items():
        svg = svg.replace(placeholder, colour)
    return svg.replace("<svg ", '<svg style="background:#ffffff" ', 1)
