"""Labelled images: a set in any layout, on the disk or in memory, and its crops for one network.

The labels have become outputs of a model. In memory, a set is a data set of torch or of Hugging Face, or any sequence
or iterable of images with labels.
"""

import copy
import hashlib
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.config.runtimes import Labelling
from edgekit.errors import DataError, ImageError
from edgekit.images.folders import Folder, Table, Zip, is_pattern
from edgekit.images.layout import (
    EVALUATION_SPLITS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    OTHER_TASK,
    TRAINING_SPLITS,
    UNREADABLE,
    Contents,
    Label,
    LabelledSet,
    Labels,
    Layout,
    ListedImage,
    Part,
    Store,
    Terms,
    as_tuple,
    class_indices,
    find_column,
    read_label,
    read_labelling,
)
from edgekit.images.preprocess import Preprocessing, open_image
from edgekit.images.shards import Parquet, WebDataset

LAYOUTS: tuple[type[Layout], ...] = (Table, Parquet, WebDataset, Folder, Zip)
"""The layouts in the order in which they are tried. Any folder is a `Folder` if it has no shards."""
VALID_SETS = "; ".join(dict.fromkeys(layout.description for layout in (Folder, Table, Parquet, WebDataset)))
"""Valid image sets, for error messages."""


def open_layout(path: Path) -> Layout:
    """Open a set of images, or what follows its path, such as `images.zip/val`. Lists no images.

    Raises DataError if the path doesn't exist or is not a set, and MissingExtraError if its layout needs a package.
    """
    for place in (path, *path.parents):
        if not os.path.exists(place) and not (is_pattern(place) and place.suffix):
            continue
        inner = path.relative_to(place).as_posix()
        if place == Path() and inner != ".":
            break  # a mistyped name is no part of the current folder, which may hold anything
        for layout in LAYOUTS:
            opened = layout.open(place, "" if inner == "." else inner)
            if opened is not None:
                return opened
        if os.path.isfile(place):
            raise DataError(
                f"'{place}' is not a folder or a zip, nor a CSV, Parquet or tar by its suffix", valid=VALID_SETS
            )
        break
    raise DataError(f"'{path}' doesn't exist", valid=VALID_SETS)


PAIR_TERMS = Terms("label", "without a label", "State their labels")
VALID_PAIRS = "pairs (image, label), or images alone: PIL images, uint8 arrays [H,W,3] or tensors [3,H,W]"

READS = 3
"""Reads of the first and of the last image, which show a random transform."""


@dataclass(frozen=True)
class InMemory:
    """Images with or without labels, which are read when they are needed.

    An item of the sequence or iterable is an image, a pair of image and label, or a dict with columns such as `image`
    and `label`. The `transform` of a data set is left out: edgekit prepares images itself. Images that aren't in a
    sequence are collected. An array of images and one of labels are a set as well, and a mapping has a set for each
    split.
    """

    items: Any

    def contents(self) -> Contents:
        """List the images by their index. Raises DataError for items that are neither images nor pairs."""
        splits = self.items if isinstance(self.items, Mapping) and self.items else {"": self.items}
        names = next(filter(None, map(_class_names, splits.values())), ())
        return Contents(tuple(_part(str(split), items) for split, items in splits.items()), PAIR_TERMS, names)


def _part(split: str, data: Any) -> Part:
    """The images of a split. Raises DataError if they are other ones at each read."""
    items = _sequence(data)
    labels = _labels(items)
    names = [f"{index:0{len(str(len(labels)))}}" for index in range(len(labels))]
    store = MemoryStore(items)
    ends = [{_sha256_of(store, name) for _ in range(READS)} for name in (*names[:1], *names[-1:])]
    what = type(_innermost(data)).__name__
    if any(len(hashes) > 1 for hashes in ends):
        raise DataError(
            f"a {what} in memory returns another image each time that the same one is read",
            valid="images without augmentation",
            fix="Pass the data set that you evaluate with, or name its random transform `transform`, which is left out",
        )
    # Two sets have the same path only if they are equal: images of the same path and name are the same image.
    digest = hashlib.sha256(repr((labels, [hashes.pop() for hashes in ends])).encode()).hexdigest()[:8]
    return Part(split, Path(f"{what} in memory ({digest})"), tuple(map(ListedImage, names, labels)), store)


@dataclass(frozen=True)
class MemoryStore:
    """Reads images by their index as files in the format PPM: the pixels, behind a header with their size."""

    items: Sequence[Any]

    def read(self, name: str) -> bytes:
        """The pixels of an image as RGB with 8 bits per channel. The same pixels give the same bytes."""
        file = BytesIO()
        open_image(_picture(_image(self.items[int(name)])), f"image {name}").save(file, "PPM")
        return file.getvalue()


def _sha256_of(store: MemoryStore, name: str) -> str | None:
    """Hash of an image; None for one that can't be decoded, which is reported when it is chosen."""
    try:
        return hashlib.sha256(store.read(name)).hexdigest()
    except ImageError:
        return None


def transform_of(data: Any) -> Any:
    """The transform of a data set in memory, or of its split for the evaluation; None if it has none."""
    if isinstance(data, Mapping):
        data = next((data[split] for split in data if str(split).casefold() in EVALUATION_SPLITS), None)
    inner = _innermost(data)
    return getattr(inner, "transform", None) if _is_dataset(inner) else None


def _innermost(data: Any) -> Any:
    """The data set in a DataLoader or a Subset of torch."""
    while _is_wrapper(data):
        data = data.dataset
    return data


def _is_wrapper(data: Any) -> bool:
    return hasattr(data, "dataset") and (hasattr(data, "indices") or hasattr(data, "batch_sampler"))


def _is_dataset(data: Any) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _sequence(data: Any) -> Any:
    """The items as a sequence, without a DataLoader and without transforms."""
    if hasattr(data, "batch_sampler"):  # a DataLoader, which joins items to batches
        return _sequence(data.dataset)
    if _is_wrapper(data):
        subset = copy.copy(data)
        subset.dataset = _sequence(data.dataset)
        return subset
    if _is_pair_of_arrays(data):
        return [*zip(*data, strict=True)]
    if not _is_dataset(data):
        try:
            return list(data)
        except TypeError as error:
            raise DataError(f"images in memory are a {type(data).__name__}", valid=VALID_PAIRS) from error
    if not callable(getattr(data, "transform", None)):
        return data
    plain = copy.copy(data)
    plain.transform = _unchanged
    if hasattr(getattr(data, "transforms", None), "transform"):  # of torchvision, for the image and for the label
        plain.transforms = copy.copy(data.transforms)
        plain.transforms.transform = _unchanged
    return plain


def _is_pair_of_arrays(data: Any) -> bool:
    """Whether this is an array [N,H,W], [N,H,W,C] or [N,C,H,W] and as many labels, and not two images."""
    if not isinstance(data, tuple | list) or len(data) != 2 or getattr(data[0], "ndim", 0) not in (3, 4):
        return False
    images, labels = data
    return hasattr(labels, "__len__") and len(images) == len(labels) and getattr(labels, "ndim", 1) <= images.ndim - 2


def _unchanged(image: Any) -> Any:
    return image


def _labels(items: Any) -> list[Labels]:
    """The label of each item: from the list of all of them that torchvision's data sets have, or else one by one."""
    if hasattr(items, "indices") and hasattr(items, "dataset"):
        labels = _labels(items.dataset)
        return [labels[index] for index in items.indices]
    targets = getattr(items, "targets", None)
    if targets is not None and getattr(items, "target_transform", None) is None and len(targets) == len(items):
        return [_label(target) for target in targets]
    return [_label(_label_in(items[index])) for index in range(len(items))]


def _image(item: Any) -> Any:
    if isinstance(item, Mapping):
        column = find_column([*item], IMAGE_COLUMNS)
        if column is None:
            raise DataError(f"an item has the keys {', '.join(map(repr, item))}", valid=VALID_PAIRS)
        return item[column]
    return item[0] if isinstance(item, tuple | list) else item


def _label_in(item: Any) -> Any:
    if isinstance(item, Mapping):
        column = find_column([*item], LABEL_COLUMNS)
        return None if column is None else item[column]
    if isinstance(item, tuple | list):
        if len(item) != 2:
            raise DataError(f"an item has {len(item)} parts", valid=VALID_PAIRS)
        return item[1]
    return None


def _label(value: Any) -> Labels:
    """A label or a list of labels. Raises DataError for a value that is neither."""
    try:
        return read_label(value)
    except ValueError as error:
        raise DataError(
            f"{error}",
            valid="the name or the index of a class for each image, a list of them, or a vector of zeros and ones",
        ) from error


def _picture(image: Any) -> Any:
    """An image in a form that can be decoded: tensors are [C,H,W], and their values levels, or levels / 255."""
    if isinstance(image, Image.Image | bytes | str) or hasattr(image, "__fspath__"):
        return image
    is_tensor = hasattr(image, "detach")
    try:
        array = np.asarray(image.detach().cpu() if is_tensor else image)
    except (TypeError, ValueError) as error:
        raise DataError(f"an image is a {type(image).__name__}", valid=VALID_PAIRS) from error
    if is_tensor and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f":
        levels = np.rint(255 * array)
        if not (np.abs(255 * array - levels) < 1e-2).all() or levels.min() < 0 or levels.max() > 255:
            raise DataError(
                f"an image has values from {array.min():.3g} to {array.max():.3g} that aren't levels of 0 to 255, or "
                "those divided by 255, so it is normalized already",
                valid=VALID_PAIRS,
                fix="Pass images before they are normalized, and the transform that normalizes them beside the network",
            )
        array = levels.astype(np.uint8)
    return array


def _class_names(data: Any) -> tuple[str, ...]:
    """Names of the classes in the order of the labels: torchvision's `classes`, or Hugging Face's `ClassLabel`."""
    inner = _innermost(data)
    names = getattr(inner, "classes", None)
    features = getattr(inner, "features", None)
    if names is None and isinstance(features, Mapping):
        feature = features.get(find_column([*features], LABEL_COLUMNS) or "")
        names = getattr(getattr(feature, "feature", feature), "names", None)  # of a list, the feature of its entries
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


ImageSet: TypeAlias = str | os.PathLike[str] | Any
"""A path of images, or images in memory: a data set of torch, or an iterable of (image, label) or of images."""
UNLABELLED = -1
"""Label of an image of which no class is known, or that has none of several labels."""
_VALID_LABELS: Mapping[Labelling, str] = {
    "one": "a label for each image, or for none",
    "several": "a list of labels for each image, which is empty for an image that has none of them",
    "optional": "a label for each image, or for none",
}
_SHOWN = 4
"""Most classes that a message lists."""


@dataclass(frozen=True, slots=True)
class LabelledImage:
    """One image: its path relative to the data set (with `/`), the model's class index, and the name of its class."""

    name: str
    label: int
    """Index of the class by which the image is chosen: of several labels, the rarest in the set."""
    class_name: str
    labels: tuple[int, ...] = ()
    """Indices of all its classes, sorted, in a set with several labels; empty in others."""

    def in_order(self, names: Sequence[str]) -> "LabelledImage":
        """The image, of one class or of none, in a set whose classes have this order."""
        return replace(self, label=names.index(self.class_name)) if self.class_name in names else self


@dataclass(frozen=True)
class Dataset:
    """Labelled images, sorted by name. Several threads, or processes that pickle or fork it, can use it at once."""

    path: Path
    samples: tuple[LabelledImage, ...]
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

    def targets(self, samples: Sequence[LabelledImage]) -> NDArray[Any]:
        """The labels of samples: int64 [N], or bool [N,classes] in a set with several. `UNLABELLED` stands for none."""
        if self.labelling != "several":
            return np.array([sample.label for sample in samples], np.int64)
        targets = np.zeros((len(samples), len(self.class_names)), np.bool_)
        for row, sample in zip(targets, samples, strict=True):
            row[[*sample.labels]] = True
        return targets

    def classes_of(self, samples: Iterable[LabelledImage]) -> set[int]:
        """Indices of all classes that samples have."""
        several = self.labelling == "several"
        classes = {label for sample in samples for label in (sample.labels if several else (sample.label,))}
        return classes - {UNLABELLED}

    @property
    def is_labelled(self) -> bool:
        """Whether the images have labels. Either all of them state something about their classes, or none does."""
        return bool(self.classes_of(self.samples))

    def in_order(self, names: Sequence[str]) -> "Dataset":
        """The set with its classes, which an image has one of, as outputs in another order."""
        samples = tuple(sample.in_order(names) for sample in self.samples)
        return replace(self, samples=samples, class_names=tuple(names))

    def read(self, sample: LabelledImage) -> bytes:
        """Bytes of the sample's file. Raises ImageError with the names of the data set and the sample."""
        try:
            return self._store.read(sample.name)
        except UNREADABLE as error:
            reason = getattr(error, "strerror", None) or error  # without the path, which reports must not contain
            raise ImageError(f"can't read image '{self.path}/{sample.name}': {reason}") from error

    def image(self, sample: LabelledImage) -> Image.Image:
        """The image as RGB. Raises ImageError with the names of the data set and the sample."""
        return open_image(self.read(sample), f"{self.path}/{sample.name}")

    @staticmethod
    def open(source: ImageSet, labels: Sequence[str], labelling: Labelling | None = None) -> "Dataset":
        """The images to evaluate on: val or test of a set with splits, or the whole set. See `Datasets.open`."""
        listed = _ListedSet(source, labels, labelling)
        evaluation = listed.dataset(listed.evaluation)
        if listed.training is listed.evaluation:
            return evaluation
        command = f"`--data {shlex.quote(str(listed.training.path))}`"
        origin = f"{listed.splits}: evaluating on {listed.evaluation.split}; {command} takes another one"
        return replace(evaluation, origin=origin)

    @staticmethod
    def for_calibration(source: ImageSet, labels: Sequence[str], labelling: Labelling | None = None) -> "Dataset":
        """The images to calibrate on: train of a set with splits, or the whole set. None needs a label."""
        listed = _ListedSet(source, labels, labelling)
        if not _has_labels(listed.training):
            return listed.unlabelled(listed.training)
        return listed.dataset(listed.training)

    def crop_each(self, samples: Sequence[LabelledImage], preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
        """Yield each sample cropped, uint8 [H,W,C]. Raises ImageError for a sample that can't be read."""
        for sample in samples:
            yield preprocessing.crop(self.read(sample), f"{self.path}/{sample.name}")

    def crop(
        self,
        samples: Sequence[LabelledImage],
        preprocessing: Preprocessing,
        pixels: NDArray[np.uint8] | None = None,
        on_image: Callable[[], None] = lambda: None,
    ) -> "LabelledCrops":
        """Crop the samples, into `pixels` if an array [N,H,W,C] is given, and call `on_image` after each.

        Raises ImageError for a sample that can't be read.
        """
        if pixels is None:
            pixels = np.empty((len(samples), *preprocessing.crop_shape), np.uint8)
        for index, crop in enumerate(self.crop_each(samples, preprocessing)):
            pixels[index] = crop
            on_image()
        return LabelledCrops(pixels, self.targets(samples))


@dataclass(frozen=True)
class Datasets:
    """Images to calibrate and to evaluate on: two splits of a set, or twice the same object for a set without splits.

    Images of a set without splits are shared out between the two purposes when they are selected.
    """

    calibration: Dataset
    evaluation: Dataset
    origin: str | None = None
    """The splits and what each is for, in words; None for a set without splits."""

    @staticmethod
    def open(source: ImageSet, labels: Sequence[str], labelling: Labelling | None = None) -> "Datasets":
        """List the images of a set in any layout, or of a part of one (`images.zip/val`), with their class indices.

        The split train, if there is one, is for the calibration, and val or test for the evaluation. `labels` are
        the model's class names in order. Those of images are ImageNet wnids if the model has 1,000 classes, or class
        names, or indices. If no label is the name of a class and there are as many different ones as classes, they
        are the classes in sorted order, or in the order that the set gives. Raises DataError otherwise.

        Without a `labelling`, the set has "several" labels if any image has a list of them. With "optional", the
        classes are the set's own, in sorted order. Unless it has "several", a set may state no label at all.
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
        samples = (LabelledImage(image.name, UNLABELLED, "") for image in part.images)
        return self._dataset(part, samples, () if self._labelling == "optional" else self._labels)

    def dataset(self, part: Part) -> Dataset:
        """The images of one part as a data set, whose classes are those of the part for calibration."""
        if self._labelling != "several" and not _has_labels(part):
            return self.unlabelled(part)
        _check(part, self._contents.terms, self._labelling)
        classes = self._contents.classes
        present = _labels_of(part)
        if self._labelling == "optional":
            indices = {label: index for index, label in enumerate(sorted(present, key=_in_order))}
            names = tuple(_class_name(label, classes) for label in indices)
            return self._dataset(part, _samples(part, indices, names), names)
        known = classes or tuple(sorted(map(str, _labels_of(self.training) or present)))
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

    def _dataset(self, part: Part, samples: Iterable[LabelledImage], names: Sequence[str]) -> Dataset:
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


def _samples(part: Part, indices: Mapping[Label, int], names: Sequence[str]) -> Iterator[LabelledImage]:
    """Yield the images of a part, each with the index of its class, or of the rarest one of several in the part."""
    classes = [sorted({indices[label] for label in as_tuple(image.label)}) for image in part.images]
    counts = Counter(index for several in classes for index in several)
    for image, several in zip(part.images, classes, strict=True):
        if not several:
            yield LabelledImage(image.name, UNLABELLED, "")
            continue
        # Of classes that are equally rare, the name decides, so that another order of the outputs chooses no others.
        rarest = min(several, key=lambda index: (counts[index], names[index]))
        yield LabelledImage(image.name, rarest, names[rarest], tuple(several) if isinstance(image.label, tuple) else ())


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
        raise DataError(f"'{part.path}' contains no images", valid=VALID_SETS)


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
