"""Plots as data, which plot.svg.j2 draws in the colours of the page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

from edgekit.support.libraries import import_needed

if TYPE_CHECKING:
    from jinja2 import Environment

PAPER = {"ink": "#1c2024", "line": "#ccd3da", "ground": "#ffffff", "series-0": "#0b66c3", "series-1": "#b4520a"}
"""Colours of a standalone file: those of the page's light scheme."""
ROW, PLOT = 34, 110
"""Height of a row with a name, and of an area without such rows."""


@dataclass(frozen=True)
class Axis:
    """The values at the ends of an axis, and the values and texts of its ticks."""

    start: float
    end: float
    ticks: Sequence[tuple[float, str]]

    def share(self, value: float) -> float:
        """The place of a value: 0 at the start of the axis, 1 at its end."""
        return (value - self.start) / (self.end - self.start)


def axis(values: Sequence[float]) -> Axis:
    """An axis with round numbers at its ends that has a place for each of these values."""
    low, high = min(values), max(values)
    if high - low < 1e-6 * max(abs(low), abs(high), 1):
        margin = max(abs(high) / 20, 1e-3)
        low, high = low - margin, high + margin
    magnitude = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next((step for step in (magnitude, 2 * magnitude, 5 * magnitude) if 3 * step >= high - low), 10 * magnitude)
    digits = max(0, -math.floor(math.log10(step)))
    ticks = [index * step for index in range(math.floor(low / step), math.ceil(high / step) + 1)]
    return Axis(ticks[0], ticks[-1], [(tick, f"{tick:z,.{digits}f}") for tick in ticks])


@dataclass(frozen=True)
class Mark:
    """A line through places, a bar between two opposite corners, or a point, in the values of its panel's axes."""

    kind: Literal["line", "bar", "point"]
    places: Sequence[tuple[float, float]]
    series: int | None = None
    """Number of its colour and shape; None for the colour of text."""
    filled: bool = False
    dashes: int = 0
    """Number of a line's pattern."""
    label: str = ""
    """Name in the legend."""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """The area between two axes. The vertical one has numbers, or rows with names, which count from the top."""

    marks: Sequence[Mark]
    label: str
    """Label of the horizontal axis, which includes 0."""
    title: str = ""
    names: Sequence[str] | None = None

    @property
    def height(self) -> int:
        """Height of the area."""
        return PLOT if self.names is None else ROW * len(self.names)

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """The horizontal and the vertical axis."""
        places = [place for mark in self.marks for place in mark.places]
        across = axis([0, *(x for x, _ in places)])
        if self.names is None:
            return across, axis([y for _, y in places])
        return across, Axis(len(self.names), 0, [(row + 0.38, name) for row, name in enumerate(self.names)])

    def drawn(self, mark: Mark, width: float) -> list[tuple[float, float]]:
        """The places of a mark in an area of this width, from its upper left corner."""
        across, up = self.axes
        return [(round(width * across.share(x), 1), round(self.height * (1 - up.share(y)), 1)) for x, y in mark.places]


@dataclass(frozen=True)
class Picture:
    """A plot."""

    words: str
    """The picture in words, for readers who cannot see it."""
    rows: Sequence[Sequence[Panel]]
    """Panels side by side, one row below another. The legend is that of the first panel."""


def bar(row: int, value: float, series: int, filled: bool = True, nth: int = 0, of: int = 1, label: str = "") -> Mark:
    """A bar from 0, the nth of several below the name of a row."""
    top = row + 0.48 + 0.44 * nth / of
    return Mark("bar", [(0, top), (value, top + 0.44 / of)], series, filled, label=label)


@cache
def templates() -> "Environment":
    """The templates beside this file. Raises MissingExtraError if jinja2 is not installed."""
    import_needed("jinja2", "build")
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (files("edgekit.report") / name).read_text(encoding="utf-8")),
        autoescape=lambda name: not str(name).endswith(".md.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_svg(picture: Picture) -> str:
    """A standalone file."""
    svg: str = templates().get_template("plot.svg.j2").module.file(picture)  # type: ignore[attr-defined]
    for name, colour in PAPER.items():
        svg = svg.replace(f"var(--{name})", colour)
    return svg
