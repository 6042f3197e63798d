"""The errors, from what `edgekit explain` prints."""

from collections.abc import Iterator

from docs.generate.markdown import anchor, code, plain
from edgekit import errors
from edgekit.errors import EdgekitError
from edgekit.support.error_text import explain


def error_sections() -> str:
    """A section for each error: what happened, cause, cure and exit code."""
    return "\n\n".join(part for name in errors.error_names() for part in (f"## {name}", *_section(name))) + "\n"


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
