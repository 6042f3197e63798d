"""A figure of a row: the field that has its value, and how outputs show it. `row.all_figures()` lists all of them."""

from dataclasses import dataclass
from typing import Any, Literal

NOTHING = "–"  # noqa: RUF001
TIMES = "×"  # noqa: RUF001
"""Unit of a ratio."""
MEANINGLESS = "n/a"
DETAIL_RANK = 11
"""Columns of this rank and above are details, which narrow tables leave out first."""


def lookup(tree: Any, path: str) -> Any:
    """The value at a dotted path of nested documents, or None if a document on the path is None."""
    for name in path.split("."):
        if tree is None:
            return None
        tree = getattr(tree, name)
    return tree


def points(value: float) -> str:
    """Percentage points in words, such as "1 point" or "0.5 points"."""
    return f"{value:g} point" if value == 1 else f"{value:g} points"


def counted(number: int, noun: str) -> str:
    """A number with its noun, such as "1 layer" and "2 layers"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a row."""

    path: str
    """Dotted path of fields, starting at the row, such as "latency_ms.p50"."""
    title: str
    """Heading of the figure's column."""
    unit: str
    """Unit of the value times `scale`."""
    meaning: str
    """Definition of the figure, for the schema and the documentation: a noun phrase in lower case."""
    digits: int = 2
    """Decimals that tables print."""
    scale: float = 1.0
    """Factor from the value of the field to `unit`."""
    interval: str | None = None
    """Path of the 95 % interval."""
    better: Literal["lower", "higher"] | None = None
    """Direction of an improvement. `compare` shows only figures that have one."""
    tolerance: float | None = None
    """Limit beyond which `compare` reports a worse figure without an interval as a regression: a share of its earlier
    value if lower is better, an absolute difference if higher is better. None if it needs an interval for that."""
    rank: int | None = None
    """Position of the column on the page. A narrow terminal drops the highest ranks first and never drops rank 0. None
    keeps the figure out of tables."""
    optional: bool = False
    """Whether tables leave the column out if no row has the figure, because few machines can measure it."""
    csv: str | None = None
    """Name of the column in report.csv, with values in `unit`. By default it is named after the path and has the
    values of report.json."""

    @property
    def csv_column(self) -> str:
        return self.csv or self.path.replace(".", "_")

    @property
    def csv_scale(self) -> float:
        return self.scale if self.csv else 1.0

    @property
    def is_ratio(self) -> bool:
        """Whether `compare` gives the ratio of two runs instead of their difference, as for speedups and times."""
        return self.unit in (TIMES, "ms")

    def is_part_of(self, document: object) -> bool:
        """Whether documents of this kind have the figure. An inspection has only some of a row's figures."""
        return hasattr(document, self.path.partition(".")[0])

    @property
    def is_accuracy(self) -> bool:
        """Whether the figure is meaningless for random weights."""
        return self.path.startswith("accuracy.")

    def value(self, row: Any, meaningful: bool = True) -> float | None:
        """The figure of a row in `unit`; None if it was not measured, or is an accuracy of random weights."""
        value = lookup(row, self.path)
        return None if value is None or (self.is_accuracy and not meaningful) else float(value) * self.scale

    def ends(self, row: Any, meaningful: bool = True) -> tuple[float, float] | None:
        """The 95 % interval of a row's figure in `unit`; None if there is none."""
        ends = lookup(row, self.interval) if self.interval else None
        if ends is None or (self.is_accuracy and not meaningful):
            return None
        low, high = ends
        return low * self.scale, high * self.scale

    def text(self, row: Any, meaningful: bool = True) -> str:
        """The figure of a row as tables print it, without the unit."""
        value = self.value(row, meaningful)
        if value is not None:
            return self.number(value)
        return MEANINGLESS if self.is_accuracy and not meaningful and lookup(row, self.path) is not None else NOTHING

    def interval_text(self, row: Any, meaningful: bool = True) -> str:
        """The interval as tables print it, such as "[1.14, 1.16]"; empty if there is none."""
        ends = self.ends(row, meaningful)
        return f"[{self.number(ends[0])}, {self.number(ends[1])}]" if ends else ""

    def words(self, row: Any, meaningful: bool = True) -> str:
        """The figure of a row with its interval and unit, such as "1.15 [1.14, 1.16] ×"."""  # noqa: RUF002
        return " ".join(filter(None, (self.text(row, meaningful), self.interval_text(row, meaningful), self.unit)))

    def number(self, value: float) -> str:
        """A value in `unit`, rounded to `digits` decimals. Zero has no sign."""
        return f"{value:z,.{self.digits}f}"
