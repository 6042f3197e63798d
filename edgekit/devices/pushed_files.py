"""The files that this machine has pushed to devices, by their SHA-256, and the deltas between them.

A delta needs the older file on both sides. It is kept here because the run folder that it came from may be gone. A file
that is gone costs a whole copy, so the folder may be deleted at any time.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from edgekit.support.files import replacing
from edgekit.support.hashes import file_sha256

KEPT_BYTES = 10**9
"""Size of all files together from which on those unused for the longest time are deleted."""


class PushedFiles:
    """The folder of these files."""

    def __init__(self, folder: Path | None = None) -> None:
        from platformdirs import user_cache_path

        self.folder = folder or user_cache_path("edgekit", appauthor=False) / "pushed"

    def find(self, name: str) -> Path | None:
        """Path of a file, or None. Marks its use."""
        path = self.folder / name
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def keep(self, paths: Iterable[Path]) -> None:
        """Copy files here, and delete the longest unused ones of all if they are too large. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            name = file_sha256(path)
            if self.find(name) is None:
                with replacing(self.folder / name) as draft:
                    shutil.copyfile(path, draft)
        self._make_room()

    def _make_room(self) -> None:
        entries = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # another push has deleted it
                facts = path.stat()
                entries.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= KEPT_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= size
