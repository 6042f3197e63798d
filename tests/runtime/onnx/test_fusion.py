"""The ONNX file of an INT8 bundle contains integer products with their bias, and int8 weights."""

from collections import Counter
from pathlib import Path

import onnx
import pytest

from edgekit.runtime.onnx.fusion import DOMAIN


@pytest.fixture(scope="module")
def model(finished_run: Path) -> onnx.ModelProto:
    return onnx.load(finished_run / "onnx-int8" / "model.onnx")


def test_every_quantized_linear_is_one_integer_node_with_its_bias(model: onnx.ModelProto) -> None:
    fused = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(fused) == 6 + 3 + 1, "two in each of three blocks, three downsamplings as Linear, and the classifier"
    assert {node.domain for node in fused} == {DOMAIN}
    assert all(len(node.input) == 7 and node.input[6] for node in fused)
    dequantized = {name for node in model.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    left = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm") and node.input[0] in dequantized]
    assert left == []


def test_weights_are_stored_as_int8(model: onnx.ModelProto) -> None:
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds["Clip"] == 0, "the exporter clips constant weights"
    constants = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulIntegerToFloat":
            assert constants[node.input[1]] == onnx.TensorProto.INT8
        if node.op_type == "QuantizeLinear":
            assert node.input[0] not in constants
