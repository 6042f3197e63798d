"""Fuse quantized Linear layers in the exported model, because ONNX Runtime's optimizer doesn't do it completely.

The optimizer turns DequantizeLinear + MatMul into the integer kernel MatMulIntegerToFloat, but without the bias, and
only while another optimizer is off. This module writes the node with its bias (com.microsoft domain).
"""

import numpy as np
import onnx
from onnx import helper

from edgekit.runtime.onnx.onnx_graph import OnnxGraph

DOMAIN = "com.microsoft"


def fuse_integer_matmul(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn each quantized Linear into one MatMulIntegerToFloat with its bias.

    Returns a new model and empties the old one.
    """
    view = OnnxGraph(model)
    adds = {name: node for node in model.graph.node if node.op_type == "Add" for name in node.input}
    replaced: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for node in model.graph.node:
        fused = _fused(view, node, adds) if node.op_type in ("MatMul", "Gemm") else None
        if fused is not None:
            new, last = fused
            replaced[last.output[0]] = new
            dropped.add(node.output[0])
    if replaced:
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    nodes = [
        replaced.get(node.output[0], node)
        for node in model.graph.node
        if node.output[0] in replaced or node.output[0] not in dropped
    ]
    return view.model(nodes)


def _fused(
    view: OnnxGraph, node: onnx.NodeProto, adds: dict[str, onnx.NodeProto]
) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Integer node for a MatMul or Gemm of dequantized operands, and the last node that it replaces."""
    left = view.made_by(node.input[0], "DequantizeLinear")
    transpose = view.made_by(node.input[1], "Transpose")
    right = view.made_by(transpose.input[0] if transpose is not None else node.input[1], "DequantizeLinear")
    if left is None or right is None or right.input[0] not in view.tensors:
        return None
    gemm = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if gemm.get("transA") or gemm.get("alpha", 1.0) != 1.0 or gemm.get("beta", 1.0) != 1.0:
        return None
    weight = view.array(right.input[0])
    if (transpose is not None) != bool(gemm.get("transB")):
        weight = weight.T
    last, bias = _with_bias(view, node, adds.get(node.output[0]), weight.shape[1:])
    name = f"{node.output[0]}_int8"
    scale = view.add(f"{name}_scale", view.array(right.input[1]).reshape(-1))
    inputs = [
        left.input[0],
        view.add(f"{name}_weight", weight),
        left.input[1],
        scale,
        left.input[2] if len(left.input) > 2 else "",  # without a zero point, which is an optional input, it is 0
        view.add(f"{name}_zero", np.zeros(weight.shape[1], weight.dtype)),
    ]
    outputs = [last.output[0]]
    return helper.make_node("MatMulIntegerToFloat", inputs + bias, outputs, name=name, domain=DOMAIN), last


def _with_bias(
    view: OnnxGraph, node: onnx.NodeProto, add: onnx.NodeProto | None, shape: tuple[int, ...]
) -> tuple[onnx.NodeProto, list[str]]:
    """Last node of a product and the names of its biases: the Add and one name, or the product and an empty list."""
    bias = list(node.input[2:])
    if not bias and add is not None and len(view.readers[node.output[0]]) == 1:
        other = next(name for name in add.input if name != node.output[0])
        if other in view.tensors and view.array(other).shape == shape:
            return add, [other]
    return node, bias
