"""Comparing INT8 models that are calibrated on two halves of the images."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.errors import CompileError, ImageError
from edgekit.job import Job
from edgekit.models.options import ModelOptions, parse_model_args
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import BuildSpec
from edgekit.pipeline.stability import check_stability, doubt_of
from edgekit.report.document import RangeRatio, Stability
from edgekit.report.sentences import stability_words
from edgekit.support.progress import Reporter
from tests.helpers.tiny import TINY_ARGS, TINY_MODEL, TINY_VIT, VIT_ARGS


class RecordingReporter(Reporter):
    """Stores the warnings and the errors."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.warnings: list[str] = []
        self.failures: list[tuple[str, Exception]] = []

    def warn(self, message: str, error: Exception | None = None) -> None:
        self.warnings.append(message)

    def failed(self, what: str, error: Exception) -> None:
        self.failures.append((what, error))


MakeJob = Callable[[Path], tuple[BuildSpec, JobImages]]


@pytest.fixture
def job(vit_weights: Path) -> MakeJob:
    """A function that prepares a job with the images of a folder."""
    model = ModelOptions(TINY_VIT[0], str(vit_weights), parse_model_args(VIT_ARGS), imgsz=32, crop_pct=1.0)
    return lambda data: load_job(Job(model, data, num_calibration_samples=10), Reporter(quiet=True))


@pytest.fixture
def convnext_job(tiny_weights: Path) -> MakeJob:
    """`job` for a network whose ranges are not normalized before each layer."""
    model = ModelOptions(TINY_MODEL[0], str(tiny_weights), parse_model_args(TINY_ARGS), imgsz=32, crop_pct=1.0)
    return lambda data: load_job(Job(model, data, num_calibration_samples=10), Reporter(quiet=True))


def graphs_of(spec: BuildSpec) -> JobGraphs:
    return JobGraphs(spec, Reporter(quiet=True))


def test_a_recipe_that_quantizes_no_activation_has_nothing_to_compare(job: MakeJob, photos: Path) -> None:
    """The bundles are measured by then, and must not be lost."""
    graph = torch.fx.symbolic_trace(torch.nn.ReLU())
    spec, images = job(photos)
    graphs: Any = SimpleNamespace(spec=spec, graph_to_compile=lambda *_: SimpleNamespace(graph=graph))
    reporter = RecordingReporter()
    assert check_stability(graphs, images, ("onnx",), reporter) == []
    assert reporter.warnings == [
        "onnx: no activation is quantized, so the choice of calibration images changes no range"
    ]


@pytest.mark.parametrize("error", [CompileError("refused"), ImageError("gone"), KeyError("a bug")])
def test_an_error_costs_only_the_comparison_of_its_target(
    error: Exception, job: MakeJob, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report, which is written afterwards, must not be lost."""
    spec, images = job(photos)
    graphs = graphs_of(spec)
    whole = graphs.graph_to_compile

    def graph_to_compile(target: str, *arguments: Any) -> Any:
        if target == "onnx":
            raise error
        return whole(target, *arguments)

    monkeypatch.setattr(graphs, "graph_to_compile", graph_to_compile)
    reporter = RecordingReporter()
    (stability,) = check_stability(graphs, images, ("onnx", "openvino"), reporter)
    assert stability.target == "openvino"
    assert [what for what, raised in reporter.failures if raised is error] == ["onnx: compare two calibrations"]


def test_the_halves_are_compared(convnext_job: MakeJob, photos: Path) -> None:
    reporter = RecordingReporter()
    spec, images = convnext_job(photos)
    (stability,) = check_stability(graphs_of(spec), images, ("openvino",), reporter)
    assert (stability.target, stability.images, stability.evaluation_images) == ("openvino", (5, 5), 30)
    ranges = stability.range_ratio
    assert 1 <= ranges.median <= ranges.greatest
    assert ranges.layer.startswith("the input of stages.")
    assert 0 < stability.agreement <= 1
    assert all(snr is not None and 10 < snr < 80 for snr in (*stability.snr_db, stability.snr_between_db))
    assert f"{ranges.greatest:.2f} (at {ranges.layer})" in stability_words(stability)
    assert (reporter.warnings == []) == (ranges.greatest <= 2)


def test_equal_halves_give_equal_models(job: MakeJob, photos: Path) -> None:
    whole, images = job(photos)
    first = whole.calibration.images[:2]
    twins = replace(whole, calibration=replace(whole.calibration, images=(first[0], first[0], first[1], first[1])))
    (stability,) = check_stability(graphs_of(twins), images, ("openvino",), RecordingReporter())
    assert stability.range_ratio.greatest == 1
    assert (stability.snr_between_db, stability.agreement) == (None, 1)


@pytest.mark.slow
def test_a_dark_half_is_a_warning(convnext_job: MakeJob, photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    whole, images = convnext_job(folder)
    for sample in whole.calibration.samples[::2]:
        path = folder / sample.name
        with Image.open(path) as image:
            Image.fromarray((np.asarray(image) // 64).astype(np.uint8)).save(path)
    reporter = RecordingReporter()
    (stability,) = check_stability(graphs_of(whole), images, ("openvino",), reporter)
    (warning,) = reporter.warnings
    assert warning == doubt_of(stability)
    assert f"the range at {stability.range_ratio.layer} is" in warning


def test_a_small_difference_is_no_warning() -> None:
    stability = Stability(
        target="onnx",
        images=(64, 64),
        evaluation_images=64,
        range_ratio=RangeRatio(1.1, 1.9, "the input of head.fc"),
        snr_db=(30.0, 31.0),
        snr_between_db=28.0,
        agreement=0.97,
    )
    assert doubt_of(stability) is None
    doubt = doubt_of(replace(stability, range_ratio=replace(stability.range_ratio, greatest=2.1)))
    assert doubt is not None
    assert "is 2.1 times as wide" in doubt
