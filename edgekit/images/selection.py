"""Chooses images of a set, by seed or from a list, and doubts a poor choice.

calibration.json lists the images and the recipe of a calibration; the same list reproduces the same bundles. Images
that are in two sets are copies, or look alike, such as copies that were re-encoded or resized.
"""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property, lru_cache
from heapq import merge
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

from edgekit.config.recipes import Recipe
from edgekit.errors import DataError, ImageError, InputError, UsageError
from edgekit.images.dataset import UNLABELLED, Dataset, LabelledImage
from edgekit.images.preprocess import open_image
from edgekit.support.files import without_folders, write_json

GRID = 8
FEWEST = 32
"""Fewest images with which ranges don't depend on the choice of images."""
LARGE_SHIFT = 1.0
"""Difference of two sets' mean brightness that is called large, in standard deviations of one image's (Cohen's d)."""
FIX = "Use the calibration.json of a run folder"


def difference_hash(image: Image.Image) -> bytes:
    """A hash of 16 bytes: whether each cell of a coarse grey grid is darker than its right and its lower neighbour."""
    grey = image.convert("L")
    bits = []
    for axis, size in ((1, (GRID + 1, GRID)), (0, (GRID, GRID + 1))):
        cells = np.asarray(grey.resize(size, Image.Resampling.BOX), np.int16)
        bits.append(np.diff(cells, axis=axis).ravel() > 0)
    return np.packbits(np.concatenate(bits)).tobytes()


Order = Literal["turns", "turns for half", "shares"]
"""Order in which images are chosen.

- `turns`: one image of each class, then a second one of each, and so on;
- `turns for half`: the same, but half of each class comes last, and one image of it at the very end, so that they are
  left for another purpose;
- `shares`: in proportion to the sizes of the classes, so that accuracy on the first images estimates that on all. Each
  content is chosen once: copies would make intervals narrower than the images justify.
"""


@dataclass(frozen=True)
class InspectedImage:
    """A sample, and facts about its file and its pixels."""

    sample: LabelledImage
    sha256: str
    """SHA-256 of the file."""
    dhash: bytes
    """Difference hash of the pixels."""
    brightness: float
    """Mean grey value of the pixels, from 0 to 255."""


@dataclass(frozen=True)
class Selection:
    """Chosen images, in the order in which they were chosen."""

    images: tuple[InspectedImage, ...]
    source: Path
    """Path of the data set."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """(name, reason) of the images that were skipped because they could not be decoded."""
    copies: tuple[InspectedImage, ...] = ()
    """Images that were left out because this selection, or another one, has their content."""

    @cached_property
    def samples(self) -> tuple[LabelledImage, ...]:
        return tuple(image.sample for image in self.images)

    def in_order(self, names: Sequence[str]) -> "Selection":
        """The images, each of one class or of none, of a set whose classes have this order."""
        return replace(self, images=tuple(replace(each, sample=each.sample.in_order(names)) for each in self.images))

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """SHA-256 of each image's file."""
        return tuple(image.sha256 for image in self.images)

    @cached_property
    def sha256(self) -> str:
        """Hash of the sorted "name sha256" lines, which identifies the set."""
        lines = sorted(f"{image.sample.name} {image.sha256}\n" for image in self.images)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @cached_property
    def brightness(self) -> NDArray[np.float64]:
        """Mean grey value of each image, from 0 to 255."""
        return np.array([image.brightness for image in self.images], np.float64)

    def split(self, count: int) -> tuple["Selection", "Selection"]:
        """The first `count` images, and the others without copies of the first ones."""
        first, rest = self.images[:count], self.images[count:]
        taken = {image.sha256 for image in first}
        others = tuple(image for image in rest if image.sha256 not in taken)
        return replace(self, images=first), replace(self, images=others)

    def doubts(self, classes: int, evaluation: "Selection | None" = None) -> list[str]:
        """Doubts about these images of a set with this number of classes: too few, one-sided, or unlike the others."""
        count, samples = len(self.samples), self.samples
        covered = {label for sample in samples for label in sample.labels or (sample.label,)} - {UNLABELLED}
        reasons = []
        if count < FEWEST:
            reasons.append(
                f"{count} calibration images are few: ranges depend on the choice of images; use {FEWEST} or more"
            )
        most = max(Counter(sample.label for sample in samples if sample.label != UNLABELLED).values(), default=0)
        if covered and len(covered) < min(count, classes) / 2:
            reasons.append(
                f"the calibration images are one-sided: they cover {len(covered)} of {classes} classes, but {count} "
                f"images could cover {min(count, classes)}; use images of every class"
            )
        elif covered and count >= FEWEST and most > max(4 * count / len(covered), 4):
            reasons.append(
                f"the calibration images are one-sided: {most} of {count} belong to one of {len(covered)} classes"
            )
        if evaluation and self.differs_in_brightness(evaluation):
            ours, others = (images.brightness.mean() for images in (self, evaluation))
            reasons.append(
                f"the calibration images are much {'darker' if ours < others else 'brighter'} than the evaluation "
                f"images: their mean grey value is {ours:.0f} of 255 instead of {others:.0f}; use images like those of "
                "the app"
            )
        return reasons

    def differs_in_brightness(self, evaluation: "Selection") -> bool:
        """Whether the two sets differ in mean brightness by a large effect that is no chance, three standard errors."""
        ours, others = self.brightness, evaluation.brightness
        if min(len(ours), len(others)) < 2:
            return False
        spread = np.sqrt((ours.var(ddof=1) + others.var(ddof=1)) / 2)
        shift = abs(ours.mean() - others.mean())
        return bool(shift > spread * max(LARGE_SHIFT, 3 * np.sqrt(1 / len(ours) + 1 / len(others))))

    def copies_of(self, other: "Selection") -> list[str]:
        """Names of the images that were left out because this selection, or `other`, has their content."""
        hashes = set(other.hashes)
        return [image.sample.name for image in self.copies if image.sha256 in hashes]

    def lookalikes(self, dataset: Dataset, other: "Selection", other_dataset: Dataset) -> list[tuple[str, str]]:
        """(name, name of the most similar image) of the images that look like an image in `other`.

        Similar hashes make candidates, and only these are decoded, from the data sets that the images were taken of.
        Raises ImageError if one can't be decoded any more.
        """

        @cache  # 4 KB for each image
        def small(index: int) -> Image.Image:
            return _shrunk(other_dataset.image(other.samples[index]))

        @lru_cache(4096)  # 16 KB for each image
        def pixels(index: int, size: tuple[int, int]) -> NDArray[np.float32]:
            return _normalized(small(index), size)

        pairs = []
        own_hashes, others = ([image.dhash for image in each.images] for each in (self, other))
        for index, candidates in _candidates(own_hashes, others):
            sample = self.samples[index]
            image = _shrunk(dataset.image(sample))
            own: dict[tuple[int, int], NDArray[np.float32]] = {}
            for candidate in candidates:
                like = small(candidate)
                size = (min(image.width, like.width), min(image.height, like.height))
                if size not in own:
                    own[size] = _normalized(image, size)
                if own[size] @ pixels(candidate, size) >= CORRELATION:
                    pairs.append((sample.name, other.samples[candidate].name))
                    break
        return pairs

    def members(self, shortened: Collection[str]) -> list[str]:
        """Names of the images whose content is that of an image with one of these short hashes."""
        return [image.sample.name for image in self.images if image.sha256[:DIGITS] in shortened]


def inspect_image(dataset: Dataset, sample: LabelledImage) -> InspectedImage:
    """Decode an image and hash it. Raises ImageError if it can't be decoded."""
    content = dataset.read(sample)
    grey = open_image(content, f"{dataset.path}/{sample.name}").convert("L")
    brightness = ImageStat.Stat(grey).mean[0]
    return InspectedImage(sample, hashlib.sha256(content).hexdigest(), difference_hash(grey), brightness)


def select(
    dataset: Dataset,
    count: int | None,
    seed: int,
    exclude: Selection | None = None,
    exclude_hashes: Collection[str] = (),
    exact: bool = True,
    order: Order = "turns",
    spare: int = 0,
    on_image: Callable[[], None] | None = None,
    inspect: Callable[[Dataset, LabelledImage], InspectedImage] = inspect_image,
) -> Selection:
    """Choose the first `count` samples (None or 0: all) in an order that `order` and `seed` determine.

    Behind them come up to `spare` more, if the set has them.

    Every candidate is decoded once. One that can't be decoded is listed as unreadable and replaced by the next. Left
    out are the samples of `exclude`, and images whose SHA-256 is one of theirs or in `exclude_hashes`. `on_image` is
    called for each chosen sample; `inspect` returns the result of `inspect_image`. If there are fewer than `count`
    samples, or none, raises DataError if `exact`, and otherwise returns all of them.
    """
    if count is not None and count < 0:
        raise UsageError(f"the number of samples is {count}", valid="a whole number from 1, or 0 for all images")
    wanted = count + spare if count else len(dataset.samples)
    taken_names = {sample.name for sample in exclude.samples} if exclude and exclude.source == dataset.path else set()
    taken_hashes = {*(exclude.hashes if exclude else ()), *exclude_hashes}
    taken: list[InspectedImage] = []
    copies: list[InspectedImage] = []
    unreadable: list[tuple[str, str]] = []
    for sample in _ordered(dataset.samples, seed, order, taken_names):
        if len(taken) == wanted:
            break
        try:
            image = inspect(dataset, sample)
        except ImageError as error:
            unreadable.append((sample.name, without_folders(str(error), [dataset.path])))
            continue
        if image.sha256 in taken_hashes:
            copies.append(image)
            continue
        taken.append(image)
        if order == "shares":
            taken_hashes.add(image.sha256)
        if on_image:
            on_image()
    if exact and (not taken or len(taken) < (count or 0)):
        raise _shortage(dataset, count or wanted, len(taken), len(unreadable))
    return Selection(tuple(taken), dataset.path, tuple(unreadable), tuple(copies))


def select_listed(
    dataset: Dataset, listed: Mapping[str, str], source: Path, on_image: Callable[[], None] | None = None
) -> Selection:
    """The samples with these names, in this order. `listed` maps names to sha256 and was read from `source`.

    Raises DataError with the names of the images that are missing or have another content, and ImageError if an image
    can't be decoded.
    """
    by_name = {sample.name: sample for sample in dataset.samples}
    taken, wrong = list[InspectedImage](), list[str]()
    for name, digest in listed.items():
        sample = by_name.get(name)
        image = inspect_image(dataset, sample) if sample else None
        if image is None or image.sha256 != digest:
            wrong.append(f"{name} ({'has another content' if sample else 'is missing'})")
            continue
        taken.append(image)
        if on_image:
            on_image()
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"'{dataset.path}' lacks {len(wrong)} of the {len(listed)} images that '{source}' lists: "
            f"{', '.join(wrong[:3])}{more}",
            fix="Use the data set from which the listed images were chosen",
        )
    return Selection(tuple(taken), dataset.path)


def _shortage(dataset: Dataset, wanted: int, available: int, unreadable: int) -> DataError:
    total = len(dataset.samples)
    return DataError(
        f"'{dataset.path}' has only {available} of the {wanted} images requested: of its {total} images, {unreadable} "
        f"can't be read and {total - unreadable - available} are already in use, or copies of those",
        fix="Request fewer images, or add images to the data set",
    )


def missing_classes(dataset: Dataset, evaluation: Selection) -> str | None:
    """The warning that some classes have no evaluation image; None if all have one, or there are fewer images."""
    classes = dataset.classes_of(dataset.samples)
    missing = sorted(dataset.class_names[index] for index in classes - dataset.classes_of(evaluation.samples))
    if not missing or len(evaluation.samples) < len(classes):
        return None
    return (
        f"{len(missing)} of the {len(classes)} classes of '{dataset.path}' have no evaluation image, such as "
        f"'{missing[0]}': accuracy says nothing about them"
    )


def evaluation_doubts(dataset: Dataset, evaluation: Selection) -> list[str]:
    """Warnings of classes without an evaluation image, and of copies among these images, also with other labels."""
    missing = missing_classes(dataset, evaluation)
    return [*([missing] if missing else []), *_repeats(evaluation)]


def _repeats(evaluation: Selection) -> list[str]:
    kept = {image.sha256: image.sample for image in evaluation.images}
    pairs = [(image.sample, kept[image.sha256]) for image in evaluation.copies if image.sha256 in kept]
    if not pairs:
        return []
    copy, first = pairs[0]
    warnings = [
        f"{len(pairs)} images are copies of other evaluation images and were left out, such as '{copy.name}' (like "
        f"'{first.name}')"
    ]
    conflicts = [(a, b) for a, b in pairs if (a.label, a.labels) != (b.label, b.labels)]
    if conflicts:
        named = "; ".join(f"'{a.name}' and '{b.name}'" for a, b in conflicts[:3])
        more = f"; and {len(conflicts) - 3} more" if len(conflicts) > 3 else ""
        warnings.append(f"{len(conflicts)} images have a copy with other labels, of which one is wrong: {named}{more}")
    return warnings


def _ordered(
    samples: Sequence[LabelledImage], seed: int, order: Order, taken: Collection[str]
) -> Iterator[LabelledImage]:
    """Yield the samples whose names aren't taken, those of each class in an order that `seed` determines.

    Labels have no influence, so a corrected list of class names chooses the same images.
    """
    by_class: dict[str, list[LabelledImage]] = {}
    for sample in samples:
        by_class.setdefault(sample.class_name, []).append(sample)
    shuffler = random.Random(seed)
    queues = [by_class[name] for name in sorted(by_class)]
    shuffler.shuffle(queues)
    for queue in queues:
        shuffler.shuffle(queue)
    if order == "shares":
        yield from _in_proportion(queues, taken)
        return
    parts = [_half_first(queue) if order == "turns for half" else [queue] for queue in queues]
    for of_classes in zip(*parts, strict=True):
        for turn in zip_longest(*of_classes):
            yield from (sample for sample in turn if sample and sample.name not in taken)


def _half_first(queue: Sequence[LabelledImage]) -> list[Sequence[LabelledImage]]:
    """Half of the samples of a class, rounded down; the others but one; and that one."""
    half = len(queue) // 2
    return [queue[:half], queue[half:-1], queue[-1:]]


def _in_proportion(queues: Sequence[Sequence[LabelledImage]], taken: Collection[str]) -> Iterator[LabelledImage]:
    """Yield the samples that aren't taken so that the first of them have the classes in proportion to their sizes.

    Classes of the same size take turns.
    """

    def placed(number: int, queue: Sequence[LabelledImage]) -> Iterator[tuple[float, int, int, LabelledImage]]:
        left = ((turn, sample) for turn, sample in enumerate(queue) if sample.name not in taken)
        for place, (turn, sample) in enumerate(left):
            yield (place + 0.5) / len(queue), turn, number, sample

    for *_, sample in merge(*(placed(number, queue) for number, queue in enumerate(queues))):
        yield sample


@dataclass(frozen=True)
class CalibrationList:
    """Contents of a calibration.json."""

    path: Path
    images: Mapping[str, str]
    """SHA-256 by image name, in the order of calibration."""
    recipe: Recipe

    @staticmethod
    def read(path: Path, rewrites: Collection[str] | None = None) -> "CalibrationList":
        """Read a calibration.json. Raises InputError if it is not valid, or ProfileError if its recipe is not."""
        try:
            document = json.loads(path.read_text("utf-8"))
            if document["schema_version"] != 1:
                raise ValueError(f"schema_version is {document['schema_version']} instead of 1")
            images = {image["name"]: image["sha256"] for image in document["images"]}
            recipe = dict(document["recipe"])
            targets = recipe.pop("targets")
            table = recipe | targets
        except OSError as error:
            raise InputError(f"calibration list '{path}' can't be read: {error.strerror or error}", fix=FIX) from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"'{path}' is not a calibration.json: {reason}", fix=FIX) from error
        if not images or not all(isinstance(text, str) for pair in images.items() for text in pair):
            raise InputError(f"'{path}' is not a calibration.json: it lists no images", fix=FIX)
        return CalibrationList(path, images, Recipe.parse(_without_nulls(table), str(path), rewrites))

    @staticmethod
    def hashes_in(path: Path, sha256: str) -> tuple[str, ...] | None:
        """SHA-256 of the images that a calibration.json lists; None unless it is one, and of the set with this hash."""
        try:
            document = json.loads(path.read_text("utf-8"))
            return tuple(str(image["sha256"]) for image in document["images"]) if document["sha256"] == sha256 else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def write_list(path: Path, chosen: Selection, recipe: Recipe, seed: int) -> None:
    """Write calibration.json: every image used with its sha256, the seed and the recipe."""
    write_json(
        path,
        {
            "schema_version": 1,
            "seed": seed,
            "sha256": chosen.sha256,
            "data": chosen.source.name,
            "recipe": asdict(recipe),
            "images": [
                {
                    "name": image.sample.name,
                    "sha256": image.sha256,
                    "label": image.sample.labels or image.sample.label,
                }
                for image in chosen.images
            ],
            "unreadable": [{"name": name, "reason": reason} for name, reason in chosen.unreadable],
        },
    )


def _without_nulls(table: Any) -> Any:
    """The table without keys that are null, because TOML, which recipes are written in, has no null."""
    if not isinstance(table, dict):
        return table
    return {key: _without_nulls(value) for key, value in table.items() if value is not None}


DIFFERENCE = 14
"""Number of bits, of 128, in which the difference hashes of two encodings of an image may differ. Photos re-encoded as
JPEG of quality 75, or at half size, differ in at most 9. Of 12 million pairs of CIFAR-10 images, eight differ in 2 to
10 bits, and the two images of each look identical; the next pair differs in 22. On images with few details, such as
black text on white, most bits are always the same, so that hashes find candidates only."""
CORRELATION = 0.9
"""Smallest correlation of the pixels of two candidates that are taken for copies. Of 4,700 copies of photos that were
recompressed (JPEG of quality 30 to 75, WebP of quality 60), resized (a quarter to twice the size) or brightened and
whose hashes are similar, one has less: 0.898. Of 235,000 candidates among images of different words, from 96x32 pixels
up, none has more than 0.84; different words of two or three letters in 28x28 pixels may have 0.95."""
SIDE = 64
"""Longest side in pixels at which candidates are compared. At 32 pixels, different words have up to 0.97."""
MOST_CANDIDATES = 256
"""Number of candidates, those with the most similar hashes, with which an image is compared."""
CHUNK = 4096
DIGITS = 16
"""Hexadecimal digits of an image's SHA-256 that a bundle's manifest keeps: 2.5 kB for 128 images. That any of a million
images shares them with one of 1,000 other images has a chance of 1 in 18 billion."""


def short_hashes(hashes: Collection[str]) -> tuple[str, ...]:
    """The first `DIGITS` digits of SHA-256 hashes, sorted."""
    return tuple(sorted(digest[:DIGITS] for digest in hashes))


def _candidates(dhashes: Sequence[bytes], others: Sequence[bytes]) -> Iterator[tuple[int, list[int]]]:
    """Yield (index, indices of the others with similar hashes, the most similar first) where there are any."""
    bits = _bits(others)
    for start in range(0, len(dhashes), CHUNK):
        own = _bits(dhashes[start : start + CHUNK])
        distances = own.sum(1)[:, None] + bits.sum(1)[None] - 2 * own @ bits.T
        for index in np.flatnonzero(distances.min(1) <= DIFFERENCE):
            near = np.flatnonzero(distances[index] <= DIFFERENCE)
            order = np.argsort(distances[index][near], kind="stable")[:MOST_CANDIDATES]
            yield start + int(index), near[order].tolist()


def _shrunk(image: Image.Image) -> Image.Image:
    """The image in grey, with sides of at most SIDE pixels, which need not keep their ratio."""
    size = (min(image.width, SIDE), min(image.height, SIDE))
    return image.convert("L").resize(size, Image.Resampling.BOX)


def _normalized(image: Image.Image, size: tuple[int, int]) -> NDArray[np.float32]:
    """The pixels at this size as a vector with mean 0 and length 1, or zeros for an image of one colour."""
    pixels = np.asarray(image.resize(size, Image.Resampling.BOX), np.float32).ravel()
    pixels = pixels - pixels.mean()
    return np.asarray(pixels / max(float(np.linalg.norm(pixels)), 1e-6), np.float32)


def _bits(dhashes: Sequence[bytes]) -> NDArray[np.float32]:
    """Bits of the hashes as 0 or 1, [N,128]."""
    return np.unpackbits(np.frombuffer(b"".join(dhashes), np.uint8)).reshape(len(dhashes), -1).astype(np.float32)
