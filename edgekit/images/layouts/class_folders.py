"""Finds splits and classes in the paths of a folder's or a zip's images."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from edgekit.images.layouts.layout import SPLITS, Contents, ListedImage, Part, Store, Terms, is_image

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
