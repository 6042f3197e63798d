"""Tables of supported platforms and of combinations that fail, from the file that `edgekit doctor` reads."""

from collections import defaultdict

from docs.generate.markdown import code, plain, table
from edgekit.config.compatibility import KnownBad, load_compatibility


def supported() -> str:
    """A line for each runtime, and what the tests run on."""
    packages: dict[tuple[str, ...], list[str]] = defaultdict(list)
    tested: dict[str, list[str]] = defaultdict(list)
    for row in load_compatibility().support:
        packages[row.title, code(row.package), ", ".join(row.pythons)].append(f"{row.machine}: {row.glibc}")
        tested[f"{row.machine}: {', '.join(row.tested) or 'not tested'}"].append(row.title)
    heads = ("runtime", "package", "Python", "oldest glibc")
    lines = [f"- {', '.join(titles)} on {where}" for where, titles in tested.items()]
    rows = [(*facts, ", ".join(versions)) for facts, versions in packages.items()]
    return "\n".join((table(heads, rows), "", "What edgekit's own tests run on:", "", *lines, ""))


def known_bad() -> str:
    """A section for each combination that is known to fail."""
    return "\n\n".join(part for row in load_compatibility().known_bad for part in _section(row)) + "\n"


def _section(row: KnownBad) -> tuple[str, ...]:
    sources = ", ".join(f"[{plain(text)}]({address})" if address else plain(text) for text, address in row.links)
    python = f", Python {plain(row.python)}" if row.python else ""
    where = "" if row.board == "any" else f" on {row.board}"
    effect = f"{code(row.versions)}{python}{where}: {plain(row.effect)} ({row.status})."
    return f"### {row.name}", f"{effect} {plain(row.cure)}. Sources: {sources}."
