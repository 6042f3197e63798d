"""The schema of report.json, from the dataclasses and the table of figures, and its loader."""

from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.report.document import Report
from edgekit.report.json_schema import schema_of
from edgekit.report.row import all_figures
from edgekit.report.serialization import parse

FILE = "report.json"


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
    file = path / FILE if path.is_dir() else path
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(
            f"'{path}' has no readable report: {error}", fix="Give a run folder that `edgekit deploy` wrote"
        ) from error
    return parse(content, Report, f"'{file}'")
