"""Labelled images: a set in any layout, whose labels have become outputs of a model, and its crops for one network."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.config.choices import Labelling
from edgekit.errors import DataError, ImageError
from edgekit.images.class_indices import LabelledSet, class_indices
from edgekit.images.decoding import open_image
from edgekit.images.labelling import OTHER_TASK, read_labelling
from edgekit.images.layouts import VALID, open_layout
from edgekit.images.layouts.in_memory import InMemory, MemoryStore
from edgekit.images.layouts.layout import (
    EVALUATION_SPLITS,
    TRAINING_SPLITS,
    UNREADABLE,
    Contents,
    Label,
    Layout,
    Part,
    Store,
    Terms,
    as_tuple,
)
from edgekit.images.preprocess import Preprocessing

ImageSet: TypeAlias = str | os.PathLike[str] | Any
"""A path of labelled images, or images in memory: a data set of torch, or an iterable of (image, label)."""
UNLABELLED = -1
"""Label of an image of which no class is known, or that has none of several labels."""
_VALID_LABELS: Mapping[Labelling, str] = {
    "one": "a label for each image",
    "several": "a list of labels for each image, which is empty for an image that has none of them",
    "optional": "a label for each image, or for none",
}
_SHOWN = 4
"""Most classes that a message lists."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: its path relative to the data set (with `/`), the model's class index, and the name of its class."""

    name: str
    label: int
    """Index of the class by which the image is chosen: of several labels, the rarest in the set."""
    class_name: str
    labels: tuple[int, ...] = ()
    """Indices of all its classes, sorted, in a set with several labels; empty in others."""

    def in_order(self, names: Sequence[str]) -> "Sample":
        """The image, of one class or of none, in a set whose classes have this order."""
        return replace(self, label=names.index(self.class_name)) if self.class_name in names else self


@dataclass(frozen=True)
class Dataset:
    """Labelled images, sorted by name. Several threads, or processes that pickle or fork it, can use it at once."""

    path: Path
    samples: tuple[Sample, ...]
    _store: Store
    class_term: str = "folder"
    """What names an image's class: "folder" or "label"."""
    assumption: str | None = None
    """The outputs for which the classes are taken, in words, if only the order of the classes tells."""
    class_names: tuple[str, ...] = ()
    """Names of the classes by index: the set's, and the model's where the set has no image of a class."""
    natural_order: tuple[str, ...] = ()
    """Names of the classes as timm numbers folders, if their alphabetical order is only assumed and is another one."""
    origin: str | None = None
    """The set of which this is a split and why this split was chosen, in words; None for a whole set."""
    labelling: Labelling = "one"
    """How many labels an image has."""

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are objects of this process, which another process may not be able to unpickle."""
        return isinstance(self._store, MemoryStore)

    def targets(self, samples: Sequence[Sample]) -> NDArray[Any]:
        """The labels of samples: int64 [N], or bool [N,classes] in a set with several. `UNLABELLED` stands for none."""
        if self.labelling != "several":
            return np.array([sample.label for sample in samples], np.int64)
        targets = np.zeros((len(samples), len(self.class_names)), np.bool_)
        for row, sample in zip(targets, samples, strict=True):
            row[[*sample.labels]] = True
        return targets

    def classes_of(self, samples: Iterable[Sample]) -> set[int]:
        """Indices of all classes that samples have."""
        several = self.labelling == "several"
        classes = {label for sample in samples for label in (sample.labels if several else (sample.label,))}
        return classes - {UNLABELLED}

    def in_order(self, names: Sequence[str]) -> "Dataset":
        """The set with its classes, which an image has one of, as outputs in another order."""
        samples = tuple(sample.in_order(names) for sample in self.samples)
        return replace(self, samples=samples, class_names=tuple(names))

    def read(self, sample: Sample) -> bytes:
        """Bytes of the sample's file. Raises ImageError with the names of the data set and the sample."""
        try:
            return self._store.read(sample.name)
        except UNREADABLE as error:
            reason = getattr(error, "strerror", None) or error  # without the path, which reports must not contain
            raise ImageError(f"can't read image '{self.path}/{sample.name}': {reason}") from error

    def image(self, sample: Sample) -> Image.Image:
        """The image as RGB. Raises ImageError with the names of the data set and the sample."""
        return open_image(self.read(sample), f"{self.path}/{sample.name}")


@dataclass(frozen=True)
class Datasets:
    """Images to calibrate and to evaluate on: two splits of a set, or twice the same object for a set without splits.

    Images of a set without splits are shared out between the two purposes when they are selected.
    """

    calibration: Dataset
    evaluation: Dataset
    origin: str | None = None
    """The splits and what each is for, in words; None for a set without splits."""


def open_datasets(source: ImageSet, labels: Sequence[str], labelling: Labelling | None = None) -> Datasets:
    """List the images of a set in any layout, or of a part of one (`images.zip/val`), with their class indices.

    The split train, if there is one, is for the calibration, and val or test for the evaluation. `labels` are the
    model's class names in order. Those of images are ImageNet wnids if the model has 1,000 classes, or class names, or
    indices. If no label is the name of a class and there are as many different ones as classes, they are the classes in
    sorted order, or in the order that the set gives. Raises DataError otherwise.

    Without a `labelling`, the set has "several" labels if any image has a list of them. With "optional", the classes
    are the set's own, in sorted order, and no image needs a label.
    """
    listed = _ListedSet(source, labels, labelling)
    if listed.training is listed.evaluation:
        whole = listed.dataset(listed.training)
        return Datasets(whole, whole)
    return Datasets(
        listed.dataset(listed.training),
        listed.dataset(listed.evaluation),
        f"{listed.splits}: calibrating on {listed.training.split}, evaluating on {listed.evaluation.split}; "
        "--calibration-data and --data choose others",
    )


def open_dataset(source: ImageSet, labels: Sequence[str], labelling: Labelling | None = None) -> Dataset:
    """The images to evaluate on: val or test of a set with splits, or the whole set. Otherwise as `open_datasets`."""
    listed = _ListedSet(source, labels, labelling)
    evaluation = listed.dataset(listed.evaluation)
    if listed.training is listed.evaluation:
        return evaluation
    command = f"`--data {shlex.quote(str(listed.training.path))}`"
    origin = f"{listed.splits}: evaluating on {listed.evaluation.split}; {command} takes another one"
    return replace(evaluation, origin=origin)


def open_calibration(source: ImageSet, labels: Sequence[str], labelling: Labelling | None = None) -> Dataset:
    """The images to calibrate on: train of a set with splits, or the whole set. All of them may be without a label."""
    listed = _ListedSet(source, labels, labelling)
    if not _has_labels(listed.training):
        return listed.unlabelled(listed.training)
    return listed.dataset(listed.training)


class _ListedSet:
    """The images of a set, and its parts for calibration and evaluation, which may be the same one."""

    def __init__(self, source: ImageSet, labels: Sequence[str], labelling: Labelling | None) -> None:
        layout: Layout | InMemory
        is_path = isinstance(source, str | os.PathLike)
        self._path = Path(source if is_path else f"{type(source).__name__} in memory")
        layout = open_layout(self._path) if is_path else InMemory(source)
        self._contents, self._labelling = read_labelling(layout.contents(), labels, labelling)
        self._labels = labels
        self.training, self.evaluation = _purposes(self._path, self._contents)

    @property
    def splits(self) -> str:
        """The splits of the set, in words."""
        return f"'{self._path}' has the splits {', '.join(part.split for part in self._contents.parts)}"

    def unlabelled(self, part: Part) -> Dataset:
        """The images of a part that has no labels. Raises DataError if it has no images either."""
        _check_any(part)
        samples = (Sample(image.name, UNLABELLED, "") for image in part.images)
        return self._dataset(part, samples, () if self._labelling == "optional" else self._labels)

    def dataset(self, part: Part) -> Dataset:
        """The images of one part as a data set, whose classes are those of the part for calibration."""
        if self._labelling == "optional" and not _has_labels(part):
            return self.unlabelled(part)
        _check(part, self._contents.terms, self._labelling)
        classes = self._contents.classes
        present = _labels_of(part)
        if self._labelling == "optional":
            indices = {label: index for index, label in enumerate(sorted(present, key=_in_order))}
            names = tuple(_class_name(label, classes) for label in indices)
            return self._dataset(part, _samples(part, indices, names), names)
        known = classes or tuple(sorted(map(str, _labels_of(self.training))))
        images = LabelledSet(part.path, self._contents.terms.label, present, known, bool(classes))
        indices, by_order = class_indices(images, self._labels)
        named = {
            index: _class_name(label, classes) for label, index in indices.items() if label not in (index, str(index))
        }
        names = known if by_order else tuple(named.get(index, name) for index, name in enumerate(self._labels))
        dataset = self._dataset(part, _samples(part, indices, names), names)
        if not by_order:
            return dataset
        natural = () if images.numbered else tuple(sorted(names, key=_natural))
        assumption = _assumption(replace(images, path=self.training.path))
        return replace(dataset, assumption=assumption, natural_order=() if natural == names else natural)

    def _dataset(self, part: Part, samples: Iterable[Sample], names: Sequence[str]) -> Dataset:
        return Dataset(
            part.path,
            tuple(sorted(samples, key=lambda sample: sample.name)),
            part.store,
            self._contents.terms.label,
            class_names=tuple(names),
            labelling=self._labelling,
        )


def _labels_of(part: Part) -> frozenset[Label]:
    """All labels that images of a part have."""
    return frozenset(label for image in part.images for label in as_tuple(image.label))


def _has_labels(part: Part) -> bool:
    """Whether any image of a part has a label. Without any, an empty list doesn't say that it has none either."""
    return any(as_tuple(image.label) for image in part.images)


def _in_order(label: Label) -> tuple[bool, Label]:
    """The key that sorts indices before texts."""
    return isinstance(label, str), label


def _natural(name: str) -> list[str | int]:
    """The key that sorts numbers in names by their value, and the rest whatever its case."""
    return [int(text) if place % 2 else text for place, text in enumerate(re.split(r"(\d+)", name.lower()))]


def _samples(part: Part, indices: Mapping[Label, int], names: Sequence[str]) -> Iterator[Sample]:
    """Yield the images of a part, each with the index of its class, or of the rarest one of several in the part."""
    classes = [sorted({indices[label] for label in as_tuple(image.label)}) for image in part.images]
    counts = Counter(index for several in classes for index in several)
    for image, several in zip(part.images, classes, strict=True):
        if not several:
            yield Sample(image.name, UNLABELLED, "")
            continue
        # Of classes that are equally rare, the name decides, so that another order of the outputs chooses no others.
        rarest = min(several, key=lambda index: (counts[index], names[index]))
        yield Sample(image.name, rarest, names[rarest], tuple(several) if isinstance(image.label, tuple) else ())


def _purposes(path: Path, contents: Contents) -> tuple[Part, Part]:
    """The parts for calibration and evaluation. Raises DataError for splits of which one of the two is missing."""
    parts = {part.split.casefold(): part for part in contents.parts}
    if len(contents.parts) == 1:
        return contents.parts[0], contents.parts[0]
    training = next((parts[name] for name in TRAINING_SPLITS if name in parts), None)
    evaluation = next((parts[name] for name in EVALUATION_SPLITS if name in parts), None)
    if training is None or evaluation is None:
        raise DataError(
            f"'{path}' contains the splits {', '.join(part.split for part in contents.parts)} instead of classes",
            valid="the splits train and val, or train and test; or one split alone",
            fix=f"Choose one split, such as --data {contents.parts[-1].path}",
        )
    return training, evaluation


def _check_any(part: Part) -> None:
    if not part.images:
        raise DataError(f"'{part.path}' contains no images", valid=VALID)


def _check(part: Part, terms: Terms, labelling: Labelling) -> None:
    """Raise DataError for a set without images, or with images about whose label nothing is known."""
    _check_any(part)
    none = not _has_labels(part)
    if unlabelled := [image.name for image in part.images if none or image.label is None]:
        hint = f". {OTHER_TASK}" if labelling == "one" and terms.label != "folder" else ""
        raise DataError(
            f"'{part.path}' has {len(unlabelled)} images {terms.unlabelled}, such as '{unlabelled[0]}', of its "
            f"{len(part.images)} images",
            valid=_VALID_LABELS[labelling],
            fix=f"{terms.fix}{hint}",
        )


def _class_name(label: str | int, classes: Sequence[str]) -> str:
    return classes[label] if isinstance(label, int) and label < len(classes) else str(label)


def _assumption(images: LabelledSet) -> str:
    names = images.names
    pairs = ", ".join(f"{index} = {name}" for index, name in enumerate(names[:_SHOWN]))
    what = f"{images.term}s of '{images.path}' in alphabetical order"
    if images.numbered:
        what = f"classes of '{images.path}' in its own order"
    return (
        f"the {what} are taken as outputs 0 to {len(names) - 1} ({pairs}{', …' if len(names) > _SHOWN else ''}). If "
        "the network was trained with another order, list its classes with `--labels FILE`"
    )


@dataclass(frozen=True, eq=False)
class LabelledCrops:
    """Cropped images and their labels, in the same order."""

    pixels: NDArray[np.uint8]
    """Pixels [N,H,W,C], possibly memory-mapped."""
    labels: NDArray[Any]
    """Labels as `Dataset.targets` returns them."""

    def __len__(self) -> int:
        return len(self.pixels)

    def normalized(self, preprocessing: Preprocessing) -> Iterator[NDArray[np.float32]]:
        """Yield each image as a network's input, float32 [1,C,H,W]."""
        for pixels in self.pixels:
            yield preprocessing.normalize(pixels)


def crop_each(dataset: Dataset, samples: Sequence[Sample], preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    """Yield each sample cropped, uint8 [H,W,C]. Raises ImageError for a sample that can't be read."""
    for sample in samples:
        yield preprocessing.crop(dataset.image(sample))


def crop_samples(
    dataset: Dataset,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    pixels: NDArray[np.uint8] | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> LabelledCrops:
    """Crop the samples, into `pixels` if an array [N,H,W,C] is given, and call `on_image` after each.

    Raises ImageError for a sample that can't be read.
    """
    if pixels is None:
        pixels = np.empty((len(samples), *preprocessing.crop_shape), np.uint8)
    for index, crop in enumerate(crop_each(dataset, samples, preprocessing)):
        pixels[index] = crop
        on_image()
    return LabelledCrops(pixels, dataset.targets(samples))
