"""No INT8 weight of a file is -128, with which a kernel of ONNX Runtime for Arm without a dot product overflows."""

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
from edgekit.compiler.layers import dense_layers
from edgekit.compiler.quantizers import int8_weight
from edgekit.compiler.rewrites import rewrite
from edgekit.config.device_classes import load_device_class
from edgekit.config.recipes import load_recipe
from edgekit.config.runtimes import RUNTIMES
from edgekit.runtime.backend import load_backend
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph

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
    graph, planted = quantize(graph, images, load_recipe("default"), target), 0
    for layer in dense_layers(graph):
        if (quantizer := int8_weight(layer.node)) is not None:
            weight, scale = quantizer.weight_and_scale(graph)
            weight.view(len(scale), -1)[:, 0] = -128 * scale
            planted += len(scale)
    artifact = load_backend(target).compile(graph, tmp_path, "{}", load_device_class("raspberry-pi-4"))
    weights = [levels for levels in READERS[target](tmp_path / artifact.model_file) if levels.size > 1]
    assert planted > 0
    assert min(levels.min() for levels in weights) == -127
    assert sum(int((levels == -127).sum()) for levels in weights) >= planted
