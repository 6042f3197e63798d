"""Conversion of documents to JSON and back. The dataclasses are the schema."""

import json
from typing import Any, TypeVar

import msgspec

from edgekit.errors import InputError, all_printable

T = TypeVar("T")


def to_json(document: Any) -> str:
    """A document as indented JSON. Raises ValueError for NaN and infinity, which JSON cannot represent."""
    return json.dumps(msgspec.to_builtins(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str | bytes, kind: type[T], what: str) -> T:
    """The document in a JSON text from elsewhere, whose texts are made printable.

    Raises InputError with `what` and the place if the text does not fit the type.
    """
    try:
        plain = msgspec.json.encode(all_printable(msgspec.json.decode(text)))
        return msgspec.json.decode(plain, type=kind)
    except msgspec.DecodeError as error:  # includes ValidationError
        raise InputError(
            f"{what} is not a valid {kind.__name__}: {error}", fix="Run the command that wrote it again"
        ) from error
