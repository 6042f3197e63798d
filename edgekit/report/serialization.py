"""Documents as JSON, and back: the dataclasses are the schema."""

import json
from typing import Any, TypeVar

import msgspec

from edgekit.errors import InputError

T = TypeVar("T")


def to_json(document: Any) -> str:
    """A document as indented JSON. Raises ValueError for NaN and infinity, which JSON does not have."""
    return json.dumps(msgspec.to_builtins(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str | bytes, kind: type[T], what: str) -> T:
    """The document in a JSON text; InputError, naming `what` and the place, where it does not fit its type."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:  # ValidationError is one, too
        raise InputError(
            f"{what} is not a valid {kind.__name__}: {error}. Run the command that wrote it again."
        ) from error


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema (2020-12) of a document's type."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
