"""Counts the pairs of weights in an ONNX file that can saturate on x86 processors without VNNI."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.support.libraries import import_needed
from edgekit.support.weight_pairs import count_saturating

INTEGER_INPUTS = {
    "QLinearConv": (2, 3),
    "ConvInteger": (2, 1),
    "QLinearMatMul": (2, 3),
    "MatMulInteger": (2, 1),
    "MatMulIntegerToFloat": (4, 1),
    "QGemm": (2, 3),
}
"""Positions of the zero point of the activations and of the weights in the inputs of integer operations."""
FLOAT_OPERATIONS = ("Conv", "MatMul", "Gemm")
"""Operations that ONNX Runtime turns into integer ones where they follow DequantizeLinear."""
REARRANGING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
"""Operations that may stand between the activations and DequantizeLinear."""


def count_pairs(model: Path) -> int:
    """Number of pairs of INT8 weights that meet uint8 activations and can saturate.

    ONNX Runtime computes int8 activations, and uint8 weights, in wider integers. Raises MissingExtraError without the
    onnx package.
    """
    onnx = import_needed("onnx", "build")
    return sum(count_saturating(levels, groups) for levels, groups in _layers(onnx.load(model)))


def _layers(model: Any) -> Iterator[tuple[NDArray[np.int8], int]]:
    """INT8 weights [out,in] or [out,in,*kernel] of each layer with uint8 activations, and its number of groups."""
    from onnx import TensorProto, helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        rows = bool(attributes.get("transB"))  # whether a matrix is [out,in]
        if node.op_type in INTEGER_INPUTS:
            zero, weight = (_input(node, position) for position in INTEGER_INPUTS[node.op_type])
        elif node.op_type in FLOAT_OPERATIONS:
            activation, _ = _dequantizer(producers, node.input[0], REARRANGING)
            dequantizer, turned = _dequantizer(producers, node.input[1], ("Transpose",))
            if activation is None or dequantizer is None:
                continue
            zero, weight, rows = _input(activation, 2), _input(dequantizer, 0), rows != turned
        else:
            continue
        signed = zero in tensors and tensors[zero].data_type == TensorProto.INT8
        if signed or weight not in tensors or tensors[weight].data_type != TensorProto.INT8:
            continue
        levels = numpy_helper.to_array(tensors[weight])
        if "Conv" in node.op_type:
            yield levels, int(attributes.get("group", 1))
        elif levels.ndim > 1:
            yield (levels if rows else levels.swapaxes(-1, -2)).reshape(-1, levels.shape[-1 if rows else -2]), 1


def _input(node: Any, position: int) -> str:
    return str(node.input[position]) if len(node.input) > position else ""


def _dequantizer(producers: Mapping[str, Any], name: str, passed: Sequence[str]) -> tuple[Any, bool]:
    """The DequantizeLinear that makes a value, or None, and whether the value is its transpose."""
    node, turned = producers.get(name), False
    while node is not None and node.op_type in passed:
        turned ^= node.op_type == "Transpose"
        node = producers.get(node.input[0])
    return (node if node is not None and node.op_type == "DequantizeLinear" else None), turned
