"""The places of Q/DQ for each recipe, and the effect of calibration with images."""

from collections import Counter
from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.execution import threads
from edgekit.compiler.graph import A, Q, constant, layer_name
from edgekit.compiler.layers import dense_layers, layer_weights, layers
from edgekit.compiler.placement import Placement, fold_weights
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import OWN, Recipe, TargetRecipe
from edgekit.config.runtimes import DeviceClass
from edgekit.errors import CompileError
from edgekit.pipeline.graphs import quantize_stage
from tests.helpers.calibration import network_of, noise_for, quantize, spec_of
from tests.helpers.graphs import export_graph
from tests.helpers.refusals import refuses
from tests.helpers.tiny import X86


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    """A convolution with ReLU, a depthwise convolution and a linear layer."""
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
    """The default recipe with another table, the same for each runtime."""
    default = Recipe.load("default")
    plain: dict[str, Any] = {"activations": "uint8", "quantize_outputs": False, "quantize_depthwise": False}
    row = replace(default.targets["onnx"], **(plain | (target or {})))
    return replace(default, targets=dict.fromkeys(default.targets, row), **changes)


def quantized(graph: GraphModule, samples: Any, wants: Recipe, **more: Any) -> GraphModule:
    return quantize(rewrite(graph, []).graph, samples, wants, "onnx", **more)


def counted(graph: GraphModule) -> Counter[str]:
    """Number of Q nodes by kind: per channel, and per tensor with its range."""
    counts: Counter[str] = Counter()
    for node in graph.graph.nodes:
        if "quantize_per_channel" in str(node.target) and "dequantize" not in str(node.target):
            counts["weights"] += 1
        elif "quantize_per_tensor" in str(node.target) and "dequantize" not in str(node.target):
            counts[f"activations {node.args[3]}..{node.args[4]}"] += 1
    return counts


def test_weights_use_all_their_levels(graph: GraphModule, samples: Any) -> None:
    """NNCF would give the first layer half of them."""
    result = quantized(graph, samples, recipe(weight_rounding="nearest"))
    found = [weights for layer in dense_layers(result) if (weights := layer_weights(result, layer)) is not None]
    assert len(found) == 2
    for weights in found:
        largest = weights.weight.abs().flatten(1).amax(1) / weights.scale
        torch.testing.assert_close(largest, torch.full_like(largest, 127))


def errors(graph: GraphModule, result: GraphModule, samples: Any) -> list[float]:
    """Largest error of the logits of each image, as a share of the graph's largest logit."""
    with torch.no_grad():
        logits = [(graph(image), result(image)) for image in map(torch.from_numpy, samples)]
    return [float((wanted - actual).abs().max() / wanted.abs().max()) for wanted, actual in logits]


@pytest.mark.parametrize(
    ("wants", "counts"),
    [
        ({}, {"weights": 2, "activations 0..255": 2}),
        ({"activations": "int8"}, {"weights": 2, "activations -128..127": 2}),
        ({"quantize_depthwise": True}, {"weights": 3, "activations 0..255": 3}),
        ({"quantize_outputs": True}, {"weights": 2, "activations 0..255": 4}),
        ({"quantize_outputs": True, "quantize_depthwise": True}, {"weights": 3, "activations 0..255": 5}),
    ],
)
def test_placements(graph: GraphModule, samples: Any, wants: dict[str, Any], counts: dict[str, int]) -> None:
    assert counted(quantized(graph, samples, recipe(wants))) == counts


def test_weights_only(graph: GraphModule, samples: Any) -> None:
    wants = recipe({"quantize_outputs": True}, scheme="w8", smooth_quant=True, bias_correction="fast", equalization=0.5)
    result = quantized(graph, samples, wants)
    assert counted(result) == {"weights": 2}
    assert all(0 < error < 0.02 for error in errors(graph, result, samples))


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
    assert all(0 < error < 0.05 for error in errors(graph, quantized(graph, samples, recipe()), samples))


def test_each_estimator_gives_its_own_range() -> None:
    """On images with outliers, the input's range has their extremes, or clips them."""
    random = np.random.default_rng(0)
    images = [random.standard_t(5, size=(1, 3, 64, 64)).astype(np.float32) for _ in range(8)]
    network = export_graph(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).eval(), (1, 3, 64, 64))
    steps = {
        estimator: next(
            node.args[1]
            for node in quantized(network, images, recipe(estimator=estimator)).graph.nodes
            if "quantize_per_tensor" in str(node.target)
        )
        for estimator in get_args(get_type_hints(Recipe)["estimator"])
    }
    lowest, highest = ([float(reduce(image)) for image in images] for reduce in (np.min, np.max))
    assert steps["minmax"] == pytest.approx(
        (max(highest) - min(lowest)) / 255, rel=5e-3
    )  # the tolerance allows for 0 as a level
    for clipping in ("histogram", "mse"):
        assert (np.mean(highest) - np.mean(lowest)) / 255 < steps[clipping] < 0.95 * steps["minmax"]
    assert len(set(steps.values())) == len(steps)


class Uneven(nn.Module):
    """A LayerNorm whose channels differ a thousandfold, so that int8 is coarse, and a layer that compensates for it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.wide, self.head = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.norm.weight.mul_(torch.logspace(-1.5, 1.5, 16))
            self.wide.weight.mul_(torch.logspace(1.5, -1.5, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.wide(self.norm(x.flatten(1)[:, :16])).relu())
        return logits


def test_smoothing_lowers_the_error_where_channels_differ() -> None:
    random = np.random.default_rng(0)
    images = [random.normal(size=(1, 3, 12, 12)).astype(np.float32) for _ in range(16)]
    network = export_graph(Uneven().eval(), (1, 3, 12, 12))
    plain = errors(network, quantized(network, images, recipe()), images)
    smooth = errors(network, quantized(network, images, recipe(smooth_quant=True)), images)
    assert np.mean(smooth) < 0.1 * np.mean(plain)


def test_a_channel_of_zeros_has_the_zero_point_0(samples: Any) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, 3)
    with torch.no_grad():
        conv.weight[1] = 0
    module = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    result = quantized(export_graph(module, (1, 3, 12, 12)), samples, recipe())
    weights = result.graph.find_nodes(op="call_function", target=Q.quantize_per_channel.default)
    zeros = [constant(result, node.args[2]) for node in weights]
    assert [value is not None and value.tolist() for value in zeros] == [[0] * 4, [0] * 2]
    assert all(error < 0.02 for error in errors(export_graph(module, (1, 3, 12, 12)), result, samples))


@pytest.mark.parametrize("estimator", ["histogram", "mse"])
def test_a_failure_of_nncf_is_a_compile_error(graph: GraphModule, estimator: str) -> None:
    with refuses(CompileError, "can't calibrate"):
        quantized(graph, [np.full((1, 3, 12, 12), np.nan, np.float32)], recipe(estimator=estimator))


@pytest.mark.parametrize(
    ("ours", "changes"),
    [
        ("calibrate.equalize", {"equalization": 0.5}),
        ("calibrate.find_ranges", {"estimator": "mse"}),
        ("calibrate.tie_rearrangements", {}),
        ("calibrate.round_weights", {"weight_rounding": "gptq"}),
        ("calibrate.fit_weights", {"weight_rounding": "fit"}),
        ("placement.is_padding", {}),
    ],
)
def test_a_mistake_of_ours_is_not_reported_as_nncfs(
    graph: GraphModule, samples: Any, ours: str, changes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NNCF calls the placement, which calls the last function."""

    def mistaken(*_: object, **__: object) -> None:
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(f"edgekit.compiler.{ours}", mistaken)
    with pytest.raises(KeyError, match="a mistake of ours"):
        quantized(graph, samples, recipe(**changes))


def test_a_graph_whose_code_reads_an_unset_variable_is_a_mistake_of_ours(graph: GraphModule, samples: Any) -> None:
    broken = rewrite(graph, []).graph
    (pooling,) = broken.graph.find_nodes(op="call_function", target=A.adaptive_avg_pool2d.default)
    pooling.append(pooling.all_input_nodes[0])  # which it reads
    with pytest.raises(NameError):
        quantize(broken, samples, recipe(), "onnx")


def test_a_weight_that_is_not_constant_stays_in_float(samples: Any) -> None:
    class Dynamic(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(x.mean((2, 3)), x[0, :, :2, 0].T)

    assert counted(quantized(export_graph(Dynamic(), (1, 3, 12, 12)), samples, recipe())) == {}


class Everything(nn.Module):
    """A network on which each of a recipe's settings has an effect."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.norm, self.wide, self.head = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 4)
        with torch.no_grad():
            self.norm.weight.mul_(torch.logspace(-1, 1, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.gelu(self.stem(x))
        x = nn.functional.hardswish(self.one(self.depthwise(x)))
        rows = (x + self.two(x)).flatten(2).transpose(1, 2)
        rows = nn.functional.scaled_dot_product_attention(rows, 2 * rows, rows + 1)
        logits: torch.Tensor = self.head(self.wide(self.norm(rows.mean(1))))
        return logits


PLAINEST: dict[str, Any] = {"quantize_residuals": False}
# A change of each setting that must change the graph, and other settings that it needs to have an effect.
SETTINGS: dict[str, Any] = {
    "scheme": "w8",
    "estimator": "minmax",
    "smooth_quant": True,
    "bias_correction": "fast",
    "equalization": 0.5,
    "weight_rounding": "nearest",
    "float_layers": ("stem",),
}
SETTINGS_OF_A_TARGET: dict[str, Any] = {
    "rewrites": ("layer-norm-affine",),
    "int8_rewrites": ("coarse-polynomial-gelu",),
    "activations": "int8",
    "quantize_outputs": True,
    "quantize_depthwise": True,
    "quantize_residuals": True,
    "lowerings": ("int8-gelu",),
    "limit_weight_pairs": False,
    "estimator": "minmax",
    "smooth_quant": True,
    "bias_correction": "fast",
    "float_layers": ("stem",),
    "kinds": {"stem": "float"},
    "weight_rounding": "nearest",
}
NEEDS: dict[str, dict[str, Any]] = {"lowerings": {"quantize_outputs": True}}
OF_A_RUNTIME = {"lowerings": "tflite"}
"""Settings whose value is valid for one runtime alone. The others are tried with onnx."""
ABOUT_IT = {"name", "description", "architectures", "optional_rewrites", "targets", "num_calibration_samples"}
"""Settings that don't affect the graph: name, models and targets of the recipe, number of images, and warnings."""


def prepared(
    wants: Recipe, device_class: DeviceClass = X86, target: str = "onnx"
) -> tuple[str, dict[str, torch.Tensor]]:
    """Code and constants of the graph that a job would compile."""
    random = np.random.default_rng(0)
    images = [random.normal(size=(1, 3, 12, 12)).astype(np.float32) for _ in range(4)]
    network = network_of(Everything(), 12, 4)
    spec = spec_of(network, wants.for_class(device_class), device_class)
    graph = quantize_stage(
        spec, target, "int8", export_graph(network.module, (1, 3, 12, 12)), noise_for(network), images
    ).graph
    return graph.code, {name: value.detach() for name, value in graph.state_dict().items()}


def same(one: tuple[str, dict[str, torch.Tensor]], other: tuple[str, dict[str, torch.Tensor]]) -> bool:
    equal = one[0] == other[0] and one[1].keys() == other[1].keys()
    return equal and all(torch.equal(value, other[1][name]) for name, value in one[1].items())


def test_settings_cover_the_recipe() -> None:
    assert {field.name for field in fields(Recipe)} == SETTINGS.keys() | ABOUT_IT
    assert {field.name for field in fields(TargetRecipe)} == SETTINGS_OF_A_TARGET.keys() | {"on"}
    assert set(OWN) <= SETTINGS.keys() & SETTINGS_OF_A_TARGET.keys()


@pytest.fixture(scope="module")
def unchanged() -> tuple[str, dict[str, torch.Tensor]]:
    graph = prepared(recipe(PLAINEST))
    assert same(graph, prepared(recipe(PLAINEST))), "without a change, graphs must be equal"
    return graph


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_of_a_recipe_changes_the_graph(name: str, unchanged: Any) -> None:
    assert not same(unchanged, prepared(recipe(PLAINEST, **{name: SETTINGS[name]})))


@pytest.mark.parametrize("name", SETTINGS_OF_A_TARGET)
def test_each_setting_of_a_target_changes_the_graph(name: str, unchanged: Any) -> None:
    base, target = PLAINEST | NEEDS.get(name, {}), OF_A_RUNTIME.get(name, "onnx")
    before = prepared(recipe(base), target=target) if name in NEEDS or target != "onnx" else unchanged
    assert not same(before, prepared(recipe(base | {name: SETTINGS_OF_A_TARGET[name]}), target=target))


def test_a_variant_changes_the_graph_only_for_its_device_class(unchanged: Any) -> None:
    plain = recipe(PLAINEST).targets["onnx"]
    wants = recipe(PLAINEST | {"on": {"raspberry-pi-*": replace(plain, quantize_outputs=True)}})
    assert same(unchanged, prepared(wants))
    pi = DeviceClass.load("raspberry-pi-5")
    assert same(prepared(recipe(PLAINEST | {"quantize_outputs": True}), pi), prepared(wants, pi))


def test_pairs_of_weights_are_not_limited_for_arm() -> None:
    pi, unlimited = DeviceClass.load("raspberry-pi-5"), recipe(PLAINEST | {"limit_weight_pairs": False})
    assert same(prepared(unlimited, pi), prepared(recipe(PLAINEST), pi))


def test_folding_weights_preserves_the_function(graph: GraphModule, samples: Any) -> None:
    result = quantized(graph, samples, recipe())
    image = torch.from_numpy(samples[0])
    before = result(image)
    assert fold_weights(result) == 2
    torch.testing.assert_close(result(image), before, rtol=0, atol=0)
    kernels = [tensor.dtype for tensor in (*result.parameters(), *result.buffers()) if tensor.ndim > 1]
    # the depthwise kernel stays in float
    assert sorted(map(str, kernels)) == ["torch.float32", "torch.int8", "torch.int8"]
    assert fold_weights(result) == 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("estimator", ["minmax", "mse"])
def test_an_image_whose_activations_are_not_finite_ends_calibration(
    estimator: str, value: float, graph: GraphModule, samples: Any
) -> None:
    bad = samples[1].copy()
    bad[0, 0, 4, 4] = value
    with refuses(CompileError, "finite"):
        quantized(graph, [samples[0], bad, *samples[2:]], recipe(estimator=estimator))


def test_images_side_by_side_give_the_same_graph(graph: GraphModule) -> None:
    images = [np.full((1, 3, 12, 12), 7 * index % 20, np.float32) for index in range(20)]
    results = []
    for count in (1, 4):
        with threads(count):
            result = quantized(graph, images, recipe(estimator="minmax"))
        results.append((result.print_readable(print_output=False), dict(result.state_dict())))
    assert same(*results)
