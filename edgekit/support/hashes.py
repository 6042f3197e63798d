"""SHA-256 of files and of plain values."""

import hashlib
import json
from pathlib import Path
from typing import Any


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: Any) -> str:
    """SHA-256 of values in hexadecimal, used as the key of a stored result that depends on them.

    The order of a mapping's keys makes no difference, and tuples count as lists. Raises TypeError for a value that JSON
    can't represent, because its text could differ between processes.
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
