"""Storage of a data set's files: a folder, or a zip that is read without unpacking it."""

import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from edgekit.errors import DataError

MAX_IMAGE_BYTES = 512 << 20
LAYOUT = "a folder or a zip with one folder of images for each class"
"""Valid data sets, for error messages."""


class Store(Protocol):
    """Access to files by their path relative to the data set, with `/`."""

    def names(self) -> Iterator[str]: ...

    def read(self, name: str) -> bytes: ...


def open_store(path: Path) -> Store:
    """Open a folder, a zip, or a folder in a zip (`images.zip/val`). Raises DataError if the path is none of these."""
    if os.path.isdir(path):
        return _Folder(path)
    for place in (path, *path.parents):
        if os.path.isfile(place):
            inner = path.relative_to(place).as_posix()
            store = _Zip(place, "" if inner == "." else f"{inner}/")
            try:
                store.archive()
            except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
                raise DataError(f"'{place}' is not a folder or a zip: {error}", valid=LAYOUT) from error
            return store
    raise DataError(f"'{path}' doesn't exist", valid=LAYOUT)


@dataclass(frozen=True)
class _Folder:
    root: Path

    def names(self) -> Iterator[str]:
        for folder, inner, file_names in os.walk(self.root, onerror=_refuse, followlinks=True):
            # Following a link to a folder that contains the link would never end.
            inner[:] = [name for name in inner if not _is_loop(os.path.join(folder, name))]
            place = Path(folder).relative_to(self.root)
            yield from ((place / name).as_posix() for name in file_names)

    def read(self, name: str) -> bytes:
        path = self.root / name
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_IMAGE_BYTES:
            raise OSError(f"not a regular file of at most {MAX_IMAGE_BYTES} bytes")
        return path.read_bytes()


@dataclass(frozen=True)
class _Zip:
    file: Path
    prefix: str

    def archive(self) -> zipfile.ZipFile:
        return _zip_of_process(self.file, os.getpid())

    def names(self) -> Iterator[str]:
        for name in self.archive().namelist():
            if name.startswith(self.prefix) and not name.endswith("/"):
                yield name[len(self.prefix) :]

    def read(self, name: str) -> bytes:
        archive = self.archive()
        member = archive.getinfo(self.prefix + name)
        if member.file_size > MAX_IMAGE_BYTES:
            raise OSError(f"its uncompressed size exceeds {MAX_IMAGE_BYTES} bytes")
        return archive.read(member)


@lru_cache(maxsize=8)
def _zip_of_process(file: Path, pid: int) -> zipfile.ZipFile:
    """An open zip for this process. Forked processes would share a file position, so each opens its own."""
    return zipfile.ZipFile(file)


def _is_loop(folder: str) -> bool:
    return os.path.islink(folder) and Path(os.path.realpath(os.path.dirname(folder))).is_relative_to(
        os.path.realpath(folder)
    )


def _refuse(error: OSError) -> None:
    raise DataError(f"can't list '{error.filename}': {error.strerror}") from error
