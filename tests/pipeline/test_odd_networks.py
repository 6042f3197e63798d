"""Odd paddings, odd sizes, grey images and uncommon numbers of classes, on all runtimes; and the steps one by one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import edgekit
from edgekit.cli.main import main
from edgekit.config.runtimes import RUNTIMES
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import torch_logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline.builder import Builder
from edgekit.pipeline.graphs import PARITY, JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.report import load_report
from edgekit.report.document import Report
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.progress import Reporter
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.odd import GREY_SIZE, WIDE_SIZE

pytestmark = pytest.mark.slow
TARGETS = tuple(RUNTIMES)
BUNDLES = [f"{target}-{precision}" for target in TARGETS for precision in ("float", "int8")]
SNR_DB = 12
"""Lowest signal-to-noise ratio in decibels of int8 logits, of which only the differences between images count. These
networks reach at least 15, and with the first `F.pad` at the other sides, 0."""
CALIBRATION, EVALUATION = 8, 16
"""Numbers of images."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `calibration` and `evaluation` of colour images, with one folder for each of two classes."""
    folder, random = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3)
    for part, count in (("calibration", CALIBRATION), ("evaluation", EVALUATION)):
        for index in range(count):
            path = folder / part / f"class_{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(random.integers(0, 256, (6, 5, 3), np.uint8))
            small.resize((41, 45), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="module")
def grey_job(pictures: Path) -> list[str]:
    """What `deploy`, `quantize` and `compile` take of the job of a network for grey images."""
    size = "x".join(map(str, GREY_SIZE))
    return ["tests.helpers.odd:grey", "--imgsz", size, "--crop-pct", "1.0", "--data", str(pictures / "evaluation")]


@pytest.fixture(scope="module")
def calibrating(pictures: Path) -> list[str]:
    return ["--calibration-data", str(pictures / "calibration"), "--num-calibration-samples", str(CALIBRATION)]


@pytest.fixture(scope="module")
def grey_run(grey_job: list[str], calibrating: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of `deploy` with every runtime."""
    folder = tmp_path_factory.mktemp("grey") / "run"
    quick = ["--threads", "1", "--iterations", "3", "--warmup", "0", "--min-speedup", "0", "--max-drop", "100"]
    with without_fresh_processes():
        assert main(["deploy", *grey_job, *calibrating, *quick, "-o", str(folder), "--quiet", "--json"]) == 0
    return folder


@pytest.fixture(scope="module")
def grey_report(grey_run: Path) -> Report:
    return load_report(grey_run)


def differences(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits without their mean over the images, which a network could give without looking at one."""
    return np.asarray(logits - logits.mean(0), np.float32)


def loaded_job(name: str, size: tuple[int, int], pictures: Path) -> tuple[BuildSpec, JobImages]:
    model = ModelOptions(name, imgsz=size, crop_pct=1.0)
    options = Job(
        model, pictures / "evaluation", calibration_data=pictures / "calibration", num_calibration_samples=CALIBRATION
    )
    return load_job(options, Reporter(quiet=True))


def check_logits(spec: BuildSpec, images: JobImages, bundles: dict[str, Bundle]) -> None:
    """Compare each bundle's logits for the evaluation images with torch's."""
    assert list(bundles) == BUNDLES
    preprocessing = spec.network.preprocessing
    pixels = images.dataset.crop(images.evaluation.samples, preprocessing).pixels
    expected = torch_logits(spec.network, pixels)
    assert len(set(expected.argmax(1).tolist())) > 1
    for name, bundle in bundles.items():
        with edgekit.load(bundle.path, threads=1, verify=True) as session:
            logits = session(preprocessing.normalize(pixels))
        if bundle.manifest.precision == "float":
            assert np.abs(logits - expected).max() <= PARITY * np.abs(expected).max(), name
        else:
            assert SNR_DB < snr_db(differences(expected), differences(logits)) < 80, name
            assert all(layer["int8"] for layer in bundle.manifest.layers if layer["op"] != "depthwise"), name


def test_grey_images_odd_paddings_and_two_classes(grey_run: Path, pictures: Path) -> None:
    check_logits(
        *loaded_job("tests.helpers.odd:grey", GREY_SIZE, pictures),
        {name: read_bundle(grey_run / name) for name in BUNDLES},
    )


def test_same_padding_and_21843_classes(pictures: Path, tmp_path: Path) -> None:
    spec, images = loaded_job("tests.helpers.odd:wide", WIDE_SIZE, pictures)
    built = Builder(JobGraphs(spec, Reporter(quiet=True))).build(TARGETS, tmp_path)
    bundles = {name: bundle for name, bundle in built.items() if isinstance(bundle, Bundle)}
    check_logits(spec, images, bundles)
    assert {bundle.manifest.classes for bundle in bundles.values()} == {21_843}


def test_the_sdk_makes_images_grey(grey_run: Path, pictures: Path) -> None:
    path = next((pictures / "evaluation").rglob("*.png"))
    with Image.open(path) as image:
        colour, grey = image.convert("RGB"), image.convert("L")
    for target in TARGETS:
        with edgekit.load(grey_run / f"{target}-int8", threads=1) as classifier:
            batch = classifier.preprocess(path)
            assert batch.shape == (1, 1, *GREY_SIZE)
            for same in (colour, grey, np.asarray(grey)):
                np.testing.assert_array_equal(classifier.preprocess(same), batch)
            assert len(classifier.classify(path)) == 2


def test_the_report_of_grey_images(grey_report: Report) -> None:
    assert grey_report.model.input_shape == (1, 1, *GREY_SIZE)
    assert [row.verdict for row in grey_report.results] == ["pass"] * len(BUNDLES)
    assert (grey_report.calibration.count, grey_report.evaluation.count) == (CALIBRATION, EVALUATION)


def test_the_steps_give_the_bundles_and_figures_of_the_whole_job(
    grey_run: Path,
    grey_report: Report,
    grey_job: list[str],
    calibrating: list[str],
    pictures: Path,
    tmp_path: Path,
    capfd: Any,
) -> None:
    graphs, bundles = tmp_path / "graphs", tmp_path / "bundles"
    own_images = ["--data", str(pictures / "calibration")]  # `compile` compares with torch on the first images of these
    job = grey_job[:-2]
    assert main(["quantize", *grey_job, *calibrating, "-o", str(graphs)]) == 0
    assert main(["compile", str(graphs), "-o", str(bundles)]) == 0
    assert main(["compile", *job, *own_images, "-o", str(bundles)]) == 0
    for name in BUNDLES:
        files = {path.name: path.read_bytes() for path in (grey_run / name).iterdir()}
        assert {path.name: path.read_bytes() for path in (bundles / name).iterdir()} == files, name

    capfd.readouterr()
    paths = [str(bundles / name) for name in BUNDLES]
    assert main(["evaluate", *paths, "--data", str(pictures / "evaluation"), "--threads", "1", "--json"]) == 0
    evaluation = json.loads(capfd.readouterr().out)
    assert evaluation["evaluation"]["sha256"] == grey_report.evaluation.sha256
    for evaluated, row in zip(evaluation["results"], grey_report.results, strict=True):
        assert row.accuracy is not None
        expected = (row.accuracy.top1, row.accuracy.top5, row.accuracy.count)
        assert tuple(evaluated["accuracy"][figure] for figure in ("top1", "top5", "count")) == expected
