"""The JSON schema of documents with the docstrings of their fields as descriptions."""

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args, get_type_hints

import msgspec


def schema_of(kind: type[Any]) -> dict[str, Any]:
    """The JSON schema (2020-12) of a type of document."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(kind)}
    for cls in _documents(kind, set()):
        properties, names = schema["$defs"][cls.__name__]["properties"], _json_names(cls)
        for field, text in _docstrings(cls):
            properties[names[field]]["description"] = " ".join(text.split())
    return schema


def _documents(hint: Any, seen: set[type[Any]]) -> Iterator[type[Any]]:
    """The documents within a type, each once; adds them to those that were seen."""
    is_document = isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, msgspec.Struct))
    if is_document and hint not in seen:
        seen.add(hint)
        yield hint
        for inner in get_type_hints(hint).values():
            yield from _documents(inner, seen)
    for inner in get_args(hint):
        yield from _documents(inner, seen)


def _json_names(cls: type[Any]) -> dict[str, str]:
    if issubclass(cls, msgspec.Struct):
        return {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
    return {field.name: field.name for field in dataclasses.fields(cls)}


def _docstrings(cls: type[Any]) -> Iterator[tuple[str, str]]:
    """Each field with the string literal that follows it in the source, those of the base classes first."""
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("edgekit."):
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
            assert isinstance(definition, ast.ClassDef)
            for statement, follower in pairwise(definition.body):
                match statement, follower:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        yield name, text
