"""Finds the outputs of a model that the labels of an image set stand for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from edgekit.errors import DataError, as_sentences, did_you_mean
from edgekit.images.layouts.layout import Label

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
