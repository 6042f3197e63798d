"""What commands print, as blocks: paragraphs, items, tables and the next commands, as lines of text or as Markdown.

A document that a command prints has a method `page`, which gives its blocks.
"""

import re
import shlex
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import groupby
from typing import Any, NamedTuple

WIDTH = 80
"""Most columns of a line, however wide the terminal is."""
COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "error": "bold red"}
"""Colours of verdicts."""
CONTINUED = " \\"
GAP = "  "
INDENT = "  "


class Line(NamedTuple):
    """A line of text, with a colour from one of its characters on."""

    text: str
    style: str = ""
    start: int = 0

    def __str__(self) -> str:
        return self.text


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


def table_lines(columns: Sequence[Column], width: int) -> list[str]:
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
    """Paragraph on one line that Markdown shows as it is."""
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


Words = tuple[str, ...]


@dataclass(frozen=True)
class NextStep:
    """One command with its purpose."""

    purpose: str
    """Purpose of the command, as an instruction without a full stop; a whole sentence if there is no command."""
    command: Words = ()


@dataclass(frozen=True)
class Paragraph:
    """A paragraph. A terminal shows it in its style, and Markdown shows bold ones bold."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Item(Paragraph):
    """One of several remarks; further lines of it are indented, as is all of one that begins with spaces."""


@dataclass(frozen=True)
class TextTable:
    """A table, in whose last column a terminal colours verdicts."""

    columns: Sequence[Column]


@dataclass(frozen=True)
class Steps:
    """The next commands, those of which can be pasted into a shell."""

    steps: Sequence[NextStep]
    title: str = ""
    """Line above them in Markdown."""


Block = str | Paragraph | TextTable | Steps
"""A text is a line that is printed as it is."""


@singledispatch
def page_of(document: Any) -> Iterable[Block]:
    """The blocks of a document."""
    blocks: Iterable[Block] = document.page()
    return blocks


def lines_of(page: Iterable[Block], width: int) -> Iterator[Line]:
    """The blocks as lines of text. Paragraphs and tables are no wider than `width`."""
    for block in page:
        if isinstance(block, str):
            yield Line(block)
        elif isinstance(block, TextTable):
            for line in table_lines(block.columns, width):
                yield Line(line, COLOURS.get(line.rpartition(GAP)[2], ""), line.rfind(" ") + 1)
        elif isinstance(block, Steps):
            yield from map(Line, step_lines(block.steps, width))
        else:
            later = f"{_indent(block)}{INDENT}" if isinstance(block, Item) else ""
            for line in textwrap.wrap(block.text, width, subsequent_indent=later, break_on_hyphens=False):
                yield Line(line, block.style)


def markdown_page(title: str, page: Iterable[Block]) -> str:
    """The blocks as a section of Markdown, to which another one can be appended."""
    parts = [f"## {escaped(title)}"]
    for is_list, blocks in groupby(page, key=lambda block: isinstance(block, Item)):
        texts = [_markdown(block) for block in blocks]
        parts += ["\n".join(texts)] if is_list else filter(None, texts)
    return "\n\n".join(parts) + "\n\n"


def _markdown(block: Block) -> str:
    if isinstance(block, str):
        return escaped(block)
    if isinstance(block, TextTable):
        return markdown_of([replace(column, texts=[*map(_cell, column.texts)]) for column in block.columns])
    if isinstance(block, Steps):
        commands = [f": {_code(shlex.join(step.command))}" if step.command else "" for step in block.steps]
        steps = [f"- {escaped(step.purpose)}{code}" for step, code in zip(block.steps, commands, strict=True)]
        return "\n".join([block.title, "", *steps]) if steps else ""
    words = f"**{escaped(block.text)}**" if block.text and "bold" in block.style else escaped(block.text)
    return f"{_indent(block)}- {words}" if isinstance(block, Item) else words


def _indent(block: Paragraph) -> str:
    return block.text[: len(block.text) - len(block.text.lstrip())]


def _cell(text: str) -> str:
    """The text of a cell; verdicts other than `pass` are bold."""
    return f"**{text}**" if text in COLOURS and text != "pass" else escaped(text)


def _code(text: str) -> str:
    """A code span, on one line."""
    ticks, space = backticks(text, 1), " " * ("`" in text)
    return f"{ticks}{space}{' '.join(text.splitlines())}{space}{ticks}"


def backticks(text: str, fewest: int) -> str:
    """A row of backticks that is in no text which it encloses."""
    return "`" * max(fewest, *(len(row) + 1 for row in re.findall("`+", text)), 1)


def step_lines(steps: Iterable[NextStep], width: int) -> list[str]:
    """The next commands, behind an empty line if there are any."""
    lines: list[str] = []
    for step in steps:
        line = f"{'Or' if lines else 'Next,'} {step.purpose}"
        if step.command:
            short = f"{line}: {shlex.join(step.command)}"
            lines += [short] if len(short) <= width else [f"{line}:", *command_lines(step.command, width)]
        else:
            lines += textwrap.wrap(step.purpose, width)
    return ["", *lines] if lines else []


def command_lines(words: Words, width: int) -> list[str]:
    """A command, quoted for a shell and broken between words. A word that is longer than a line stays whole."""
    lines = [INDENT + words[0]]
    for word, following in zip(words[1:], [*words[2:], "-"], strict=True):
        quoted = shlex.quote(word)
        with_value = word.startswith("-") and not following.startswith("-")
        needed = len(quoted) + (1 + len(shlex.quote(following)) if with_value else 0)
        if len(lines[-1]) + 1 + needed + len(CONTINUED) <= width or lines == [INDENT + words[0]]:
            lines[-1] += f" {quoted}"
        else:
            lines[-1] += CONTINUED
            lines.append(f"{INDENT * 3}{quoted}")
    return lines
