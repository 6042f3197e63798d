"""Labelled image sets: one folder of images for each class, in a folder or in a zip that is read in place."""

import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib.resources import files
from pathlib import Path, PurePosixPath

from PIL import Image

from edgekit.errors import DataError, ImageError
from edgekit.images.preprocess import open_image
from edgekit.images.stores import Store, open_store

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
)
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: its path relative to the data set (with `/`), the model's class index, and its class folder."""

    name: str
    label: int
    class_name: str


@dataclass(frozen=True)
class Dataset:
    """Labelled images sorted by name; usable from several threads and, pickled or forked, from several processes."""

    path: Path
    samples: tuple[Sample, ...]
    _store: Store

    def read(self, sample: Sample) -> bytes:
        """The file's bytes; raises ImageError naming the data set and the sample."""
        try:
            return self._store.read(sample.name)
        # zipfile raises RuntimeError for an encrypted member, NotImplementedError (one too) for an unknown compression
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
            raise ImageError(f"can't read image '{self.path}/{sample.name}': {error}") from error

    def image(self, sample: Sample) -> Image.Image:
        """The image as RGB; raises ImageError naming the data set and the sample."""
        return open_image(self.read(sample), f"{self.path}/{sample.name}")


def open_dataset(path: str | os.PathLike[str], labels: Sequence[str], folders: Sequence[str] | None = None) -> Dataset:
    """List the images of a folder, a zip, or a folder inside a zip (`images.zip/val`), with their class indices.

    `labels` are the model's class names in order; `folders`, where known, the folder name of each class in that order.
    Without it, folders are ImageNet wnids of a model with 1,000 classes, or else labels, or else, if none is a label
    and there are as many folders as classes, the classes in sorted order. Raises DataError if nothing fits.
    """
    path = Path(path)
    store = open_store(path)
    images = sorted({name for name in store.names() if _is_image(name)})
    if not images:
        raise DataError(f"'{path}' holds no images: give a folder or a zip with one folder of images for each class")
    depth = _depth_of_classes(images)
    parts = [name.split("/") for name in images]
    loose = [name for name, part in zip(images, parts, strict=True) if len(part) == depth + 1]
    if loose:
        raise DataError(
            f"'{path}' has {len(loose)} images outside a class folder, such as '{loose[0]}': "
            "put each image in the folder of its class"
        )
    found = sorted({part[depth] for part in parts})
    if _SPLITS.issuperset(name.casefold() for name in found):
        inner = "/".join([str(path), *parts[0][:depth], found[-1]])
        raise DataError(f"'{path}' holds the splits {', '.join(found)}: choose one, such as --data {inner}")
    indices = _class_indices(path, found, labels, folders)
    samples = (Sample(name, indices[part[depth]], part[depth]) for name, part in zip(images, parts, strict=True))
    return Dataset(path, tuple(samples), store)


def _class_indices(
    path: Path, found: list[str], labels: Sequence[str], folders: Sequence[str] | None
) -> dict[str, int]:
    """The class index of each folder found."""
    if folders is not None:
        return _match(path, found, folders)
    wnids = imagenet_wnids()
    if len(labels) == len(wnids) and set(found) <= set(wnids):
        return {name: wnids.index(name) for name in found}
    if len(found) == len(labels) and not _positions(found, labels, _plain):
        return {name: index for index, name in enumerate(found)}
    return _match(path, found, labels)


def _match(path: Path, found: list[str], names: Sequence[str]) -> dict[str, int]:
    matched: dict[str, int] = {}
    for spelling in (str, _plain):
        matched = _positions(found, names, spelling)
        if len(matched) == len(found):
            return matched
    missing = [name for name in found if name not in matched]
    listed = ", ".join(f"'{name}'" for name in missing[:8]) + (" …" if len(missing) > 8 else "")
    near = get_close_matches(missing[0], names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise DataError(
        f"{len(missing)} of the {len(found)} class folders in '{path}' don't name one of the model's {len(names)} "
        f"classes: {listed}.{hint} Name the folders as the classes, or give the classes in order with --labels FILE"
    )


def _positions(found: Sequence[str], names: Sequence[str], spelling: Callable[[str], str]) -> dict[str, int]:
    """The index of each folder that names exactly one class in this spelling."""
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(spelling(name), []).append(index)
    candidates = {name: indices.get(spelling(name), []) for name in found}
    return {name: places[0] for name, places in candidates.items() if len(places) == 1}


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()


@lru_cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1K; a class's index is its place."""
    return tuple((files("edgekit") / "_assets" / "imagenet_wnids.txt").read_text("utf-8").splitlines())


def _is_image(name: str) -> bool:
    """Hidden files, macOS's resource forks and zip members that point elsewhere are left out."""
    path = PurePosixPath(name)
    if path.is_absolute() or any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return False
    return path.suffix.lower() in SUFFIXES


def _depth_of_classes(images: Sequence[str]) -> int:
    """How many folders to pass before the class folders: a lone folder that holds only folders is a wrapper."""
    parts = [name.split("/") for name in images]
    shortest = min(len(part) for part in parts)
    depth = 0
    while shortest >= depth + 3 and len({part[depth] for part in parts}) == 1:
        depth += 1
    return depth
