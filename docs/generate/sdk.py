"""The SDK, from the signatures and docstrings of its source."""

import re
from collections.abc import Iterable, Iterator

import griffe
from griffe import DocstringSectionKind as Kind

from docs.generate.fields import package
from docs.generate.markdown import anchor, code, plain, table
from edgekit.errors import error_names

NAMES = (
    "edgekit.load",
    "edgekit.Session",
    "edgekit.follow",
    "edgekit.LiveSession",
    "edgekit.runtime.session.VerifyResult",
    "edgekit.runtime.GoldenWarning",
    "edgekit.runtime.SaturationWarning",
    "edgekit.runtime.UpdateWarning",
    "edgekit.runtime.bundle.Bundle",
    "edgekit.images.preprocess.Preprocessing",
)
"""What the page documents, by the names that an app imports."""
INNER = frozenset(
    {
        "compare_golden",
        "crop_decoded",
        "digests",
        "from_dict",
        "in_form",
        "recorded",
        "reduction",
        "shape_of",
        "to_dict",
    }
)
"""Methods that apps have no use for."""
ERRORS = re.compile(rf"`?\b({'|'.join(error_names())})\b`?")


def sdk_sections() -> str:
    """A section for each class and function."""
    seen: dict[str, str] = {}
    return "\n\n".join(_once(part, seen) for name in NAMES for part in _section(name)) + "\n"


def _once(part: str, seen: dict[str, str]) -> str:
    """A part in which one line names the arguments or errors that a list above explains in the same words."""
    meanings = dict(line.split(": ", 1) for line in part.splitlines() if line.startswith("- "))
    repeated = [name for name, meaning in meanings.items() if seen.get(name) == meaning]
    seen.update(meanings)
    for name in reversed(repeated):
        names = ", ".join(each.removeprefix("- ") for each in repeated)
        shown = f"- {names}: as above.\n" if name == repeated[0] else ""
        part = f"{part}\n".replace(f"{name}: {meanings[name]}\n", shown).rstrip("\n")
    return part


def _section(name: str) -> Iterator[str]:
    found = package()[name.removeprefix("edgekit.")]
    item = found.final_target if isinstance(found, griffe.Alias) else found
    yield f"## {name}"
    if isinstance(item, griffe.Class):
        yield from _of_class(item)
    else:
        yield from _of_function(item, name)


def _of_class(item: griffe.Class) -> Iterator[str]:
    yield from _docstring(item)
    own = sorted(
        (member for member in item.members.values() if member.has_docstring), key=lambda each: each.lineno or 0
    )
    public = [
        member
        for member in own
        if member.name == "__call__" or not (member.name.startswith("_") or member.name in INNER)
    ]
    attributes = [member for member in public if isinstance(member, griffe.Attribute)]
    if attributes:
        yield table(("attribute", "meaning"), [(code(each.name), _line(each)) for each in attributes])
    for member in public:
        if isinstance(member, griffe.Function):
            yield f"### {code(f'{item.name}.{member.name}')}"
            yield from _of_function(member, member.name)


def _of_function(item: griffe.Object, name: str) -> Iterator[str]:
    assert isinstance(item, griffe.Function)
    yield f"```py\n{item.signature(name=name).replace('(self, ', '(').replace('(self)', '()')}\n```"
    yield from _docstring(item)


def _docstring(item: griffe.Object) -> Iterator[str]:
    """The parts of a docstring: text, lists of arguments and errors, and examples."""
    assert item.docstring
    for section in item.docstring.parsed:
        match section.kind:
            case Kind.text:
                yield _linked(section.value)
            case Kind.parameters:
                yield _list("Arguments", ((code(each.name), each.description) for each in section.value))
            case Kind.returns:
                yield "**Returns:** " + " ".join(plain(each.description) for each in section.value)
            case Kind.raises:
                yield _list("Raises", ((_linked(str(each.annotation)), each.description) for each in section.value))
            case Kind.examples:
                yield from (text for _, text in section.value)
            case other:
                raise NotImplementedError(f"{item.path}: a section of the kind {other.value}")


def _list(title: str, items: Iterable[tuple[str, str]]) -> str:
    return "\n".join((f"**{title}:**\n", *(f"- {name}: {plain(text)}" for name, text in items)))


def _line(item: griffe.Object) -> str:
    assert item.docstring
    return plain(item.docstring.value)


def _linked(text: str) -> str:
    """Text in which the names of errors lead to their page."""
    return ERRORS.sub(lambda found: f"[{code(found[1])}](errors.md#{anchor(found[1])})", text)
