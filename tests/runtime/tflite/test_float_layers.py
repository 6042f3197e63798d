"""Layers in float between INT8 values stay in float, and gates in float don't split the graph."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn

from edgekit.config.recipes import Recipe
from edgekit.runtime.tflite.backend import Backend
from edgekit.runtime.tflite.profiler import PRODUCTS, operations
from edgekit.support.libraries import quiet
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA, X86

SHAPE = (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("layer", "operation"),
    [
        (nn.Conv2d(8, 8, 3), "CONV_2D"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8), "DEPTHWISE_CONV_2D"),
        (nn.ConvTranspose2d(8, 8, 2, stride=2), "TRANSPOSE_CONV"),
        (nn.Linear(8, 8), "FULLY_CONNECTED"),
    ],
)
def test_a_float_layer_between_int8_values_stays_in_float(layer: nn.Module, operation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    is_linear = isinstance(layer, nn.Linear)
    first, last = (nn.Linear(8, 8), nn.Linear(8, 5)) if is_linear else (nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 3))
    network = nn.Sequential(first, nn.ReLU(), layer, nn.ReLU(), last)
    images = [np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32) for seed in range(4)]
    recipe = replace(Recipe.load("default"), float_layers=("2",))
    graph = quantize(export_graph(network.eval(), SHAPE), images, recipe, "tflite")
    with quiet(), torch.no_grad():
        Backend().compile(graph, tmp_path, METADATA, X86)
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(str(tmp_path / "model.tflite"), experimental_op_resolver_type=resolver)
    types = {tensor["index"]: tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    products = [op for op in operations(interpreter) if op["op_name"] in PRODUCTS]
    assert [op["op_name"] for op in products] == [operation] * 3 if is_linear else ["CONV_2D", operation, "CONV_2D"]
    assert [types[op["inputs"][1]] for op in products] == [np.int8, np.float32, np.int8]


def test_a_gate_does_not_split_the_graph(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardsigmoid(), nn.Conv2d(8, 5, 3))
    with quiet(), torch.no_grad():
        Backend().compile(export_graph(network.eval(), SHAPE), tmp_path, METADATA, X86)
        interpreter = Interpreter(str(tmp_path / "model.tflite"))
        interpreter.allocate_tensors()
    assert [op["op_name"] for op in operations(interpreter)].count("DELEGATE") == 1
