"""Convolutions that OpenVINO's INT8 kernels compute wrongly on processors with AMX stay in float."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compat.openvino import openvino
from edgekit.config.recipes import Recipe
from edgekit.measure.accuracy import snr_db
from edgekit.runtime.openvino.backend import Backend
from edgekit.runtime.openvino.lowering import miscomputed_layers
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA, X86


def network(channels: int, kernel: int, stride: int, padding: int = 0, groups: int = 1) -> nn.Module:
    torch.manual_seed(0)
    wide = channels * groups
    first = nn.Conv2d(wide, 24 * groups, kernel, stride, padding, groups=groups)
    return nn.Sequential(first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24 * groups, 10)).eval()


def shape(channels: int, groups: int = 1) -> tuple[int, ...]:
    return 1, channels * groups, 28, 28


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "groups", "wrong"),
    [
        (32, 4, 4, 0, 1, ("0",)),
        (32, 8, 8, 0, 1, ("0",)),
        (32, 8, 4, 0, 1, ("0",)),
        (32, 4, 2, 0, 1, ()),
        (32, 4, 4, 1, 1, ()),
        (32, 5, 4, 0, 1, ()),
        (32, 2, 2, 0, 1, ()),
        (24, 3, 1, 1, 2, ("0",)),
        (24, 3, 2, 1, 2, ("0",)),
        (14, 5, 1, 2, 4, ("0",)),
        (20, 3, 1, 1, 2, ()),
        (12, 5, 1, 2, 4, ()),
        (32, 3, 1, 1, 2, ()),
        (24, 3, 1, 1, 1, ()),
        (1, 7, 1, 3, 32, ()),
    ],
)
def test_layers_are_found(
    channels: int, kernel: int, stride: int, padding: int, groups: int, wrong: tuple[str, ...]
) -> None:
    graph = export_graph(network(channels, kernel, stride, padding, groups), shape(channels, groups))
    assert miscomputed_layers(graph) == wrong


@pytest.mark.parametrize(("outputs", "wrong"), [(64, ()), (96, ("0",))])
def test_groups_of_few_channels_with_many_outputs_are_found(outputs: int, wrong: tuple[str, ...]) -> None:
    graph = export_graph(nn.Sequential(nn.Conv2d(24, outputs, 3, 2, 1, groups=2)).eval(), shape(12, 2))
    assert miscomputed_layers(graph) == wrong


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "groups"),
    [(32, 4, 4, 0, 1), (32, 8, 8, 0, 1), (24, 3, 1, 1, 2), (24, 3, 2, 1, 2), (32, 3, 2, 1, 2), (20, 3, 1, 1, 2)],
)
def test_openvino_computes_what_torch_does(
    channels: int, kernel: int, stride: int, padding: int, groups: int, tmp_path: Path
) -> None:
    module, size = network(channels, kernel, stride, padding, groups), shape(channels, groups)
    images = [np.random.default_rng(seed).standard_normal(size).astype(np.float32) for seed in range(4)]
    graph = quantize(export_graph(module, size), images, Recipe.load("default"), "openvino", limit_pairs=True)
    Backend().compile(graph, tmp_path, METADATA, X86)
    model = openvino.compile_model(tmp_path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = np.concatenate([module(torch.from_numpy(image)).numpy() for image in images])
    assert snr_db(expected, np.concatenate([model(image)[0] for image in images])) > 25
