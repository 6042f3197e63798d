"""Gives convolutions and attention the axes that passes, recipes and exporters know."""

import math

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import add_constant, constant, insert
from edgekit.compiler.nodes import A, argument, integers, layer_name, operand, operation_of, shape_of

CONVOLUTIONS = {A.conv1d.default: A.conv2d.default, A.conv1d.padding: A.conv2d.padding}
ON_ROWS = {
    A.batch_norm.default, A.relu.default, A.gelu.default, A.silu.default, A.hardswish.default, A.hardsigmoid.default,
    A.hardtanh.default, A.sigmoid.default, A.tanh.default, A.leaky_relu.default, A.clamp.default,
}  # fmt: skip
"""Operations that compute the same on [N,C,1,L] as on [N,C,L]."""


def give_convolutions_four_axes(graph: GraphModule) -> int:
    """Replace each convolution on [N,C,L] by one on [N,C,1,L], and add the axis of images where it is missing.

    Returns the number of convolutions replaced.
    """
    replaced = 0
    for node in list(graph.graph.nodes):
        on_rows = node.target in CONVOLUTIONS
        if not on_rows and (node.target not in CONVOLUTIONS.values() or len(shape_of(node)) == 4):
            continue
        added = [0] * (len(shape_of(node)) == 3 - on_rows) + [2] * on_rows
        source, args = operand(node), list(node.args[1:])
        for axis in added:
            source = insert(graph, node, A.unsqueeze.default, source, axis)
        if on_rows:
            args = _on_one_row(graph, node)
        out = insert(graph, node, CONVOLUTIONS.get(node.target, node.target), source, *args, like=node)
        for axis in reversed(added):
            out = insert(graph, node, A.squeeze.dim, out, axis)
        node.replace_all_uses_with(out)
        replaced += 1
    for node in list(graph.graph.nodes):
        _move_squeeze(graph, node)
    return replaced


def _on_one_row(graph: GraphModule, node: Node) -> list[Argument]:
    """The arguments of a convolution after its input, for an image of one row."""
    kernel = operand(node, 1)
    value = constant(graph, kernel)
    if value is None:
        kernel = insert(graph, node, A.unsqueeze.default, kernel, 2)
    else:
        kernel = add_constant(graph, node, f"{layer_name(node)}.weight", value.unsqueeze(2))
    (stride,), (dilation,) = (integers(argument(node, place, [1])) for place in (3, 5))
    padding = argument(node, 4, [0])
    sides = padding if isinstance(padding, str) else [0, *integers(padding)]
    return [kernel, argument(node, 2), [1, stride], sides, [1, dilation], argument(node, 6, 1)]


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


def give_attention_four_axes(graph: GraphModule) -> int:
    """Compute attention over fewer or more than four axes on four, the only number that torch's export to ONNX takes.

    Returns the number of operations changed.
    """
    changed = 0
    for attention in graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default):
        if len(shape_of(attention)) != 4:
            _reshape(graph, attention)
            changed += 1
    return changed


def _reshape(graph: GraphModule, attention: Node) -> None:
    """Compute one attention on four axes."""
    shape = shape_of(attention)
    masks = attention.args[3:4]
    outer = [1] * (3 - len(shape)) + [math.prod(shape[:-3]), *shape[-3:-2]]

    def reshaped(value: Argument) -> Node | None:
        if value is None:
            return None
        inner = shape_of(value)[-2:]
        if shape_of(value)[:-2] != shape[:-2]:  # it is broadcast
            value = insert(graph, attention, A.expand.default, value, [*shape[:-2], *inner])
        return insert(graph, attention, A.reshape.default, value, [*outer, *inner])

    values = [reshaped(value) for value in attention.args[:4]]
    arguments = (*values, *attention.args[4:])
    output = insert(graph, attention, operation_of(attention), *arguments, like=attention, **attention.kwargs)
    if any(mask is not None for mask in masks):
        # With a mask, torch may choose another kernel each time it is traced, and their outputs differ in strides.
        output = insert(graph, attention, A.clone.default, output, memory_format=torch.contiguous_format)
    attention.replace_all_uses_with(insert(graph, attention, A.reshape.default, output, list(shape)))
    graph.graph.erase_node(attention)  # which dead code elimination keeps, because it might drop values at random
