"""Gives attention the number of axes that exporters take."""

import math

import torch
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import A, insert, operation_of, shape_of


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
