"""Takes the INT8 weights out of a graph, because LiteRT's converter would hold several copies of them in float.

The converter gets zeros instead, which it stores as a single number. Its model has the right scales and room for the
weights, which `flatbuffer` then puts in their places.
"""

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.constant_store import store_of
from edgekit.compiler.graph import add_constant, constant, drop_constants
from edgekit.compiler.nodes import operand
from edgekit.compiler.quantizers import QUANTIZE_CHANNELS

Key: TypeAlias = tuple[int, bytes]
"""Identifies a weight in the graph and in the .tflite file: its number of values, and its scales as float32 bytes."""
Levels: TypeAlias = NDArray[np.int8]
"""Weights in INT8, [out,in] or [out,in,H,W]."""
AT_ONCE = 1 << 20
"""Weights rounded per step; each needs several float64 temporaries."""


@torch.no_grad()
def take_weights(graph: GraphModule) -> dict[Key, Levels]:
    """Replace the float weights before Q/DQ by zeros, which take no memory, in place. Returns the weights.

    Weights with the same key but other values, such as two fixed filters, stay in the graph.
    """
    taken: dict[Key, list[tuple[Node, Tensor]]] = {}
    for node in graph.graph.find_nodes(op="call_function", target=QUANTIZE_CHANNELS):
        weight, scales = (constant(graph, operand(node, place)) for place in (0, 1))
        if weight is None or scales is None or node.args[3] != 0:
            continue
        levels = store_of(graph).keep(_rounded(weight, scales, *node.args[4:6]))
        taken.setdefault((levels.numel(), scales.numpy().tobytes()), []).append((node, levels))
    alike = {key: group for key, group in taken.items() if all(torch.equal(group[0][1], other) for _, other in group)}
    for node, levels in (each for group in alike.values() for each in group):
        _replace_by_zeros(graph, node, levels.shape)
    return {key: group[0][1].numpy() for key, group in alike.items()}


def _rounded(weight: Tensor, scales: Tensor, low: int, high: int) -> Tensor:
    """int8 levels of a weight as LiteRT's converter rounds them: in double, with halves away from zero."""
    columns = scales.double().view(-1, *[1] * (weight.ndim - 1))
    rows = max(1, AT_ONCE // weight[0].numel())
    parts = []
    for values, scale in zip(torch.split(weight, rows), torch.split(columns, rows), strict=True):
        exact = values.double() / scale
        whole = exact.trunc()
        levels = (whole + exact.sign() * ((exact - whole).abs() >= 0.5)).clamp_(low, high)
        parts.append(levels.to(torch.int8))
    return torch.cat(parts)


def _replace_by_zeros(graph: GraphModule, quantizer: Node, shape: torch.Size) -> None:
    zeros = add_constant(graph, quantizer, f"{quantizer.name}.zeros", torch.zeros(1))
    setattr(graph, str(zeros.target), torch.zeros(1).expand(shape))  # add_constant would store each of them
    zeros.meta["val"] = zeros.meta["val"].expand(shape)
    args, quantizer.args = quantizer.args, (zeros, *quantizer.args[1:])
    drop_constants(graph, args[:1])
