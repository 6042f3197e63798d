"""Small rewrites of a calibrated graph that don't depend on the runtime."""

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, Q, add_constant, constant, replace_layer

DEQUANTIZE = Q.dequantize_per_tensor.default


def tie_pools(graph: GraphModule) -> int:
    """Give each quantizer after a max pooling of int8 the range from before the pooling, in place.

    This doesn't change any value. Returns the number of quantizers changed.
    """
    tied = 0
    for pool in graph.graph.find_nodes(op="call_function", target=A.max_pool2d.default):
        if pool.args[0].target is not DEQUANTIZE:
            continue
        before = pool.args[0].args[1:]
        for behind in [user for user in pool.users if user.target is Q.quantize_per_tensor.default]:
            for node in (behind, *behind.users):
                node.args = (node.args[0], *before)
            tied += 1
    graph.recompile()
    return tied


@torch.no_grad()
def center_weights(graph: GraphModule) -> int:
    """Give every channel of the weights the zero point 0, in place. Returns the number of weights changed.

    Ranges of weights are symmetric, but NNCF gives a channel that contains only zeros the zero point -127, and LiteRT
    then refuses the file.
    """
    changed = 0
    for node in graph.graph.find_nodes(op="call_function", target=Q.quantize_per_channel.default):
        zeros = constant(graph, node.args[2])
        if zeros is None or not bool(zeros.any()):
            continue
        centred = add_constant(graph, node, f"{node.name}.zero_point", torch.zeros_like(zeros))
        for part in (node, *node.users):
            part.args = (*part.args[:2], centred, *part.args[3:])
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
        replace_layer(graph, node, levels)
        folded += 1
    graph.recompile()
    return folded
