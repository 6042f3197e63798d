"""Depthwise convolutions of every kind get forms for which runtimes have fast kernels, with the same outputs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.graph import shape_of
from edgekit.compiler.layers import dense_layers
from edgekit.compiler.layouts import depth_multiplier, depthwise_blocks, pad_depthwise, split_depthwise
from edgekit.compiler.placement import fold_weights
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import Recipe
from edgekit.measure.accuracy import snr_db
from edgekit.runtime.backend import load_backend
from edgekit.support.libraries import quiet
from tests.helpers.calibration import quantize
from tests.helpers.graphs import check_values, export_graph, simplified
from tests.helpers.litert import run_file
from tests.helpers.tiny import METADATA, X86

IMAGE = torch.randn(1, 6, 20, 24, generator=torch.Generator().manual_seed(0))


def convolution(kernel: Any, multiplier: int = 1, **settings: Any) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(6, 6 * multiplier, kernel, groups=6, **settings))


@pytest.mark.parametrize(
    ("module", "kernels"),
    [
        (convolution(7, padding=3), 5),
        (convolution(7, padding=3, stride=2), 5),
        (convolution(7, padding=3, stride=(1, 2), bias=False), 5),
        (convolution(7, padding=9, dilation=3), 5),
        (convolution(7, padding=(2, 5)), 5),
        (convolution(7, padding=3, stride=2, multiplier=2), 5),
        (convolution(9, padding=4), 4),
        (convolution(9, padding=(1, 4), stride=2), 4),
        (convolution(9), 1),
        (convolution(7, padding=1), 1),
        (convolution(7, padding=3, dilation=2), 1),
        (convolution((7, 9), padding=3), 1),
        (convolution(5, padding=2), 1),
    ],
)
def test_large_kernels_are_split_if_they_are_padded(module: nn.Module, kernels: int) -> None:
    graph, places = simplified(module, IMAGE, split_depthwise)
    assert places == (kernels > 1)
    assert len(list(dense_layers(graph))) == kernels


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        (convolution(7, padding=3, stride=2, multiplier=2), 1),
        (convolution(3, padding=1, multiplier=3, bias=False), 1),
        (convolution((1, 5), padding=(0, 2), multiplier=2), 1),
        (convolution(3), 0),
        (nn.Sequential(nn.Conv2d(6, 12, 3, groups=3)), 0),
        (nn.Sequential(nn.Conv2d(6, 12, 3)), 0),
    ],
)
def test_each_channel_gets_one_output(module: nn.Module, changed: int) -> None:
    graph, places = simplified(module, IMAGE, depth_multiplier)
    assert places == changed
    (layer,) = dense_layers(graph)
    assert not changed or layer.groups == shape_of(layer.weight)[0]


@pytest.mark.parametrize(
    ("module", "changed"),
    [
        (convolution(7, padding=3), 1),
        (convolution(7, padding=3, multiplier=2), 1),
        (convolution(9, padding=4), 1),
        (convolution(9, padding=3), 0),
        (convolution(7, padding=3, stride=2), 0),
        (convolution(7, padding=9, dilation=3), 0),
        (convolution(7, padding=2), 0),
    ],
)
def test_blocks_need_whole_blocks_and_one_output_for_each_channel(module: nn.Module, changed: int) -> None:
    _, places = simplified(module, IMAGE, depth_multiplier, depthwise_blocks)
    assert places == changed


@torch.no_grad()
def test_a_split_kernel_in_int8_is_as_exact_as_one_on_blocks() -> None:
    """An image whose side is no multiple of 4 has no blocks, so its kernels are split."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 7, padding=3, groups=16), nn.ReLU(),
        nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 7, padding=3, groups=16), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1)
    images = [np.random.default_rng(seed).normal(size=(1, 3, 16, 16)).astype(np.float32) for seed in range(8)]
    exact, signal = export_graph(network.eval(), (1, 3, 16, 16)), {}
    for name in ("split-depthwise", "depthwise-blocks"):
        graph = quantize(rewrite(exact, [name]).graph, images, Recipe.load("default"), "tflite")
        wanted, actual = (np.concatenate([of(torch.from_numpy(image)) for image in images]) for of in (network, graph))
        signal[name] = snr_db(wanted, actual)
    assert signal["split-depthwise"] > signal["depthwise-blocks"] - 1.5


@pytest.mark.parametrize("target", ["onnx", "tflite"])
def test_files_in_int8_compute_what_the_calibrated_graph_does(target: str, tmp_path: Path) -> None:
    """The default recipe has kernels of 7x7 on blocks and in parts, of 9x9, and several outputs for a channel."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), *convolution(7, padding=3, multiplier=2), nn.Hardswish(),
        nn.Conv2d(12, 12, 7, 2, 3, groups=12), nn.Conv2d(12, 12, 9, 1, 4, groups=12, bias=False), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5),
    )  # fmt: skip
    images = [np.random.default_rng(seed).normal(size=(1, 3, 40, 48)).astype(np.float32) for seed in range(4)]
    recipe = Recipe.load("default")
    rewritten = rewrite(export_graph(network.eval(), (1, 3, 40, 48)), recipe.targets[target].rewrites_of("int8"))
    graph = quantize(rewritten.graph, images, recipe, target)
    with quiet(), torch.no_grad():
        expected = np.concatenate([graph(torch.from_numpy(image)).numpy() for image in images])
        file = tmp_path / load_backend(target).compile(graph, tmp_path, METADATA, X86).model_file
    if target == "onnx":
        session = onnxruntime.InferenceSession(str(file))
        name = session.get_inputs()[0].name
        actual = np.concatenate([session.run(None, {name: image})[0] for image in images])
    else:
        actual = run_file(file, images)
    assert snr_db(expected, actual) > 30


class Gated(nn.Module):
    """Squeeze-and-excitation of a few channels."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up, self.gate = nn.Conv2d(channels, 5, 1), nn.Conv2d(5, channels, 1), gate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate: torch.Tensor = self.gate(self.up(self.down(x.mean((2, 3), keepdim=True)).relu()))
        return x * gate


class Ghost(nn.Module):
    """Channels, and as many that a depthwise layer makes of them, as in GhostNet."""

    def __init__(self, inputs: int, channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, channels, 1, bias=False)
        self.cheap = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x).relu()
        return torch.cat([first, self.cheap(first).relu()], 1)


class Residual(nn.Module):
    """A sum of the input and what the modules make of it."""

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*modules)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor = x + self.branch(x)
        return total


def depthwise(channels: int, kernel: int, stride: int = 1, **settings: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, **settings)


@pytest.mark.parametrize(
    ("modules", "groups"),
    [
        ([depthwise(12, 3), nn.ReLU()], [16]),
        ([depthwise(12, 5, 2, bias=False), nn.ReLU6()], [16]),
        ([depthwise(12, 3), nn.Hardswish(), depthwise(12, 7), nn.SiLU()], [16, 16]),
        ([depthwise(12, 3), nn.ReLU(), Gated(12, nn.Hardsigmoid())], [16]),
        ([depthwise(12, 3, 2), nn.Hardswish(), Gated(12, nn.Sigmoid())], [16]),
        ([Residual(depthwise(12, 3), nn.ReLU()), nn.MaxPool2d(2)], [16]),
        ([nn.Conv2d(12, 16, 1), nn.ReLU(), depthwise(16, 3)], [16]),
        ([Ghost(12, 6)], [16]),
        ([Ghost(12, 6), depthwise(12, 3, 2), nn.ReLU(), Residual(Ghost(12, 6, 5))], [16, 32, 16]),
        ([Residual(Ghost(12, 6)), nn.Conv2d(12, 12, 1), nn.ReLU(), Residual(Ghost(12, 6))], [16, 16]),
        ([depthwise(12, 3), nn.PixelUnshuffle(2), nn.Conv2d(48, 12, 1)], [12]),
        ([depthwise(12, 3), nn.Conv2d(12, 12, 1, groups=3)], [12]),
        ([Ghost(12, 6), nn.PixelUnshuffle(2), nn.Conv2d(48, 12, 1)], [6]),
        ([nn.Conv2d(12, 24, 3, groups=12)], [12]),
    ],
)
@torch.no_grad()
def test_padded_channels_change_nothing(modules: Sequence[nn.Module], groups: Sequence[int]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), *modules, nn.LazyConv2d(8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    images = [np.random.default_rng(seed).normal(size=(1, 3, 20, 24)).astype(np.float32) for seed in range(2)]
    network.eval()(torch.from_numpy(images[0]))
    recipe = replace(Recipe.load("default"), estimator="minmax", weight_rounding="nearest")
    graph = quantize(export_graph(network, (1, 3, 20, 24)), images, recipe, "onnx")
    fold_weights(graph)
    before, old = graph(torch.from_numpy(images[0])), groups_of(graph)
    assert bool(pad_depthwise(graph)) == (old != groups)
    assert groups_of(graph) == groups
    assert torch.equal(graph(torch.from_numpy(images[0])), before)
    check_values(graph)


def groups_of(graph: GraphModule) -> list[int]:
    return [layer.groups for layer in dense_layers(graph) if layer.is_depthwise]
