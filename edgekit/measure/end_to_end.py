"""Times of the whole way from an image to its answer: decoding, resizing and normalizing beside the model.

The images of a data set are often smaller than an app's. So the way of a photo of 12 megapixels and of a frame in full
HD is timed, too; both are made of an image that the model is timed on. So are a camera's frames, which an app may
prepare while the model runs.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from io import BytesIO
from itertools import cycle, repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgekit.images.preprocess import ImageLike, Preprocessing, open_image, open_reduced
from edgekit.measure.latency import CallFailed, Times, alternate
from edgekit.measure.settings import Timing
from edgekit.report.figure import Camera, Preparation
from edgekit.runtime.bundle import Manifest
from edgekit.runtime.session import Session, ahead

K = TypeVar("K")
PHOTO = (4000, 3000)
"""Width and height of a photo of 12 megapixels."""
FRAME = (1920, 1080)
"""Width and height of a frame in full HD."""
TILE = 1000
"""Side of a tile of noise like a sensor's."""
NOISE = 6.0
"""Its standard deviation in levels of 255. Photos of 12 megapixels then have 3 MB, as a camera's; without noise, an
image that was enlarged is decoded sooner."""
QUALITY = 90
"""Quality of the JPEG."""
ROUNDS = 5
"""Times that the photo and the frame are prepared."""


def frame_of(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A frame [H,W,3] of this width and height, made of an image [H,W,C]."""
    return np.array(open_image(pixels).resize(size, Image.Resampling.BICUBIC))


def photo_of(pixels: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """A JPEG of this width and height, made of an image [H,W,C]."""
    frame = frame_of(pixels, size)
    file = BytesIO()
    noise = np.random.default_rng(0).normal(0, NOISE, (TILE, TILE, 1)).astype(np.int16)
    for top in range(0, size[1], TILE):
        for left in range(0, size[0], TILE):
            tile = frame[top : top + TILE, left : left + TILE]
            tile[:] = (tile + noise[: tile.shape[0], : tile.shape[1]]).clip(0, 255)
    Image.fromarray(frame).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def time_preparation(
    preprocessing: Preprocessing, convert: Callable[[NDArray[np.uint8]], object], images: Iterable[ImageLike]
) -> Preparation:
    """Median times of each stage of preparing these images, of which the first one doesn't count.

    `convert` makes a model's input of a crop.
    """
    times = []
    for image in images:
        start = time.perf_counter_ns()
        decoded = open_reduced(image, None, preprocessing.reduction)
        opened = time.perf_counter_ns()
        pixels = preprocessing.crop_decoded(decoded)
        cropped = time.perf_counter_ns()
        convert(pixels)
        end = time.perf_counter_ns()
        times.append((opened - start, cropped - opened, end - cropped))
    decode, resize, normalize = (np.median(times[1:], axis=0) / 1e6).tolist()
    return Preparation(
        decode=decode,
        resize=resize,
        normalize=normalize,
    )


def time_preparations(
    manifest: Manifest, files: Sequence[bytes], pixels: NDArray[np.uint8] | None
) -> dict[str, Preparation]:
    """Times of preparing files and, unless `pixels` [H,W,C] is None, a photo and a frame that are made of this image.

    The keys are the fields of `EndToEnd`.
    """
    images: dict[str, Sequence[ImageLike]] = {"images": [files[0], *files]}
    if pixels is not None:
        images["photo"] = [photo_of(pixels, PHOTO)] * (1 + ROUNDS)
        images["frame"] = [frame_of(pixels, FRAME)] * (1 + ROUNDS)
    return {name: time_preparation(manifest.preprocessing, manifest.input_of, each) for name, each in images.items()}


def from_files(session: Session, files: Sequence[bytes]) -> Callable[[], object]:
    """Build a call that decodes, preprocesses and runs the next file, in an endless cycle."""
    turn = cycle(files)
    return lambda: session(session.bundle.manifest.prepare(next(turn)))


def time_end_to_end(
    calls: Mapping[K, Callable[[], object]], timing: Timing
) -> tuple[dict[K, Times], dict[K, Exception]]:
    """Time calls that include decoding and preprocessing, in fewer rounds; returns the times and the errors."""
    remaining = dict(calls)
    failures: dict[K, Exception] = {}
    rounds = max(5, timing.iterations // 8)
    while remaining:
        try:
            return alternate(remaining, min(timing.warmup, 2), rounds), failures
        except CallFailed as failed:
            failures[failed.key] = failed.error
            del remaining[failed.key]
    return {}, failures


def time_camera(session: Session, pixels: NDArray[np.uint8], size: tuple[int, int], timing: Timing) -> Camera:
    """Time a camera's frames of this width and height, which are made of an image [H,W,C].

    Raises the error of a frame that fails.
    """
    frame = frame_of(pixels, size)
    manifest = session.bundle.manifest
    with closing(ahead(repeat(frame), lambda: session)) as prepared:
        calls = {
            "one after the other": lambda: session(manifest.prepare(frame)),
            "ahead": lambda: session(next(prepared)[1]),
        }
        times, errors = time_end_to_end(calls, timing)
    for error in errors.values():
        raise error
    one_by_one = times["one after the other"]
    return Camera(
        width=size[0],
        height=size[1],
        preparation=time_preparation(manifest.preprocessing, manifest.input_of, [frame] * (1 + ROUNDS)),
        p50_ms=float(np.median(one_by_one)),
        frames_per_second=1e3 / float(one_by_one.mean()),
        frames_per_second_ahead=1e3 / float(times["ahead"].mean()),
    )
