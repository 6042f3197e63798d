"""A table as lines of text within a width, or as Markdown."""

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace

GAP = "  "
INDENT = "  "


@dataclass(frozen=True)
class Column:
    """A column of texts with its heading."""

    head: str
    """Heading of the column, of one or more lines."""
    texts: Sequence[str]
    """One text for each row."""
    left: bool = False
    """Whether texts are aligned on the left, like names; numbers are aligned on the right."""
    rank: int = 0
    """Order in which columns are left out where space is short, the highest rank first; 0 is never left out."""

    @property
    def width(self) -> int:
        """Characters of the longest line."""
        return max(len(line) for text in (self.head, *self.texts) for line in text.split("\n"))


def lines_of(columns: Sequence[Column], width: int) -> list[str]:
    """The heading and the lines of each row, none longer than `width`, without columns that don't fit.

    If the names in the first column leave no space for the others, each name stands above its row.
    """
    columns = [replace(column, texts=[" ".join(text.split()) for text in column.texts]) for column in columns]
    kept = fitting(columns, width)
    indent = INDENT if _width(kept) > width else ""
    names, others = (columns[0].texts, fitting(columns[1:], width - len(INDENT))) if indent else ([], kept)
    head, *rows = zip(*(_cells(column) for column in others), strict=True)
    lines = _lines(head, indent, at_bottom=True)
    for index, row in enumerate(rows):
        lines += [*(textwrap.wrap(names[index], width) if indent else ()), *_lines(row, indent)]
    return lines


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """The columns that fit: those of the highest ranks are left out first, and those of rank 0 never."""
    kept = list(columns)
    while _width(kept) > width:
        last = max(kept, key=lambda column: column.rank)
        if not last.rank:
            break
        kept.remove(last)
    return kept


_MARKUP = re.compile(r"[\\`*_|<&~\[$]|:(?=//)|(?<=www)\.|^[#>+=-]", re.IGNORECASE)
"""What Markdown, as GitHub shows it, takes for markup, links without brackets included."""


def escaped(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    line = _MARKUP.sub(r"\\\g<0>", " ".join(text.split()))
    return re.sub(r"^(\d+)([.)])(?= |$)", r"\1\\\2", line)


def markdown_of(columns: Sequence[Column]) -> str:
    """The table in Markdown, whose texts are Markdown without line breaks and bars."""
    heads = [escaped(column.head) for column in columns]
    rule = ["---" if column.left else "---:" for column in columns]
    return "\n".join(
        f"| {' | '.join(line)} |" for line in (heads, rule, *zip(*(column.texts for column in columns), strict=True))
    )


def _cells(column: Column) -> list[list[str]]:
    """The lines of the heading and of each text, padded to one width."""
    pad = str.ljust if column.left else str.rjust
    return [[pad(line, column.width) for line in text.split("\n")] for text in (column.head, *column.texts)]


def _lines(cells: Sequence[list[str]], indent: str = "", at_bottom: bool = False) -> list[str]:
    """The lines of cells side by side, the shorter of which stand at the top or the bottom."""
    height = max(map(len, cells))
    blanks = [[" " * len(cell[0])] * (height - len(cell)) for cell in cells]
    filled = [[*blank, *cell] if at_bottom else [*cell, *blank] for cell, blank in zip(cells, blanks, strict=True)]
    return [f"{indent}{GAP.join(line)}".rstrip() for line in zip(*filled, strict=True)]


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)
