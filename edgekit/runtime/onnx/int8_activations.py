"""Activations from INT8 to INT8, by kernels that ONNX Runtime's optimizer doesn't choose by itself."""

from typing import TypeAlias

import numpy as np
import onnx
from onnx import helper

from edgekit.runtime.onnx.rewrites import DOMAIN, EditedGraph

Factor: TypeAlias = tuple[onnx.NodeProto, str, str]
"""The operation that makes a factor in INT8, and the names of the factor's scale and zero point."""


def fuse_int8_activations(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute each quantized HardSwish and SiLU of a quantized x as QLinearMul, the product of x and an INT8 factor.

    That of HardSwish is (x + 3) / 6 of the clipped x: its levels with another scale, if 3 is a whole number of levels.
    That of SiLU is a QLinearSigmoid. Returns a new model and empties the old one.
    """
    graph, nodes = EditedGraph(model), list[onnx.NodeProto]()
    for node in graph.nodes:
        nodes += (_fused(graph, node) if node.op_type == "QuantizeLinear" else None) or [node]
    if len(nodes) > len(graph.nodes):
        graph.use_domain(DOMAIN)
    return graph.model(nodes)


def _fused(graph: EditedGraph, quantizer: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """The operations that make the levels of a quantized activation from those of its input; None if there are none."""
    swish, product = (graph.made_by(quantizer.input[0], kind) for kind in ("HardSwish", "Mul"))
    value = swish.input[0] if swish is not None else None if product is None else _input_of_silu(graph, product)
    source = None if value is None else graph.dequantizer(value)
    if source is None or len(source.input) < 3 or len(quantizer.input) < 3:
        return None
    name = f"{quantizer.output[0]}_factor"
    factor = (_clipped if swish is not None else _sigmoid)(graph, source, name)
    if factor is None:
        return None
    first, *grid = factor
    inputs = [*source.input, name, *grid, *quantizer.input[1:]]
    return [first, helper.make_node("QLinearMul", inputs, quantizer.output, name=f"{name}_product", domain=DOMAIN)]


def _input_of_silu(graph: EditedGraph, product: onnx.NodeProto) -> str | None:
    """The x of x * sigmoid(x)."""
    for value, other in (product.input, reversed(product.input)):
        sigmoid = graph.made_by(other, "Sigmoid")
        if sigmoid is not None and sigmoid.input[0] == value:
            return str(value)
    return None


def _clipped(graph: EditedGraph, source: onnx.NodeProto, name: str) -> Factor | None:
    """The levels of x clipped to [-3, 3], which mean (x + 3) / 6; None if 3 is no whole number of levels."""
    scale, zero = (graph.array(part) for part in source.input[1:])
    three, limits = round(3 / float(scale)), np.iinfo(zero.dtype)
    low, high = int(zero) - three, min(int(zero) + three, limits.max)
    if low < limits.min or not np.isclose(three * scale, 3, rtol=1e-5):
        return None
    ends = [graph.add(f"{name}_{end}", np.array(level, zero.dtype)) for end, level in (("min", low), ("max", high))]
    clip = helper.make_node("Clip", [source.input[0], *ends], [name], name=name)
    return clip, graph.add(f"{name}_scale", scale / np.float32(6)), ends[0]


def _sigmoid(graph: EditedGraph, source: onnx.NodeProto, name: str) -> Factor:
    """The sigmoid of x, in levels of 1/256."""
    zero = graph.array(source.input[2])
    grid = [
        graph.add(f"{name}_scale", np.array(1 / 256, np.float32)),
        graph.add(f"{name}_zero", np.array(np.iinfo(zero.dtype).min, zero.dtype)),
    ]
    sigmoid = helper.make_node("QLinearSigmoid", [*source.input, *grid], [name], name=name, domain=DOMAIN)
    return sigmoid, grid[0], grid[1]
