"""Classify images, or find those of a set that are most like them, for `edgekit classify`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import DataError, ImageError, UsageError
from edgekit.images.dataset import Dataset, Sample, open_dataset
from edgekit.images.decoding import ImageLike
from edgekit.runtime.activation import activated
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.runtime.engine import check_threads
from edgekit.runtime.session import TOP, Session, open_session
from edgekit.support.progress import Reporter


@dataclass(frozen=True)
class Scored:
    """A label and its softmax score, or its probability among several labels, from 0 to 1."""

    label: str
    score: float


@dataclass(frozen=True)
class ClassifiedImage:
    """Best labels of one image, the best first."""

    image: str
    top: tuple[Scored, ...]


@dataclass(frozen=True)
class Neighbour:
    """An image of a set, with the name of its class, and the cosine of its vector and another image's, from -1 to 1."""

    image: str
    label: str | None
    cosine: float


@dataclass(frozen=True)
class SearchedImage:
    """The images of a set that are most like one image, the most similar first."""

    image: str
    nearest: tuple[Neighbour, ...]


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Result of `edgekit classify`."""

    schema_version: Literal[1] = 1
    bundle: str
    results: tuple[ClassifiedImage | SearchedImage, ...]


def classify_images(
    path: Path,
    images: Sequence[Path],
    top: int | None,
    threads: int | None,
    data: Path | None,
    reporter: Reporter,
    threshold: float | None = None,
) -> Classification:
    """Find the best labels of each image; or, with a bundle that gives vectors, the nearest images of the set `data`.

    `top` and `threshold` are those of `Session.classify`. Raises ImageError for an image that can't be read, and
    UsageError for a set without such a bundle, or the reverse. An image of the set that can't be read costs a warning.
    """
    check_threads(threads)
    bundle = read_bundle(path)
    _check(bundle, data)
    results: Sequence[ClassifiedImage | SearchedImage]
    with open_session(bundle, threads) as session:
        if data is not None:
            results = _searched(session, images, open_dataset(data, (), "optional"), top or TOP, reporter)
        else:
            best = ((image, session.classify(image, top, threshold)) for image in images)
            results = [ClassifiedImage(str(image), tuple(Scored(*each) for each in labels)) for image, labels in best]
    return Classification(bundle=str(path), results=tuple(results))


def _check(bundle: Bundle, data: Path | None) -> None:
    if bundle.manifest.gives_vectors and data is None:
        raise UsageError(
            f"bundle '{bundle.path}' gives vectors, which have no labels",
            fix="Add `--data FOLDER` to find the images of a folder that are most like each image",
        )
    if data is not None and not bundle.manifest.gives_vectors:
        raise UsageError(
            f"bundle '{bundle.path}' gives scores of classes, and --data is '{data}'",
            valid="--data for a bundle that gives vectors",
            fix="Leave out `--data`",
        )


def _searched(
    session: Session, images: Sequence[Path], dataset: Dataset, top: int, reporter: Reporter
) -> list[SearchedImage]:
    queries = [_unit(session, image) for image in images]
    samples, vectors = [], []
    with reporter.stage(f"embed '{dataset.path}'", len(dataset.samples)) as step:
        for sample in dataset.samples:
            try:
                vectors.append(_unit(session, dataset.image(sample)))
                samples.append(sample)
            except ImageError as error:
                reporter.warn(f"skipped: {error}")
            step()
    if not samples:
        raise DataError(f"'{dataset.path}' has no image that can be read")
    cosines = np.stack(vectors) @ np.stack(queries, axis=1)
    return [SearchedImage(str(image), _nearest(samples, cosines[:, n], top)) for n, image in enumerate(images)]


def _unit(session: Session, image: ImageLike) -> NDArray[np.float32]:
    """The vector of an image with length 1."""
    vector: NDArray[np.float32] = activated(session.embed(image), "normalize")
    return vector


def _nearest(samples: Sequence[Sample], cosines: NDArray[np.float32], top: int) -> tuple[Neighbour, ...]:
    best = np.argsort(-cosines, kind="stable")[:top]
    return tuple(Neighbour(samples[n].name, samples[n].class_name or None, float(cosines[n])) for n in best)
