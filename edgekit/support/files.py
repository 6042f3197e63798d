"""Write files so that an interruption leaves the old content or the new, never a part."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import OutputError


def write_json(path: Path, value: Any) -> None:
    """Write beside and rename; OutputError if that can't be done."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path):
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Write UTF-8 beside and rename: readers see the old file or the new one. Raises OSError."""
    beside = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8", newline="")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into OutputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"can't write '{path}': {reason}. Make room, or choose another place with --output DIR."
        ) from error
