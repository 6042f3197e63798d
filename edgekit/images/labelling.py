"""Tells sets with one label for each image from those with several, and reads lists of labels."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgekit.config.choices import Labelling
from edgekit.errors import DataError
from edgekit.images.layouts.layout import Contents, Labels, ListedImage, as_tuple, read_label

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
        contents = _changed(contents, _without_repetitions if width is None else _positions)
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


def _positions(label: Labels) -> Labels:
    """The positions of the ones in a multi-hot list."""
    return tuple(index for index, entry in enumerate(as_tuple(label)) if str(entry) == "1")


def _without_repetitions(label: Labels) -> Labels:
    """The labels of an image, each once."""
    return tuple(dict.fromkeys(as_tuple(label)))
