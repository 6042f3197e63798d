"""A folder with one folder of images for each class."""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from edgekit.errors import DataError
from edgekit.images.layouts.class_folders import TERMS, class_folders
from edgekit.images.layouts.layout import MAX_IMAGE_BYTES, Contents, Terms


@dataclass(frozen=True)
class Folder:
    """A folder with one folder of images for each class, or such folders for each split."""

    root: Path
    description: ClassVar[str] = "a folder or a zip with one folder of images for each class"
    terms: ClassVar[Terms] = TERMS

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set of a folder that exists."""
        return cls(place) if not inner and os.path.isdir(place) else None

    def contents(self) -> Contents:
        """List the images of the folder. Links to folders are followed."""
        return class_folders(self.root, files_in(self.root), lambda folder: Folder(self.root / folder))

    def read(self, name: str) -> bytes:
        """The bytes of the file with this path relative to the folder."""
        path = self.root / name
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_IMAGE_BYTES:
            raise OSError(f"not a regular file of at most {MAX_IMAGE_BYTES} bytes")
        return path.read_bytes()


def files_in(root: Path) -> Iterator[str]:
    """Paths of the files in a folder and the folders below, relative to it and with `/`. DataError if one is closed."""
    for folder, inner, file_names in os.walk(root, onerror=_refuse, followlinks=True):
        # Following a link to a folder that contains the link would never end.
        inner[:] = [name for name in inner if not _is_loop(os.path.join(folder, name))]
        place = Path(folder).relative_to(root)
        yield from ((place / name).as_posix() for name in file_names)


def _is_loop(folder: str) -> bool:
    return os.path.islink(folder) and Path(os.path.realpath(os.path.dirname(folder))).is_relative_to(
        os.path.realpath(folder)
    )


def _refuse(error: OSError) -> None:
    raise DataError(f"can't list '{error.filename}': {error.strerror}") from error
