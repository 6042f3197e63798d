"""Ranges with the smallest error: they clip where the consumers of a value make clipping cheap."""

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler import execution
from edgekit.compiler.graph import Q
from edgekit.compiler.ranges import MOST_VALUES, _sampled_channels
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import Recipe
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph

SIZE = (1, 8, 16, 16)


Estimator: TypeAlias = Literal["minmax", "mse"]


def calibrated(module: nn.Module, images: torch.Tensor, estimator: Estimator, target: str) -> GraphModule:
    recipe = replace(Recipe.load("default"), estimator=estimator, weight_rounding="nearest")
    samples = [image[None].numpy() for image in images]
    return quantize(rewrite(export_graph(module.eval(), SIZE), []).graph, samples, recipe, target)


def representable_range(graph: GraphModule, index: int = 0) -> tuple[float, float]:
    """Range of one quantizer, by its index in the graph."""
    node = [node for node in graph.graph.nodes if node.target is Q.quantize_per_tensor.default][index]
    _, scale, zero, low, high = node.args[:5]
    return (low - zero) * scale, (high - zero) * scale


def noise(seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=SIZE).astype(np.float32))


def error(graph: GraphModule, module: nn.Module, image: torch.Tensor) -> float:
    with torch.no_grad():
        return float((graph(image) - module(image)).square().mean())


def test_clipping_long_tails_lowers_the_error() -> None:
    torch.manual_seed(0)
    module, image = nn.Conv2d(8, 8, 1), noise() ** 5
    whole, fitted = calibrated(module, image, "minmax", "openvino"), calibrated(module, image, "mse", "openvino")
    assert representable_range(fitted)[1] < representable_range(whole)[1] == pytest.approx(float(image.max()), rel=0.02)
    assert error(fitted, module, image) < error(whole, module, image)


@pytest.mark.parametrize("estimator", ["minmax", "mse"])
def test_images_that_run_later_widen_the_range(estimator: Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their histograms have other bins."""
    torch.manual_seed(0)
    module, images = nn.Conv2d(8, 8, 1), torch.cat([noise(seed) ** 3 * (1 + seed) for seed in range(6)])
    together = representable_range(calibrated(module, images, estimator, "onnx"))
    monkeypatch.setattr(execution, "VALUES_BYTES", 1)
    assert representable_range(calibrated(module, images, estimator, "onnx")) == pytest.approx(together, rel=0.05)


def test_a_channel_without_weights_is_ignored() -> None:
    torch.manual_seed(0)
    module, image = nn.Conv2d(8, 8, 1), noise()
    image[:, 3] *= 5
    with_weights = representable_range(calibrated(module, image, "mse", "onnx"))[1]
    with torch.no_grad():
        module.weight[:, 3] = 0
    assert representable_range(calibrated(module, image, "mse", "onnx"))[1] < 0.6 * with_weights


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Hardswish(), nn.SiLU(), nn.Sigmoid()])
def test_values_that_an_activation_suppresses_are_clipped(activation: nn.Module) -> None:
    layer = nn.Conv2d(8, 8, 1)
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(10 * torch.eye(8)[:, :, None, None] + torch.rand(8, 8, 1, 1))
        layer.bias.zero_()

    def lowest(activation: nn.Module) -> float:
        graph = calibrated(nn.Sequential(layer, activation, nn.Flatten()), noise(), "mse", "tflite")
        return representable_range(graph, 1)[0]

    assert lowest(activation) > -10
    assert lowest(nn.Identity()) < -20


def test_zero_stays_a_level() -> None:
    torch.manual_seed(0)
    graph = calibrated(nn.Conv2d(8, 8, 3, padding=1), noise() + 5, "mse", "onnx")
    for node in graph.graph.nodes:
        if node.target is Q.quantize_per_tensor.default:
            assert node.args[3] <= node.args[2] <= node.args[4]
            assert all(user.args[1:3] == node.args[1:3] for user in node.users)


@pytest.mark.parametrize(
    ("size", "axis"),
    [((1, 7, 7, 3072), 3), ((1, 28, 28, 768), 3), ((1, 14, 14, 1536), 3), ((1, 56, 56, 40), 3), ((1, 768, 28, 28), 1)],
)
def test_every_channel_is_sampled_wherever_its_axis_is(size: tuple[int, ...], axis: int) -> None:
    most = MOST_VALUES // 128
    channels = _sampled_channels(size, axis, most)
    assert len(set(channels.tolist())) == size[axis]
    assert len(channels) <= 2 * most
