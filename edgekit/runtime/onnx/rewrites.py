"""Rewrites of an exported ONNX model into operations for which ONNX Runtime has faster kernels."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgekit.runtime.onnx.onnx_graph import OnnxGraph

DOMAIN = "com.microsoft"
DIMENSIONS = 4


class EditedGraph(OnnxGraph):
    """A graph whose nodes a pass replaces. The pass may add to `tensors`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__(model)
        self._model = model

    def array(self, name: str) -> NDArray[Any]:
        """The value of a constant."""
        return numpy_helper.to_array(self.tensors[name])

    def add(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; returns its name."""
        self.tensors[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def use_domain(self, domain: str) -> None:
        """Let the model use operations of another domain."""
        if all(known.domain != domain for known in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(domain, 1))

    def model(self, nodes: Iterable[onnx.NodeProto]) -> onnx.ModelProto:
        """A model of these nodes, without nodes and constants that nothing uses.

        It empties the old model, whose memory protobuf frees only as a whole, and takes the constants out of `tensors`.
        """
        old = self._model
        used = {value.name for value in old.graph.output}
        live_nodes = []
        for node in reversed([*nodes]):
            if used.intersection(node.output):
                live_nodes.append(node)
                used.update(node.input)
        del old.graph.node[:]
        del old.graph.initializer[:]
        result = onnx.ModelProto()
        result.CopyFrom(old)
        result.graph.node.extend(reversed(live_nodes))
        for name in list(self.tensors):
            tensor = self.tensors.pop(name)
            if name in used:
                result.graph.initializer.append(tensor)
        return result


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """The attributes of a node by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def pool_means(model: onnx.ModelProto) -> None:
    """Replace each ReduceMean over height and width of [N,C,H,W] by GlobalAveragePool.

    The means must keep their axes. The shapes come from the model's value_info.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim) for value in (*model.graph.value_info, *model.graph.input)
    }
    for node in model.graph.node:
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = np.sort(numpy_helper.to_array(constants[node.input[1]]) % DIMENSIONS)
        if (
            ranks.get(node.input[0]) == DIMENSIONS
            and axes.tolist() == [2, 3]
            and attributes_of(node).get("keepdims", 1)
        ):
            node.CopyFrom(helper.make_node("GlobalAveragePool", node.input[:1], node.output, name=node.name))


def fuse_integer_matmul(model: onnx.ModelProto) -> onnx.ModelProto:
    """Turn each quantized Linear into one MatMulIntegerToFloat (com.microsoft domain) with its bias.

    ONNX Runtime's optimizer does that without the bias, and only while another optimizer is off. Returns a new model
    and empties the old one.
    """
    graph = EditedGraph(model)
    replaced: dict[str, onnx.NodeProto] = {}
    dropped: set[str] = set()
    for node in graph.nodes:
        fused = _fused(graph, node) if node.op_type in ("MatMul", "Gemm") else None
        if fused is not None:
            new, last = fused
            replaced[last.output[0]] = new
            dropped.add(node.output[0])
    if replaced:
        graph.use_domain(DOMAIN)
    return graph.model(
        replaced.get(node.output[0], node)
        for node in graph.nodes
        if node.output[0] in replaced or node.output[0] not in dropped
    )


def _fused(graph: EditedGraph, node: onnx.NodeProto) -> tuple[onnx.NodeProto, onnx.NodeProto] | None:
    """Integer node for a MatMul or Gemm of dequantized operands, and the last node that it replaces."""
    left = graph.dequantizer(node.input[0])
    right, is_transposed = graph.weight_dequantizer(node)
    if left is None or right is None or right.input[0] not in graph.tensors:
        return None
    gemm = attributes_of(node)
    if gemm.get("transA") or gemm.get("alpha", 1.0) != 1.0 or gemm.get("beta", 1.0) != 1.0:
        return None
    weight = graph.array(right.input[0])
    if is_transposed != bool(gemm.get("transB")):
        weight = weight.T
    last, bias = _with_bias(graph, node, weight.shape[1:])
    name = f"{node.output[0]}_int8"
    scale = graph.add(f"{name}_scale", graph.array(right.input[1]).reshape(-1))
    inputs = [
        left.input[0],
        graph.add(f"{name}_weight", weight),
        left.input[1],
        scale,
        left.input[2] if len(left.input) > 2 else "",  # without a zero point, which is an optional input, it is 0
        graph.add(f"{name}_zero", np.zeros(weight.shape[1], weight.dtype)),
    ]
    outputs = [last.output[0]]
    return helper.make_node("MatMulIntegerToFloat", inputs + bias, outputs, name=name, domain=DOMAIN), last


def _with_bias(graph: EditedGraph, node: onnx.NodeProto, shape: tuple[int, ...]) -> tuple[onnx.NodeProto, list[str]]:
    """Last node of a product and the names of its biases: the Add and one name, or the product and an empty list."""
    bias, readers = list(node.input[2:]), graph.readers[node.output[0]]
    if not bias and len(readers) == 1 and readers[0].op_type == "Add":
        other = next(name for name in readers[0].input if name != node.output[0])
        if other in graph.tensors and graph.array(other).shape == shape:
            return readers[0], [other]
    return node, bias
