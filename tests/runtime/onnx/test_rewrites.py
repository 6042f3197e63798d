"""Quantized Linear layers become integer products with their bias, and means over height and width poolings."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgekit.runtime.onnx.backend import DOMAIN, Backend, fuse_integer_matmul
from edgekit.support.libraries import quiet
from tests.helpers.graphs import export_graph
from tests.helpers.tiny import METADATA, X86


@pytest.fixture(scope="module")
def model(finished_run: Path) -> onnx.ModelProto:
    return onnx.load(finished_run / "onnx-int8" / "model.onnx")


def test_every_quantized_linear_is_one_integer_node_with_its_bias(model: onnx.ModelProto) -> None:
    fused = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(fused) == 8 + 3 + 1, "two in each of four blocks, three downsamplings as Linear, and the classifier"
    assert {node.domain for node in fused} == {DOMAIN}
    assert all(len(node.input) == 7 and node.input[6] for node in fused)
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    left = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[0] in dequantized]
    assert left == []


def test_weights_are_stored_as_int8(model: onnx.ModelProto) -> None:
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Clip"] == 0, "the exporter clips constant weights"
    constants: dict[str, NDArray[Any]] = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            assert constants[node.input[1]] == onnx.TensorProto.INT8
        if node.op_type == "QuantizeLinear":
            assert node.input[0] not in constants


def test_activations_without_a_zero_point_are_fused(tmp_path: Path) -> None:
    """The zero point is an optional input of DequantizeLinear; without it, it is 0."""
    random = np.random.default_rng(0)
    constants: dict[str, NDArray[Any]] = {
        "x_scale": np.array(0.5, np.float32),
        "weight": random.integers(-127, 128, (4, 3)).astype(np.int8),
        "scale": np.array(0.25, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale"], ["left"]),
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["right"]),
        helper.make_node("MatMul", ["left", "right"], ["y"]),
    ]
    ends = (("x", onnx.TensorProto.INT8, [1, 4]), ("y", onnx.TensorProto.FLOAT, [1, 3]))
    x, y = (helper.make_tensor_value_info(*end) for end in ends)
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "linear", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    fused = fuse_integer_matmul(model)
    assert [node.op_type for node in fused.graph.node] == ["MatMulIntegerToFloat"]
    image = random.integers(-128, 128, (1, 4)).astype(np.int8)
    session = onnxruntime.InferenceSession(fused.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = (image * 0.5) @ (constants["weight"] * 0.25)
    assert np.allclose(session.run(None, {"x": image})[0], expected)


class Mean(nn.Module):
    """A mean over some axes, and a convolution, so that the network has weights."""

    def __init__(self, axes: tuple[int, ...], keep: bool) -> None:
        super().__init__()
        self.axes, self.keep, self.first = axes, keep, nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        means: Tensor = self.first(x).mean(self.axes, self.keep)
        return means


@pytest.mark.parametrize(
    ("axes", "keep", "kind"),
    [
        ((2, 3), True, "GlobalAveragePool"),
        ((-1, -2), True, "GlobalAveragePool"),
        ((2, 3), False, "ReduceMean"),
        ((1,), True, "ReduceMean"),
        ((1, 2), True, "ReduceMean"),
    ],
)
def test_means(axes: tuple[int, ...], keep: bool, kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = Mean(axes, keep).eval(), torch.randn(1, 3, 6, 8)
    with quiet(), torch.no_grad():
        Backend().compile(export_graph(network, tuple(x.shape)), tmp_path, METADATA, X86)
        expected = network(x).numpy()
    model = onnx.load(tmp_path / "model.onnx")
    assert Counter(node.op_type for node in model.graph.node) == {"Conv": 1, kind: 1}
    assert len(model.graph.initializer) == (2 if kind == "GlobalAveragePool" else 3)
    (logits,) = onnxruntime.InferenceSession(tmp_path / "model.onnx").run(None, {"image": x.numpy()})
    np.testing.assert_allclose(logits, expected, atol=1e-6)
