"""Replaces operations that passes or runtimes don't know by others with the same values."""

import math
import operator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.graph import A, add_constant, argument, insert, pair, shape_of

EQUIVALENT = {
    A.view.default: A.reshape.default,  # which works with any strides, and rewrites change them
    A.__and__.Tensor: A.bitwise_and.Tensor,
    A.__or__.Tensor: A.bitwise_or.Tensor,
    A.__xor__.Tensor: A.bitwise_xor.Tensor,
}
"""Operations, and others that compute the same of the same arguments."""


def rename_operations(graph: GraphModule) -> None:
    """Replace operations by their equivalents."""
    for node in graph.graph.nodes:
        node.target = EQUIVALENT.get(node.target, node.target)


def replace_operations(graph: GraphModule) -> None:
    """Replace operations by several others, or by others with other arguments."""
    for node in list(graph.graph.nodes):
        if node.target is A.bitwise_xor.Tensor and node.meta["val"].dtype == torch.bool:
            node.target = A.ne.Tensor  # LiteRT has no other operation for it
        elif node.target is A._native_batch_norm_legit_no_training.default:
            _restore_batch_norm(graph, node)
        elif node.target is A.copy.default:
            _replace_copy(graph, node)
        elif node.target is A.index_put.default:
            _put_by_mask(graph, node)
        elif node.target is A.adaptive_max_pool2d.default:
            _pool_evenly(graph, node)
        elif node.target is A.unfold.default:
            _gather_windows(graph, node)
        elif node.target is A.col2im.default:
            _gather_overlaps(graph, node)
        elif node.target is A.scaled_dot_product_attention.default and len(shape_of(node)) != 4:
            _give_attention_four_axes(graph, node)


def _restore_batch_norm(graph: GraphModule, node: Any) -> None:
    """Replace the form that a batch norm gets when torch makes a graph functional."""
    *inputs, momentum, eps = node.args
    norm = insert(graph, node, A.batch_norm.default, *inputs, False, momentum, eps, False, like=node)
    for first in list(node.users):
        first.replace_all_uses_with(norm)


def _replace_copy(graph: GraphModule, node: Any) -> None:
    """Replace the result of writing one value over another by the one that was written."""
    to, value = node.args[:2]
    if value.meta["val"].dtype != to.meta["val"].dtype:
        value = insert(graph, node, A.to.dtype, value, to.meta["val"].dtype, like=node)
    if shape_of(value) != shape_of(to):
        value = insert(graph, node, A.expand.default, value, list(shape_of(to)), like=node)
    node.replace_all_uses_with(value)


def _put_by_mask(graph: GraphModule, put: Any) -> None:
    """Replace ``x[mask] = value`` by a choice. LiteRT's converter wants to know the mask in advance."""
    source, indices, value = put.args[:3]
    if len(indices) != 1 or argument(put, 3, False) or value.meta["val"].numel() != 1:
        return
    (mask,) = indices
    if mask.meta["val"].dtype == torch.bool and shape_of(mask) == shape_of(source):
        put.replace_all_uses_with(insert(graph, put, A.where.self, mask, value, source, like=put))


def _pool_evenly(graph: GraphModule, pool: Any) -> None:
    """Replace an adaptive max pooling, which LiteRT doesn't know, by a maximum or one with a fixed window."""
    source, to = pool.args[0], pair(pool.args[1])
    sides = shape_of(source)[-2:]
    window = [side // parts for side, parts in zip(sides, to, strict=True)]
    if any(user.target is not operator.getitem or (user.args[1] and user.users) for user in pool.users):
        return  # because the places of the values are needed
    if to == (1, 1):
        pooled = insert(graph, pool, A.amax.default, source, [-2, -1], True, like=pool)
    elif all(size * parts == side for size, parts, side in zip(window, to, sides, strict=True)):
        pooled = insert(graph, pool, A.max_pool2d.default, source, window, window, like=pool)
    else:
        return
    for values in [user for user in pool.users if not user.args[1]]:
        values.replace_all_uses_with(pooled)


def _gather_windows(graph: GraphModule, unfold: Any) -> None:
    """Replace an unfold by a gather. LiteRT's converter would pad it in more dimensions than its kernels know."""
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


def _gather_overlaps(graph: GraphModule, fold: Any) -> None:
    """Replace a fold by a gather of the values that overlap at each pixel, and their sum.

    torch decomposes it into an addition at computed places, which LiteRT doesn't know.
    """
    columns, (height, width), *window = fold.args
    channels = shape_of(fold)[-3]
    # The pixel, counted from 1, to which each value of a channel is added; 0 for the padding.
    pixels = torch.arange(1.0, height * width + 1).view(1, 1, height, width)
    targets = nn.functional.unfold(pixels, *window).flatten().long()
    counts = torch.bincount(targets)
    values = targets.argsort(stable=True)[counts[0] :]  # in the order of the pixels, without those of the padding
    pixel = targets[values] - 1
    rank = torch.arange(len(values)) - (counts.cumsum(0) - counts[0])[pixel]
    places = torch.full((int(counts[1:].max()), height * width), len(targets))  # by default the zero behind the values
    places[rank, pixel] = values
    flat = insert(graph, fold, A.reshape.default, columns, [-1, channels, len(targets)])
    padded = insert(graph, fold, A.pad.default, flat, [0, 1])
    index = add_constant(graph, fold, f"{fold.name}.index", places.flatten())
    gathered = insert(graph, fold, A.index_select.default, padded, 2, index)
    overlaps = insert(graph, fold, A.reshape.default, gathered, [-1, channels, *places.shape])
    total = insert(graph, fold, A.sum.dim_IntList, overlaps, [2])
    fold.target, fold.args = A.reshape.default, (total, list(shape_of(fold)))


def _give_attention_four_axes(graph: GraphModule, attention: Any) -> None:
    """Give an attention over fewer or more than four axes four, the only number that torch's export to ONNX takes."""
    shape = shape_of(attention)
    masks = attention.args[3:4]
    if any(mask is not None and shape_of(mask)[:-2] != shape[:-2] for mask in masks):
        return  # broadcasting a mask over some of many axes is rare
    outer = [1] * (3 - len(shape)) + [math.prod(shape[:-3]), *shape[-3:-2]]
    values = [
        None if value is None else insert(graph, attention, A.reshape.default, value, [*outer, *shape_of(value)[-2:]])
        for value in attention.args[:4]
    ]
    arguments = (*values, *attention.args[4:])
    output = insert(graph, attention, attention.target, *arguments, like=attention, **attention.kwargs)
    if any(mask is not None for mask in masks):
        # With a mask, torch may choose another kernel each time it is traced, and their outputs differ in strides.
        output = insert(graph, attention, A.clone.default, output, memory_format=torch.contiguous_format)
    attention.replace_all_uses_with(insert(graph, attention, A.reshape.default, output, list(shape)))
    graph.graph.erase_node(attention)  # which dead code elimination keeps, because it might drop values at random
