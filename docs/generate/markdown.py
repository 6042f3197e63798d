"""Pieces of Markdown."""

import html
import re
from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; a bar in a cell would end it, so bars are escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def code(text: str) -> str:
    """Text as it is typed."""
    return f"`{text}`"


def plain(text: str) -> str:
    """Running text of the code: on one line, and with what Markdown would take for HTML escaped outside of code."""
    parts = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(part if part.startswith("`") else html.escape(part, quote=False) for part in parts)


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring, each on one line."""
    return [plain(part) for part in re.split(r"\n\s*\n", text.strip()) if part.strip()]


def anchor(text: str) -> str:
    """The anchor that a heading gets, on the site and on code hosts."""
    return re.sub(r"[^\w -]", "", text.lower()).strip().replace(" ", "-")
