"""The fields of report.json that people read, from its JSON schema, and the figures, from their table."""

import json
import re
from collections.abc import Iterator
from typing import Any

from docs.generate.markdown import anchor, code, plain, table
from edgekit.report import report_schema
from edgekit.report.figure import all_figures

READ = ("Report", "Reference", "Row", "Gate", "Recommendation")
"""The objects whose fields the page shows, by their names in the schema; the schema has the others."""
OLD = re.compile(r"(; null|, and) in reports of an edgekit [^.;]*")
"""What the page says once of all fields."""


def report_sections() -> str:
    """A section with a table of fields for each object that people read."""
    definitions = report_schema()["$defs"]
    paths = dict(_paths(definitions, "Report", ""))
    figures = {figure.path.partition(".")[0] for figure in all_figures()}
    parts = []
    for name, path in paths.items():
        definition = definitions[name]
        rows = [
            (_name(key, field, paths), _meaning(field))
            for key, field in definition["properties"].items()
            if name != "Row" or key not in figures
        ]
        parts += [f"## {_heading(path)}", plain(definition["description"]), table(("field", "meaning"), rows)]
    return "\n\n".join(parts) + "\n"


def figures_table() -> str:
    """The figures of a row that tables show, those of the first columns first."""
    ranked = sorted(
        (figure for figure in all_figures() if figure.rank is not None), key=lambda figure: figure.rank or 0
    )
    rows = []
    for figure in ranked:
        interval = f"; 95 % interval in {code(figure.interval)}" if figure.interval else ""
        rows.append((code(figure.path), figure.title, figure.unit, plain(figure.meaning) + interval))
    return table(("field", "column", "unit", "meaning"), rows) + "\n"


def _paths(definitions: dict[str, Any], name: str, path: str) -> Iterator[tuple[str, str]]:
    """(name, keys from the top of the document) of an object and those within it, each where it occurs first."""
    yield name, path
    for key, field in definitions[name]["properties"].items():
        for inner, many in _objects(field):
            if inner in READ and inner != name:
                yield from _paths(definitions, inner, f"{path}.{key}".lstrip(".") + "[]" * many)


def _objects(field: dict[str, Any]) -> Iterator[tuple[str, bool]]:
    """(name, whether it is in a list) of the objects that a field may hold."""
    for choice in field.get("anyOf", [field]):
        inner = choice.get("items") or choice
        if "$ref" in inner:
            yield inner["$ref"].rpartition("/")[2], "items" in choice


def _heading(path: str) -> str:
    return path or "The report"


def _name(key: str, field: dict[str, Any], paths: dict[str, str]) -> str:
    """A key with the object that it holds: a link to its section, or in parentheses its name in the schema."""
    for name, _ in _objects(field):
        return f"[{code(key)}](#{anchor(_heading(paths[name]))})" if name in paths else f"{code(key)} ({code(name)})"
    return code(key)


def _meaning(field: dict[str, Any]) -> str:
    """The description, and the values of a field that has few, unless the description has them."""
    values = [code(json.dumps(value)) for value in field.get("enum", ())]
    text = plain(OLD.sub("", field["description"]))
    if all(value.strip("`") in text for value in values):
        return text
    return f"{text} {'One of' if len(values) > 1 else 'Always'} {', '.join(values)}."
