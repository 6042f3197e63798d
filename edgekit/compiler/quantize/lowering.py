"""Small rewrites of a calibrated graph before it is compiled."""

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, Q, add_constant, constant, insert, replace_layer


def tie_pools(graph: GraphModule) -> int:
    """Give each quantizer after a max pooling of int8 the range from before the pooling, in place.

    This doesn't change any value. Returns the number of quantizers changed.
    """
    tied = 0
    for pool in graph.graph.find_nodes(op="call_function", target=A.max_pool2d.default):
        if pool.args[0].target is not Q.dequantize_per_tensor.default:
            continue
        before = pool.args[0].args[1:]
        for behind in [user for user in pool.users if user.target is Q.quantize_per_tensor.default]:
            for node in (behind, *behind.users):
                node.args = (node.args[0], *before)
            tied += 1
    graph.recompile()
    return tied


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


@torch.no_grad()
def fold_weights(graph: GraphModule) -> int:
    """Replace the float weights before Q/DQ by their int8 levels, in place. Returns the number of weights replaced.

    The float weights are freed one by one, so compilation starts with a quarter of the memory. The levels are numbered,
    because names of nodes change when `edgekit quantize` writes a graph to a file, and the files would differ.
    """
    folded = 0
    for node in graph.graph.find_nodes(op="call_function", target=Q.quantize_per_channel.default):
        weight, *args = (constant(graph, arg) if isinstance(arg, Node) else arg for arg in node.args)
        if weight is None:
            continue
        levels = add_constant(graph, node, f"weight_{folded}.int8", node.target(weight, *args))
        levels.meta["val"] = constant(graph, levels)
        replace_layer(graph, node, levels)
        folded += 1
    graph.recompile()
    return folded
