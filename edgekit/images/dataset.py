"""Labelled images: a set in any layout, whose labels have become outputs of a model, and its crops for one network."""

import os
import shlex
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.errors import DataError, ImageError
from edgekit.images.class_indices import LabelledSet, class_indices
from edgekit.images.decoding import open_image
from edgekit.images.layouts import VALID, open_layout
from edgekit.images.layouts.in_memory import InMemory, MemoryStore
from edgekit.images.layouts.layout import EVALUATION_SPLITS, TRAINING_SPLITS, Contents, Layout, Part, Store, Terms
from edgekit.images.preprocess import Preprocessing

ImageSet: TypeAlias = str | os.PathLike[str] | Any
"""A path of labelled images, or images in memory: a data set of torch, or an iterable of (image, label)."""
UNLABELLED = -1
"""Label of the images of a set without labels, which can only calibrate a network."""
_SHOWN = 4
"""Most classes that a message lists."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: its path relative to the data set (with `/`), the model's class index, and the name of its class."""

    name: str
    label: int
    class_name: str


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
    """Names of the classes in the order that `assumption` states; empty without an assumption."""
    origin: str | None = None
    """The set of which this is a split and why this split was chosen, in words; None for a whole set."""

    @property
    def is_in_memory(self) -> bool:
        """Whether the images are objects of this process, which another process may not be able to unpickle."""
        return isinstance(self._store, MemoryStore)

    def read(self, sample: Sample) -> bytes:
        """Bytes of the sample's file. Raises ImageError with the names of the data set and the sample."""
        try:
            return self._store.read(sample.name)
        # zipfile raises RuntimeError for encryption, and its subclass NotImplementedError for an unknown compression
        except (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError) as error:
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


def open_datasets(source: ImageSet, labels: Sequence[str]) -> Datasets:
    """List the images of a set in any layout, or of a part of one (`images.zip/val`), with their class indices.

    The split train, if there is one, is for the calibration, and val or test for the evaluation. `labels` are the
    model's class names in order. Those of images are ImageNet wnids if the model has 1,000 classes, or class names, or
    indices. If no label is the name of a class and there are as many different ones as classes, they are the classes in
    sorted order, or in the order that the set gives. Raises DataError otherwise.
    """
    listed = _ListedSet(source, labels)
    if listed.training is listed.evaluation:
        whole = listed.dataset(listed.training)
        return Datasets(whole, whole)
    return Datasets(
        listed.dataset(listed.training),
        listed.dataset(listed.evaluation),
        f"{listed.splits}: calibrating on {listed.training.split}, evaluating on {listed.evaluation.split}; "
        "--calibration-data and --data choose others",
    )


def open_dataset(source: ImageSet, labels: Sequence[str]) -> Dataset:
    """The images to evaluate on: val or test of a set with splits, or the whole set. Otherwise as `open_datasets`."""
    listed = _ListedSet(source, labels)
    evaluation = listed.dataset(listed.evaluation)
    if listed.training is listed.evaluation:
        return evaluation
    command = f"`--data {shlex.quote(str(listed.training.path))}`"
    origin = f"{listed.splits}: evaluating on {listed.evaluation.split}; {command} takes another one"
    return replace(evaluation, origin=origin)


def open_calibration(source: ImageSet, labels: Sequence[str]) -> Dataset:
    """The images to calibrate on: train of a set with splits, or the whole set. All of them may be without a label."""
    listed = _ListedSet(source, labels)
    if not any(image.label is not None for image in listed.training.images):
        return listed.unlabelled(listed.training)
    return listed.dataset(listed.training)


class _ListedSet:
    """The images of a set, and its parts for calibration and evaluation, which may be the same one."""

    def __init__(self, source: ImageSet, labels: Sequence[str]) -> None:
        layout: Layout | InMemory
        self._path = Path(source) if isinstance(source, str | os.PathLike) else None
        layout = InMemory(source) if self._path is None else open_layout(self._path)
        self._terms, self._contents = layout.terms, layout.contents()
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
        ordered = sorted(samples, key=lambda sample: sample.name)
        return Dataset(part.path, tuple(ordered), part.store, self._terms.label)

    def dataset(self, part: Part) -> Dataset:
        """The images of one part as a data set, whose classes are those of the part for calibration."""
        _check(part, self._terms)
        classes = self._contents.classes
        names = classes or tuple(sorted({str(image.label) for image in self.training.images}))
        present = frozenset(image.label for image in part.images if image.label is not None)
        images = LabelledSet(part.path, self._terms.label, present, names, bool(classes))
        indices, by_order = class_indices(images, self._labels)
        samples = [
            Sample(image.name, indices[image.label], _class_name(image.label, classes))
            for image in part.images
            if image.label is not None
        ]
        return Dataset(
            part.path,
            tuple(sorted(samples, key=lambda sample: sample.name)),
            part.store,
            self._terms.label,
            _assumption(replace(images, path=self.training.path)) if by_order else None,
            images.names if by_order else (),
        )


def _purposes(path: Path | None, contents: Contents) -> tuple[Part, Part]:
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


def _check(part: Part, terms: Terms) -> None:
    """Raise DataError for a set without images, images without a label, or an image with two labels."""
    _check_any(part)
    if unlabelled := [image.name for image in part.images if image.label is None]:
        raise DataError(
            f"'{part.path}' has {len(unlabelled)} images {terms.unlabelled}, such as '{unlabelled[0]}'", fix=terms.fix
        )
    name, count = Counter(image.name for image in part.images).most_common(1)[0]
    if count > 1:
        both = ", ".join(
            f"'{label}'" for label in sorted(str(image.label) for image in part.images if image.name == name)
        )
        raise DataError(f"'{part.path}' has '{name}' with {count} labels: {both}", fix="Leave one label for each image")


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
    labels: NDArray[np.int64]
    """Class indices [N]."""

    def __len__(self) -> int:
        return len(self.pixels)

    def normalized(self, preprocessing: Preprocessing) -> Iterator[tuple[NDArray[np.float32], int]]:
        """Yield each image as a network's input, float32 [1,C,H,W], and its label."""
        for pixels, label in zip(self.pixels, self.labels, strict=True):
            yield preprocessing.normalize(pixels), int(label)


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
    return LabelledCrops(pixels, np.array([sample.label for sample in samples], np.int64))
