"""Replaces operations that passes or runtimes don't know by equivalent ones with the same arguments."""

import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import A, argument, number

EQUIVALENT = {
    A.view.default: A.reshape.default,  # which works with any strides, and passes change them
    A._unsafe_view.default: A.reshape.default,
    A.__and__.Tensor: A.bitwise_and.Tensor,
    A.__or__.Tensor: A.bitwise_or.Tensor,
    A.__xor__.Tensor: A.bitwise_xor.Tensor,
}
"""Operations, and others that compute the same of the same arguments."""


def rename_operations(graph: GraphModule) -> int:
    """Replace each operation in `EQUIVALENT`. Returns the number of operations replaced."""
    known = [node for node in graph.graph.nodes if node.target in EQUIVALENT]
    for node in known:
        node.target = EQUIVALENT[node.target]
    return len(known)


def compare_booleans(graph: GraphModule) -> int:
    """Replace the exclusive or of booleans by "not equal", because LiteRT has no other operation for it.

    Returns the number of operations replaced.
    """
    nodes = graph.graph.find_nodes(op="call_function", target=A.bitwise_xor.Tensor)
    booleans = [node for node in nodes if node.meta["val"].dtype == torch.bool]
    for node in booleans:
        node.target = A.ne.Tensor
    return len(booleans)


def fix_random_slopes(graph: GraphModule) -> int:
    """Replace each RReLU, whose slope is random in training only, by a leaky ReLU of its mean slope.

    Returns the number of operations replaced.
    """
    nodes = graph.graph.find_nodes(op="call_function", target=A.rrelu.default)
    for node in nodes:
        lower, upper = number(argument(node, 1, 1 / 8)), number(argument(node, 2, 1 / 3))
        node.target, node.args = A.leaky_relu.default, (node.args[0], (lower + upper) / 2)
    return len(nodes)
