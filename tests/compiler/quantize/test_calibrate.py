"""Where Q/DQ goes for each placement, and what calibration does with images."""

from collections import Counter
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.graph import A, export_graph, layer_name, layers
from edgekit.compiler.quantize.calibrate import ESTIMATORS, quantize
from edgekit.compiler.quantize.lowering import fold_weights
from edgekit.compiler.quantize.placement import Placement
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import OWN, Recipe, TargetRecipe, load_recipe
from edgekit.errors import CompileError


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    """Convolution and ReLU, a depthwise one, a linear layer."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    return export_graph(module.eval(), (1, 3, 12, 12))


@pytest.fixture(scope="module")
def samples() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(size=(1, 3, 12, 12)).astype(np.float32) for _ in range(4)]


def recipe(target: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """The default recipe with another table for onnx."""
    found = load_recipe("default")
    plain: dict[str, Any] = {"activations": "uint8", "quantize_outputs": False, "quantize_depthwise": False}
    row = replace(found.targets["onnx"], **(plain | (target or {})))
    return replace(found, targets=dict(found.targets) | {"onnx": row}, **changes)


def quantized(graph: GraphModule, samples: Any, wants: Recipe, **more: Any) -> GraphModule:
    return quantize(rewrite(graph, []), samples, wants, "onnx", **more)


def counted(graph: GraphModule) -> Counter[str]:
    """Q nodes by kind: per tensor with its range, per channel."""
    found: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if "quantize_per_channel" in str(node.target) and "dequantize" not in str(node.target):
            found["weights"] += 1
        elif "quantize_per_tensor" in str(node.target) and "dequantize" not in str(node.target):
            found[f"activations {node.args[3]}..{node.args[4]}"] += 1
    return found


def errors(graph: GraphModule, result: GraphModule, samples: Any) -> list[float]:
    """How far the answer to each image is from the graph's at most, as a share of the greatest one."""
    with torch.no_grad():
        answers = [(graph(image), result(image)) for image in map(torch.from_numpy, samples)]
    return [float((wanted - given).abs().max() / wanted.abs().max()) for wanted, given in answers]


@pytest.mark.parametrize(
    ("wants", "found"),
    [
        ({}, {"weights": 2, "activations 0..255": 2}),
        ({"activations": "int8"}, {"weights": 2, "activations -128..127": 2}),
        ({"quantize_depthwise": True}, {"weights": 3, "activations 0..255": 3}),
        ({"quantize_outputs": True}, {"weights": 2, "activations 0..255": 4}),
        ({"quantize_outputs": True, "quantize_depthwise": True}, {"weights": 3, "activations 0..255": 5}),
        (
            {"quantize_outputs": True, "quantize_depthwise": True, "quantize_gelu": True},
            {"weights": 3, "activations 0..255": 6},
        ),
        ({"quantize_outputs": True, "quantize_gelu": True}, {"weights": 2, "activations 0..255": 4}),
    ],
)
def test_placements(graph: GraphModule, samples: Any, wants: dict[str, Any], found: dict[str, int]) -> None:
    assert counted(quantized(graph, samples, recipe(wants))) == found


def test_weights_alone(graph: GraphModule, samples: Any) -> None:
    wants = recipe({"quantize_outputs": True}, scheme="w8", smooth_quant=True, bias_correction="fast", equalization=0.5)
    result = quantized(graph, samples, wants)
    assert counted(result) == {"weights": 2}
    assert all(0 < each < 0.02 for each in errors(graph, result, samples))


def test_outputs_are_quantized_behind_the_activation(graph: GraphModule, samples: Any) -> None:
    result = quantized(graph, samples, recipe({"quantize_outputs": True}))
    (relu,) = (node for node in result.graph.nodes if node.target is A.relu.default)
    assert relu.args[0].target is A.conv2d.default
    assert all("quantize_per_tensor" in str(user.target) for user in relu.users)


@pytest.mark.parametrize(("patterns", "left"), [(("6",), {"0"}), (("*",), set()), (("nothing*",), {"0", "6"})])
def test_layers_that_stay_in_float(graph: GraphModule, patterns: tuple[str, ...], left: set[str]) -> None:
    placement = Placement(recipe().targets["onnx"], patterns)
    assert {layer_name(node) for node, _ in layers(graph) if placement.covers(node)} == left


def test_close_to_float_and_not_equal(graph: GraphModule, samples: Any) -> None:
    assert all(0 < each < 0.05 for each in errors(graph, quantized(graph, samples, recipe()), samples))


def test_progress_is_told_for_each_sample(graph: GraphModule, samples: Any) -> None:
    steps = []
    quantized(graph, samples, recipe(), on_sample=lambda: steps.append(1))
    assert len(steps) >= len(samples)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_estimators(graph: GraphModule, samples: Any, estimator: Any) -> None:
    assert counted(quantized(graph, samples, recipe(estimator=estimator)))["weights"] == 2


def test_every_estimator_of_a_recipe_is_known() -> None:
    assert set(ESTIMATORS) == set(get_args(get_type_hints(Recipe)["estimator"]))


def test_bias_correction_and_smoothing_run(graph: GraphModule, samples: Any) -> None:
    wants = recipe(bias_correction="fast", smooth_quant=True)
    assert counted(quantized(graph, samples, wants))["weights"] == 2


def test_what_nncf_refuses_is_a_compile_error(graph: GraphModule) -> None:
    with pytest.raises(CompileError, match="NNCF can't calibrate the graph: "):
        quantized(graph, [np.full((1, 3, 12, 12), np.nan, np.float32)], recipe())


def test_a_weight_that_is_not_constant_stays_in_float(samples: Any) -> None:
    class Dynamic(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x.mean((2, 3)), x[0, :, :2, 0].T)

    assert counted(quantized(export_graph(Dynamic(), (1, 3, 12, 12)), samples, recipe())) == {}


def test_the_recipe_has_no_field_that_is_ignored() -> None:
    used = {
        "rewrites",
        "activations",
        "quantize_outputs",
        "quantize_depthwise",
        "quantize_gelu",
        "quantize_residuals",
        "hard_swish_in_float",
    }
    assert {each.name for each in fields(TargetRecipe)} == used | set(OWN) | {"on"}
    assert set(OWN) < {each.name for each in fields(Recipe)}


def test_folded_weights_are_the_same_function_without_the_float_ones(graph: GraphModule, samples: Any) -> None:
    found = quantized(graph, samples, recipe())
    image = torch.from_numpy(samples[0])
    before = found(image)
    assert fold_weights(found) == 2
    torch.testing.assert_close(found(image), before, rtol=0, atol=0)
    kernels = [each.dtype for each in (*found.parameters(), *found.buffers()) if each.ndim > 1]
    assert sorted(map(str, kernels)) == ["torch.float32", "torch.int8", "torch.int8"]  # the depthwise one stays
    assert fold_weights(found) == 0
