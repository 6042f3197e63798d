"""Stored results, and what each of them depends on: its inputs, all of whose fields are its key.

A result that takes long is stored under the key of its inputs, and reused only where the inputs have the same key. Its
module declares them as a frozen dataclass that extends `Inputs`. A new field changes the key by itself.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from edgekit.support.hashes import digest


class Inputs:
    """Base of the frozen dataclasses that declare what a stored result depends on."""

    @property
    def key(self) -> str:
        """SHA-256 over all fields, in hexadecimal.

        Fields may be JSON values, tuples, mappings, dataclasses and msgspec structs of such values. TypeError for
        others, because their text could differ between processes.
        """
        return digest(type(self).__name__, _plain(self))


def _plain(value: Any) -> Any:
    """A value as JSON, with every field of the dataclasses in it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if hasattr(value, "__struct_fields__"):  # msgspec's, which this room does without
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise TypeError(f"the keys of a mapping in the inputs of a stored result must be text: {list(value)[:3]}")
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return value  # `digest` refuses what JSON can't represent
