"""The errors, from the docstrings of their classes."""

from collections import defaultdict
from collections.abc import Iterator

from docs.generate.markdown import anchor, code, plain, table
from edgekit import errors
from edgekit.support.progress import explain


def error_tree() -> str:
    """A line for each class that others derive from: its exit code, and those that do."""
    kinds = defaultdict(list)
    for name in errors.error_names():
        kinds[getattr(errors, name).__base__.__name__].append(_link(name))
    rows = [
        (_link(base), str(explain(base).exit_code), ", ".join(kinds[base]))
        for base in errors.error_names()
        if base in kinds
    ]
    return table(("error", "exit code", "kinds of it"), rows) + "\n"


def error_sections() -> str:
    """A section for each error: what happened, cause and cure."""
    return "\n\n".join(part for name in errors.error_names() for part in (f"## {name}", *_section(name))) + "\n"


def _section(name: str) -> Iterator[str]:
    explanation = explain(name)
    yield plain(explanation.summary)
    if explanation.cause:
        yield f"**Cause:** {plain(explanation.cause)}"
    if explanation.cure:
        yield f"**Cure:** {plain(explanation.cure)}"


def _link(name: str) -> str:
    return f"[{code(name)}](#{anchor(name)})"
