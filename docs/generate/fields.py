"""What the fields of a dataclass are, as its source says: type, default, docstring."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Field:
    """One field of a class."""

    name: str
    annotation: str
    """The type as the source spells it."""
    default: str | None
    description: str
    """The docstring behind the field; empty where there is none."""


def fields_of(cls: type[Any]) -> tuple[Field, ...]:
    """The fields of a dataclass or a msgspec struct, those of its base classes first."""
    merged: dict[str, Field] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("edgekit."):
            merged |= {field.name: field for field in _own_fields(base)}
    return tuple(merged.values())


def _own_fields(cls: type[Any]) -> tuple[Field, ...]:
    source = package()[f"{cls.__module__}.{cls.__qualname__}".removeprefix("edgekit.")]
    names = cls.__annotations__
    return tuple(
        Field(
            name,
            str(attribute.annotation),
            None if attribute.value is None else str(attribute.value),
            " ".join(attribute.docstring.value.split()) if attribute.docstring else "",
        )
        for name, attribute in source.attributes.items()
        if name in names
    )


@cache
def package() -> griffe.Object | griffe.Alias:
    """The source of edgekit."""
    return griffe.load("edgekit", search_paths=[ROOT], docstring_parser="google", resolve_aliases=True)
