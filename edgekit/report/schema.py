"""report.json against schema.json."""

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgekit.errors import InputError
from edgekit.support.libraries import import_needed

FILE = "report.json"
SHOWN = 5


def validate(report: dict[str, Any]) -> None:
    """Checks a report against schema.json.

    Raises InputError naming the places that are wrong, MissingExtraError without the jsonschema package.
    """
    jsonschema = import_needed("jsonschema", "build")
    errors = sorted(jsonschema.Draft202012Validator(_schema()).iter_errors(report), key=lambda e: e.json_path)
    found = [f"{error.json_path}: {_short(error.message)}" for error in errors]
    if not found:
        try:
            json.dumps(report, allow_nan=False)
        except (ValueError, TypeError) as error:
            found = [f"$: {error}"]
    if found:
        more = f"\n  and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError("not a report of schema_version 1:\n  " + "\n  ".join(found[:SHOWN]) + more)


def load_report(path: Path) -> dict[str, Any]:
    """The validated report in a run folder, or in a report.json; InputError if it isn't one."""
    file = path / FILE if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"no report in '{path}' ({error}): give a run folder that `edgekit deploy` wrote.") from error
    except ValueError as error:
        raise InputError(f"'{file}' is not JSON: {error}") from error
    try:
        validate(report)
    except InputError as error:
        raise type(error)(f"'{file}': {error}") from error
    return report  # type: ignore[no-any-return]


@cache
def _schema() -> Any:
    return json.loads((files("edgekit.report") / "schema.json").read_text(encoding="utf-8"))


def _short(message: str, limit: int = 200) -> str:
    return message if len(message) <= limit else f"{message[: limit // 2]} … {message[-limit // 2 :]}"
