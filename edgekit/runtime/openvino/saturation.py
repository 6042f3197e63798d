"""Counts the pairs of weights in an OpenVINO IR that can saturate on x86 processors without VNNI."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtime.openvino.engine import core
from edgekit.runtime.openvino.profiler import CONVOLUTIONS, DECOMPRESSION, LAYOUT, origins
from edgekit.support.weight_pairs import LARGEST_SUM, count_saturating


def count_pairs(model: Path) -> int:
    """Number of pairs that can saturate: of INT8 weights that meet quantized activations, and of quantized activations.

    OpenVINO shifts int8 activations to uint8, so their type makes no difference.
    """
    network = core().read_model(str(model), str(model.with_suffix(".bin")))
    return sum(_count(operation) for operation in network.get_ordered_ops())


def _count(operation: Any) -> int:
    kind = operation.get_type_name()
    if kind not in (*CONVOLUTIONS, "MatMul", "ScaledDotProductAttention"):
        return 0
    if _quantizer(operation.input_value(0)) is None:
        return 0
    levels = _int8_levels(operation.input_value(1))
    if levels is None:
        return _pairs_of_activations(operation) if kind not in CONVOLUTIONS else 0
    if kind == "GroupConvolution":
        return count_saturating(levels.reshape(-1, *levels.shape[2:]), levels.shape[0])
    if kind == "Convolution":
        return count_saturating(levels)
    rows = levels if operation.get_attributes()["transpose_b"] else levels.swapaxes(-1, -2)
    return count_saturating(rows.reshape(-1, rows.shape[-1]))


def _pairs_of_activations(operation: Any) -> int:
    """Pairs in the second of two quantized activations: all can saturate, or none if a Clamp limits their levels."""
    quantizer = _quantizer(operation.input_value(1))
    if quantizer is None:
        return 0
    low, high = (float(quantizer.input_value(place).get_node().data.ravel()[0]) for place in (3, 4))
    scale = (high - low) / (quantizer.get_attributes()["levels"] - 1)
    for node in origins(quantizer.input_value(0), LAYOUT):
        if node.get_type_name() == "Clamp":
            limits = node.get_attributes()
            if max(-limits["min"], limits["max"]) <= (LARGEST_SUM // 2 + 0.5) * scale:
                return 0
    *batch, rows, depth = (int(size) for size in operation.get_input_shape(1))
    transposed = operation.get_attributes().get("transpose_b", True)
    return math.prod(batch) * (rows * (depth // 2) if transposed else depth * (rows // 2))


def _quantizer(output: Any) -> Any:
    """The FakeQuantize that a value comes from, or None."""
    return next((node for node in origins(output, LAYOUT) if node.get_type_name() == "FakeQuantize"), None)


def _int8_levels(output: Any) -> NDArray[np.int8] | None:
    """INT8 weights in the shape in which an operation takes them; None if they are something else."""
    nodes = list(origins(output, (*LAYOUT, *DECOMPRESSION)))
    if nodes[-1].get_type_name() != "Constant" or nodes[-1].get_element_type().get_type_name() != "i8":
        return None
    levels: NDArray[np.int8] = nodes[-1].data
    for node in reversed(nodes[:-1]):
        if node.get_type_name() == "Transpose":
            levels = levels.transpose(node.input_value(1).get_node().data.ravel())
        elif node.get_type_name() in LAYOUT:
            levels = levels.reshape([int(size) for size in node.get_output_shape(0)])
    return levels
