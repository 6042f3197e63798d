"""Replaces the forms that writing into a tensor gets when torch makes a graph functional."""

import torch
from torch.fx import GraphModule

from edgekit.compiler.graph import A, add_constant, argument, insert, literal, operand, shape_of


def remove_overwritten(graph: GraphModule) -> int:
    """Replace the result of writing one value over another by the one that was written.

    Returns the number of writes replaced.
    """
    copies = graph.graph.find_nodes(op="call_function", target=A.copy.default)
    for node in copies:
        to, value = node.args[:2]
        if value.meta["val"].dtype != to.meta["val"].dtype:
            value = insert(graph, node, A.to.dtype, value, to.meta["val"].dtype, like=node)
        if shape_of(value) != shape_of(to):
            value = insert(graph, node, A.expand.default, value, list(shape_of(to)), like=node)
        node.replace_all_uses_with(value)
    return len(copies)


def select_by_mask(graph: GraphModule) -> int:
    """Replace ``x[mask] = value`` by `where`, because LiteRT's converter must know the mask in advance.

    Returns the number of writes replaced.
    """
    replaced = 0
    for put in graph.graph.find_nodes(op="call_function", target=A.index_put.default):
        source, indices, value = put.args[:3]
        if len(indices) != 1 or argument(put, 3, False) or value.meta["val"].numel() != 1:
            continue
        (mask,) = indices
        if mask.meta["val"].dtype == torch.bool and shape_of(mask) == shape_of(source):
            put.replace_all_uses_with(insert(graph, put, A.where.self, mask, value, source, like=put))
            replaced += 1
    return replaced


def gather_strided_writes(graph: GraphModule) -> int:
    """Replace ``x[..., ::2] = value`` by a choice from both values, because OpenVINO refuses such writes.

    Returns the number of writes replaced.
    """
    replaced = 0
    for put in graph.graph.find_nodes(op="call_function", target=A.slice_scatter.default):
        places = (argument(put, place) for place in (3, 4, 5))
        start, end, step = (None if place is None else literal(place, int) for place in places)
        if step in (None, 1):
            continue
        to, value, axis = operand(put), operand(put, 1), literal(argument(put, 2, 0), int)
        order = torch.arange(shape_of(to)[axis])
        order[start:end:step] = torch.arange(shape_of(value)[axis]) + len(order)
        both = insert(graph, put, A.cat.default, [to, value], axis)
        chosen = add_constant(graph, put, f"{put.name}.order", order)
        put.replace_all_uses_with(insert(graph, put, A.index_select.default, both, axis, chosen))
        replaced += 1
    return replaced
