"""A plot of accuracy against latency, as SVG in the colours of the page."""

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib needs real colours. These are placeholders for the page's CSS variables, which depend on its colour scheme.
INK, MUTED, GROUND = "#010101", "#020202", "#030303"
SERIES = ("#040404", "#050505", "#060606", "#070707")
VARIABLES = {INK: "ink", MUTED: "line", GROUND: "ground"} | {colour: f"series-{i}" for i, colour in enumerate(SERIES)}
PAPER = {INK: "#1c2024", MUTED: "#ccd3da", GROUND: "#ffffff", SERIES[0]: "#0b66c3", SERIES[1]: "#b4520a"}
"""Colours of the placeholders in a standalone file: those of the page's light scheme."""

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
