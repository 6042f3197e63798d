"""Images in memory: a data set of torch or of Hugging Face, or any sequence or iterable of images with labels."""

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.errors import DataError, ImageError
from edgekit.images.decoding import open_image
from edgekit.images.layouts.layout import (
    EVALUATION_SPLITS,
    IMAGE_COLUMNS,
    LABEL_COLUMNS,
    Contents,
    Labels,
    ListedImage,
    Part,
    Terms,
    find_column,
    read_label,
)

TERMS = Terms("label", "without a label", "State their labels, or calibrate on them alone")
VALID = "pairs (image, label), or images alone to calibrate on: PIL images, uint8 arrays [H,W,3] or tensors [3,H,W]"

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
        return Contents(tuple(_part(str(split), items) for split, items in splits.items()), TERMS, names)


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
            raise DataError(f"images in memory are a {type(data).__name__}", valid=VALID) from error
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
            raise DataError(f"an item has the keys {', '.join(map(repr, item))}", valid=VALID)
        return item[column]
    return item[0] if isinstance(item, tuple | list) else item


def _label_in(item: Any) -> Any:
    if isinstance(item, Mapping):
        column = find_column([*item], LABEL_COLUMNS)
        return None if column is None else item[column]
    if isinstance(item, tuple | list):
        if len(item) != 2:
            raise DataError(f"an item has {len(item)} parts", valid=VALID)
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
        raise DataError(f"an image is a {type(image).__name__}", valid=VALID) from error
    if is_tensor and array.ndim == 3:
        array = array.transpose(1, 2, 0)
    if array.dtype.kind == "f":
        levels = np.rint(255 * array)
        if not (np.abs(255 * array - levels) < 1e-2).all() or levels.min() < 0 or levels.max() > 255:
            raise DataError(
                f"an image has values from {array.min():.3g} to {array.max():.3g} that aren't levels of 0 to 255, or "
                "those divided by 255, so it is normalized already",
                valid=VALID,
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
