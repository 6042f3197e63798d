"""The folder of a run: claimed once, written beside-and-rename, and what makes the same command go on."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgekit.errors import OutputError

STATE = ".edgekit"
"""Folder inside a run: marks it as one, and keeps what a resumed command reuses."""


class RunFolder:
    """A run's output folder."""

    def __init__(self, path: Path) -> None:
        """Claim `path`: new, empty, or a run already. OutputError if it holds anything else or can't be written."""
        self.path, self.state = path, path / STATE
        if path.exists() and not path.is_dir():
            raise OutputError(f"the output '{path}' is a file: give a folder with --output DIR.")
        if path.is_dir() and not self.state.is_dir() and any(path.iterdir()):
            some = ", ".join(sorted(each.name for each in path.iterdir())[:3])
            raise OutputError(
                f"the output folder '{path}' holds something else ({some}): it must be new, empty or an earlier run. "
                "Choose another with --output DIR."
            )
        with writing(path):
            self.state.mkdir(parents=True, exist_ok=True)
            probe = self.state / "writable"
            probe.write_bytes(b"")
            probe.unlink()
        for left in self.state.glob("build-*"):
            shutil.rmtree(left, ignore_errors=True)

    def remember(self, name: str, key: str, value: Any) -> None:
        """Keep a JSON value for a command that is resumed with the same key."""
        write_json(self.state / f"{name}.json", {"key": key, "value": value})

    def recall(self, name: str, key: str) -> Any:
        """What `remember` kept under this name and key, or None."""
        try:
            kept = json.loads((self.state / f"{name}.json").read_text())
        except (OSError, ValueError):
            return None
        return kept["value"] if isinstance(kept, dict) and kept.get("key") == key else None

    def forget(self) -> None:
        """The run is complete: the next one measures again."""
        for each in self.state.glob("row-*.json"):
            each.unlink()

    @contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """A folder inside the run that is gone afterwards."""
        folder = self.state / f"build-{name}-{os.getpid()}"
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write beside and rename: readers see the old file or the new one."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with writing(path):
        beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into OutputError."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"can't write '{path}': {error.strerror or error}. Choose another place with --output DIR."
        ) from error
