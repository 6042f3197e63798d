"""Each pass of a calibration reports its progress, and all of them together count as the whole stage."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler import rounding
from edgekit.compiler.execution import threads
from edgekit.compiler.rewrites import rewrite
from edgekit.config import runtimes
from edgekit.config.recipes import Recipe
from edgekit.pipeline.graphs import Rewriter, calibrate_together
from edgekit.support.progress import Step
from tests.helpers.calibration import network_of, noise_for, quantize
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import X86


class Watched(Sequence[Any]):
    """Images that record, between the steps that are reported, when the first of them is read."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self._images = [random.normal(size=(1, 3, 8, 8)).astype(np.float32) for _ in range(3)]
        self.events: list[float | None] = []
        """Amount of each step; None where a pass reads the first image."""

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Any) -> Any:
        if index == 0:
            self.events.append(None)
        return self._images[index]

    def step(self, amount: float = 1) -> None:
        self.events.append(amount)


def network() -> nn.Module:
    """A convolution, a depthwise convolution, and a LayerNorm that can equalize the linear layer after it."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.GELU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Flatten(2),
        nn.LayerNorm(16),
        nn.Linear(16, 4),
        nn.Flatten(),
    )


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    return export_graph(network().eval(), (1, 3, 8, 8))


def check(calibrate: Callable[[Sequence[NDArray[np.float32]], Step], object]) -> None:
    """Steps add up to 1, and come after each beginning of a pass over the images."""
    images = Watched()
    with threads(1):
        calibrate(images, images.step)
    assert sum(filter(None, images.events)) == pytest.approx(1)
    runs = [(kind, len(list(events))) for kind, events in groupby(images.events, lambda event: event is None)]
    assert all(length == 1 for is_read, length in runs if is_read), "a pass over the images reports no step"
    assert not runs[-1][0], "the last pass over the images reports no step"


CHANGES: dict[str, dict[str, Any]] = {
    "errors of ranges": {"estimator": "mse"},
    "gptq": {"weight_rounding": "gptq", "equalization": 0.5},
    "smooth": {"smooth_quant": True},
    "accurate biases": {"bias_correction": "accurate", "weight_rounding": "nearest", "estimator": "histogram"},
    "weights alone": {"scheme": "w8", "equalization": 0.5, "bias_correction": "fast"},
    "all in float": {"float_layers": ("*",), "weight_rounding": "gptq"},
}


def changed(name: str) -> Recipe:
    return replace(Recipe.load("default").for_class(X86), **({"estimator": "minmax"} | CHANGES[name]))


@pytest.mark.parametrize("name", CHANGES)
def test_recipes(graph: GraphModule, name: str) -> None:
    recipe = changed(name).for_target("onnx")
    check(lambda images, step: quantize(rewrite(graph, []).graph, images, recipe, "onnx", step=step))


@pytest.mark.parametrize("target", ["openvino", "tflite"])
def test_runtimes(graph: GraphModule, target: str) -> None:
    recipe = changed("gptq").for_target(target)
    names = recipe.targets[target].rewrites_of("int8")
    check(lambda images, step: quantize(rewrite(graph, names).graph, images, recipe, target, step=step))


def test_a_calibration_for_several_runtimes(graph: GraphModule) -> None:
    rewriter = Rewriter(of := network_of(network(), 8, 4 * 8), noise_for(of))
    check(lambda images, step: calibrate_together(changed("gptq"), X86, rewriter, graph, images, step))


@pytest.fixture(params=["node by node", "one group for each layer", "layer by layer"])
def like_a_large_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "SIDE_BY_SIDE_UP_TO", 0)
    if request.param == "one group for each layer":
        monkeypatch.setattr(rounding, "HESSIAN_BYTES", 1)
    elif request.param == "layer by layer":
        monkeypatch.setattr(runtimes, "ROUNDED_TOGETHER_UP_TO", 0)


@pytest.mark.usefixtures("like_a_large_network")
def test_large_networks(graph: GraphModule) -> None:
    recipe = changed("gptq").for_target("onnx")
    check(lambda images, step: quantize(rewrite(graph, []).graph, images, recipe, "onnx", step=step))
