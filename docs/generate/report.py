"""The fields of report.json: each with its type, unit, meaning, and a value from a real report."""

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from docs.generate.fields import Field, fields_of
from docs.generate.markdown import anchor, code, plain, table
from edgekit.report.document import Report
from edgekit.report.row import Row, all_figures

EXAMPLE = Path(__file__).parent / "report-example.json"
"""A real report, whose lists were cut to their first entries. `docs.generate.report_example` writes it."""
WIDEST = 70
"""Characters of an example's JSON that are shown."""
NOTHING = "–"  # noqa: RUF001
UNITS_BY_TYPE = {"Milliseconds": "ms", "Seconds": "s", "Fraction": "0 to 1"}
UNITS_BY_NAME = {
    "bytes": "bytes", "celsius": "°C", "db": "dB", "macs": "MAC", "mhz": "MHz", "ms": "ms", "p50": "ms", "p90": "ms",
    "p99": "ms", "points": "percentage points", "ratio": "×", "s": "s", "speedup": "×",  # noqa: RUF001
}  # fmt: skip
"""By the last word of a field's name."""
JSON_NAMES = {str: "string", int: "integer", float: "number", bool: "true or false"}


@dataclass(frozen=True)
class Documented:
    """One field of report.json."""

    path: str
    """Keys from the top of the document, such as "results[].latency_ms.p50"."""
    json_type: str
    unit: str
    meaning: str
    """Empty where nothing describes the field, which a test forbids."""
    example: str
    optional: bool
    """Whether the field may be null or missing."""
    inner: type[Any] | None
    """The class of the objects that the field holds."""


@dataclass(frozen=True)
class Section:
    """The fields of one kind of object, where it occurs first."""

    path: str
    meaning: str
    fields: tuple[Documented, ...]


def report_sections() -> str:
    """A section with a table of fields for each object in report.json."""
    parts, by_class = [], sections()
    for section in by_class.values():
        parts += [f"## {_heading(section)}", section.meaning]
        rows = [_row(field, by_class) for field in section.fields]
        parts.append(table(("field", "meaning", "type", "example"), rows))
    return "\n\n".join(parts) + "\n"


def _row(field: Documented, by_class: Mapping[type[Any], Section]) -> tuple[str, ...]:
    """A line of a section's table; an object links to its own section."""
    name = code(field.path.rpartition(".")[2])
    if field.inner:
        name = f"[{name}](#{anchor(_heading(by_class[field.inner]))})"
    else:
        name = f'<a id="{field.path.replace("[]", "")}"></a>{name}'
    kind = field.json_type + (f", {field.unit}" if field.unit else "") + (", or null" if field.optional else "")
    return name, field.meaning, kind, field.example


def _heading(section: Section) -> str:
    return section.path or "The report"


def sections() -> dict[type[Any], Section]:
    """Every kind of object in the report, the whole report first."""
    found: dict[type[Any], Section] = {}
    _collect(Report, "", found)
    return found


def _collect(cls: type[Any], path: str, found: dict[type[Any], Section]) -> None:
    names, hints = _json_names(cls), get_type_hints(cls, include_extras=True)
    fields = fields_of(cls)
    documented = tuple(_documented(cls, field, hints[field.name], names[field.name], path) for field in fields)
    found[cls] = Section(path, plain((cls.__doc__ or "").partition("\n\n")[0]), documented)
    for field, entry in zip(fields, documented, strict=True):
        for inner, many in _objects(hints[field.name]):
            if inner not in found:
                _collect(inner, entry.path + ("[]" if many else ""), found)


def _documented(cls: type[Any], field: Field, hint: Any, name: str, parent: str) -> Documented:
    path = f"{parent}.{name}" if parent else name
    inner = next((cls for cls, _ in _objects(hint)), None)
    meaning = field.description or _meaning_of_figure(cls, field.name)
    return Documented(
        path=path,
        json_type=_type(hint),
        unit="" if inner else _unit(field),
        meaning=plain(meaning),
        example=_shown(_first(_example(), path.split("."))),
        optional=type(None) in get_args(hint),
        inner=inner,
    )


@cache
def _example() -> Any:
    return json.loads(EXAMPLE.read_text(encoding="utf-8"))


@cache
def _figures() -> Mapping[tuple[type[Any], str], str]:
    """The meanings in the table of figures, by the class and the field that hold the figure."""
    found = {}
    for figure in all_figures():
        cls: type[Any] = Row
        *parents, name = figure.path.split(".")
        for parent in parents:
            ((cls, _),) = _objects(get_type_hints(cls, include_extras=True)[parent])
        found[cls, name] = f"{figure.meaning[0].upper()}{figure.meaning[1:]}."
    return found


def _meaning_of_figure(cls: type[Any], name: str) -> str:
    """What the table of figures says of a field; empty for a field that is no figure."""
    return _figures().get((cls, name), "")


def _json_names(cls: type[Any]) -> dict[str, str]:
    if issubclass(cls, msgspec.Struct):
        return {field.name: field.encode_name for field in msgspec.structs.fields(cls)}
    return {name: name for name in get_type_hints(cls)}


def _objects(hint: Any) -> Iterator[tuple[type[Any], bool]]:
    """(class, whether it is in a list) of the objects within a type."""
    if isinstance(hint, type) and (is_dataclass(hint) or issubclass(hint, msgspec.Struct)):
        yield hint, False
    for inner in get_args(hint):
        for cls, many in _objects(inner):
            yield cls, many or get_origin(hint) is tuple


def _type(hint: Any) -> str:
    """The JSON type; what may be null is said elsewhere."""
    origin, arguments = get_origin(hint), [each for each in get_args(hint) if each is not type(None)]
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type, arguments))
    if origin is Literal:
        return " or ".join(code(json.dumps(each)) for each in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"list of {_type(arguments[0])}s"
        return f"list of {len(arguments)} {_type(arguments[0])}s"
    if origin is dict:
        return f"object with a {_type(arguments[1])} for each key"
    return JSON_NAMES.get(hint, "object")


def _unit(field: Field) -> str:
    words = field.annotation.replace("|", " ").split()
    by_type = next((unit for name, unit in UNITS_BY_TYPE.items() if name in words), None)
    return by_type or UNITS_BY_NAME.get(field.name.rpartition("_")[2], "")


def _first(value: Any, keys: list[str]) -> Any:
    """The first value at a path that is neither null nor empty, looking into lists; None without any."""
    if isinstance(value, list) and keys:
        return next((found for each in value if (found := _first(each, keys)) not in (None, [], {})), None)
    if not keys:
        return value
    return _first(value.get(keys[0].removesuffix("[]")), keys[1:]) if isinstance(value, dict) else None


def _shown(value: Any) -> str:
    """An example as JSON, cut where it is long; a dash for objects, which have sections of their own."""
    if value in (None, [], {}) or isinstance(value, dict):
        return NOTHING
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return NOTHING
    text = json.dumps(value, ensure_ascii=False)
    return code(text if len(text) <= WIDEST else text[:WIDEST] + " …")
