"""Channels last: pointwise convolutions as Linear on [N,H,W,C], and the transposes that this saves.

A converter puts a transpose before and after every operation whose layout isn't its own. Here each pointwise
convolution becomes a Linear between two permutes, and the permutes back to channels first then sink through the
operations that don't care, until they meet a permute to channels last and both vanish. What remains is one pair
around each spatial convolution. Nodes are Any below: torch types what a node takes as a union of everything.
"""

import math
from typing import Any

from torch.fx import GraphModule, Node

from edgekit.graph import A, add_constant, argument, constant, insert, pair, refresh, set_weights, shape_of

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]

ELEMENTWISE = {
    A.gelu.default, A.relu.default, A.silu.default, A.hardswish.default, A.hardsigmoid.default, A.sigmoid.default,
    A.hardtanh.default, A.clamp.default, A.tanh.default, A.sqrt.default, A.rsqrt.default, A.neg.default,
    A.pow.Tensor_Scalar, A.add.Tensor, A.sub.Tensor, A.mul.Tensor, A.div.Tensor, A.addcmul.default,
}  # fmt: skip
REDUCTIONS = {A.mean.dim: 1, A.sum.dim_IntList: 1, A.linalg_vector_norm.default: 2}  # position of the axes


def channels_last(graph: GraphModule) -> int:
    """Rewrite the graph in place; the number of pointwise convolutions that became Linear."""
    converted = 0
    for node in list(graph.graph.nodes):
        converted += _pointwise_to_linear(graph, node)
    refresh(graph)
    sink_permutes(graph)
    return converted


def sink_permutes(graph: GraphModule) -> None:
    """Move permutes to channels first down until they meet one back, and both vanish."""
    for node in list(graph.graph.nodes):
        _sink(graph, node)
    refresh(graph)


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
    linear = insert(graph, node, A.linear.default, inner, node.args[1], argument(node, 2, None), like=node)
    set_weights(graph, linear, weight.flatten(1), constant(graph, argument(node, 2, None)))
    outer = insert(graph, node, A.permute.default, linear, TO_FIRST, like=node)
    node.replace_all_uses_with(outer)
    graph.graph.erase_node(node)
    return True


def is_to_first(node: Any) -> bool:
    """True for a permute from channels last to channels first."""
    return isinstance(node, Node) and node.target is A.permute.default and list(argument(node, 1, ())) == TO_FIRST


def _sink(graph: GraphModule, node: Any) -> None:
    """Move a permute to channels first from the node's inputs to its output, or cancel it."""
    if node.op != "call_function" or not any(is_to_first(a) for a in node.all_input_nodes):
        return
    if node.target is A.permute.default and list(node.args[1]) == TO_LAST:
        node.replace_all_uses_with(node.args[0].args[0])
    elif node.target in ELEMENTWISE:
        _sink_elementwise(graph, node)
    elif node.target in REDUCTIONS:
        _sink_reduction(graph, node)
    elif node.target is A.adaptive_avg_pool2d.default and pair(node.args[1]) == (1, 1):
        mean = insert(graph, node, A.mean.dim, node.args[0].args[0], [1, 2], True, like=node)
        _finish(graph, node, mean)
    elif node.target in (A.flatten.using_ints, A.reshape.default):
        first = node.args[0]
        if is_to_first(first) and math.prod(shape_of(first)[2:]) == 1:  # nothing to transpose: only a view is left
            node.replace_input_with(first, first.args[0])
            node.target, node.args = A.reshape.default, (first.args[0], list(shape_of(node)))


def _sink_elementwise(graph: GraphModule, node: Node) -> None:
    args: list[Any] = []
    for value in node.args:
        if not isinstance(value, Node) or len(shape_of(value)) < 4:
            if isinstance(value, Node) and len(shape_of(value)) > 0:
                return  # broadcasts along the width: rare, leave it
            args.append(value)
        elif is_to_first(value):
            args.append(value.args[0])
        elif (fixed := constant(graph, value)) is not None:
            args.append(add_constant(graph, node, f"{value.name}_last", fixed.permute(TO_LAST)))
            args[-1].meta["val"] = fixed.permute(TO_LAST)
        else:
            args.append(insert(graph, node, A.permute.default, value, TO_LAST, like=node))
            args[-1].meta["val"] = value.meta["val"].permute(TO_LAST)
    _finish(graph, node, insert(graph, node, node.target, *args, like=node, **node.kwargs))


def _sink_reduction(graph: GraphModule, node: Any) -> None:
    position = REDUCTIONS[node.target]
    axes = argument(node, position, None)
    if axes is None:
        return
    keep = argument(node, position + 1, False)
    axes = [TO_LAST.index(axis % 4) for axis in axes]
    if not keep and axes != [1, 2]:
        return
    args = list(node.args)
    args[0], args[position] = node.args[0].args[0], sorted(axes)
    reduced = insert(graph, node, node.target, *args, like=node, **node.kwargs)
    if keep:
        _finish(graph, node, reduced)
    else:
        reduced.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(reduced)


def _finish(graph: GraphModule, node: Node, inner: Node) -> None:
    """Replace `node` by `inner`, which is channels last, and a permute back."""
    inner.meta["val"] = node.meta["val"].permute(TO_LAST)
    outer = insert(graph, node, A.permute.default, inner, TO_FIRST, like=node)
    outer.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(outer)
