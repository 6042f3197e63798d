"""A temperature is found where INT8 shrinks the outputs, and folded into the last layer unless it can't help."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.compiler.placement import divide_outputs
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import Activation, DeviceClass, Scheme
from edgekit.job import Job
from edgekit.measure.accuracy import snr_db
from edgekit.models.options import ModelOptions
from edgekit.pipeline.build import compile_stage
from edgekit.pipeline.graphs import JobGraphs, quantize_stage
from edgekit.pipeline.job_images import helpful_temperature
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.request import GraphToCompile, ParitySamples
from edgekit.runtime.session import open_session
from edgekit.support.progress import Reporter
from tests.helpers import fake_runtime
from tests.helpers.calibration import network_of, noise_for, spec_of
from tests.helpers.graphs import export_graph

ACTIVATIONS: tuple[Activation, ...] = ("softmax", "sigmoid")
SIDE = 16


@pytest.fixture
def fake() -> Iterator[None]:
    with fake_runtime.added():
        yield


def outputs(images: int = 64, noise: float = 0.0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Outputs [N,10] of a float network, and the same with noise."""
    generator = np.random.default_rng(0)
    exact = 3 * generator.standard_normal((images, 10)).astype(np.float32)
    return exact, exact + np.float32(noise) * generator.standard_normal(exact.shape, np.float32)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("planted", [0.8, 1.2])
def test_planted_temperatures_are_found(planted: float, activation: Activation) -> None:
    exact, noisy = outputs(noise=0.1)
    temperature = helpful_temperature(np.float32(planted) * noisy, exact, activation)
    assert temperature == pytest.approx(planted, rel=0.03)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("noise", [0.0, 0.1, 1.0])
def test_noise_has_no_temperature(noise: float, activation: Activation) -> None:
    exact, noisy = outputs(noise=noise)
    assert helpful_temperature(noisy, exact, activation) is None


def headed(*last: nn.Module) -> nn.Module:
    """A small network whose last layer, a convolution, is followed by `last`."""
    torch.manual_seed(0)
    body = (nn.Conv2d(3, 12, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(12, 16, 3, stride=2, padding=1), nn.ReLU())
    head = nn.Conv2d(16, 5, 4)
    head.weight.data *= 10
    return nn.Sequential(*body, head, nn.Flatten(), *last)


def int8(target: str, module: nn.Module, scheme: Scheme = "w8a8", **keys: Any) -> GraphToCompile:
    """The INT8 graph of a network for a runtime."""
    network = network_of(module, SIDE)
    samples = noise_for(network, 64)
    recipe = replace(Recipe.load("default"), scheme=scheme, **keys)
    spec = spec_of(network, recipe, DeviceClass.load("x86-64-v3"))
    images = [network.preprocessing.normalize(pixels) for pixels in samples.pixels]
    made = quantize_stage(spec, target, "int8", export_graph(module, (1, 3, SIDE, SIDE)), samples, images)
    return replace(made, fitting=samples)


def shrunk(made: GraphToCompile, factor: float) -> GraphToCompile:
    """The graph, as if torch's outputs for the images that fit a temperature were larger by this factor."""
    assert made.fitting is not None
    return replace(made, fitting=ParitySamples(made.fitting.pixels, made.fitting.logits * np.float32(factor)))


@pytest.mark.parametrize("target", ["openvino", "onnx", "tflite"])
def test_a_bundle_that_shrinks_the_outputs_gets_a_temperature(target: str, tmp_path: Path) -> None:
    plain = int8(target, headed())
    bundle, _ = compile_stage(shrunk(plain, 1 / 0.8), tmp_path / "bundle")
    assert bundle.manifest.temperature == pytest.approx(0.8, rel=0.03)
    with open_session(bundle, 1) as session:
        session.verify()
        logits = session(bundle.manifest.preprocessing.normalize(plain.samples.pixels))
    assert snr_db(plain.samples.logits / np.float32(0.8), logits) > 25


@pytest.mark.usefixtures("fake")
def test_calibration_images_fit_no_temperature(tmp_path: Path) -> None:
    """They may be from the split train, whose scores are extreme."""
    made = replace(int8("fake", headed()), fitting=None)
    larger = replace(made, samples=ParitySamples(made.samples.pixels, made.samples.logits / np.float32(0.8)))
    bundle, _ = compile_stage(larger, tmp_path / "bundle")
    assert bundle.manifest.temperature is None


def test_images_that_neither_calibrate_nor_judge_fit_the_temperature(photos: Path) -> None:
    model = ModelOptions("tests.helpers.odd:paddle", None, imgsz=16)
    job = Job(model, photos, targets=("onnx",), num_calibration_samples=4, num_eval_samples=4)
    spec, images = load_job(job, Reporter(quiet=True), chooses=True)
    assert len(images.choosing.images) == 32, "all that are left"
    graphs = JobGraphs(spec, Reporter(quiet=True))
    fitting = graphs.graph_to_compile("onnx", "int8").fitting
    assert fitting is not None
    expected = images.dataset.crop(images.choosing.samples, spec.network.preprocessing).pixels
    np.testing.assert_array_equal(fitting.pixels, expected)
    assert graphs.graph_to_compile("onnx", "float").fitting is None
    few, images = load_job(replace(job, num_eval_samples=5), Reporter(quiet=True), chooses=True)
    assert (few.fitting, len(images.choosing.images)) == (None, 31)


@pytest.mark.usefixtures("fake")
def test_a_bundle_that_keeps_the_outputs_has_none(tmp_path: Path) -> None:
    bundle, _ = compile_stage(int8("fake", headed()), tmp_path / "bundle")
    assert bundle.manifest.temperature is None


@pytest.mark.parametrize("keys", [{}, {"float_layers": ("4",)}, {"scheme": "w8"}], ids=["int8", "float", "w8"])
def test_the_last_layer_divides_the_outputs(keys: dict[str, Any]) -> None:
    made = int8("onnx", headed(), **keys)
    image = torch.from_numpy(made.facts.manifest.preprocessing.normalize(made.samples.pixels[:1]))
    before = made.graph(image)
    assert divide_outputs(made.graph, 1.25)
    np.testing.assert_allclose(made.graph(image) * 1.25, before, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize("last", [nn.ReLU6(), nn.Softmax(1)], ids=lambda last: type(last).__name__)
def test_outputs_of_an_activation_are_not_divided(last: nn.Module, tmp_path: Path) -> None:
    made = int8("fake", headed(last))
    bundle, _ = compile_stage(shrunk(made, 3), tmp_path / "bundle")
    assert bundle.manifest.temperature is None
