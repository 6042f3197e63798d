"""The errors, from what `edgekit explain` prints."""

from collections.abc import Iterator

from docs.generate.markdown import anchor, code, plain, table
from edgekit import errors
from edgekit.errors import EdgekitError
from edgekit.support.error_text import explain


def error_sections() -> str:
    """A table of all errors, and a section with cause and cure for each."""
    names = errors.error_names()
    parts = [table(("error", "what happened", "exit code"), map(_row, names))]
    for name in names:
        parts += [f"## {name}", *_section(name)]
    return "\n\n".join(parts) + "\n"


def _row(name: str) -> tuple[str, str, str]:
    explanation = explain(name)
    return _link(name), plain(explanation.summary), str(explanation.exit_code)


def _section(name: str) -> Iterator[str]:
    explanation = explain(name)
    yield plain(explanation.summary)
    if explanation.cause:
        yield f"**Cause:** {plain(explanation.cause)}"
    if explanation.cure:
        yield f"**Cure:** {plain(explanation.cure)}"
    base = getattr(errors, name).__base__
    kind = f", a kind of {_link(base.__name__)}" if issubclass(base, EdgekitError) else ""
    yield f"Exit code {explanation.exit_code}{kind}."


def _link(name: str) -> str:
    return f"[{code(name)}](#{anchor(name)})"
