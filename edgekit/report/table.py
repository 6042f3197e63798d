"""A table as lines of text within a width."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

GAP = "  "
INDENT = "  "


@dataclass(frozen=True)
class Column:
    """A column of texts with its heading."""

    head: str
    """Heading of the column."""
    texts: Sequence[str]
    """One text for each row."""
    left: bool = False
    """Whether texts are aligned on the left, like names; numbers are aligned on the right."""
    rank: int = 0
    """Order in which columns are left out where space is short, the highest rank first; 0 is never left out."""

    @property
    def width(self) -> int:
        return max(map(len, (self.head, *self.texts)))

    def cells(self) -> list[str]:
        """The heading and the texts, padded to one width."""
        return [text.ljust(self.width) if self.left else text.rjust(self.width) for text in (self.head, *self.texts)]


def lines_of(columns: Sequence[Column], width: int) -> list[str]:
    """The heading and a line for each row, none longer than `width`, without columns that don't fit.

    If the names in the first column leave no space for the others, each name stands above its row.
    """
    kept = _fitting(columns, width)
    if _width(kept) <= width:
        return _lines(kept)
    names, *others = columns
    head, *lines = _lines(_fitting(others, width - len(INDENT)))
    broken = [f"{INDENT}{head}"]
    for name, line in zip(names.texts, lines, strict=True):
        broken += [*textwrap.wrap(name, width), f"{INDENT}{line}"]
    return broken


def _fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns without those of the highest ranks, until they fit or none can be left out."""
    kept = list(columns)
    while _width(kept) > width and (last := max(kept, key=lambda column: column.rank)).rank:
        kept.remove(last)
    return kept


def _lines(columns: Sequence[Column]) -> list[str]:
    return [GAP.join(cells).rstrip() for cells in zip(*(column.cells() for column in columns), strict=True)]


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)
