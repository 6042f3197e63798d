"""Decomposes LayerNorm, for runtimes whose converter turns it into more operations than necessary."""

import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import A, argument, insert, refresh


@torch.no_grad()
def plain_layer_norm(graph: GraphModule) -> int:
    """Decompose LayerNorm over the last axis into means, a square and one reciprocal square root.

    Returns the number of norms changed.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.layer_norm.default or len(node.args[1]) != 1:
            continue
        x, weight, bias = node.args[0], argument(node, 2, None), argument(node, 3, None)
        mean = insert(graph, node, A.mean.dim, x, [-1], True, like=node)
        centred = insert(graph, node, A.sub.Tensor, x, mean, like=node)
        square = insert(graph, node, A.mul.Tensor, centred, centred, like=node)
        variance = insert(graph, node, A.mean.dim, square, [-1], True, like=node)
        variance = insert(graph, node, A.add.Tensor, variance, argument(node, 4, 1e-5), like=node)
        out = insert(
            graph, node, A.mul.Tensor, centred, insert(graph, node, A.rsqrt.default, variance, like=node), like=node
        )
        if weight is not None:
            out = insert(graph, node, A.mul.Tensor, out, weight, like=node)
        if bias is not None:
            out = insert(graph, node, A.add.Tensor, out, bias, like=node)
        node.replace_all_uses_with(out)
        changed += 1
    refresh(graph)
    return changed
