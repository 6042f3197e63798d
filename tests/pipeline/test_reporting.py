"""Thumbnails of flipped images: small JPEG files of what the network saw."""

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekit.images.dataset import Dataset
from edgekit.images.preprocess import Preprocessing
from edgekit.job import DEMO, Job
from edgekit.pipeline.reporting import SIDE, make_thumbnails, write_findings
from edgekit.report.document import Report
from edgekit.report.html import CLASSES, EXAMPLES
from edgekit.report.row import ChangedImage, ClassChange, ThreadTime
from edgekit.runtime.bundle import read_bundle, with_manifest
from edgekit.support.progress import Reporter
from tests.helpers.reports import BEST, RANDOM_MODEL, accuracy, device, latency, report, report_with, row
from tests.helpers.tiny import MakeBundle, tiny_labels

WIDE = Preprocessing(96, 128, "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
GREY = Preprocessing(32, 32, "bilinear", 1.0, "center", (0.5,), (0.5,))


def flipped(*names: str) -> Report:
    """A report with a changed class for each of these images."""
    changes = tuple(
        ClassChange(
            label=name, images=1, reference_right=1, right=0, flipped=1, examples=(ChangedImage(name, "a", "b"),)
        )
        for name in names
    )
    return report_with(BEST, accuracy=accuracy(changes=changes))


@pytest.mark.parametrize(("preprocessing", "size", "mode"), [(WIDE, (SIDE, 48), "RGB"), (GREY, (32, 32), "L")])
def test_a_thumbnail_is_the_crop_made_smaller(
    photos: Path, preprocessing: Preprocessing, size: tuple[int, int], mode: str
) -> None:
    made = make_thumbnails(
        flipped("class_1/0.png"), Dataset.open(photos, tiny_labels()), preprocessing, Reporter(quiet=True)
    )
    assert list(made) == ["class_1/0.png"]
    with Image.open(io.BytesIO(made["class_1/0.png"])) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", size, mode)
        seen = Image.fromarray(preprocessing.crop(Image.open(photos / "class_1/0.png").convert("RGB")).squeeze())
        difference = np.asarray(image.convert("L"), int) - np.asarray(seen.resize(size).convert("L"), int)
        assert np.abs(difference).mean() < 10


def test_only_images_that_the_page_shows_have_one(photos: Path) -> None:
    dataset = Dataset.open(photos, tiny_labels())
    names = [sample.name for sample in dataset.samples]
    made = make_thumbnails(flipped(*names), dataset, GREY, Reporter(quiet=True))
    assert list(made) == names[:CLASSES]
    examples = tuple(ChangedImage(name, "a", "b") for name in names[:5])
    one = ClassChange(label="a", images=5, reference_right=5, right=0, flipped=5, examples=examples)
    whole = report_with(BEST, accuracy=accuracy(changes=(one,)))
    assert list(make_thumbnails(whole, dataset, GREY, Reporter(quiet=True))) == names[:EXAMPLES]
    for other in (report(), report(model=RANDOM_MODEL, results=whole.results)):
        assert make_thumbnails(other, dataset, GREY, Reporter(quiet=True)) == {}


def test_an_image_that_is_gone_costs_its_thumbnail(
    photos: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "class_0"
    folder.mkdir()
    for name in ("0.png", "1.png"):
        (folder / name).write_bytes((photos / "class_0" / name).read_bytes())
    dataset = Dataset.open(tmp_path, ["class_0"])
    (folder / "0.png").unlink()
    made = make_thumbnails(flipped("class_0/0.png", "class_0/1.png"), dataset, GREY, Reporter(quiet=True))
    assert list(made) == ["class_0/1.png"]
    assert "class_0/0.png" in capfd.readouterr().err


@pytest.mark.parametrize("without", [False, True])
def test_the_option_turns_them_off(without: bool) -> None:
    job = Job.of(DEMO, {"thumbnails": False} if without else {})
    assert job.thumbnails is not without
    assert ("--no-thumbnails" in job.arguments) is without


@pytest.mark.parametrize(
    ("threads", "changes", "default"),
    [
        (1, {}, 1),
        (1, {"emulated": True}, 4),
        (2, {}, None),  # every core
        (1, {"by_threads": ()}, None),  # it isn't certain any more
        (1, {"stated": 1}, 4),
        (1, {"device_class": "raspberry-pi-5"}, 4),
    ],
)
def test_the_fastest_number_of_threads_becomes_the_default_on_the_device(
    threads: int, changes: dict[str, Any], default: int | None, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(make_bundle("onnx"), tmp_path / "onnx-int8"))
    before = with_manifest(read_bundle(place), threads=4)
    by_threads = changes.get("by_threads", (ThreadTime(1, 1.2), ThreadTime(2, 1.4)))
    here = device(device_class=changes.get("device_class", "x86-64"), emulated=changes.get("emulated"))
    one = row("onnx", latency_ms=latency(1.2, threads=threads, by_threads=by_threads), device=here)
    write_findings(report(results=(one,)), tmp_path, changes.get("stated"))
    bundle = read_bundle(place)
    assert bundle.manifest == replace(before.manifest, threads=default), "the same command finds it intact"
