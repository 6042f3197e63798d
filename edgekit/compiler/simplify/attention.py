"""Gives attention the number of axes that exporters take."""

import math

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import A, insert, operation_of, shape_of


def give_attention_four_axes(graph: GraphModule) -> int:
    """Compute attention over fewer or more than four axes on four, the only number that torch's export to ONNX takes.

    Returns the number of operations changed.
    """
    changed = 0
    for attention in graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default):
        if len(shape_of(attention)) != 4:
            changed += _reshape(graph, attention)
    return changed


def _reshape(graph: GraphModule, attention: Node) -> bool:
    """Compute one attention on four axes. Returns False if its mask broadcasts over outer axes, which is rare."""
    shape = shape_of(attention)
    masks = attention.args[3:4]
    if any(mask is not None and shape_of(mask)[:-2] != shape[:-2] for mask in masks):
        return False
    outer = [1] * (3 - len(shape)) + [math.prod(shape[:-3]), *shape[-3:-2]]
    values = [
        None if value is None else insert(graph, attention, A.reshape.default, value, [*outer, *shape_of(value)[-2:]])
        for value in attention.args[:4]
    ]
    arguments = (*values, *attention.args[4:])
    output = insert(graph, attention, operation_of(attention), *arguments, like=attention, **attention.kwargs)
    if any(mask is not None for mask in masks):
        # With a mask, torch may choose another kernel each time it is traced, and their outputs differ in strides.
        output = insert(graph, attention, A.clone.default, output, memory_format=torch.contiguous_format)
    attention.replace_all_uses_with(insert(graph, attention, A.reshape.default, output, list(shape)))
    graph.graph.erase_node(attention)  # which dead code elimination keeps, because it might drop values at random
    return True
