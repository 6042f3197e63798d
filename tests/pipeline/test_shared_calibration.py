"""One calibration for several runtimes: their graphs get what a calibration of their own would find."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from timm import create_model
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.mobilenetv3 import MobileNetV3
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.calibrate import Calibrated
from edgekit.compiler.graph import A, copy_sharing
from edgekit.compiler.layers import dense_layers, int8_weight, quantizers
from edgekit.config import runtimes
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import RUNTIMES
from edgekit.measure.accuracy import snr_db
from edgekit.models.network import Network
from edgekit.pipeline.graphs import Rewriter, calibrate_together, quantize_stage
from edgekit.pipeline.request import BuildSpec
from edgekit.support.weight_pairs import count_saturating
from edgekit.tuning.mixtures import Simulation
from tests.helpers.calibration import network_of, noise_for, spec_of
from tests.helpers.graphs import export_graph, targets_of
from tests.helpers.residual import Residual
from tests.helpers.tiny import X86


def convnext() -> nn.Module:
    return create_model("convnextv2_atto", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16))


def vit() -> nn.Module:
    arguments: dict[str, Any] = {"depth": 2, "embed_dim": 32, "num_heads": 2, "img_size": 32, "patch_size": 8}
    return create_model("vit_tiny_patch16_224", num_classes=5, **arguments)


def mobilenet() -> nn.Module:
    blocks = [["ir_r1_k3_s1_e2_c8_se0.25"], ["ir_r1_k5_s2_e2_c16_se0.25"]]
    block_args: Any = decode_arch_def(blocks)  # type: ignore[no-untyped-call]
    body = MobileNetV3(block_args, num_classes=16, stem_size=8, num_features=16, act_layer=nn.Hardswish)
    return nn.Sequential(body, nn.LayerNorm(16), nn.Linear(16, 5))  # the recipe doesn't fold the norm


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convnextv2": convnext,
    "vit": vit,
    "resnet": Residual,
    "default": mobilenet,
}
"""Small networks, by the recipe of their family."""
OTHERS = ("resnet", "default")


@cache
def network(family: str) -> Network:
    torch.manual_seed(0)
    return network_of(NETWORKS[family](), 32)


@cache
def exported(family: str) -> GraphModule:
    return export_graph(network(family).module, (1, 3, 32, 32))


def images(count: int = 8) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(size=(1, 3, 32, 32)).astype(np.float32) for _ in range(count)]


def spec(family: str, recipe: Recipe | None = None) -> BuildSpec:
    return spec_of(network(family), (recipe or Recipe.load(family)).for_class(X86), X86)


def plain(family: str) -> Recipe:
    """The family's recipe, but no value depends on how another was quantized."""
    return replace(Recipe.load(family), estimator="minmax", weight_rounding="nearest")


@cache
def together(family: str, asking: str = "onnx", *, simple: bool = False) -> Calibrated:
    recipe = spec(family, plain(family) if simple else None).shared_recipe(asking)
    assert recipe is not None
    rewriter = Rewriter(network(family), noise_for(network(family)))
    return calibrate_together(recipe, X86, rewriter, exported(family), images())


def graph_of(asked: BuildSpec, target: str, family: str, shared: Calibrated | None, count: int = 8) -> GraphModule:
    samples = noise_for(asked.network)
    return quantize_stage(asked, target, "int8", exported(family), samples, images(count), shared=shared).graph


def levels(graph: GraphModule) -> dict[str, NDArray[np.int8]]:
    """INT8 weights of the layers, by the names of their nodes."""
    found: dict[str, NDArray[np.int8]] = {}
    for layer in dense_layers(graph):
        if quantizer := int8_weight(layer.node):
            rounded, (_, scale) = quantizer.rounded(graph), quantizer.weight_and_scale(graph)
            found[layer.node.name] = (
                (rounded / scale.view(-1, *[1] * (rounded.ndim - 1))).round().to(torch.int8).numpy()
            )
    return found


def int8_layers(graph: GraphModule) -> set[str]:
    return {layer.name for layer in dense_layers(graph) if int8_weight(layer.node) is not None}


@pytest.mark.parametrize("target", RUNTIMES)
@pytest.mark.parametrize(
    "family", ["convnextv2", "vit", *(pytest.param(each, marks=pytest.mark.slow) for each in OTHERS)]
)
def test_ranges_and_weights_are_those_of_an_own_calibration(family: str, target: str) -> None:
    asked = spec(family, plain(family))
    own = graph_of(asked, target, family, None)
    # one image would give other ranges
    shared = graph_of(asked, target, family, together(family, simple=True), count=1)
    approximate = any("gelu" in name for name in asked.recipe.for_target(target).targets[target].rewrites_of("int8"))
    assert targets_of(shared) == targets_of(own)
    pairs = list(zip(quantizers(shared), quantizers(own), strict=True))
    assert pairs
    for one, other in pairs:
        assert one.scale == pytest.approx(other.scale, rel=0.01 if approximate else 1e-4)
        assert abs(one.zero_point - other.zero_point) <= (3 if approximate else 1)
    alone = levels(own)
    alike = [np.mean(ours == alone[name]) for name, ours in levels(shared).items()]
    assert min(alike) > (0.9 if approximate else 0.999)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "target"), [("convnextv2", "tflite"), ("vit", "openvino"), ("resnet", "tflite"), ("default", "onnx")]
)
def test_int8_is_as_exact_as_after_an_own_calibration(family: str, target: str) -> None:
    asked = spec(family)
    float_logits = np.concatenate([network(family).module(torch.from_numpy(image)).numpy() for image in images(32)])
    found = {}
    for name, calibration in (("own", None), ("shared", together(family))):
        graph = graph_of(asked, target, family, calibration)
        logits = np.concatenate([graph(torch.from_numpy(image)).numpy() for image in images(32)])
        found[name] = snr_db(float_logits - float_logits.mean(0), logits - logits.mean(0))
    assert found["shared"] > found["own"] - 1, found


def test_it_does_not_depend_on_the_runtime_that_asks() -> None:
    one, other = together("resnet"), together("resnet", "tflite")
    assert one.ranges == other.ranges
    for name, layer in one.layers.items():
        assert torch.equal(layer.limited.weight, other.layers[name].limited.weight)
        assert torch.equal(layer.unlimited.weight, other.layers[name].unlimited.weight)


def test_each_sum_gets_its_own_range_whatever_its_node_is_called() -> None:
    asked, samples = spec("resnet"), noise_for(network("resnet"))
    renamed = copy_sharing(exported("resnet"))
    one, other = renamed.graph.find_nodes(op="call_function", target=A.add.Tensor)
    one.name, other.name = other.name, one.name
    graph = quantize_stage(asked, "onnx", "int8", renamed, samples, images(1), shared=together("resnet")).graph
    wanted = graph_of(asked, "onnx", "resnet", together("resnet"), count=1)
    assert [each.grid for each in quantizers(graph)] == [each.grid for each in quantizers(wanted)]


def test_only_the_runtimes_that_need_it_get_limited_pairs() -> None:
    saturating = {}
    for target in RUNTIMES:
        graph = graph_of(spec("resnet"), target, "resnet", together("resnet"))
        saturating[target] = sum(count_saturating(each) for each in levels(graph).values())
    assert saturating["openvino"] == saturating["onnx"] == 0 < saturating["tflite"]


@pytest.mark.parametrize("target", RUNTIMES)
def test_a_repaired_runtime_keeps_the_calibration_of_the_others(target: str) -> None:
    recipe, in_float = Recipe.load("vit").for_class(X86), "blocks.1.mlp.fc2"
    repaired = spec("vit", recipe.with_kinds(target, {in_float: "float"}))
    assert repaired.shared_recipe(target) == spec("vit", recipe).shared_recipe("onnx") is not None
    shared = together("vit")
    before, after = (graph_of(asked, target, "vit", shared, count=1) for asked in (spec("vit"), repaired))
    assert int8_layers(before) - int8_layers(after) == {in_float}
    assert levels(after).keys() < levels(before).keys()
    assert all(np.array_equal(each, levels(before)[name]) for name, each in levels(after).items())


@pytest.mark.parametrize("family", NETWORKS)
def test_a_simulation_needs_no_other_calibration(family: str) -> None:
    asked = spec(family)
    nearest = replace(asked, recipe=asked.recipe.rounding_to_nearest())
    graph = graph_of(asked, "onnx", family, together(family), count=1)
    unrounded = graph_of(nearest, "onnx", family, together(family).without_weights(), count=1)
    simulation, image = Simulation(graph, unrounded), images(1)[0]
    int8, exact = (simulation.run(image, layers).logits for layers in (simulation.layers, ()))
    assert np.array_equal(int8, graph(torch.from_numpy(image))[0].numpy())
    assert snr_db(network(family).module(torch.from_numpy(image))[0].numpy(), exact) > 100


def test_a_large_network_is_calibrated_in_the_process_of_each_bundle() -> None:
    asked = spec("vit")
    large = replace(asked, network=replace(asked.network, params=runtimes.CALIBRATED_ONCE_BELOW))
    assert asked.shared_recipe("onnx") is not None
    assert large.shared_recipe("onnx") is None
