"""Moves permutes between [N,C,H,W] and [N,H,W,C] down the graph until they meet their inverse."""

import math

from torch.fx import GraphModule, Node
from torch.fx.node import Argument, Target

from edgekit.compiler.graph import add_constant, constant, insert, refresh
from edgekit.compiler.nodes import A, argument, axes_of, integers, node_of, operand, operation_of, pair, shape_of

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]

ELEMENTWISE = {
    A.gelu.default, A.relu.default, A.silu.default, A.hardswish.default, A.hardsigmoid.default, A.sigmoid.default,
    A.mish.default, A.clamp.default, A.tanh.default, A.sqrt.default, A.rsqrt.default, A.neg.default,
    A.pow.Tensor_Scalar, A.add.Tensor, A.sub.Tensor, A.mul.Tensor, A.div.Tensor, A.addcmul.default,
}  # fmt: skip
REDUCTIONS: dict[Target, int] = {
    A.mean.dim: 1,
    A.sum.dim_IntList: 1,
    A.linalg_vector_norm.default: 2,
}  # position of the axes


def sink_permutes(graph: GraphModule, order: list[int]) -> None:
    """Move permutes of `order` (TO_FIRST or TO_LAST) down until they meet their inverse, and both cancel."""
    refresh(graph)
    for node in list(graph.graph.nodes):
        _sink(graph, node, order)
    refresh(graph)


def is_permute(node: Argument, order: list[int]) -> bool:
    """Whether a node is a permute of this order."""
    return isinstance(node, Node) and node.target is A.permute.default and axes_of(node) == order


def _sink(graph: GraphModule, node: Node, order: list[int]) -> None:
    """Move a permute from the node's inputs to its output, or cancel it."""
    if node.op != "call_function" or not any(is_permute(value, order) for value in node.all_input_nodes):
        return
    if is_permute(node, _inverse(order)):
        node.replace_all_uses_with(operand(operand(node)))
    elif node.target in ELEMENTWISE:
        _sink_elementwise(graph, node, order)
    elif node.target in REDUCTIONS:
        _sink_reduction(graph, node, order)
    elif order == TO_FIRST:
        _sink_head(graph, node)


def _inverse(order: list[int]) -> list[int]:
    return TO_LAST if order == TO_FIRST else TO_FIRST


def _sink_head(graph: GraphModule, node: Node) -> None:
    """Remove the permute before a pooling to one pixel, and before a flatten that follows it."""
    first = node.args[0]
    if not is_permute(first, TO_FIRST):
        return
    first = node_of(first)
    if node.target is A.adaptive_avg_pool2d.default and pair(node.args[1]) == (1, 1):
        mean = insert(graph, node, A.mean.dim, first.args[0], [1, 2], True, like=node)
        _finish(graph, node, mean, TO_FIRST)
    elif node.target not in (A.flatten.using_ints, A.reshape.default):
        return
    elif math.prod(shape_of(first)[2:]) == 1:  # this permute is only a view
        node.replace_input_with(first, operand(first))
        node.target, node.args = A.reshape.default, (first.args[0], list(shape_of(node)))


def _sink_elementwise(graph: GraphModule, node: Node, order: list[int]) -> None:
    inverse = _inverse(order)
    if len(shape_of(node)) != 4:
        return  # an operand has more axes
    args: list[Argument] = []
    for value in node.args:
        if not isinstance(value, Node) or len(shape_of(value)) == 0:
            args.append(value)
        elif is_permute(value, order):
            args.append(operand(value))
        elif (fixed := constant(graph, value)) is not None:
            fixed = fixed.reshape([1] * (4 - fixed.ndim) + list(fixed.shape)).permute(inverse)
            args.append(add_constant(graph, node, f"{value.name}_permuted", fixed))
        elif len(shape_of(value)) < 4:
            return  # broadcasting along the width or the channels is rare
        else:
            args.append(insert(graph, node, A.permute.default, value, inverse, like=node))
    _finish(graph, node, insert(graph, node, operation_of(node), *args, like=node, **node.kwargs), order)


def _sink_reduction(graph: GraphModule, node: Node, order: list[int]) -> None:
    position = REDUCTIONS[node.target]
    over = argument(node, position)
    if over is None:
        return
    keep = argument(node, position + 1, False)
    axes = sorted(order[axis % 4] for axis in integers(over))
    if not keep and axes != ([1, 2] if order == TO_FIRST else [2, 3]):
        return
    args = list(node.args)
    args[0], args[position] = operand(operand(node)), axes
    reduced = insert(graph, node, operation_of(node), *args, like=node, **node.kwargs)
    if keep:
        _finish(graph, node, reduced, order)
    else:
        node.replace_all_uses_with(reduced)


def _finish(graph: GraphModule, node: Node, inner: Node, order: list[int]) -> None:
    """Replace `node` by `inner`, which is in the other layout, and a permute back."""
    node.replace_all_uses_with(insert(graph, node, A.permute.default, inner, order, like=node))
