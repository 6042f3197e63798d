"""The contract of a layout, the images and splits that it lists, and what layouts have in common."""

import json
import os
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol, Self, TypeVar

from edgekit.errors import DataError

MAX_IMAGE_BYTES = 512 << 20
LONGEST_LABEL = 1 << 20
"""Most bytes of a file with the label of one image."""
SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2",
        ".avif", ".heic", ".heif",
    )
)  # fmt: skip
"""Suffixes of images. Pillow can't decode HEIC, so such a file is reported as unreadable, and not passed over."""
# zipfile raises RuntimeError for encryption, and its subclass NotImplementedError for an unknown compression
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)
"""Errors of a file, or a member of an archive, that can't be read."""
TRAINING_SPLITS = ("train", "training")
EVALUATION_SPLITS = ("val", "valid", "validation", "test")
"""Names of splits in the order in which one of them is chosen to evaluate on."""
SPLITS = (*TRAINING_SPLITS, *EVALUATION_SPLITS)
PATH_COLUMNS = (
    "path", "filepath", "imagepath", "file", "filename", "imagefile", "image", "img", "id", "imageid", "name",
)  # fmt: skip
LABEL_COLUMNS = ("label", "class", "category", "target", "labels", "classname", "cls")
IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "imagebytes", "bytes", "pixels")
"""Names of columns as `plain_column` writes them; the first one that a table has is used."""

Label = str | int
"""A class of an image: its name, or its index."""
Labels = Label | tuple[Label, ...] | None
"""What a set states about the classes of an image: one, a list of them, which may be empty, or nothing."""


@dataclass(frozen=True, slots=True)
class ListedImage:
    """An image: its name in the part of the set that contains it, unique and with `/`; and what is its label."""

    name: str
    label: Labels


class Store(Protocol):
    """Reads images by name. Threads can share it, and so can processes, which pickle or fork it."""

    def read(self, name: str) -> bytes:
        """The bytes of an image's file. Raises one of `UNREADABLE`."""
        ...


@dataclass(frozen=True)
class Part:
    """One split of a set, or the whole of a set without splits, for which `split` is empty."""

    split: str
    path: Path
    """Path with which `--data` names this part alone."""
    images: tuple[ListedImage, ...]
    store: Store


@dataclass(frozen=True)
class Terms:
    """Words of a layout for messages."""

    label: str
    """What gives an image its class, in the singular."""
    unlabelled: str
    """What is wrong with an image without a class."""
    fix: str
    """What to do about images without a class."""


@dataclass(frozen=True)
class Contents:
    """The parts of a set. It has several only if they are splits."""

    parts: tuple[Part, ...]
    terms: Terms
    classes: tuple[str, ...] = ()
    """Names of the classes for labels that are indices, if the set has them."""


class Layout(Protocol):
    """An image set in one layout."""

    description: ClassVar[str]
    """The layout as part of a sentence that lists valid sets."""

    @classmethod
    def open(cls, place: Path, inner: str) -> Self | None:
        """The set at a path that exists or is a pattern of shards, or None if it has another layout.

        `inner` is what follows the path in the user's argument, such as "val" in `images.zip/val`; mostly it is empty.
        Lists no images. Raises DataError for a set of this layout that can't be used, and MissingExtraError for a
        layout whose package is not installed.
        """
        ...

    def contents(self) -> Contents:
        """List the images. Raises DataError for a set that is damaged."""
        ...


_ESCAPE = re.compile(rb"\\x([89a-f][0-9a-f])")


def as_text(name: str) -> str:
    """A file's path in a set, with escapes such as `\\xe9` for bytes that aren't UTF-8, which no document can have."""
    return os.fsencode(name).decode(errors="backslashreplace")


def file_in(root: Path, name: str) -> Path:
    """The file or folder below `root` that has this path in the set."""
    path = root / name
    if "\\x" not in name or path.exists():
        return path
    return root / os.fsdecode(_ESCAPE.sub(lambda escape: bytes.fromhex(escape[1].decode()), name.encode()))


def as_tuple(label: Labels) -> tuple[Label, ...]:
    """The labels of an image, however many it has."""
    return label if isinstance(label, tuple) else () if label is None else (label,)


def read_label(value: Any) -> Labels:
    """The label, or the list of labels, of a raw value: a text, a number, or a list, array or tensor of them.

    An empty text is an empty list, and a negative number stands for an unknown label. Entries of a list may be booleans
    or 0.0 and 1.0, as in a multi-hot vector. Raises ValueError for a value that states no label.
    """
    if hasattr(value, "shape") and hasattr(value, "tolist"):  # of numpy or torch
        value = value.item() if tuple(value.shape) in ((), (1,)) else value.tolist()
    if isinstance(value, set | frozenset):
        value = sorted(value, key=str)
    if isinstance(value, list | tuple):
        return tuple(_entry(each) for each in value)
    if isinstance(value, str):
        return value.strip() or ()
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"a label is {value!r}")
    return value if value >= 0 else None


def _entry(value: Any) -> Label:
    """One entry of a list of labels."""
    if isinstance(value, bool | float) and value in (0, 1):
        return int(value)
    label = None if isinstance(value, bool) else read_label(value)
    if label is None or isinstance(label, tuple):
        raise ValueError(f"a list of labels contains {value!r}")
    return label


def label_in_json(content: bytes) -> Labels:
    """The label, or the list of labels, that a JSON object has under a usual key; None without any."""
    try:
        document = json.loads(content)
        return read_label(document[find_column([*document], LABEL_COLUMNS)])
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def is_visible(name: str) -> bool:
    """Whether this is neither a hidden file, nor a resource fork of macOS, nor a path that leads out of the set."""
    path = PurePosixPath(name)
    return not path.is_absolute() and not any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def is_image(name: str) -> bool:
    """Whether a path in a set is that of an image."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES and is_visible(name)


def plain_column(name: str) -> str:
    """A column's name in lower case, without underscores, hyphens and spaces."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def find_column(columns: Sequence[str], wanted: Iterable[str]) -> str | None:
    """The column with the first of the wanted names, or None."""
    names = {plain_column(column): column for column in reversed(columns)}
    return next((names[name] for name in wanted if name in names), None)


T = TypeVar("T")


def by_split(
    items: Iterable[T], split_of: Callable[[T], str], place: Path, inner: str
) -> list[tuple[str, Path, list[T]]]:
    """(split, path that names it, its items) of each split in the order of its name, or of the split `inner` alone.

    Items that all have the same split, or none, are one set without splits. Raises DataError if there is no split
    `inner`, or if only some items have a split.
    """
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(split_of(item), []).append(item)
    named = sorted(filter(None, groups))
    if inner:
        if inner not in groups:
            raise DataError(
                f"'{place}' has no split '{inner}'",
                valid=", ".join(named) or "the whole set, because it has no splits",
                fix=f"Run with `--data {shlex.quote(str(place / named[0] if named else place))}`",
            )
        return [("", place / inner, groups[inner])]
    if len(groups) <= 1:
        return [("", place, [item for group in groups.values() for item in group])]
    if unknown := sorted(name for name in groups if name.casefold() not in SPLITS):
        has = f"have the split '{unknown[0]}'" if unknown[0] else "have no split"
        raise DataError(
            f"{len(groups[unknown[0]])} entries of '{place}' {has}, and others have '{named[-1]}'",
            valid=", ".join(SPLITS),
            fix="Name the split of every entry",
        )
    return [(split, place / split, groups[split]) for split in sorted(groups)]
