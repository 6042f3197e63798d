"""Computes convolutions over one axis as those of an image with one row, which passes and recipes know."""

from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, add_constant, argument, constant, insert, integers, layer_name, operand, shape_of

CONVOLUTIONS = {A.conv1d.default: A.conv2d.default, A.conv1d.padding: A.conv2d.padding}
ON_ROWS = {
    A.batch_norm.default, A.relu.default, A.gelu.default, A.silu.default, A.hardswish.default, A.hardsigmoid.default,
    A.hardtanh.default, A.sigmoid.default, A.tanh.default, A.leaky_relu.default, A.clamp.default,
}  # fmt: skip
"""Operations that compute the same on [N,C,1,L] as on [N,C,L]."""


def give_convolutions_two_axes(graph: GraphModule) -> int:
    """Replace each convolution on [N,C,L] by one on [N,C,1,L]. Returns the number of convolutions replaced."""
    replaced = 0
    for node in [node for node in graph.graph.nodes if node.target in CONVOLUTIONS]:
        if len(shape_of(node)) != 3:
            continue
        source = insert(graph, node, A.unsqueeze.default, operand(node), 2)
        weight = _on_one_row(graph, node, operand(node, 1))
        (stride,), (dilation,) = (integers(argument(node, place, [1])) for place in (3, 5))
        padding = argument(node, 4, [0])
        sides = padding if isinstance(padding, str) else [0, *integers(padding)]
        settings = (argument(node, 2), [1, stride], sides, [1, dilation], argument(node, 6, 1))
        conv = insert(graph, node, CONVOLUTIONS[node.target], source, weight, *settings, like=node)
        node.replace_all_uses_with(insert(graph, node, A.squeeze.dim, conv, 2))
        replaced += 1
    for node in list(graph.graph.nodes):
        _move_squeeze(graph, node)
    return replaced


def _on_one_row(graph: GraphModule, node: Node, kernel: Node) -> Node:
    """The kernel [out,in,1,length] of a convolution with [out,in,length]."""
    value = constant(graph, kernel)
    if value is None:
        return insert(graph, node, A.unsqueeze.default, kernel, 2)
    return add_constant(graph, node, f"{layer_name(node)}.weight", value.unsqueeze(2))


def _move_squeeze(graph: GraphModule, node: Node) -> None:
    """Move a squeeze of rows from a node's input to its output, or cancel it."""
    squeeze = node.args[0] if node.args else None
    if not isinstance(squeeze, Node) or squeeze.target is not A.squeeze.dim or squeeze.args[1] != 2:
        return
    rows = operand(squeeze)
    if len(shape_of(rows)) != 4 or shape_of(rows)[2] != 1:
        return
    if node.target is A.unsqueeze.default and node.args[1] == 2:
        node.replace_all_uses_with(rows)
    elif node.target in ON_ROWS:
        inner = insert(graph, node, node.target, rows, *node.args[1:], like=node, **node.kwargs)
        node.replace_all_uses_with(insert(graph, node, A.squeeze.dim, inner, 2))
