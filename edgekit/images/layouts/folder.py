"""Folders with one folder of images for each class, on the disk or in a zip, which is not unpacked."""

import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Self

from edgekit.errors import DataError
from edgekit.images.layouts.layout import MAX_IMAGE_BYTES, SPLITS, Contents, ListedImage, Part, Store, Terms, is_image

TERMS = Terms("folder", "outside a class folder", "Move each image into the folder of its class")


def class_folders(path: Path, names: Iterable[str], store_of: Callable[[str], Store]) -> Contents:
    """The images among these files, whose folder is their class, by split if the upper folders are splits.

    `store_of` returns the store of a folder, "" for all of them; names in it are relative to that folder.
    """
    images = sorted({name for name in names if is_image(name)})
    depth = _depth_of_classes(images) if images else 0
    upper = {_folder(name, depth) for name in images}
    if not images or not all(name.casefold() in SPLITS for name in upper):
        return Contents((Part("", path, _listed(images, depth), store_of("")),))
    above = "/".join(images[0].split("/")[:depth])
    parts = []
    for split in sorted(upper):
        folder = f"{above}/{split}" if above else split
        inner = [name[len(folder) + 1 :] for name in images if name.startswith(f"{folder}/")]
        parts.append(Part(split, path / folder, _listed(inner, 0), store_of(folder)))
    return Contents(tuple(parts))


def _listed(images: Sequence[str], depth: int) -> tuple[ListedImage, ...]:
    return tuple(ListedImage(name, _folder(name, depth) or None) for name in images)


def _folder(name: str, depth: int) -> str:
    """The folder of an image below `depth` others; empty if the image lies directly in those."""
    parts = name.split("/")
    return parts[depth] if len(parts) > depth + 1 else ""


def _depth_of_classes(images: Sequence[str]) -> int:
    """Number of folders above the class folders. A single folder that contains only folders is a wrapper."""
    parts = [name.split("/") for name in images]
    shortest = min(len(part) for part in parts)
    depth = 0
    while shortest >= depth + 3 and len({part[depth] for part in parts}) == 1:
        depth += 1
    return depth


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
