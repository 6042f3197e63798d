"""The graphs of a job, which share what doesn't depend on the recipe."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.images import crops
from edgekit.images.preprocess import Preprocessing
from edgekit.models import Network, logits
from edgekit.models.options import ModelOptions
from edgekit.pipeline import graphs as graphs_module
from edgekit.pipeline.graphs import PARITY_IMAGES, JobGraphs
from edgekit.pipeline.job import load_job
from edgekit.pipeline.options import Options
from edgekit.support.progress import Reporter


class CountingReporter(Reporter):
    """Stores the titles of the stages."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.titles: list[str] = []

    def say(self, message: str) -> None:
        self.titles.append(message.partition(":")[0])


def test_each_calibration_image_is_decoded_and_predicted_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first of several processes, here several graphs of a job that share a folder."""
    model = ModelOptions("tests.helpers.odd:paddle", None, imgsz=16)
    job = load_job(Options(model, photos, targets=("onnx",), num_calibration_samples=10), Reporter(quiet=True))
    decoded: list[str] = []
    predicted: list[NDArray[np.uint8]] = []

    def crop_each(dataset: Any, samples: Any, preprocessing: Preprocessing) -> Any:
        decoded.extend(sample.name for sample in samples)
        return crops.crop_each(dataset, samples, preprocessing)

    def torch_logits(network: Network, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        predicted.extend(pixels)
        return logits.torch_logits(network, pixels)

    monkeypatch.setattr(graphs_module, "crop_each", crop_each)
    monkeypatch.setattr(graphs_module, "torch_logits", torch_logits)
    for place in (tmp_path, tmp_path, None):
        images = JobGraphs(job, Reporter(quiet=True), shared=place)._calibration
        expected = crops.crop_each(job.calibration_dataset, job.calibration.samples, job.network.preprocessing)
        for image, pixels in zip(images, expected, strict=True):
            np.testing.assert_array_equal(image, job.network.preprocessing.normalize(pixels))
    assert decoded == 2 * [sample.name for sample in job.calibration.samples[PARITY_IMAGES:]]
    assert len(predicted) == 2 * 10


def test_graphs_with_other_recipes_share_the_export_and_the_images(photos: Path) -> None:
    model = ModelOptions("tests.helpers.odd:paddle", None, imgsz=16)
    job = load_job(Options(model, photos, targets=("onnx",), num_calibration_samples=4), Reporter(quiet=True))
    reporter = CountingReporter()
    graphs = JobGraphs(job, reporter)
    nearest = replace(job.recipe, weight_rounding="nearest")
    recipes = [replace(nearest, estimator="minmax"), replace(nearest, estimator="histogram")]
    first, second = (graphs.with_recipe(recipe) for recipe in recipes)
    assert [first.job.recipe, second.job.recipe] == recipes
    assert first.exported() is second.exported() is graphs.exported()
    for one in (first, second):
        one.graph_to_compile("onnx", "int8")
    assert [reporter.titles.count(title) for title in ("simplify", "check calibration images")] == [1, 1]
