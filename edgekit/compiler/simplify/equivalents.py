"""Replaces operations that passes or runtimes don't know by equivalent ones."""

import operator

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import insert
from edgekit.compiler.nodes import A, argument, number, operand, pair, shape_of

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


def state_shapes(graph: GraphModule) -> int:
    """Replace each reshape to another value's shape, which would be one of its readers, by one to these numbers.

    Returns the number of reshapes replaced.
    """
    nodes = graph.graph.find_nodes(op="call_function", target=A.reshape_as.default)
    for node in nodes:
        node.target, node.args = A.reshape.default, (node.args[0], [*shape_of(node)])
    return len(nodes)


def number_paddings(graph: GraphModule) -> int:
    """Give each convolution with the padding "same" or "valid" its numbers, so that it is a layer like any other.

    Where "same" needs one pixel more on the right or at the bottom, a padding adds it before the convolution. Returns
    the number of convolutions changed.
    """
    convolutions = graph.graph.find_nodes(op="call_function", target=A.conv2d.padding)
    for node in convolutions:
        source, weight = operand(node), operand(node, 1)
        stride, dilation = (list(pair(argument(node, position, 1))) for position in (3, 5))
        same, kernel = argument(node, 4) == "same", shape_of(weight)[2:]
        height, width = (same * step * (size - 1) for step, size in zip(dilation, kernel, strict=True))
        if height % 2 or width % 2:
            source = insert(graph, node, A.pad.default, source, [0, width % 2, 0, height % 2], like=node)
        sides = [height // 2, width // 2]
        node.args = (source, weight, argument(node, 2), stride, sides, dilation, argument(node, 6, 1))
        node.target = A.conv2d.default
    return len(convolutions)


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


def fix_adaptive_max_pooling(graph: GraphModule) -> int:
    """Replace each adaptive max pooling by a maximum over the image, or by a max pooling with a fixed window.

    It stays if the network reads the places of the maxima, or if the windows would differ in size. Returns the number
    of poolings replaced.
    """
    replaced = 0
    for pool in graph.graph.find_nodes(op="call_function", target=A.adaptive_max_pool2d.default):
        if any(user.target is not operator.getitem or (user.args[1] and user.users) for user in pool.users):
            continue
        pooled = _pooled(graph, pool)
        if pooled is None:
            continue
        for values in [user for user in pool.users if not user.args[1]]:
            values.replace_all_uses_with(pooled)
        replaced += 1
    return replaced


def _pooled(graph: GraphModule, pool: Node) -> Node | None:
    """The maxima of an adaptive pooling, inserted before it; None if its windows differ in size."""
    source, to = operand(pool), pair(pool.args[1])
    sides = shape_of(source)[-2:]
    window = [side // parts for side, parts in zip(sides, to, strict=True)]
    if to == (1, 1):
        return insert(graph, pool, A.amax.default, source, [-2, -1], True, like=pool)
    if all(size * parts == side for size, parts, side in zip(window, to, sides, strict=True)):
        return insert(graph, pool, A.max_pool2d.default, source, window, window, like=pool)
    return None
