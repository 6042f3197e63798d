"""A zip with one folder of images for each class. It is not unpacked."""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Self

from edgekit.errors import DataError
from edgekit.images.layouts.class_folders import TERMS, class_folders
from edgekit.images.layouts.folder import Folder
from edgekit.images.layouts.layout import MAX_IMAGE_BYTES, Contents, Terms


@dataclass(frozen=True)
class Zip:
    """A zip, or a folder in a zip (`images.zip/val`), which is laid out as a `Folder`."""

    file: Path
    prefix: str
    """Start of the names of the members, which ends with `/` unless it is empty."""
    description: ClassVar[str] = Folder.description
    terms: ClassVar[Terms] = TERMS

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set of a zip, whatever its suffix."""
        if not os.path.isfile(place):
            return None
        opened = cls(place, f"{inner}/" if inner else "")
        try:
            opened._archive()
        except (zipfile.BadZipFile, ValueError, NotImplementedError):
            return None
        except OSError as error:
            raise DataError(f"can't read '{place}': {error.strerror or error}") from error
        return opened

    def contents(self) -> Contents:
        """List the images of the zip."""
        path = self.file / self.prefix.rstrip("/")
        return class_folders(path, self._names(), lambda folder: self._inside(folder))

    def read(self, name: str) -> bytes:
        """The bytes of the member with this path relative to the folder in the zip."""
        archive = self._archive()
        member = archive.getinfo(self.prefix + name)
        if member.file_size > MAX_IMAGE_BYTES:
            raise OSError(f"its uncompressed size exceeds {MAX_IMAGE_BYTES} bytes")
        return archive.read(member)

    def _names(self) -> Iterator[str]:
        for name in self._archive().namelist():
            if name.startswith(self.prefix) and not name.endswith("/"):
                yield name[len(self.prefix) :]

    def _inside(self, folder: str) -> "Zip":
        return Zip(self.file, f"{self.prefix}{folder}/" if folder else self.prefix)

    def _archive(self) -> zipfile.ZipFile:
        return _zip_of_process(self.file, os.getpid())


@lru_cache(maxsize=8)
def _zip_of_process(file: Path, pid: int) -> zipfile.ZipFile:
    """An open zip for this process. Forked processes would share a file position, so each opens its own."""
    return zipfile.ZipFile(file)
