"""The graphs of a job, which share what doesn't depend on the recipe."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from edgekit.compiler.layers import LayerWeights, dense_layers, layer_weights
from edgekit.config.recipes import Estimator
from edgekit.errors import WeightsError
from edgekit.images.dataset import Dataset
from edgekit.images.preprocess import Preprocessing
from edgekit.job import Job
from edgekit.models import network as networks
from edgekit.models.network import Network
from edgekit.models.options import ModelOptions
from edgekit.pipeline import graphs as graphs_module
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import PARITY_IMAGES
from edgekit.support.progress import Reporter
from tests.helpers.refusals import refuses


class CountingReporter(Reporter):
    """Stores the titles of the stages."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.titles: list[str] = []

    def say(self, message: str) -> None:
        self.titles.append(message.partition(":")[0])


def test_each_calibration_image_is_decoded_and_checked_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the first of several processes, here several graphs of a job that share a folder."""
    model = ModelOptions("tests.helpers.odd:paddle", None, imgsz=16)
    spec, _ = load_job(Job(model, photos, targets=("onnx",), num_calibration_samples=10), Reporter(quiet=True))
    samples = spec.calibration.samples
    decoded: list[str] = []
    predicted: list[NDArray[np.uint8]] = []
    crop_each = Dataset.crop_each

    def noting_each(dataset: Dataset, samples: Any, preprocessing: Preprocessing) -> Any:
        decoded.extend(sample.name for sample in samples)
        return crop_each(dataset, samples, preprocessing)

    def batched_logits(network: Network, pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.float32]]:
        predicted.extend(pixels)
        return networks.batched_logits(network, pixels)

    monkeypatch.setattr(Dataset, "crop_each", noting_each)
    monkeypatch.setattr(graphs_module, "batched_logits", batched_logits)
    for place in (tmp_path, tmp_path, None):
        graphs = JobGraphs(spec, Reporter(quiet=True), place)
        images = graphs._calibration
        graphs._check_images()
        graphs._check_images()
        expected = crop_each(spec.calibration_dataset, spec.calibration.samples, spec.network.preprocessing)
        for image, pixels in zip(images, expected, strict=True):
            np.testing.assert_array_equal(image, spec.network.preprocessing.normalize(pixels))
    compared, others = ([sample.name for sample in part] for part in (samples[:PARITY_IMAGES], samples[PARITY_IMAGES:]))
    assert [name for name in decoded if name not in compared] == 2 * others
    assert len(predicted) == 2 * (10 - PARITY_IMAGES), "torch has predicted the others to compare the graph with it"


@pytest.mark.parametrize("estimator", ["mse", "histogram"])
def test_a_network_that_returns_nan_for_a_calibration_image(estimator: Estimator, tmp_path: Path) -> None:
    """It is blamed, not NNCF or the graph. None of the images that are compared with torch shows the defect."""
    for index in range(11):
        (tmp_path / str(index % 2)).mkdir(exist_ok=True)
        grey = Image.effect_noise((16, 16), 20 + index).point(lambda value: value // 2)
        (grey if index < 10 else grey.point(lambda _: 255)).save(tmp_path / str(index % 2) / f"{index}.png")
    model = ModelOptions("tests.helpers.odd:dazzled", None, imgsz=16)
    spec, chosen = load_job(Job(model, tmp_path, targets=("onnx",), num_calibration_samples=10), Reporter(quiet=True))
    everything = (*spec.calibration.images, *chosen.evaluation.images)
    images = sorted(everything, key=lambda image: image.sample.name.endswith("10.png"))[1:]
    recipe = replace(spec.recipe, estimator=estimator)
    graphs = JobGraphs(
        replace(spec, recipe=recipe, calibration=replace(spec.calibration, images=tuple(images))), Reporter(quiet=True)
    )
    with refuses(WeightsError, "tests.helpers.odd:dazzled", "real image"):
        graphs.graph_to_compile("onnx", "int8")


def test_graphs_with_other_recipes_share_the_export_and_the_images(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ModelOptions("tests.helpers.odd:paddle", None, imgsz=16)
    spec, _ = load_job(Job(model, photos, targets=("onnx",), num_calibration_samples=10), Reporter(quiet=True))
    reporter = CountingReporter()
    graphs = JobGraphs(spec, reporter)
    nearest = replace(spec.recipe, weight_rounding="nearest")
    recipes = [replace(nearest, estimator="minmax"), replace(nearest, estimator="histogram")]
    first, second = (graphs.with_recipe(recipe) for recipe in recipes)
    assert [first.spec.recipe, second.spec.recipe] == recipes
    assert first.simplified is second.simplified is graphs.simplified
    for one in (first, second, graphs.with_recipe(recipes[1])):
        one.graph_to_compile("onnx", "int8")
    once = ("simplify", "crop calibration images", "check calibration images")
    assert [reporter.titles.count(title) for title in once] == [1, 1, 1]


def test_dynamic_layers_get_weights_that_were_rounded_for_float_inputs(photos: Path) -> None:
    """By a calibration that only a bundle with such layers causes, so that those of boards don't wait for it."""
    model = ModelOptions("tests.helpers.odd:paddle", None, imgsz=16)
    spec, _ = load_job(Job(model, photos, num_calibration_samples=10), Reporter(quiet=True))
    reporter = CountingReporter()
    graphs = JobGraphs(spec, reporter)
    dynamic = graphs.with_recipe(spec.recipe.with_kinds("tflite", {"4": "dynamic"}))
    weights: dict[str, LayerWeights] = {}
    for name, one in (("static", graphs), ("dynamic", dynamic)):
        graph = one.graph_to_compile("tflite", "int8").graph
        (head,) = [layer for layer in dense_layers(graph) if layer.name == "4"]
        made = layer_weights(graph, head)
        assert made is not None
        weights[name] = made
        assert reporter.titles.count("calibrate") == len(weights)
    shared = spec.recipe.sharing_calibration("tflite")
    assert shared is not None
    for name, recipe in (("static", shared), ("dynamic", replace(shared, scheme="w8", weight_rounding="gptq"))):
        assert torch.equal(weights[name].weight, graphs._calibrated(recipe).layers["4"].unlimited.weight)
    assert reporter.titles.count("calibrate") == 2
    assert not torch.equal(weights["static"].weight, weights["dynamic"].weight)
