"""Choose images of a data set, by seed or from a list, and hash what was chosen."""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import DataError, ImageError, UsageError
from edgekit.images.dataset import Dataset, Sample
from edgekit.images.perceptual_hash import difference_hash
from edgekit.images.preprocess import open_image


@dataclass(frozen=True)
class Selection:
    """Chosen samples, classes taking turns from the first sample on, and what was learned of them on the way.

    `hashes` are the samples' sha256 in their order; `sha256` identifies the set: it is the hash of its sorted
    "name sha256" lines. `unreadable` lists (name, reason), `copies` (name, sha256) of those that were passed over
    because another selection has their content. `source` is the data set's path, `dhashes` their difference hashes.
    """

    samples: tuple[Sample, ...]
    sha256: str
    hashes: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    source: Path
    dhashes: tuple[bytes, ...]
    copies: tuple[tuple[str, str], ...] = ()


def inspect_image(dataset: Dataset, sample: Sample) -> tuple[str, bytes]:
    """The sha256 of an image's file, and its difference hash; raises ImageError for one that can't be decoded."""
    content = dataset.read(sample)
    dhash = difference_hash(open_image(content, f"{dataset.path}/{sample.name}"))
    return hashlib.sha256(content).hexdigest(), dhash


def select(
    dataset: Dataset,
    count: int | None,
    seed: int,
    exclude: Selection | None = None,
    exact: bool = True,
    on_image: Callable[[], None] | None = None,
    inspect: Callable[[Dataset, Sample], tuple[str, bytes]] = inspect_image,
) -> Selection:
    """Choose `count` samples (None or 0: all), classes in turn, in an order that `seed` alone decides.

    Every candidate is decoded once; one that can't be is listed as unreadable and the next is taken. No sample of
    `exclude` is taken, nor one with the same content. `on_image` is called for each sample taken; `inspect` gives what
    `inspect_image` does. If there are fewer than `count`, or none at all, raises DataError when `exact`, else gives
    what there is.
    """
    if count is not None and count < 0:
        raise UsageError(f"the number of samples is {count}: give a whole number, or 0 for all")
    wanted = count or len(dataset.samples)
    taken_names = {sample.name for sample in exclude.samples} if exclude and exclude.source == dataset.path else set()
    taken_hashes = set(exclude.hashes) if exclude else set()
    taken: list[tuple[Sample, str, bytes]] = []
    copies: list[tuple[str, str]] = []
    unreadable: list[tuple[str, str]] = []
    for sample in _in_turns(dataset.samples, seed):
        if len(taken) == wanted:
            break
        if sample.name in taken_names:
            continue
        try:
            digest, dhash = inspect(dataset, sample)
        except ImageError as error:
            unreadable.append((sample.name, str(error)))
            continue
        if digest in taken_hashes:
            copies.append((sample.name, digest))
            continue
        taken.append((sample, digest, dhash))
        if on_image:
            on_image()
    if exact and (not taken or len(taken) < (count or 0)):
        raise _shortage(dataset, wanted, len(taken), len(unreadable))
    return replace(_selection_of(taken, dataset.path), unreadable=tuple(unreadable), copies=tuple(copies))


def select_listed(
    dataset: Dataset, listed: Mapping[str, str], source: Path, on_image: Callable[[], None] | None = None
) -> Selection:
    """The samples of these names, in this order; `listed` has the sha256 of each, `source` is where it was read.

    Raises DataError naming those that the data set lacks or has with another content, ImageError for one that can't
    be decoded.
    """
    known = {sample.name: sample for sample in dataset.samples}
    taken, wrong = [], []
    for name, digest in listed.items():
        sample = known.get(name)
        found, dhash = inspect_image(dataset, sample) if sample else ("", b"")
        if sample is None or found != digest:
            wrong.append(f"{name} ({'is another image' if sample else 'is missing'})")
            continue
        taken.append((sample, digest, dhash))
        if on_image:
            on_image()
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"'{dataset.path}' lacks {len(wrong)} of the {len(listed)} images that '{source}' lists: "
            f"{', '.join(wrong[:3])}{more}. Give the data set that they were taken from"
        )
    return _selection_of(taken, dataset.path)


def _selection_of(rows: Sequence[tuple[Sample, str, bytes]], source: Path) -> Selection:
    samples, hashes, dhashes = (tuple(column) for column in zip(*rows, strict=True)) if rows else ((), (), ())
    lines = sorted(f"{sample.name} {digest}\n" for sample, digest, _ in rows)
    digest = hashlib.sha256("".join(lines).encode()).hexdigest()
    return Selection(samples, digest, hashes, (), source, dhashes)


def split(selection: Selection, count: int) -> tuple[Selection, Selection]:
    """The first `count` samples, classes in turn, and the others but for those with the same content as one of them."""
    taken = set(selection.hashes[:count])
    rows = list(zip(selection.samples, selection.hashes, selection.dhashes, strict=True))
    return _part(selection, rows[:count]), _part(selection, [row for row in rows[count:] if row[1] not in taken])


def _part(selection: Selection, rows: Sequence[tuple[Sample, str, bytes]]) -> Selection:
    part = _selection_of(rows, selection.source)
    return replace(part, unreadable=selection.unreadable, copies=selection.copies)


def _shortage(dataset: Dataset, wanted: int, found: int, unreadable: int) -> DataError:
    total = len(dataset.samples)
    return DataError(
        f"'{dataset.path}' gives {found} of the {wanted} images asked for: it has {total}, {unreadable} "
        f"can't be read and {total - unreadable - found} are used already. Ask for fewer, or give more images"
    )


def _in_turns(samples: Sequence[Sample], seed: int) -> Iterator[Sample]:
    """One sample of each class, then a second of each, and so on; classes and samples in an order given by `seed`."""
    by_class: dict[int, list[Sample]] = {}
    for sample in samples:
        by_class.setdefault(sample.label, []).append(sample)
    shuffler = random.Random(seed)
    queues = [by_class[label] for label in sorted(by_class)]
    shuffler.shuffle(queues)
    for queue in queues:
        shuffler.shuffle(queue)
    turn = 0
    while queues:
        for queue in queues:
            yield queue[turn]
        turn += 1
        queues = [queue for queue in queues if len(queue) > turn]
