"""Residual sums and pooling between INT8 layers: the kernels that each runtime uses for them."""

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from torch.fx import GraphModule

from edgekit.compat.openvino import openvino
from edgekit.compiler.graph import A, Q, copy_sharing
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import RUNTIMES
from edgekit.runtime.backend import load_backend
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.residual import Residual
from tests.helpers.tiny import METADATA, X86

SIZE = 34


@cache
def exported() -> GraphModule:
    torch.manual_seed(0)
    return export_graph(Residual().eval(), (1, 3, SIZE, SIZE))


RANDOM = np.random.default_rng(0)
SAMPLES = [RANDOM.normal(size=(1, 3, SIZE, SIZE)).astype(np.float32) for _ in range(4)]


def recipe(target: str, residuals: bool) -> Recipe:
    default = Recipe.load("default")
    row = replace(default.targets[target], quantize_residuals=residuals)
    return replace(default, targets={**default.targets, target: row})


@cache
def quantized(target: str, residuals: bool) -> GraphModule:
    """The network in INT8. Copy it before you change it."""
    return quantize(rewrite(exported(), []).graph, SAMPLES, recipe(target, residuals), target)


def compiled(target: str, folder: Path, *, on: bool) -> Path:
    graph = copy_sharing(quantized(target, on))
    return folder / load_backend(target).compile(graph, folder, METADATA, X86).model_file


@pytest.mark.parametrize("on", [True, False])
def test_onnx_runtime_adds_and_pools_integers(tmp_path: Path, on: bool) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(compiled("onnx", tmp_path, on=on), options)
    nodes = onnx.load(tmp_path / "optimized.onnx").graph.node
    kinds = Counter(node.op_type for node in nodes)
    assert (kinds["QLinearConv"], kinds["QLinearAdd"], kinds["Add"]) == ((4, 2, 0) if on else (4, 0, 2))
    makers = {name: node.op_type for node in nodes for name in node.output}
    assert [makers[node.input[0]] for node in nodes if "MaxPool" in node.op_type] == ["QLinearConv"]


@pytest.mark.parametrize("on", [True, False])
def test_litert_adds_and_pools_integers(tmp_path: Path, on: bool) -> None:
    model = flatbuffer_utils.read_model(str(compiled("tflite", tmp_path, on=on)))
    (subgraph,) = model.subgraphs
    types: dict[str, set[int]] = {}
    for operator in subgraph.operators:
        operands = {subgraph.tensors[index].type for index in (operator.inputs[0], *operator.outputs)}
        types.setdefault(flatbuffer_utils.opcode_to_name(model, operator.opcodeIndex), set()).update(operands)
    assert types["MAX_POOL_2D"] == {schema.TensorType.INT8}
    assert (types["ADD"] == {schema.TensorType.INT8}) == on


@pytest.mark.parametrize("on", [True, False])
def test_openvino_adds_inside_a_convolution_and_pools_integers(tmp_path: Path, on: bool) -> None:
    path = compiled("openvino", tmp_path, on=on)
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
    kernels: dict[str, list[str]] = {"Convolution": [], "Pooling": []}
    added = 0
    for node in model.get_ordered_ops():
        info = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
        if info["layerType"] in kernels:
            kernels[info["layerType"]].append(info["primitiveType"])
            added += "aten.add.Tensor" in info["originalLayersNames"]
    assert [kernel.endswith("_I8") for kernel in kernels["Convolution"]] == [True] * 4
    assert [kernel.endswith("_I8") for kernel in kernels["Pooling"]] == [on]
    assert (added > 0) == on


@pytest.mark.parametrize("target", RUNTIMES)
def test_pooling_does_not_change_the_scale(target: str) -> None:
    graph = quantized(target, True)
    (pool,) = graph.graph.find_nodes(op="call_function", target=A.max_pool2d.default)
    (after,) = pool.users
    assert after.target is Q.quantize_per_tensor.default
    assert {node.args[1:] for node in (after, *after.users)} == {pool.args[0].args[1:]}
    for sample in SAMPLES:
        wanted, actual = (net(torch.from_numpy(sample)) for net in (exported(), graph))
        assert 0 < (wanted - actual).abs().max() < 0.05 * wanted.abs().max()


@pytest.mark.parametrize("target", ["onnx", "tflite"])  # which quantize the outputs of convolutions
def test_rearranging_does_not_change_the_scale(target: str) -> None:
    class Flipped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3), torch.nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.two(torch.relu(self.one(x)).flip(2).transpose(2, 3)).mean((2, 3)))
            return logits

    graph = quantize(export_graph(Flipped().eval(), (1, 3, SIZE, SIZE)), SAMPLES, recipe(target, True), target)
    (flip,) = graph.graph.find_nodes(op="call_function", target=A.flip.default)
    (turned,) = flip.users
    (after,) = turned.users
    assert after.target is Q.quantize_per_tensor.default
    assert flip.args[0].target is Q.dequantize_per_tensor.default
    assert {node.args[1:] for node in (after, *after.users)} == {flip.args[0].args[1:]}


def test_a_sum_with_a_constant_is_no_residual() -> None:
    class Placed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.one, self.two = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 1)
            self.place = torch.nn.Parameter(torch.randn(1, 4, SIZE - 2, SIZE - 2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.one(x) + self.place
            logits: torch.Tensor = (self.two(x) + x).mean((2, 3))
            return logits

    graph = quantize(export_graph(Placed().eval(), (1, 3, SIZE, SIZE)), SAMPLES, recipe("onnx", True), "onnx")
    placed, residual = graph.graph.find_nodes(op="call_function", target=A.add.Tensor)
    assert placed.args[1].op == "get_attr"
    assert all(value.target is Q.dequantize_per_tensor.default for value in residual.all_input_nodes)
