"""Tells sets with one label for each image from those with several, and reads lists of labels."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from edgekit.config.choices import Labelling
from edgekit.errors import DataError
from edgekit.images.layouts.layout import Contents, Labels, as_tuple, read_label

SEPARATORS = re.compile("[|;]")
"""What separates the labels of a text. Names of classes may contain commas and spaces."""
SHOWN = 4
"""Most entries of a list that a message shows."""
_FIX = "Leave one label for each image. If an image can be of several classes at once, deploy with `--task multi-label`"


def read_labelling(
    contents: Contents, names: Sequence[str], labelling: Labelling | None = None
) -> tuple[Contents, Labelling]:
    """The set, and how many labels its images have: tuples in a set of "several", at most one label in others.

    `names` are the model's class names. Without a `labelling`, the set is one of "several" if any image has a list of
    labels: a list as such, or a text that writes one as JSON or with `|` or `;`. Lists of zeros and ones with an entry
    for each class are multi-hot. Raises DataError for a list where one label is expected, or for multi-hot lists with
    another number of entries than there are classes.
    """
    known = {*names}
    if contents.terms.label != "folder":
        contents = _changed(contents, lambda label: _listed(label, known))
    listing = [(part, image) for part in contents.parts for image in part.images if isinstance(image.label, tuple)]
    labelling = labelling or ("several" if listing else "one")
    if labelling != "several":
        if listing:
            part, image = max(listing, key=lambda each: len(as_tuple(each[1].label)))
            labels = as_tuple(image.label)
            shown = ", ".join(map(repr, labels[:SHOWN])) + (", …" if len(labels) > SHOWN else "")
            raise DataError(
                f"'{part.path}' has {len(listing)} images with a list of labels, such as '{image.name}': [{shown}]",
                valid="one label for each image",
                fix=_FIX,
            )
        return contents, labelling
    classes = len(contents.classes or names)
    width = _width([image.label for _, image in listing if isinstance(image.label, tuple)], classes)
    if width not in (None, classes):
        raise DataError(
            f"the labels of '{listing[0][0].path}' are lists of {width} zeros and ones for {classes} classes",
            valid=f"lists of {classes} entries, or lists of the names or indices of classes",
            fix="Correct the labels",
        )
    return _changed(contents, (lambda label: as_tuple(label) or None) if width is None else _positions), labelling


def _changed(contents: Contents, change: Callable[[Labels], Labels]) -> Contents:
    parts = (
        replace(part, images=tuple(replace(image, label=change(image.label)) for image in part.images))
        for part in contents.parts
    )
    return replace(contents, parts=tuple(parts))


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
    """The positions of the ones in a multi-hot list; None without any."""
    return tuple(index for index, entry in enumerate(as_tuple(label)) if str(entry) == "1") or None
