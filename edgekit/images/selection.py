"""Choose images of a data set, by seed or from a list, and hash them."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import ImageStat

from edgekit.errors import DataError, ImageError, UsageError
from edgekit.images.dataset import Dataset, Sample
from edgekit.images.decoding import open_image
from edgekit.images.perceptual_hash import difference_hash
from edgekit.support.shareable import without_folders


@dataclass(frozen=True)
class InspectedImage:
    """Facts about an image's file and its pixels."""

    sha256: str
    """SHA-256 of the file."""
    dhash: bytes
    """Difference hash of the pixels."""
    brightness: float
    """Mean grey value of the pixels, from 0 to 255."""


@dataclass(frozen=True)
class Selection:
    """Chosen samples, in an order in which the classes take turns, and their hashes."""

    samples: tuple[Sample, ...]
    sha256: str
    """Hash of the sorted "name sha256" lines, which identifies the set."""
    hashes: tuple[str, ...]
    """SHA-256 of each sample's file."""
    unreadable: tuple[tuple[str, str], ...]
    """(name, reason) of the images that were skipped because they could not be decoded."""
    source: Path
    """Path of the data set."""
    dhashes: tuple[bytes, ...]
    """Difference hash of each sample."""
    brightness: tuple[float, ...]
    """Mean grey value of each sample, from 0 to 255."""
    copies: tuple[tuple[str, str], ...] = ()
    """(name, sha256) of the images that were left out because another selection has their content."""


_Row = tuple[Sample, InspectedImage]


def inspect_image(dataset: Dataset, sample: Sample) -> InspectedImage:
    """Decode an image and hash it. Raises ImageError if it can't be decoded."""
    content = dataset.read(sample)
    grey = open_image(content, f"{dataset.path}/{sample.name}").convert("L")
    brightness = ImageStat.Stat(grey).mean[0]
    return InspectedImage(hashlib.sha256(content).hexdigest(), difference_hash(grey), brightness)


def select(
    dataset: Dataset,
    count: int | None,
    seed: int,
    exclude: Selection | None = None,
    exact: bool = True,
    on_image: Callable[[], None] | None = None,
    inspect: Callable[[Dataset, Sample], InspectedImage] = inspect_image,
) -> Selection:
    """Choose `count` samples (None or 0: all). The classes take turns, in an order that depends only on `seed`.

    Every candidate is decoded once. One that can't be decoded is listed as unreadable and replaced by the next. Samples
    of `exclude`, and images with their content, are left out. `on_image` is called for each chosen sample; `inspect`
    returns the result of `inspect_image`. If there are fewer than `count` samples, or none, raises DataError if
    `exact`, and otherwise returns all of them.
    """
    if count is not None and count < 0:
        raise UsageError(f"the number of samples is {count}", valid="a whole number from 1, or 0 for all images")
    wanted = count or len(dataset.samples)
    taken_names = {sample.name for sample in exclude.samples} if exclude and exclude.source == dataset.path else set()
    taken_hashes = set(exclude.hashes) if exclude else set()
    taken: list[_Row] = []
    copies: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str]] = []
    for sample in _in_turns(dataset.samples, seed):
        if len(taken) == wanted:
            break
        if sample.name in taken_names:
            continue
        try:
            image = inspect(dataset, sample)
        except ImageError as error:
            unreadable.append((sample.name, without_folders(str(error), [dataset.path])))
            continue
        if image.sha256 in taken_hashes:
            copies.append((sample.name, image.sha256))
            continue
        taken.append((sample, image))
        if on_image:
            on_image()
    if exact and (not taken or len(taken) < (count or 0)):
        raise _shortage(dataset, wanted, len(taken), len(unreadable))
    return replace(_selection_of(taken, dataset.path), unreadable=tuple(unreadable), copies=tuple(copies))


def select_listed(
    dataset: Dataset, listed: Mapping[str, str], source: Path, on_image: Callable[[], None] | None = None
) -> Selection:
    """The samples with these names, in this order. `listed` maps names to sha256 and was read from `source`.

    Raises DataError with the names of the images that are missing or have another content, and ImageError if an image
    can't be decoded.
    """
    by_name = {sample.name: sample for sample in dataset.samples}
    taken, wrong = list[_Row](), list[str]()
    for name, digest in listed.items():
        sample = by_name.get(name)
        image = inspect_image(dataset, sample) if sample else None
        if sample is None or image is None or image.sha256 != digest:
            wrong.append(f"{name} ({'has another content' if sample else 'is missing'})")
            continue
        taken.append((sample, image))
        if on_image:
            on_image()
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"'{dataset.path}' lacks {len(wrong)} of the {len(listed)} images that '{source}' lists: "
            f"{', '.join(wrong[:3])}{more}",
            fix="Use the data set from which the listed images were chosen",
        )
    return _selection_of(taken, dataset.path)


def no_images(source: Path) -> Selection:
    """None of the images of the data set at this path."""
    return _selection_of([], source)


def _selection_of(rows: Sequence[_Row], source: Path) -> Selection:
    lines = sorted(f"{sample.name} {image.sha256}\n" for sample, image in rows)
    return Selection(
        samples=tuple(sample for sample, _ in rows),
        sha256=hashlib.sha256("".join(lines).encode()).hexdigest(),
        hashes=tuple(image.sha256 for _, image in rows),
        unreadable=(),
        source=source,
        dhashes=tuple(image.dhash for _, image in rows),
        brightness=tuple(image.brightness for _, image in rows),
    )


def split(selection: Selection, count: int) -> tuple[Selection, Selection]:
    """The first `count` samples, and the others without copies of the first ones."""
    taken = set(selection.hashes[:count])
    images = map(InspectedImage, selection.hashes, selection.dhashes, selection.brightness)
    rows = list(zip(selection.samples, images, strict=True))
    return _part(selection, rows[:count]), _part(selection, [row for row in rows[count:] if row[1].sha256 not in taken])


def _part(selection: Selection, rows: Sequence[_Row]) -> Selection:
    part = _selection_of(rows, selection.source)
    return replace(part, unreadable=selection.unreadable, copies=selection.copies)


def _shortage(dataset: Dataset, wanted: int, available: int, unreadable: int) -> DataError:
    total = len(dataset.samples)
    return DataError(
        f"'{dataset.path}' has only {available} of the {wanted} images requested: of its {total} images, {unreadable} "
        f"can't be read and {total - unreadable - available} are already in use",
        fix="Request fewer images, or add images to the data set",
    )


def _in_turns(samples: Sequence[Sample], seed: int) -> Iterator[Sample]:
    """Yield one sample of each class, then a second one of each, and so on. `seed` determines both orders.

    Labels have no influence, so a corrected list of class names chooses the same images.
    """
    by_class: dict[str, list[Sample]] = {}
    for sample in samples:
        by_class.setdefault(sample.class_name, []).append(sample)
    shuffler = random.Random(seed)
    queues = [by_class[name] for name in sorted(by_class)]
    shuffler.shuffle(queues)
    for queue in queues:
        shuffler.shuffle(queue)
    turn = 0
    while queues:
        for queue in queues:
            yield queue[turn]
        turn += 1
        queues = [queue for queue in queues if len(queue) > turn]
