"""Converts pointwise convolutions to Linear on [N,H,W,C], which saves transposes.

A converter puts a transpose before and after every operation whose layout differs from its own. Here each pointwise
convolution becomes a Linear between two permutes. The permutes back to channels first then sink through operations that
work in either layout, until they meet a permute to channels last and both cancel. One pair remains around each spatial
convolution.
"""

import math

from torch.fx import GraphModule, Node

from edgekit.compiler.graph import (
    A,
    argument,
    constant,
    insert,
    insert_layer,
    pair,
    refresh,
    replace_layer,
    shape_of,
)
from edgekit.compiler.rewrites.layout import TO_FIRST, TO_LAST, sink_permutes


def channels_last(graph: GraphModule) -> int:
    """Replace each pointwise convolution by a Linear on channels last.

    Returns the number of convolutions replaced.
    """
    converted = 0
    for node in list(graph.graph.nodes):
        converted += _pointwise_to_linear(graph, node)
    refresh(graph)
    sink_permutes(graph, TO_FIRST)
    return converted


def _pointwise_to_linear(graph: GraphModule, node: Node) -> bool:
    if node.target is not A.conv2d.default or argument(node, 6, 1) != 1:
        return False
    weight = constant(graph, node.args[1])
    plain = pair(argument(node, 3, 1)) == (1, 1) and pair(argument(node, 4, 0)) == (0, 0)
    if weight is None or weight.shape[2:] != (1, 1) or not plain:
        return False
    if math.prod(shape_of(node)[2:]) == 1:  # nothing to transpose, and LiteRT's converter fails on such a Linear
        return False
    inner = insert(graph, node, A.permute.default, node.args[0], TO_LAST, like=node)
    bias = constant(graph, argument(node, 2, None))
    linear = insert_layer(graph, node, A.linear.default, inner, weight.flatten(1), bias)
    outer = insert(graph, node, A.permute.default, linear, TO_FIRST, like=node)
    replace_layer(graph, node, outer)
    return True
