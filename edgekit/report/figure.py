"""What one figure of a row is: where it lives, and how every output shows it. `row.all_figures()` lists them."""

from dataclasses import dataclass
from typing import Any, Literal

NOTHING = "–"  # noqa: RUF001
TIMES = "×"  # noqa: RUF001
"""The unit of a ratio."""
MEANINGLESS = "n/a"


def lookup(tree: Any, path: str) -> Any:
    """The value at a dotted path of nested documents; None as soon as one of them is None."""
    for name in path.split("."):
        if tree is None:
            return None
        tree = getattr(tree, name)
    return tree


def points(value: float) -> str:
    """Percentage points in words, such as "1 point" or "0.5 points"."""
    return f"{value:g} point" if value == 1 else f"{value:g} points"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a row."""

    path: str
    """Fields from the row down, such as "latency_ms.p50"."""
    title: str
    unit: str
    """Unit of the value times `scale`."""
    meaning: str
    """What the figure says, for the schema and the documentation."""
    digits: int = 2
    scale: float = 1.0
    interval: str | None = None
    """Path of the 95 % interval."""
    better: Literal["lower", "higher"] | None = None
    """Which direction is an improvement; `compare` shows the figures that have one."""
    tolerance: float | None = None
    """By how much a figure without an interval may get worse before `compare` calls it a regression: a share of its
    earlier value where lower is better, and of 1 where higher is better. None where it never is one."""
    rank: int | None = None
    """Place among the columns of the page. A narrow terminal drops the highest first, and never 0. None keeps the
    figure out of tables."""
    csv: str | None = None
    """Column of report.csv, which holds the value in `unit`. By default the path names it, with the value of JSON."""

    @property
    def csv_column(self) -> str:
        return self.csv or self.path.replace(".", "_")

    @property
    def csv_scale(self) -> float:
        return self.scale if self.csv else 1.0

    @property
    def is_ratio(self) -> bool:
        """Whether the figure of two runs is compared by its ratio, not by its difference."""
        return self.unit == TIMES

    def is_part_of(self, document: object) -> bool:
        """Whether documents of this kind have the figure: an inspection has only some of those of a row."""
        return hasattr(document, self.path.partition(".")[0])

    @property
    def is_accuracy(self) -> bool:
        """Whether random weights leave the figure without meaning."""
        return self.path.startswith("accuracy.")

    def value(self, row: Any, meaningful: bool = True) -> float | None:
        """The figure of a row in `unit`; None where it was not measured, or is an accuracy without meaning."""
        value = lookup(row, self.path)
        return None if value is None or (self.is_accuracy and not meaningful) else float(value) * self.scale

    def ends(self, row: Any, meaningful: bool = True) -> tuple[float, float] | None:
        """The 95 % interval of a row's figure in `unit`."""
        ends = lookup(row, self.interval) if self.interval else None
        if ends is None or (self.is_accuracy and not meaningful):
            return None
        low, high = ends
        return low * self.scale, high * self.scale

    def text(self, row: Any, meaningful: bool = True) -> str:
        """The figure of a row as tables print it, without its unit."""
        value = self.value(row, meaningful)
        if value is not None:
            return self.number(value)
        return MEANINGLESS if self.is_accuracy and not meaningful and lookup(row, self.path) is not None else NOTHING

    def interval_text(self, row: Any, meaningful: bool = True) -> str:
        """The interval as tables print it, such as "[1.14, 1.16]"; empty where there is none."""
        ends = self.ends(row, meaningful)
        return f"[{self.number(ends[0])}, {self.number(ends[1])}]" if ends else ""

    def number(self, value: float) -> str:
        """A value in `unit`, rounded to `digits`; zero has no sign."""
        return f"{value:z,.{self.digits}f}"
