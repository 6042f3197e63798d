"""Weights that the converter could store wrongly, and INT8 weights that it never sees."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edgekit.compiler.graph import copy_sharing
from edgekit.config.recipes import Recipe
from edgekit.errors import CompileError
from edgekit.runtime.tflite import backend
from edgekit.runtime.tflite.backend import Backend
from edgekit.runtime.tflite.flatbuffer import Key, Levels, put_weights, take_weights
from edgekit.support.libraries import quiet
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.litert import run_file
from tests.helpers.refusals import refuses
from tests.helpers.tiny import METADATA, X86


def test_transposed_weights_are_stored_as_they_are(tmp_path: Path) -> None:
    """As in networks from ONNX files. The converter's own copies of such weights are freed too early, mostly."""
    torch.manual_seed(0)
    layers = [nn.Linear(288, 96) if index % 2 else nn.Linear(96, 288) for index in range(12)]
    for layer in layers:
        layer.weight = nn.Parameter(torch.randn(layer.in_features, layer.out_features).T / layer.in_features**0.5)
    network = nn.Sequential(*layers).eval()
    image = torch.randn(1, 96)
    with quiet(), torch.no_grad():
        expected = network(image).numpy()
        Backend().compile(export_graph(network, image.shape), tmp_path, METADATA, X86)
    logits = run_file(tmp_path / "model.tflite", [image.numpy()])
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


class Layers(nn.Module):
    """Three kinds of convolutions, a Linear layer between filters, and a channel of zeros.

    If it is `odd`, the Linear layer is used twice, and there is an average pooling for which LiteRT has no kernel.
    """

    def __init__(self, odd: bool) -> None:
        super().__init__()
        self.times = 2 if odd else 1
        self.pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False) if odd else nn.Identity()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16)
        self.grouped, self.mixed = nn.Conv2d(16, 16, 3, groups=4), nn.Linear(16, 16)
        self.across, self.down, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.across.weight = nn.Parameter(torch.eye(16))
        self.down.weight = nn.Parameter(torch.eye(16).flip(0))
        nn.init.zeros_(self.head.weight[2])

    def forward(self, x: Tensor) -> Tensor:
        rows = self.grouped(self.pool(self.depthwise(self.stem(x)))).flatten(2).transpose(1, 2)
        for _ in range(self.times):
            rows = torch.relu(self.mixed(rows))
        logits: Tensor = self.head(self.down(self.across(rows))).mean(1)
        return logits


@torch.no_grad()
@pytest.mark.parametrize("odd", [False, True])
def test_int8_weights_are_those_that_the_converter_would_have_made(
    odd: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    images = [torch.randn(1, 3, 12, 12).numpy() for _ in range(2)]
    recipe = replace(Recipe.load("default"), weight_rounding="nearest", equalization=0.0)
    quantized = quantize(export_graph(Layers(odd).eval(), images[0].shape), images, recipe, "tflite")
    taken, files, logits = [], [], []

    def take(graph: GraphModule) -> dict[Key, Levels]:
        taken.append(take_weights(graph))
        return taken[-1]

    def take_none(graph: GraphModule) -> dict[Key, Levels]:
        return {}

    for choice in (take, take_none):
        monkeypatch.setattr(backend, "take_weights", choice)
        with quiet():
            Backend().compile(copy_sharing(quantized), tmp_path, METADATA, X86)
        files.append((tmp_path / "model.tflite").read_bytes())
        logits.append(run_file(tmp_path / "model.tflite", images))
    assert abs(len(files[0]) - len(files[1])) < 100, "no zeros remain"
    assert odd or files[0] == files[1], "other buffers, but the same sizes"
    np.testing.assert_array_equal(logits[0], logits[1])
    shapes = sorted(tuple(levels.shape) for levels in taken[0].values())
    assert shapes == [(5, 16), (16, 1, 3, 3), (16, 3, 3, 3), (16, 4, 3, 3), (16, 16)], "without the two filters"


def test_weights_without_a_tensor_are_a_bug() -> None:
    model = SimpleNamespace(subgraphs=[], buffers=[])
    with refuses(CompileError, [[2, 3]]):
        put_weights(model, {(6, b""): np.zeros((2, 3), np.int8)})
