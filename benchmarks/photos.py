"""Times how long an image takes to become the input of a model of 224 pixels, in each form of preprocessing.

    python -m benchmarks.photos --data imagenet-500.zip

One thread prepares JPEGs of 12 megapixels and frames in full HD, as `edgekit deploy` makes them of an image, and the
images as they are. benchmarks/photos.json has the median milliseconds of CPU time of each stage, which a busy machine
hardly changes.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.recording import new_recording
from benchmarks.rows import Row, keep_rows
from edgekit.config.runtimes import FORMS
from edgekit.images.dataset import Dataset
from edgekit.images.preprocess import ImageLike, Preprocessing, open_image
from edgekit.measure.end_to_end import FRAME, PHOTO, frame_of, photo_of, time_preparation

RESULTS = Path(__file__).with_name("photos.json")
INPUT = Preprocessing(224, 224, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGES, ROUNDS = 8, 3
"""Number of images, and how often each is prepared."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="ImageNet images, folder or zip")
    dataset = Dataset.open(parser.parse_args().data, tuple(map(str, range(1000))))  # ImageNet's classes
    recording, files = new_recording(), [dataset.read(sample) for sample in dataset.samples[:IMAGES]]
    pixels = [np.asarray(open_image(file)) for file in files]
    images: dict[str, Sequence[ImageLike]] = {
        "photo": [photo_of(each, PHOTO) for each in pixels],
        "frame": [frame_of(each, FRAME) for each in pixels],
        "file": files,
    }
    with mock.patch.object(time, "perf_counter_ns", time.process_time_ns):
        rows = measured(images)
    keep_rows(RESULTS, rows, ("image", "form"), recording)
    print(*rows, sep="\n")


def measured(images: dict[str, Sequence[ImageLike]]) -> list[Row]:
    """A row for each kind of image and form."""
    rows = []
    for name, each in images.items():
        for form in FORMS:
            own = INPUT.in_form(form)
            times = time_preparation(own, own.normalize, [*each[:1], *(list(each) * ROUNDS)])
            stages = {stage: round(ms, 3) for stage, ms in vars(times).items()}
            rows.append({"image": name, "form": form, **stages})
    return rows


if __name__ == "__main__":
    main()
