"""Tables of supported platforms and of combinations that fail, from the file that `edgekit doctor` reads."""

from docs.generate.markdown import code, plain, table
from edgekit.config.compatibility import KnownBad, Support, load_compatibility

NOTHING = "–"  # noqa: RUF001


def supported() -> str:
    """A line for each runtime on each kind of processor."""
    heads = ("runtime", "package", "processor", "Python", "glibc", "edgekit is tested on")
    return table(heads, map(_support_cells, load_compatibility().support)) + "\n"


def _support_cells(row: Support) -> tuple[str, ...]:
    tested = ", ".join(row.tested) or NOTHING
    return row.title, code(row.package), row.machine, ", ".join(row.pythons), f"{row.glibc} or newer", tested


def known_bad() -> str:
    """A section for each combination that is known to fail."""
    return "\n\n".join(part for row in load_compatibility().known_bad for part in _section(row)) + "\n"


def _section(row: KnownBad) -> tuple[str, ...]:
    sources = ", ".join(f"[{plain(text)}]({address})" if address else plain(text) for text, address in row.links)
    facts = {
        "Packages": plain(row.versions),
        "Machines": row.board,
        "Python": plain(row.python) or "any",
        "Effect": f"{plain(row.effect)} ({row.status})",
        "Cure": plain(row.cure),
        "Sources": sources,
    }
    return f"### {row.name}", "\n".join(f"- **{label}:** {text}" for label, text in facts.items())
