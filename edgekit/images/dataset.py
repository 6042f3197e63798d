"""Labelled image sets: a folder or a zip with one folder of images for each class. Zips are not unpacked."""

import os
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path, PurePosixPath

from PIL import Image

from edgekit.errors import DataError, ImageError, as_sentences, did_you_mean
from edgekit.images.preprocess import open_image
from edgekit.images.stores import LAYOUT, Store, open_store

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2")
)
_SHOWN = 4
"""Most folders that a message lists."""
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test"))


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: its path relative to the data set (with `/`), the model's class index, and its class folder."""

    name: str
    label: int
    class_name: str


@dataclass(frozen=True)
class Dataset:
    """Labelled images, sorted by name. Several threads, or processes that pickle or fork it, can use it at once."""

    path: Path
    samples: tuple[Sample, ...]
    _store: Store
    by_order: bool = False
    """Whether no class folder has the name of a class, so that the folders in sorted order are taken as the classes."""

    @property
    def assumption(self) -> str | None:
        """The outputs for which the folders are taken, in words, if only the order of the folders tells."""
        if not self.by_order:
            return None
        folders = sorted({sample.class_name for sample in self.samples})
        pairs = [f"{index} = {name}" for index, name in enumerate(folders[:_SHOWN])]
        return (
            f"the folders of '{self.path}' in alphabetical order are taken as outputs 0 to {len(folders) - 1} "
            f"({', '.join(pairs)}{', …' if len(folders) > _SHOWN else ''}). If the network was trained with another "
            "order, list its classes with `--labels FILE`"
        )

    def read(self, sample: Sample) -> bytes:
        """Bytes of the sample's file. Raises ImageError with the names of the data set and the sample."""
        try:
            return self._store.read(sample.name)
        # zipfile raises RuntimeError for encryption, and its subclass NotImplementedError for an unknown compression
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
            raise ImageError(f"can't read image '{self.path}/{sample.name}': {error}") from error

    def image(self, sample: Sample) -> Image.Image:
        """The image as RGB. Raises ImageError with the names of the data set and the sample."""
        return open_image(self.read(sample), f"{self.path}/{sample.name}")


def open_dataset(path: str | os.PathLike[str], labels: Sequence[str], folders: Sequence[str] | None = None) -> Dataset:
    """List the images of a folder, a zip, or a folder inside a zip (`images.zip/val`), with their class indices.

    `labels` are the model's class names in order; `folders`, if known, are the folder names of the classes in the same
    order. Without it, folders are ImageNet wnids if the model has 1,000 classes, or else labels. If no folder is a
    label and there are as many folders as classes, they are the classes in sorted order. Raises DataError otherwise.
    """
    path = Path(path)
    store = open_store(path)
    images = sorted({name for name in store.names() if _is_image(name)})
    if not images:
        raise DataError(f"'{path}' contains no images", valid=LAYOUT)
    depth = _depth_of_classes(images)
    parts = [name.split("/") for name in images]
    loose = [name for name, part in zip(images, parts, strict=True) if len(part) == depth + 1]
    if loose:
        raise DataError(
            f"'{path}' has {len(loose)} images outside a class folder, such as '{loose[0]}'",
            fix="Move each image into the folder of its class",
        )
    present = sorted({part[depth] for part in parts})
    if _SPLITS.issuperset(name.casefold() for name in present):
        inner = "/".join([str(path), *parts[0][:depth], present[-1]])
        raise DataError(
            f"'{path}' contains the splits {', '.join(present)} instead of classes",
            fix=f"Choose one split, such as --data {inner}",
        )
    indices, by_order = _class_indices(path, present, labels, folders)
    samples = (Sample(name, indices[part[depth]], part[depth]) for name, part in zip(images, parts, strict=True))
    return Dataset(path, tuple(samples), store, by_order)


def _class_indices(
    path: Path, present: list[str], labels: Sequence[str], folders: Sequence[str] | None
) -> tuple[dict[str, int], bool]:
    """Class index of each folder that is present, and whether it is only assumed from the order of the folders."""
    if folders is not None:
        return _match(path, present, folders), False
    wnids = imagenet_wnids()
    if len(labels) == len(wnids) and set(present) <= set(wnids):
        return {name: wnids.index(name) for name in present}, False
    if len(present) == len(labels) and not _positions(present, labels, _plain):
        return {name: index for index, name in enumerate(present)}, True
    return _match(path, present, labels), False


def _match(path: Path, present: list[str], names: Sequence[str]) -> dict[str, int]:
    matched: dict[str, int] = {}
    for spelling in (str, _plain):
        matched = _positions(present, names, spelling)
        if len(matched) == len(present):
            return matched
    unknown = [name for name in present if name not in matched]
    listed = ", ".join(f"'{name}'" for name in unknown[:8]) + (" …" if len(unknown) > 8 else "")
    raise DataError(
        f"{len(unknown)} of the {len(present)} class folders in '{path}' are not among the model's {len(names)} "
        f"classes: {listed}",
        fix=as_sentences(
            did_you_mean(unknown[0], names),
            "Name the folders after the classes, or list the classes in order with --labels FILE",
        ),
    )


def _positions(present: Sequence[str], names: Sequence[str], spelling: Callable[[str], str]) -> dict[str, int]:
    """Index of each folder whose name, in this spelling, is that of exactly one class."""
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(spelling(name), []).append(index)
    candidates = {name: indices.get(spelling(name), []) for name in present}
    return {name: places[0] for name, places in candidates.items() if len(places) == 1}


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()


@lru_cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1K, in the order of the class indices."""
    return tuple((files("edgekit") / "_assets" / "imagenet_wnids.txt").read_text("utf-8").splitlines())


def _is_image(name: str) -> bool:
    """Whether a name is that of an image, but not a hidden file, a resource fork of macOS or a path outside the zip."""
    path = PurePosixPath(name)
    if path.is_absolute() or any(part.startswith(".") or part == "__MACOSX" for part in path.parts):
        return False
    return path.suffix.lower() in SUFFIXES


def _depth_of_classes(images: Sequence[str]) -> int:
    """Number of folders above the class folders. A single folder that contains only folders is a wrapper."""
    parts = [name.split("/") for name in images]
    shortest = min(len(part) for part in parts)
    depth = 0
    while shortest >= depth + 3 and len({part[depth] for part in parts}) == 1:
        depth += 1
    return depth
