"""Plots as SVG in the colours of the page, or as files."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from edgekit.support.libraries import needs

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
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.6,
    "legend.frameon": False,
}


class Picture(NamedTuple):
    """A plot."""

    svg: str
    """SVG element or file."""
    words: str
    """The picture in words, for readers who cannot see it."""


@contextmanager
def drawing(height: float, width: float = 5.2) -> Iterator["Figure"]:
    """A figure of this size in inches, which is drawn and turned into SVG inside the block.

    Raises MissingExtraError if matplotlib is not installed.
    """
    with needs("build"):
        import matplotlib as mpl
        from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        yield Figure(figsize=(width, height), layout="constrained")


def svg_of(figure: "Figure", standalone: bool = False) -> str:
    """A figure as an element of a page, which determines its size and colours, or as a standalone file.

    The same figure always gives the same bytes.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    if standalone:
        for placeholder, colour in PAPER.items():
            svg = svg.replace(placeholder, colour)
        return svg.replace("<svg ", '<svg style="background:#ffffff" ', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    head, body = svg.split(">", 1)
    head = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", head)
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    return f'{head} aria-hidden="true">{body}'
