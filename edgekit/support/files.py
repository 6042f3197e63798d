"""Write files so that an interruption leaves the old content or the new, never a part."""

import json
import os
import shutil
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
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8", newline="")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` for a new file or folder, which takes the place of `path` when the block ends.

    If the block raises, or the rename does, what was written is removed and what stood at `path` is there again. A
    killed process leaves `.NAME.tmp-PID` or `.NAME.old-PID` behind. Raises OSError.
    """
    beside, old = (path.with_name(f".{path.name}.{what}-{os.getpid()}") for what in ("tmp", "old"))
    _remove(beside)
    try:
        yield beside
        if beside.is_dir() and path.is_dir():
            _swap(beside, path, old)
        else:
            beside.replace(path)
    finally:
        _remove(beside)


def _swap(beside: Path, path: Path, old: Path) -> None:
    """Put one folder in another's place. No system call does that in one step, unless the other is empty."""
    _remove(old)
    try:
        path.rename(old)
        beside.rename(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


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
