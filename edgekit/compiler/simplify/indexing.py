"""Replaces windows, and the forms that writing into a tensor gets when torch makes a graph functional, by gathers."""

import torch
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.graph import add_constant, insert
from edgekit.compiler.nodes import A, argument, literal, operand, shape_of


def gather_windows(graph: GraphModule) -> int:
    """Replace each unfold by a gather. LiteRT's converter would pad it in more dimensions than its kernels know.

    Returns the number of operations replaced.
    """
    unfolds = graph.graph.find_nodes(op="call_function", target=A.unfold.default)
    for unfold in unfolds:
        source, axis, size, step = unfold.args
        before = shape_of(source)
        dimension = axis % len(before)
        count = shape_of(unfold)[dimension]
        places = torch.arange(count)[:, None] * step + torch.arange(size)
        index = add_constant(graph, unfold, f"{unfold.name}.index", places.flatten())
        gathered = insert(graph, unfold, A.index_select.default, source, dimension, index)
        windows = (*before[:dimension], count, size, *before[dimension + 1 :])
        split = insert(graph, unfold, A.reshape.default, gathered, windows)
        order = [place for place in range(len(windows)) if place != dimension + 1]
        unfold.target, unfold.args = A.permute.default, (split, [*order, dimension + 1])
    return len(unfolds)


def gather_overlaps(graph: GraphModule) -> int:
    """Replace each fold by a gather of the values that overlap at each pixel, and their sum.

    torch decomposes a fold into an addition at computed places, which LiteRT doesn't know. Returns the number of
    operations replaced.
    """
    folds = graph.graph.find_nodes(op="call_function", target=A.col2im.default)
    for fold in folds:
        columns, (height, width), *window = fold.args
        channels = shape_of(fold)[-3]
        # The pixel, counted from 1, to which each value of a channel is added; 0 for the padding.
        pixels = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
        targets = nn.functional.unfold(pixels, *window).flatten().long()
        places = _places(targets, height * width)
        flat = insert(graph, fold, A.reshape.default, columns, [-1, channels, len(targets)])
        padded = insert(graph, fold, A.pad.default, flat, [0, 1])
        index = add_constant(graph, fold, f"{fold.name}.index", places.flatten())
        gathered = insert(graph, fold, A.index_select.default, padded, 2, index)
        overlaps = insert(graph, fold, A.reshape.default, gathered, [-1, channels, *places.shape])
        total = insert(graph, fold, A.sum.dim_IntList, overlaps, [2])
        fold.target, fold.args = A.reshape.default, (total, list(shape_of(fold)))
    return len(folds)


def _places(targets: torch.Tensor, pixels: int) -> torch.Tensor:
    """Places of the values that overlap at each pixel, int64 [most overlaps,pixels].

    `targets`, int64 [values], has the pixel of each value, counted from 1, or 0 for the padding. A pixel with fewer
    values than others gets the place after the last value, where the caller puts a zero.
    """
    counts = torch.bincount(targets)
    values = targets.argsort(stable=True)[counts[0] :]  # in the order of the pixels, without those of the padding
    pixel = targets[values] - 1
    rank = torch.arange(len(values)) - (counts.cumsum(0) - counts[0])[pixel]
    places = torch.full((int(counts[1:].max()), pixels), len(targets))
    places[rank, pixel] = values
    return places


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
