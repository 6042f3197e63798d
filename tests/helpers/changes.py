"""Changes of single fields, found by introspection, for tests that every field of a value has an effect."""

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec


def changes(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a value in which one field differs, each with the field's path, such as "network.preprocessing.mean".

    Looks into dataclasses and msgspec structs, also as the first element of a tuple. Copies aren't validated.
    """
    if is_dataclass(value):
        for each in fields(value):
            for path, changed in changes(getattr(value, each.name)):
                other = copy(value)
                object.__setattr__(other, each.name, changed)
                yield f"{each.name}.{path}".rstrip("."), other
    elif isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            for path, changed in changes(getattr(value, name)):
                yield f"{name}.{path}".rstrip("."), msgspec.structs.replace(value, **{name: changed})
    else:
        yield "", _other(value)
        if isinstance(value, tuple) and value and is_dataclass(value[0]):
            yield from ((path, (changed, *value[1:])) for path, changed in changes(value[0]))


def _other(value: Any) -> Any:
    """Another value, of the same type if there is one."""
    if value is None or isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, str):
        return f"{value} changed"
    if isinstance(value, tuple | list):
        return (*value, "changed")
    if isinstance(value, Mapping):
        return {**value, "changed": "changed"}
    raise TypeError(f"a field has a value of type {type(value).__name__}, which this helper can't change")
