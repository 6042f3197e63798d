"""SHA-256 of files, of plain values, of edgekit's own code, and of all that a stored result depends on."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: Any) -> str:
    """SHA-256 of values in hexadecimal, used as the key of a stored result that depends on them.

    The order of a mapping's keys makes no difference, and tuples count as lists. Raises TypeError for a value that JSON
    can't represent, because its text could differ between processes.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def code_sha256(rooms: tuple[str, ...]) -> str:
    """SHA-256 of edgekit's own code in these rooms. A process reads each room once."""
    return sources_sha256(Path(__file__).resolve().parent.parent, rooms)


def sources_sha256(package: Path, rooms: Iterable[str]) -> str:
    """SHA-256 of the Python files in a package's rooms. It depends on their paths inside the package only."""
    files = [file for room in rooms for file in (package / room).rglob("*.py")]
    hashes = {file.relative_to(package).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items())).encode()).hexdigest()


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
