"""Removes nodes whose value is that of their input. Dead code elimination would keep dropout as random."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import torch
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.export import is_same, keeps_dtype
from edgekit.compiler.graph import constant, constants
from edgekit.compiler.nodes import A, integers, operand, shape_of, value_of

COPIES = {A.lift_fresh_copy.default, A.contiguous.default, A.clone.default}
"""Operations that do nothing but copy their input, which in a functional graph is the same as their input."""

BROADCASTING = {
    A.add.Tensor, A.sub.Tensor, A.mul.Tensor, A.div.Tensor, A.pow.Tensor_Tensor, A.maximum.default, A.minimum.default,
    A.where.self,
}  # fmt: skip
"""Operations that expand their operands themselves."""


def remove_assertions(graph: GraphModule) -> int:
    """Remove torch.export's checks of dtypes and devices. Returns the number of checks removed."""
    assertions = graph.graph.find_nodes(op="call_function", target=A._assert_tensor_metadata.default)
    for node in assertions:
        graph.graph.erase_node(node)
    return len(assertions)


def remove_copies(graph: GraphModule) -> int:
    """Remove copies, conversions to the dtype that a value has, and dropout. Returns the number of nodes removed."""
    return _remove(graph, lambda node: node.target in COPIES or is_same(node) or keeps_dtype(node))


def remove_infinite_limits(graph: GraphModule) -> int:
    """Remove each clamp to the range from minus infinity to infinity, as in Gemma before its training.

    Returns the number of clamps removed.
    """

    def clips_nothing(node: Node) -> bool:
        if node.target is not A.clamp.Tensor:
            return False
        limits = constants(graph, *node.args[1:])
        if limits is None or shape_of(node) != shape_of(node.args[0]):
            return False
        lowest, highest = (*limits, None)[:2]
        return (lowest is None or bool((lowest == -torch.inf).all())) and (
            highest is None or bool((highest == torch.inf).all())
        )

    return _remove(graph, clips_nothing)


def remove_empty_paddings(graph: GraphModule) -> int:
    """Remove each padding that adds no pixels, which networks have where its width depends on the size of the image.

    Returns the number of paddings removed.
    """

    def pads_nothing(node: Node) -> bool:
        return node.target is A.pad.default and not any(integers(node.args[1]))

    return _remove(graph, pads_nothing)


def remove_zero_sums(graph: GraphModule) -> int:
    """Remove each sum with the number 0, from which code adds up branches. Returns the number of sums removed."""

    def adds_nothing(node: Node) -> bool:
        if node.target not in (A.add.Tensor, A.sub.Tensor) or isinstance(node.args[1], Node):
            return False
        return bool(node.args[1] == 0) and value_of(node).dtype == value_of(node.args[0]).dtype

    return _remove(graph, adds_nothing)


def remove_zero_branches(graph: GraphModule) -> int:
    """Remove each sum with a product by zeros, as that of a residual branch whose factor training has not changed yet.

    LiteRT's converter drops such a branch, which leaves no place for its INT8 weights. Returns the number of sums
    removed.
    """
    removed = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.add.Tensor):
        for branch, other in permutations(node.args):
            same = isinstance(other, Node) and value_of(other).dtype == value_of(node).dtype
            if same and shape_of(other) == shape_of(node) and _is_zero(graph, branch) and not node.kwargs:
                node.replace_all_uses_with(other)
                removed += 1
                break
    return removed


def _is_zero(graph: GraphModule, node: Argument) -> bool:
    """Whether a node multiplies by constants that are all zero."""
    if not isinstance(node, Node) or node.target is not A.mul.Tensor:
        return False
    factors = [constant(graph, factor) for factor in node.args if isinstance(factor, Node)]
    return any(factor is not None and not factor.any() for factor in factors)


def remove_expansions(graph: GraphModule) -> int:
    """Remove each expansion of an operand that is broadcast anyway, as in `torch.nn.functional.normalize`.

    Between convolutions, LiteRT's converter expands along the wrong axes. Returns the number of operands changed.
    """
    changed = 0
    for node in [node for node in graph.graph.nodes if node.target in (A.expand.default, A.expand_as.default)]:
        for user in [user for user in node.users if user.target in BROADCASTING]:
            operands = [operand(node) if argument is node else argument for argument in user.args]
            shapes = [shape_of(argument) for argument in operands if isinstance(argument, Node)]
            if np.broadcast_shapes(*shapes) == shape_of(user):
                user.args = tuple(operands)
                changed += 1
    return changed


def _remove(graph: GraphModule, is_no_op: Callable[[Node], bool]) -> int:
    """Replace the nodes for which `is_no_op` holds by their first input. Returns the number of nodes removed."""
    no_ops = [node for node in graph.graph.nodes if is_no_op(node)]
    for node in no_ops:
        node.replace_all_uses_with(operand(node))
        graph.graph.erase_node(node)
    return len(no_ops)
