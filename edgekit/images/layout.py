"""What all layouts of image sets have in common: the images and splits that they list, their labels and classes.

A set has one label for each image or several, and each label stands for an output of the model.
"""

import json
import os
import re
import shlex
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Protocol, Self, TypeVar

from edgekit.config.runtimes import Labelling
from edgekit.errors import DataError, as_sentences, did_you_mean

MAX_IMAGE_BYTES = 512 << 20
LONGEST_LABEL = 1 << 20
"""Most bytes of a file with the label of one image."""
SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".gif",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".jp2",
        ".avif",
        ".heic",
        ".heif",
    )
)
"""Suffixes of images. Pillow can't decode HEIC, so such a file is reported as unreadable, and not passed over."""
# zipfile raises RuntimeError for encryption, and its subclass NotImplementedError for an unknown compression
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)
"""Errors of a file, or a member of an archive, that can't be read."""
TRAINING_SPLITS = ("train", "training")
EVALUATION_SPLITS = ("val", "valid", "validation", "test")
"""Names of splits in the order in which one of them is chosen to evaluate on."""
SPLITS = (*TRAINING_SPLITS, *EVALUATION_SPLITS)
PATH_COLUMNS = (
    "path",
    "filepath",
    "imagepath",
    "file",
    "filename",
    "imagefile",
    "image",
    "img",
    "id",
    "imageid",
    "name",
)
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


SEPARATORS = re.compile("[|;]")
"""What separates the labels of a text. Names of classes may contain commas and spaces."""
SHOWN = 4
"""Most entries of a list that a message shows."""
OTHER_TASK = "If an image can have several labels or none, deploy with `--task multi-label`"
"""Advice for a set that doesn't have one label for each image."""


def read_labelling(
    contents: Contents, names: Sequence[str], labelling: Labelling | None = None
) -> tuple[Contents, Labelling]:
    """The set, and how many labels its images have: tuples in a set of "several", at most one label in others.

    An empty tuple says that an image has none of several labels, and None that nothing is known about it.
    `names` are the model's class names. Without a `labelling`, the set is one of "several" if any image has more than
    one label. Several labels are a list, or a text that writes one as JSON or with `|` or `;`. Lists of zeros and ones
    with an entry for each class are multi-hot. Raises DataError for several labels where one is expected, or for
    multi-hot lists with another number of entries than there are classes.
    """
    known = {*names}
    if contents.terms.label != "folder" and labelling != "optional":
        contents = _changed(contents, lambda label: _listed(label, known))
    labels = [image.label for part in contents.parts for image in part.images]
    lists = [label for label in labels if isinstance(label, tuple) and label]
    if lists or labelling == "several":
        classes = len(contents.classes or names)
        width = _width(lists, classes)
        if width not in (None, classes):
            raise DataError(
                f"the labels of '{contents.parts[0].path}' are lists of {width} zeros and ones for {classes} classes",
                valid=f"lists of {classes} entries, or lists of the names or indices of classes",
                fix="Correct the labels",
            )
        contents = _changed(contents, _without_repetitions if width is None else _ones)
    several = [(part, image) for part in contents.parts for image in part.images if len(as_tuple(image.label)) > 1]
    labelling = labelling or ("several" if several else "one")
    if labelling == "several":
        return contents, labelling
    if several:
        part, image = several[0]
        listed = as_tuple(image.label)
        shown = ", ".join(map(repr, listed[:SHOWN])) + (", …" if len(listed) > SHOWN else "")
        raise DataError(
            f"'{part.path}' has {len(several)} images with several labels, such as '{image.name}': {shown}",
            valid="one label for each image",
            fix=f"Leave one label for each image. {OTHER_TASK}",
        )
    return _changed(contents, lambda label: next(iter(as_tuple(label)), None)), labelling


def _changed(contents: Contents, change: Callable[[Labels], Labels]) -> Contents:
    def changed(image: ListedImage) -> ListedImage:
        label = None if image.label is None else change(image.label)
        return image if label is image.label else ListedImage(image.name, label)

    return replace(
        contents, parts=tuple(replace(part, images=tuple(map(changed, part.images))) for part in contents.parts)
    )


def _listed(label: Labels, known: set[str]) -> Labels:
    """The labels that a text lists. The name of a class is one label, whatever it contains."""
    if not isinstance(label, str) or label in known:
        return label
    if label.startswith("["):
        try:
            return read_label(json.loads(label))
        except ValueError:
            return label
    parts = [part.strip() for part in SEPARATORS.split(label)]
    return tuple(filter(None, parts)) if len(parts) > 1 else label


def _width(lists: Sequence[tuple[object, ...]], classes: int) -> int | None:
    """Number of entries of multi-hot lists; None for lists of labels.

    [0, 1] in a set of more than two classes lists two of them, unless another image's has the same entry twice.
    """
    lengths = {len(labels) for labels in lists}
    if len(lengths) != 1 or not {str(entry) for labels in lists for entry in labels} <= {"0", "1"}:
        return None
    (width,) = lengths
    repeats = any(len({*labels}) < width for labels in lists)
    return width if width > 1 and (width == classes or repeats) else None


def _ones(label: Labels) -> Labels:
    """The positions of the ones in a multi-hot list."""
    return tuple(index for index, entry in enumerate(as_tuple(label)) if str(entry) == "1")


def _without_repetitions(label: Labels) -> Labels:
    """The labels of an image, each once."""
    return tuple(dict.fromkeys(as_tuple(label)))


NUMBERED = "Number the labels from 0, or write the names of the classes"


@dataclass(frozen=True)
class LabelledSet:
    """The labels of a set, which are texts or indices."""

    path: Path
    term: str
    """What a label is, in the singular: "folder" or "label"."""
    present: frozenset[Label]
    """The labels that images have."""
    names: tuple[str, ...]
    """Names of the classes: those of labels that are indices, in their order, or else the sorted labels."""
    numbered: bool
    """Whether the set gives the order of `names`, so that it is more than alphabetical."""


def class_indices(images: LabelledSet, labels: Sequence[str]) -> tuple[dict[Label, int], bool]:
    """The output of each label, and whether that is only assumed from the order of the classes.

    `labels` are the model's class names. Labels that are integers, or digits without being names, are indices. Raises
    DataError for labels that are not among the classes.
    """
    numbers = _numbers(images, labels)
    if numbers is None:
        names = {label: str(label) for label in images.present}
    elif images.numbered and len(images.names) > max(numbers.values()):
        names = {label: images.names[number] for label, number in numbers.items()}
    else:
        return _in_range(images, numbers, len(labels)), False
    indices, by_order = _indices_of_names(images, sorted({*names.values()}), labels)
    return {label: indices[name] for label, name in names.items()}, by_order


def _match_names(images: LabelledSet, present: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """The index of each label in `names`, whatever its case. Raises DataError for one that is not among them."""
    matched: dict[str, int] = {}
    for spelling in (str, _plain):
        matched = _positions(present, names, spelling)
        if len(matched) == len(present):
            return matched
    unknown = [name for name in present if name not in matched]
    listed = ", ".join(f"'{name}'" for name in unknown[:8]) + (" …" if len(unknown) > 8 else "")
    are = "class folders in" if images.term == "folder" else f"{images.term}s in"
    raise DataError(
        f"{len(unknown)} of the {len(present)} {are} '{images.path}' are not among the model's {len(names)} "
        f"classes: {listed}",
        fix=as_sentences(
            did_you_mean(unknown[0], names),
            f"Name the {images.term}s after the classes, or list the classes in order with --labels FILE",
        ),
    )


@lru_cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet ids of ImageNet-1K, in the order of the class indices."""
    return tuple((files("edgekit") / "_assets" / "imagenet_wnids.txt").read_text("utf-8").splitlines())


def _numbers(images: LabelledSet, labels: Sequence[str]) -> dict[Label, int] | None:
    """The labels as numbers if they are indices. The names of folders always count as names of classes."""
    texts = [label for label in images.present if isinstance(label, str)]
    if texts and (images.term == "folder" or not all(text.isdecimal() for text in texts) or {*texts} <= {*labels}):
        return None
    return {label: int(label) for label in images.present}


def _in_range(images: LabelledSet, numbers: Mapping[Label, int], classes: int) -> dict[Label, int]:
    wrong = sorted(number for number in numbers.values() if not 0 <= number < classes)
    if wrong:
        raise DataError(
            f"'{images.path}' has the label {wrong[-1]}, but the model has {classes} classes",
            valid=f"labels from 0 to {classes - 1}, or the names of the classes",
            fix=NUMBERED,
        )
    return dict(numbers)


def _indices_of_names(
    images: LabelledSet, present: Sequence[str], labels: Sequence[str]
) -> tuple[dict[str, int], bool]:
    wnids = imagenet_wnids()
    if len(labels) == len(wnids) and {*present} <= {*wnids}:
        return {name: wnids.index(name) for name in present}, False
    order = {name: index for index, name in enumerate(images.names)}
    if len(order) == len(labels) and {*present} <= {*order}:
        known = _positions(images.names, labels, _plain)
        # Classes that the set numbers are the model's unless a name contradicts that.
        agree = images.numbered and len(known) < len(labels) and all(order[name] == known[name] for name in known)
        if not known or agree:
            return {name: order[name] for name in present}, not known
    return _match_names(images, present, labels), False


def _positions(present: Sequence[str], names: Sequence[str], spelling: Callable[[str], str]) -> dict[str, int]:
    """Index of each label whose name, in this spelling, is that of exactly one class."""
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(spelling(name), []).append(index)
    candidates = {name: indices.get(spelling(name), []) for name in present}
    return {name: places[0] for name, places in candidates.items() if len(places) == 1}


def _plain(name: str) -> str:
    return name.replace("_", " ").casefold()
