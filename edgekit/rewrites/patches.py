"""Patch convolutions as Linear: a kernel as large as its stride sees each pixel once."""

import torch
from torch.fx import GraphModule

from edgekit.graph import A, argument, constant, insert, pair, refresh, replace_layer, set_weights, shape_of
from edgekit.rewrites.layout import TO_FIRST, is_permute, sink_permutes


@torch.no_grad()
def patch_linear(graph: GraphModule) -> int:
    """A k x k convolution with stride k becomes a Linear on k*k*C values. Count of those changed.

    Only where its input is already channels last, behind a permute: ConvNeXt's downsampling, not its stem.
    """
    changed = 0
    for node in list(graph.graph.nodes):
        if node.target is not A.conv2d.default or not is_permute(node.args[0], TO_FIRST):
            continue
        weight, stride = constant(graph, node.args[1]), pair(argument(node, 3, 1))
        plain = pair(argument(node, 4, 0)) == (0, 0) and argument(node, 6, 1) == 1
        if weight is None or tuple(weight.shape[2:]) != stride or stride == (1, 1) or not plain:
            continue
        inner = node.args[0].args[0]
        (n, height, width, channels), (rows, columns) = shape_of(inner), stride
        if height % rows or width % columns:
            continue
        tall, wide = height // rows, width // columns
        split = insert(graph, node, A.reshape.default, inner, [n * tall, rows, wide, columns * channels], like=node)
        turned = insert(graph, node, A.permute.default, split, [0, 2, 1, 3], like=node)
        patches = insert(graph, node, A.reshape.default, turned, [n, tall, wide, -1], like=node)
        linear = insert(graph, node, A.linear.default, patches, node.args[1], argument(node, 2, None), like=node)
        bias = constant(graph, argument(node, 2, None))
        set_weights(graph, linear, weight.permute(0, 2, 3, 1).flatten(1), bias)
        replace_layer(graph, node, insert(graph, node, A.permute.default, linear, TO_FIRST, like=node))
        changed += 1
    refresh(graph)
    sink_permutes(graph, TO_FIRST)
    return changed
