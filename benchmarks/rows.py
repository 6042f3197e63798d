"""Stores the rows of a benchmark in a JSON file, one row per line."""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.recording import Recording, keep_recording
from edgekit.support.files import replace_text

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a file, or none if it doesn't exist."""
    return json.loads(path.read_text()) if path.exists() else []


def keep_rows(path: Path, rows: list[Row], keys: tuple[str, ...], recording: Recording | None = None) -> None:
    """Append rows, and remove old ones with equal `keys`. A lock keeps the rows of concurrent runs."""
    if recording is not None:
        name = keep_recording(path.parent, recording)
        rows = [row | {"recording": name} for row in rows]
    with FileLock(path.with_name(f".{path.name}.lock")):
        new = {tuple(row[key] for key in keys) for row in rows}
        merged = [row for row in read_rows(path) if tuple(row[key] for key in keys) not in new] + rows
        replace_text(path, "[\n" + ",\n".join(json.dumps(row) for row in merged) + "\n]\n")
