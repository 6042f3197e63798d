"""Rows that a benchmark measured, kept in a JSON file with one of them a line."""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from edgekit.support.files import replace_text

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file yet."""
    return json.loads(path.read_text()) if path.exists() else []


def keep_rows(path: Path, rows: list[Row], keys: tuple[str, ...]) -> None:
    """Put rows in place of those that are the same in `keys`, behind the others. Runs side by side lose nothing."""
    with FileLock(path.with_name(f".{path.name}.lock")):
        new = {tuple(row[key] for key in keys) for row in rows}
        every = [row for row in read_rows(path) if tuple(row[key] for key in keys) not in new] + rows
        replace_text(path, "[\n" + ",\n".join(json.dumps(row) for row in every) + "\n]\n")
