"""Convolutions that OpenVINO's INT8 kernels compute wrongly on processors with AMX stay in float."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compat.openvino import openvino
from edgekit.compiler.export import export_graph
from edgekit.compiler.quantize.calibrate import quantize
from edgekit.compiler.quantize.wrong_kernels import miscomputed_layers
from edgekit.config.recipes import load_recipe
from edgekit.measure.accuracy import snr_db
from edgekit.runtime.openvino.backend import Backend

SHAPE = (1, 32, 32, 32)


def network(kernel: int, stride: int, padding: int = 0) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(32, 16, kernel, stride, padding), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(*layers).eval()


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "wrong"),
    [
        (4, 4, 0, ("0",)),
        (8, 8, 0, ("0",)),
        (8, 4, 0, ("0",)),
        (4, 2, 0, ()),
        (4, 4, 1, ()),
        (5, 4, 0, ()),
        (2, 2, 0, ()),
    ],
)
def test_layers_are_found(kernel: int, stride: int, padding: int, wrong: tuple[str, ...]) -> None:
    graph = export_graph(network(kernel, stride, padding), SHAPE)
    assert miscomputed_layers(graph, "openvino") == wrong
    assert miscomputed_layers(graph, "onnx") == ()


@pytest.mark.parametrize("kernel", [4, 8])
def test_openvino_computes_what_torch_does(kernel: int, tmp_path: Path) -> None:
    module = network(kernel, kernel)
    images = [np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32) for seed in range(4)]
    graph = quantize(export_graph(module, SHAPE), images, load_recipe("default"), "openvino")
    Backend().compile(graph, tmp_path, "{}")
    model = openvino.compile_model(tmp_path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        expected = np.concatenate([module(torch.from_numpy(image)).numpy() for image in images])
    assert snr_db(expected, np.concatenate([model(image)[0] for image in images])) > 25
