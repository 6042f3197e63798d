"""Lowerings of LiteRT that a recipe may name."""

import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import insert, replace_layer
from edgekit.compiler.nodes import A
from edgekit.compiler.quantize.lowering import Lowering, RuntimeLowering


@torch.no_grad()
def decompose_hard_swish(graph: GraphModule) -> int:
    """Replace HardSwish by x / 6 * clamp(x + 3, 0, 6), in place. Returns the number of operations replaced.

    The order of the factors matters: LiteRT's converter recognizes the usual clamp(x + 3, 0, 6) * x / 6, and fuses it
    into HardSwish again.
    """
    changed = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.hardswish.default):
        x = node.args[0]
        gate = insert(graph, node, A.clamp.default, insert(graph, node, A.add.Tensor, x, 3.0), 0.0, 6.0)
        sixth = insert(graph, node, A.mul.Tensor, x, 1 / 6)
        replace_layer(graph, node, insert(graph, node, A.mul.Tensor, sixth, gate))
        changed += 1
    graph.recompile()
    return changed


LOWERING = RuntimeLowering(
    named={
        "float-hard-swish": Lowering(
            "HardSwish between INT8 layers is a product in float, for processors where LiteRT's INT8 kernel is slow.",
            rewrite=decompose_hard_swish,
        )
    }
)
"""Lowerings of LiteRT, for quantization."""
