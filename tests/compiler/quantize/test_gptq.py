"""GPTQ chooses the levels of weights for the layer's output, not just for the weights."""

from dataclasses import replace
from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler import rounding
from edgekit.compiler.execution import collect
from edgekit.compiler.graph import constant
from edgekit.compiler.ranges import effects, find_ranges
from edgekit.compiler.rewrites import rewrite
from edgekit.compiler.rounding import Compensation, Hessians, round_levels
from edgekit.config import runtimes
from edgekit.config.recipes import Recipe
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph

SIZE = (1, 3, 12, 12)


def images(count: int, seed: int) -> list[NDArray[np.float32]]:
    """Images whose neighbouring pixels are correlated, as in photos."""
    random = np.random.default_rng(seed)
    return [random.normal(size=(1, 3, 3, 3)).repeat(4, 2).repeat(4, 3).astype(np.float32) for _ in range(count)]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 24, 3, padding=1, stride=2),
        nn.GELU(),
        nn.Conv2d(24, 24, 3, groups=24),
        nn.Conv2d(24, 32, 1),
        nn.Flatten(),
        nn.Linear(32 * 16, 10),
    ).eval()


@cache
def exported() -> GraphModule:
    return export_graph(network(), SIZE)


def quantized(rounding: Literal["nearest", "gptq"]) -> GraphModule:
    recipe = replace(Recipe.load("default"), estimator="histogram", weight_rounding=rounding)
    return quantize(rewrite(exported(), []).graph, images(16, 0), recipe, "onnx")


def error(graph: GraphModule) -> float:
    """Mean square error of the logits of other images."""
    x = [torch.from_numpy(image) for image in images(16, 1)]
    module = network()
    with torch.no_grad():
        return float(torch.cat([(graph(image) - module(image)) ** 2 for image in x]).mean())


def weights(graph: GraphModule) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(weight, scale) of each quantized layer."""
    pairs = []
    for node in graph.graph.nodes:
        if "quantize_per_channel" in str(node.target) and "dequantize" not in str(node.target):
            weight, scale = constant(graph, node.args[0]), constant(graph, node.args[1])
            assert weight is not None
            assert scale is not None
            pairs.append((weight, scale))
    return pairs


def test_the_error_of_the_logits_falls_with_the_same_scales() -> None:
    nearest, rounded = quantized("nearest"), quantized("gptq")
    assert error(rounded) < 0.9 * error(nearest)
    for (_, before), (_, after) in zip(weights(nearest), weights(rounded), strict=True):
        assert torch.equal(before, after)


def test_weights_are_whole_levels_and_depthwise_weights_stay() -> None:
    nearest, rounded = weights(quantized("nearest")), weights(quantized("gptq"))
    assert len(rounded) == 4
    for index, ((before, _), (after, scale)) in enumerate(zip(nearest, rounded, strict=True)):
        levels = after / scale.view(-1, *[1] * (after.ndim - 1))
        if index == 1:  # the depthwise layer
            assert torch.equal(before, after)
            continue
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
        assert levels.abs().max() <= 127.5
        assert not torch.equal(before, after)


def test_a_large_network_is_rounded_layer_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    nearest, whole = quantized("nearest"), quantized("gptq")
    monkeypatch.setattr(runtimes, "ROUNDED_TOGETHER_UP_TO", 0)
    monkeypatch.setattr(rounding, "MOST_INPUTS_OF_LARGE", 100)
    monkeypatch.setattr(rounding, "WEIGHTS_AT_ONCE", 10 * 27)  # a few channels at a time
    large = quantized("gptq")
    assert error(large) < error(nearest)
    stem, depthwise, pointwise, head = (weight for weight, _ in weights(large))
    torch.testing.assert_close(stem, weights(whole)[0][0])
    unrounded = [weight for weight, _ in weights(nearest)]
    assert torch.equal(depthwise, unrounded[1])
    assert not torch.equal(pointwise, unrounded[2])
    assert torch.equal(head, unrounded[3]), "it has 512 inputs"


def test_the_pass_that_finds_ranges_collects_hessians_too(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(Recipe.load("default"), estimator="minmax", weight_rounding="nearest")
    graph = quantize(rewrite(exported(), []).graph, images(4, 0), recipe, "onnx")
    alone, together = Hessians.of_all(graph, 4), Hessians.of_all(graph, 4)
    assert alone
    assert together
    collect(graph, images(4, 0), [alone])
    find_ranges(graph, images(4, 0), effects(graph), narrow=True, others=[together])
    assert len(together.sums) == 3
    for node, sums in alone.sums.items():
        assert torch.equal(sums.total(), together.sums[node].total())
        assert sums.total().any()
    monkeypatch.setattr(rounding, "HESSIAN_BYTES", 4 * 512**2)
    assert Hessians.of_all(graph, 4) is None, "they need a pass for each group"


def test_bytes_of_hessians() -> None:
    assert rounding.hessian_bytes([10, 20, 9000], 1000) == 4 * (100 + 400)
    assert rounding.hessian_bytes([8000] * 100, 1000) == rounding.HESSIAN_BYTES
    assert rounding.hessian_bytes([10, 20, 5000], 10**9) == 4 * 400


def test_uncorrelated_inputs_round_to_nearest() -> None:
    weight, scale = torch.randn(4, 300), torch.full((4,), 0.02)
    (levels,) = round_levels(weight[None], Compensation.of(torch.eye(300)[None], [4, 300]), scale[None], -127, 127)
    assert torch.equal(levels, (weight.double() / scale.double()[:, None]).round().clamp(-127, 127))


@pytest.mark.parametrize("inputs", [40, 300])
def test_correlated_inputs_give_less_error_than_rounding_to_nearest(inputs: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(500, 20) @ torch.randn(20, inputs) + 0.1 * torch.randn(500, inputs)
    weight, scale = torch.randn(8, inputs), torch.full((8,), 0.03)
    (levels,) = round_levels(weight[None], Compensation.of((rows.T @ rows)[None], [8, inputs]), scale[None], -127, 127)
    nearest = (weight / 0.03).round()
    errors = [(rows @ (rounded.float() * scale[:, None] - weight).T).square().mean() for rounded in (levels, nearest)]
    assert errors[0] < 0.5 * errors[1]


def test_the_same_images_give_the_same_weights() -> None:
    for (one, _), (other, _) in zip(weights(quantized("gptq")), weights(quantized("gptq")), strict=True):
        assert torch.equal(one, other)
