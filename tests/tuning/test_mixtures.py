"""The layers that each attempt of a repair keeps in float."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.graph import A, Q
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import DeviceClass
from edgekit.measure.accuracy import snr_db
from edgekit.tuning.mixtures import Simulation, counts_of
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.residual import Residual


class Noises:
    """Stands for `Mixtures` of layers whose noises add up."""

    def __init__(self, noises: Mapping[str, float]) -> None:
        self._noises, self.everything = noises, frozenset(noises)
        self._ran = {self.everything}

    def run(self, mixtures: Iterable[frozenset[str]], on_image: Any) -> None:
        self._ran |= set(mixtures)

    def noise(self, mixture: frozenset[str]) -> float:
        assert mixture in self._ran
        return sum(self._noises[name] for name in mixture)


@pytest.mark.parametrize(
    ("noises", "counts"),
    [
        ({"a": 100, "b": 20, "c": 4, "d": 1, "e": 0.5}, [1, 2, 3]),
        ({"a": 1000, "b": 1, "c": 1}, [1, 2]),
        ({"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1, "h": 1}, [6]),
        ({"a": 1, "b": 1}, []),
        ({"a": 1}, []),
    ],
    ids=["each layer a quarter", "one destroyed layer", "equal layers", "half is not enough", "the only layer"],
)
def test_each_attempt_keeps_the_fewest_layers_that_cut_the_noise_enough(
    noises: Mapping[str, float], counts: list[int]
) -> None:
    mixtures: Any = Noises(noises)
    assert list(counts_of(mixtures, sorted(noises))) == counts


LAYERS = (
    "stem.0",
    *(f"stages.{stage}.blocks.0.mlp.fc{number}" for stage in range(4) for number in (1, 2)),
    *(f"stages.{stage}.downsample.1" for stage in (1, 2, 3)),
    "head.fc",
)


@pytest.fixture(scope="module")
def graph(tiny_convnext: Any) -> GraphModule:
    return export_graph(tiny_convnext.module, (1, 3, 32, 32))


@pytest.fixture(scope="module")
def images() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(size=(1, 3, 32, 32)).astype(np.float32) for _ in range(3)]


def quantized(graph: GraphModule, images: Any, target: str, **changes: Any) -> GraphModule:
    plain = {"weight_rounding": "nearest", "estimator": "histogram"}  # independent of the other layers
    recipe: Recipe = replace(Recipe.load("convnextv2"), **plain | changes)
    wants = recipe.targets[target]
    return quantize(rewrite(graph, wants.rewrites).graph, images, recipe, target)


@pytest.fixture(scope="module")
def plain(graph: GraphModule, images: Any) -> Callable[[str], GraphModule]:
    """A function that returns the graph for a target, quantized without further changes. Tests must not change it."""
    return cache(lambda target: quantized(graph, images, target))


@pytest.fixture(scope="module")
def residual() -> GraphModule:
    torch.manual_seed(0)
    return export_graph(Residual().eval(), (1, 3, 32, 32))


@pytest.fixture(scope="module")
def quantized_residual(residual: GraphModule, images: Any) -> Callable[..., GraphModule]:
    """A function that quantizes the small ResNet for a target, with some layers in float. Tests must not change it."""
    recipe = replace(Recipe.load("default"), weight_rounding="nearest", estimator="minmax")

    @cache
    def make(target: str, left: tuple[str, ...] = ()) -> GraphModule:
        wants = recipe.targets[target]
        assert wants.quantize_residuals
        return quantize(rewrite(residual, wants.rewrites).graph, images, replace(recipe, float_layers=left), target)

    return make


def answers(graph: GraphModule, image: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return graph(torch.from_numpy(image))[0].numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize("target", ["openvino", "onnx", "tflite"])
def test_all_on_and_all_off(graph: GraphModule, plain: Callable[[str], GraphModule], images: Any, target: str) -> None:
    real = plain(target)
    simulation = Simulation(real)
    assert set(simulation.layers) == set(LAYERS)
    for image in images:
        everything = simulation.run(image, simulation.layers).logits
        assert np.array_equal(everything, answers(real, image))
        nothing = simulation.run(image, ()).logits
        assert np.allclose(nothing, answers(graph, image), atol=1e-4)
        assert not np.allclose(nothing, everything, atol=1e-3)


@pytest.mark.parametrize("target", ["onnx", "tflite"])
@pytest.mark.parametrize(
    "left", [("stages.0.blocks.0.mlp.fc2",), ("stages.2.blocks.0.mlp.fc1", "stages.3.downsample.1"), LAYERS[1:-1]]
)
def test_layers_off_is_the_graph_with_these_layers_in_float(
    graph: GraphModule, plain: Callable[[str], GraphModule], images: Any, target: str, left: tuple[str, ...]
) -> None:
    real = plain(target)
    wanted = quantized(graph, images, target, float_layers=left)
    simulation = Simulation(real)
    everything = simulation.run(images[0], simulation.layers)
    on = [name for name in simulation.layers if name not in left]
    assert np.array_equal(simulation.run(images[0], on).logits, answers(wanted, images[0]))
    assert np.array_equal(simulation.run(images[0], on, everything).logits, answers(wanted, images[0]))


def test_a_table_after_a_layer_switches_with_it(graph: GraphModule, images: Any) -> None:
    board = Recipe.load("convnextv2").for_class(DeviceClass.load("raspberry-pi-4")).targets
    real = quantized(graph, images, "tflite", targets=board)
    simulation = Simulation(real)
    assert np.array_equal(simulation.run(images[0], simulation.layers).logits, answers(real, images[0]))
    wanted = quantized(graph, images, "tflite", targets=board, float_layers=["*.fc1"])
    on = [name for name in simulation.layers if not name.endswith(".fc1")]
    assert np.array_equal(simulation.run(images[0], on).logits, answers(wanted, images[0]))


@pytest.mark.parametrize("rounding", ["gptq", "fit"])
def test_a_layer_that_is_off_uses_its_original_weights(
    graph: GraphModule, plain: Callable[[str], GraphModule], images: Any, rounding: str
) -> None:
    real = quantized(graph, images, "onnx", weight_rounding=rounding)
    simulation = Simulation(real, plain("onnx"))
    assert np.array_equal(simulation.run(images[0], simulation.layers).logits, answers(real, images[0]))
    assert np.allclose(simulation.run(images[0], ()).logits, answers(graph, images[0]), atol=1e-4)
    without = Simulation(real)
    assert not np.allclose(without.run(images[0], ()).logits, answers(graph, images[0]), atol=1e-3)


def test_smoothing_applies_to_both_float_and_int8(graph: GraphModule, images: Any) -> None:
    real = quantized(graph, images, "onnx", smooth_quant=True)
    simulation = Simulation(real)
    assert np.array_equal(simulation.run(images[0], simulation.layers).logits, answers(real, images[0]))
    assert np.allclose(simulation.run(images[0], ()).logits, answers(graph, images[0]), atol=1e-4)
    real = quantized(graph, images, "tflite", smooth_quant=True)
    simulation = Simulation(real)
    assert np.array_equal(simulation.run(images[0], simulation.layers).logits, answers(real, images[0]))


def test_a_run_continues_from_another(plain: Callable[[str], GraphModule], images: Any) -> None:
    simulation = Simulation(plain("tflite"))
    nothing = simulation.run(images[0], ())
    for name in simulation.layers:
        alone, continued = simulation.run(images[0], [name]), simulation.run(images[0], [name], nothing)
        assert np.array_equal(alone.logits, continued.logits), name
        assert not np.array_equal(alone.logits, nothing.logits), name
    assert np.array_equal(simulation.run(images[0], (), nothing).logits, nothing.logits)


class RowNorm(torch.nn.Module):
    """A norm over the channels between two convolutions, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.depthwise, self.norm = torch.nn.Conv2d(3, 3, 3, groups=3), torch.nn.LayerNorm(3)
        self.pointwise = torch.nn.Conv2d(3, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        logits: torch.Tensor = self.pointwise(x).mean((2, 3))
        return logits


def test_a_quantizer_before_views_switches_with_the_layer_behind_them(images: Any) -> None:
    graph = export_graph(RowNorm().eval().requires_grad_(False), (1, 3, 32, 32))
    default = Recipe.load("default")
    wants = replace(default.targets["openvino"], rewrites=("rows-layer-norm",), int8_rewrites=None)
    recipe = replace(default, targets={"openvino": wants}, weight_rounding="nearest", estimator="minmax")
    real = quantize(rewrite(graph, wants.rewrites).graph, images, recipe, "openvino")
    before_views = real.graph.find_nodes(op="call_function", target=A.reshape.default)[-1]
    assert before_views.args[0].target is Q.dequantize_per_tensor.default
    simulation = Simulation(real)
    assert simulation.layers == ("depthwise", "pointwise")
    assert np.array_equal(simulation.run(images[0], simulation.layers).logits, answers(real, images[0]))
    assert np.allclose(simulation.run(images[0], ()).logits, answers(graph, images[0]), atol=1e-4)


@pytest.mark.parametrize("target", ["openvino", "onnx", "tflite"])
def test_a_padding_switches_with_its_layer(images: Any, target: str) -> None:
    torch.manual_seed(0)
    padded = torch.nn.Sequential(
        *(torch.nn.ZeroPad2d((0, 1, 0, 1)), torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU6()),
        *(torch.nn.ZeroPad2d(1), torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.ReLU6()),
        *(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5)),
    )
    graph = export_graph(padded.eval(), (1, 3, 32, 32))
    recipe = replace(Recipe.load("default"), weight_rounding="nearest")
    wants = recipe.targets[target]

    def quantized_without(*left: str) -> GraphModule:
        return quantize(rewrite(graph, wants.rewrites).graph, images, replace(recipe, float_layers=left), target)

    real = quantized_without()
    simulation = Simulation(real)
    everything = simulation.run(images[0], simulation.layers)
    assert np.array_equal(everything.logits, answers(real, images[0]))
    on = [name for name in simulation.layers if name != "4"]
    assert len(on) == 2
    assert np.array_equal(simulation.run(images[0], on, everything).logits, answers(quantized_without("4"), images[0]))


@pytest.mark.parametrize("target", ["openvino", "onnx", "tflite"])
@pytest.mark.parametrize("left", [(), ("one",), ("two", "three"), ("three",), ("one", "two"), ("head",)])
def test_residual_sums_switch_with_the_layers_before_them(
    residual: GraphModule,
    quantized_residual: Callable[..., GraphModule],
    images: Any,
    target: str,
    left: tuple[str, ...],
) -> None:
    simulation = Simulation(quantized_residual(target))
    on = [name for name in simulation.layers if name not in left]
    wanted = quantized_residual(target, left)
    assert np.array_equal(simulation.run(images[0], on).logits, answers(wanted, images[0]))
    assert np.allclose(simulation.run(images[0], ()).logits, answers(residual, images[0]), atol=1e-4)


class Latent(torch.nn.Module):
    """Attention whose queries don't depend on the image, as in SigLIP's pooling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.keys = torch.nn.Conv2d(3, 16, 8, 8), torch.nn.Linear(16, 32)
        self.latent, self.head = torch.nn.Parameter(torch.randn(1, 2, 1, 8)), torch.nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.keys(self.patches(x).flatten(2).transpose(1, 2)).reshape(1, 16, 2, 2, 8)
        keys, values = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        pooled = torch.nn.functional.scaled_dot_product_attention(self.latent * 2, keys, values)
        logits: torch.Tensor = self.head(pooled.flatten(1))
        return logits


def test_an_int8_constant(images: Any) -> None:
    graph = export_graph(Latent().eval().requires_grad_(False), (1, 3, 32, 32))
    default = Recipe.load("default")
    wants = replace(default.targets["openvino"], lowerings=("int8-attention",))
    recipe = replace(default, targets={"openvino": wants}, weight_rounding="nearest", estimator="minmax")
    real = quantize(rewrite(graph, wants.rewrites).graph, images, recipe, "openvino")
    quantizers = real.graph.find_nodes(op="call_function", target=Q.quantize_per_tensor.default)
    assert any(node.args[0].op == "get_attr" for node in quantizers)
    simulation = Simulation(real)
    assert snr_db(answers(real, images[0]), simulation.run(images[0], simulation.layers).logits) > 20
    assert np.allclose(simulation.run(images[0], ()).logits, answers(graph, images[0]), atol=1e-4)
