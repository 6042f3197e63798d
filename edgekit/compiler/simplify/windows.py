"""Replaces unfold and fold, which cut a tensor into overlapping windows and add windows up, by gathers."""

import torch
from torch import nn
from torch.fx import GraphModule

from edgekit.compiler.graph import A, add_constant, insert, shape_of


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
