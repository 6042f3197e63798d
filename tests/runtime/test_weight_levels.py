"""Levels of the weights and biases in a file: what a kernel would compute wrongly isn't there."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from numpy.typing import NDArray
from torch import nn

from edgekit.compat.openvino import openvino
from edgekit.compiler.layers import dense_layers, int8_weight
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import RUNTIMES, DeviceClass
from edgekit.measure.accuracy import snr_db
from edgekit.pipeline.build import compile_stage
from edgekit.pipeline.graphs import Rewriter, calibrate_together, quantize_stage
from edgekit.runtime.backend import load_backend
from tests.helpers.calibration import network_of, noise_for, quantize, spec_of
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA, X86

SHAPE = (1, 3, 12, 12)


def onnx_weights(path: Path) -> list[Any]:
    tensors = [onnx.numpy_helper.to_array(tensor, str(path.parent)) for tensor in onnx.load(path).graph.initializer]
    return [tensor for tensor in tensors if tensor.dtype == np.int8]


def litert_weights(path: Path) -> list[Any]:
    model = flatbuffer_utils.read_model(str(path))
    tensors = [tensor for tensor in model.subgraphs[0].tensors if tensor.type == schema.TensorType.INT8]
    buffers = [model.buffers[tensor.buffer].data for tensor in tensors]
    return [np.asarray(data, np.uint8).view(np.int8) for data in buffers if data is not None]


def openvino_weights(path: Path) -> list[Any]:
    constants = [node for node in openvino.Core().read_model(path).get_ops() if node.get_type_name() == "Constant"]
    return [node.data for node in constants if node.get_element_type().get_type_name() == "i8"]


READERS = {"onnx": onnx_weights, "tflite": litert_weights, "openvino": openvino_weights}


@torch.no_grad()
@pytest.mark.parametrize("target", RUNTIMES)
def test_a_weight_that_would_round_to_minus_128_does_not(target: str, tmp_path: Path) -> None:
    """A kernel of ONNX Runtime for Arm without a dot product overflows with -128."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(3, 16, 3),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, groups=4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 5),
    )
    images: list[NDArray[np.float32]] = [torch.rand(SHAPE).numpy() for _ in range(2)]
    graph = rewrite(export_graph(nn.Sequential(*layers).eval(), SHAPE), []).graph
    graph, planted = quantize(graph, images, Recipe.load("default"), target), 0
    for layer in dense_layers(graph):
        if (quantizer := int8_weight(layer.node)) is not None:
            weight, scale = quantizer.weight_and_scale(graph)
            weight.view(len(scale), -1)[:, 0] = -128 * scale
            planted += len(scale)
    artifact = load_backend(target).compile(graph, tmp_path, METADATA, DeviceClass.load("raspberry-pi-4"))
    weights = [levels for levels in READERS[target](tmp_path / artifact.model_file) if levels.size > 1]
    assert planted > 0
    assert min(levels.min() for levels in weights) == -127
    assert sum(int((levels == -127).sum()) for levels in weights) >= planted


@torch.no_grad()
@pytest.mark.parametrize(("target", "alone"), [("openvino", True), ("onnx", True), ("onnx", False), ("tflite", False)])
def test_the_bias_of_a_nearly_dead_channel_fits_into_int32(target: str, alone: bool, tmp_path: Path) -> None:
    """Its weights have so small a scale that the bias, in levels of input times weight, would be 10**13."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(16)
    layers = (nn.Conv2d(3, 16, 3, bias=False), norm, nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten())
    norm.weight[3], norm.bias[3] = 1e-9, 1.5
    network = network_of(nn.Sequential(*layers, nn.Linear(16 * 8 * 8, 5)), SHAPE[-1])
    recipe = Recipe.load("default").for_class(X86)
    spec = spec_of(network, recipe, X86)
    graph, noise = export_graph(network.module, SHAPE), noise_for(network, 8)
    images = [network.preprocessing.normalize(pixels[None]) for pixels in noise.pixels]
    shared = None if alone else calibrate_together(recipe, X86, Rewriter(network, noise), graph, images)
    stage = quantize_stage(spec, target, "int8", graph, noise, images, shared=shared)
    bundle, _ = compile_stage(stage, tmp_path / "bundle", golden_count=8)
    assert snr_db(noise.logits, bundle.golden().logits) > 35
