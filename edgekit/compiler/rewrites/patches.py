"""Converts patch convolutions to Linear. Their kernels are as large as their strides, so they see each pixel once."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgekit.compiler.graph import (
    A,
    argument,
    constant,
    insert,
    insert_layer,
    pair,
    refresh,
    replace_layer,
    shape_of,
)
from edgekit.compiler.rewrites.layout import TO_FIRST, is_permute, sink_permutes


def patch_linear(graph: GraphModule) -> int:
    """Replace each k x k convolution with stride k by a Linear on k*k*C values.

    The input must already be channels last, behind a permute, as in ConvNeXt's downsampling but not in its stem.

    Returns the number of convolutions replaced.
    """

    def rows_of(node: Any, weight: Tensor) -> tuple[Any, Tensor] | None:
        if not is_permute(node.args[0], TO_FIRST):
            return None
        inner = node.args[0].args[0]
        n, height, width, channels = shape_of(inner)
        rows, columns = weight.shape[2:]
        tall, wide = height // rows, width // columns
        split = insert(graph, node, A.reshape.default, inner, [n * tall, rows, wide, columns * channels], like=node)
        turned = insert(graph, node, A.permute.default, split, [0, 2, 1, 3], like=node)
        patches = insert(graph, node, A.reshape.default, turned, [n, tall, wide, -1], like=node)
        return patches, weight.permute(0, 2, 3, 1).flatten(1)

    return _become_linear(graph, rows_of)


def image_patch_linear(graph: GraphModule) -> int:
    """Replace a k x k convolution with stride k on the image itself, channels first, by a Linear.

    The image is transposed directly into rows of C*k*k values instead of to channels last.

    Returns the number of convolutions replaced.
    """

    def rows_of(node: Any, weight: Tensor) -> tuple[Any, Tensor] | None:
        image = node.args[0]
        if image.op != "placeholder":
            return None
        n, channels, height, width = shape_of(image)
        rows, columns = weight.shape[2:]
        tall, wide = height // rows, width // columns
        split = insert(graph, node, A.reshape.default, image, [n, channels, tall, rows, wide, columns], like=node)
        turned = insert(graph, node, A.permute.default, split, [0, 2, 4, 1, 3, 5], like=node)
        patches = insert(graph, node, A.reshape.default, turned, [n, tall, wide, -1], like=node)
        return patches, weight.flatten(1)

    return _become_linear(graph, rows_of)


@torch.no_grad()
def _become_linear(graph: GraphModule, rows_of: Callable[[Any, Tensor], tuple[Any, Tensor] | None]) -> int:
    """Replace patch convolutions by a Linear each. Returns the number of convolutions replaced.

    `rows_of` returns the patches [N,height,width,in] and the matching weight [out,in], or None to leave a convolution.
    """
    changed = 0
    for node, weight in _patch_convolutions(graph):
        rows = rows_of(node, weight)
        if rows is None:
            continue
        patches, flat = rows
        linear = insert_layer(graph, node, A.linear.default, patches, flat, constant(graph, argument(node, 2, None)))
        replace_layer(graph, node, insert(graph, node, A.permute.default, linear, TO_FIRST, like=node))
        changed += 1
    refresh(graph)
    sink_permutes(graph, TO_FIRST)
    return changed


def _patch_convolutions(graph: GraphModule) -> Iterator[tuple[Any, Tensor]]:
    """Yield (node, weight [out,C,k,k]) of the convolutions whose patches cover the input without overlap."""
    for node in list(graph.graph.nodes):
        if node.target is not A.conv2d.default:
            continue
        weight, stride = constant(graph, node.args[1]), pair(argument(node, 3, 1))
        plain = pair(argument(node, 4, 0)) == (0, 0) and argument(node, 6, 1) == 1
        if weight is None or tuple(weight.shape[2:]) != stride or stride == (1, 1) or not plain:
            continue
        height, width = shape_of(node.args[0])[2:]
        if height % stride[0] == 0 and width % stride[1] == 0:
            yield node, weight
