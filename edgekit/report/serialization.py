"""Conversion of documents to JSON and back, and their JSON schema. The dataclasses are the schema."""

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec

from edgekit.errors import InputError, all_printable
from edgekit.report.document import Report
from edgekit.report.figure import all_figures
from edgekit.support.files import read_regular

T = TypeVar("T")


def to_json(document: Any) -> str:
    """A document as indented JSON. Raises ValueError for NaN and infinity, which JSON cannot represent."""
    return json.dumps(msgspec.to_builtins(document), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def parse(text: str | bytes, kind: type[T], what: str) -> T:
    """The document in a JSON text from elsewhere, whose texts are made printable.

    Raises InputError with `what` and the place if the text does not fit the type, or has a number beyond `LARGEST`.
    """
    try:
        plain = json.loads(text, parse_int=_number, parse_float=_number, parse_constant=_number)
        return msgspec.convert(all_printable(plain), kind)
    except (ValueError, RecursionError) as error:  # includes those of msgspec and of text that isn't UTF-8
        raise InputError(
            f"{what} is not a valid {kind.__name__}: {error}", fix="Run the command that wrote it again"
        ) from error


LARGEST = 2**64
"""Largest number in a document from elsewhere: seeds reach it, and no measurement comes near."""


def _number(text: str) -> int | float:
    if not abs(value := float(text)) <= LARGEST:
        raise ValueError(f"it contains the number {text[:20]}")
    return int(text) if text.lstrip("-").isdigit() else value


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


REPORT_FILE = "report.json"
MOST_BYTES = 256 << 20
"""Size of a report that is not read any more. One of 1,000 classes has a few megabytes."""


def report_schema() -> dict[str, Any]:
    """The JSON schema (2020-12) of report.json, with a description of each field; of a figure, title, meaning, unit."""
    schema = schema_of(Report)
    definitions = schema["$defs"]
    for figure in all_figures():
        *parents, name = figure.path.split(".")
        properties = definitions["Row"]["properties"]
        for parent in parents:
            properties = definitions[_name_of_definition(properties[parent])]["properties"]
        unit = f" (shown in {figure.unit})" if figure.unit else ""
        properties[name]["description"] = f"{figure.title}: {figure.meaning}{unit}"
    return schema


def _name_of_definition(entry: dict[str, Any]) -> str:
    """Name of the definition that a property refers to, whether or not the property may be null."""
    references = [choice["$ref"] for choice in entry.get("anyOf", [entry]) if "$ref" in choice]
    return str(references[0]).rsplit("/", 1)[-1]


def load_report(path: Path) -> Report:
    """The report in a run folder or in a report.json. Raises InputError if there is none, or it is not valid."""
    file = path / REPORT_FILE if path.is_dir() else path
    try:
        content = read_regular(file, MOST_BYTES)
    except OSError as error:
        reason = f"has no readable report: {error.strerror or error}" if path.exists() else "doesn't exist"
        raise InputError(f"'{path}' {reason}", fix="Give a run folder that `edgekit deploy` wrote") from error
    return parse(content, Report, f"'{file}'")
