"""Times how long an image takes to become a model's input in each form of preprocessing, and what the fast form loses.

    python -m benchmarks.photos --data imagenet-500.zip
    python -m benchmarks.photos --loss --data imagenet-500.zip --cifar FOLDER

One thread prepares JPEGs of 12 megapixels and frames in full HD, as `edgekit deploy` makes them of an image, and the
images as they are, for a model of 224 pixels. benchmarks/photos.json has the median milliseconds of CPU time of each
stage, which a busy machine hardly changes.

With --loss, the float networks that were trained for photos answer for the same photos in both forms, as they are and
enlarged to 12 megapixels. benchmarks/photos_loss.json has the drop of top-1, and what the fast form takes of the right
class's probability, by which `edgekit deploy --preprocessing auto` chooses.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from benchmarks.recording import new_recording
from benchmarks.rows import Row, keep_rows
from benchmarks.trained import CACHE
from edgekit.config.runtimes import FORMS
from edgekit.images.dataset import Dataset, LabelledImage
from edgekit.images.preprocess import ImageLike, Preprocessing, open_image
from edgekit.job import Job
from edgekit.measure.end_to_end import FRAME, PHOTO, frame_of, photo_of, time_preparation
from edgekit.measure.statistics import Z
from edgekit.measure.task import Task
from edgekit.models.network import Network, torch_logits
from edgekit.pipeline.loading import load_job
from edgekit.support.progress import Reporter

RESULTS = Path(__file__).with_name("photos.json")
LOSSES = Path(__file__).with_name("photos_loss.json")
INPUT = Preprocessing(224, 224, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
IMAGES, ROUNDS = 8, 3
"""Number of images, and how often each is prepared."""


NETWORKS = ("lite0", "lite1", "lite2", "convnextv2")
"""Networks of the bench with trained weights whose loss tells something: three of ImageNet's photos, and the demo."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="ImageNet images, folder or zip")
    parser.add_argument("--loss", action="store_true", help="measure the loss instead of the times")
    parser.add_argument("--cifar", type=Path, help="folder with cifar10-train.zip and cifar10-val-5k.zip, for the loss")
    parser.add_argument("--images", type=int, default=400, help="largest number of images for the loss")
    args = parser.parse_args()
    if args.loss:
        measure_losses(args)
    else:
        measure_times(args.data)


def measure_times(data: Path) -> None:
    dataset = Dataset.open(data, tuple(map(str, range(1000))))  # ImageNet's classes
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


@dataclass(frozen=True)
class Subject:
    """A float network with its images."""

    name: str
    network: Network
    task: Task
    dataset: Dataset
    samples: Sequence[LabelledImage]


def measure_losses(args: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    recording = new_recording()
    sets: dict[tuple[str, ...], list[Subject]] = {}
    for subject in (load(name, args) for name in NETWORKS):
        sets.setdefault(tuple(sample.name for sample in subject.samples), []).append(subject)
    for subjects in sets.values():
        for image, crops in crops_of(subjects).items():
            rows = [loss(subject, image, own) for subject, own in zip(subjects, crops, strict=True)]
            keep_rows(LOSSES, rows, ("network", "image"), recording)
            print(*rows, sep="\n", flush=True)


def load(name: str, args: argparse.Namespace) -> Subject:
    """One of the bench's networks, and the images on which `benchmarks.trained` evaluates it."""
    from benchmarks.trainedlib.images import Sets
    from benchmarks.trainedlib.subjects import SUBJECTS
    from benchmarks.trainedlib.weights import get_weights

    subject, sets = SUBJECTS[name], Sets(args.data, args.cifar, CACHE)
    data, calibration_data = sets.of(subject.images)
    job = Job(get_weights(name, subject, sets), data, calibration_data=calibration_data, num_calibration_samples=128)
    spec, images = load_job(job, Reporter(quiet=True))
    return Subject(name, spec.network, spec.task, images.dataset, images.evaluation.split(args.images)[0].samples)


Crops = dict[str, NDArray[np.uint8]]
"""Images [N,H,W,C] by the form."""


def crops_of(subjects: Sequence[Subject]) -> dict[str, list[Crops]]:
    """For images as they are and enlarged, the crops of each of the networks, which have the same images."""
    dataset, samples = subjects[0].dataset, subjects[0].samples
    preprocessings = [subject.network.preprocessing for subject in subjects]
    crops: dict[str, list[Crops]] = {
        image: [{form: np.empty((len(samples), *own.crop_shape), np.uint8) for form in FORMS} for own in preprocessings]
        for image in ("file", "photo")
    }
    for index, sample in enumerate(samples):
        file = dataset.read(sample)
        for image, source in (("file", file), ("photo", enlarged(file))):
            for own, result in zip(preprocessings, crops[image], strict=True):
                for form in FORMS:
                    result[form][index] = own.in_form(form).crop(source)
    return crops


def enlarged(file: bytes) -> bytes:
    """A JPEG of 12 megapixels with the image's sides in their proportion."""
    image = open_image(file)
    scale = sqrt(PHOTO[0] * PHOTO[1] / (image.width * image.height))
    return photo_of(np.asarray(image), (round(scale * image.width), round(scale * image.height)))


def loss(subject: Subject, image: str, crops: Crops) -> Row:
    """What the fast form costs one network, in points with 95 % intervals."""
    labels = subject.dataset.targets(subject.samples)
    exact, fast = (torch_logits(subject.network, crops[form]) for form in FORMS)
    accuracy = subject.task.compare(subject.task.kept(fast), subject.task.kept(exact), labels)
    of_exact, of_fast = (
        softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels] for logits in (exact, fast)
    )
    losses = 100 * (of_exact - of_fast)
    mean, width = float(losses.mean()), float(Z * losses.std(ddof=1) / sqrt(len(losses)))
    return {
        "network": subject.name,
        "image": image,
        "images": len(labels),
        "reduced": int((crops["exact"] != crops["fast"]).any(axis=(1, 2, 3)).sum()),
        "exact_top1": round(accuracy.value + accuracy.drop_points / 100, 4),
        "drop_top1_points": round(accuracy.drop_points, 2),
        "drop_ci95_points": [round(end, 2) for end in accuracy.drop_ci95_points],
        "lost": accuracy.right_to_wrong,
        "won": accuracy.wrong_to_right,
        "probability_points": round(mean, 3),
        "probability_ci95_points": [round(mean - width, 3), round(mean + width, 3)],
    }


if __name__ == "__main__":
    main()
