"""Converts patch convolutions to Linear. Their kernels are as large as their strides, so they see each pixel once."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import (
    A,
    insert,
    insert_layer,
    operand,
    refresh,
    replace_layer,
    shape_of,
)
from edgekit.compiler.layers import DenseLayer, FixedWeights, dense_layers, fixed_weights
from edgekit.compiler.rewrites.layout import TO_FIRST, is_permute, sink_permutes


def patch_linear(graph: GraphModule) -> int:
    """Replace each k x k convolution with stride k by a Linear on k*k*C values.

    The input must already be channels last, after a permute, as in ConvNeXt's downsampling but not in its stem.

    Returns the number of convolutions replaced.
    """

    def rows_of(layer: DenseLayer, weight: Tensor) -> tuple[Node, Tensor] | None:
        node = layer.node
        if not is_permute(layer.source, TO_FIRST):
            return None
        inner = operand(layer.source)
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

    def rows_of(layer: DenseLayer, weight: Tensor) -> tuple[Node, Tensor] | None:
        node, image = layer.node, layer.source
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
def _become_linear(graph: GraphModule, rows_of: Callable[[DenseLayer, Tensor], tuple[Node, Tensor] | None]) -> int:
    """Replace patch convolutions by a Linear each. Returns the number of convolutions replaced.

    `rows_of` returns the patches [N,height,width,in] and the matching weight [out,in], or None to leave a convolution.
    """
    changed = 0
    for layer, weights in _patch_convolutions(graph):
        node, rows = layer.node, rows_of(layer, weights.weight)
        if rows is None:
            continue
        patches, flat = rows
        linear = insert_layer(graph, node, A.linear.default, patches, flat, weights.bias)
        replace_layer(graph, node, insert(graph, node, A.permute.default, linear, TO_FIRST, like=node))
        changed += 1
    refresh(graph)
    sink_permutes(graph, TO_FIRST)
    return changed


def _patch_convolutions(graph: GraphModule) -> Iterator[tuple[DenseLayer, FixedWeights]]:
    """Yield (layer, weights [out,C,k,k]) of the convolutions whose patches cover the input without overlap."""
    for layer in dense_layers(graph):
        weights, stride = fixed_weights(graph, layer), layer.stride
        if weights is None or layer.kernel != stride or stride == (1, 1):
            continue
        height, width = shape_of(layer.source)[2:]
        plain = layer.padding == (0, 0) and layer.dilation == (1, 1) and layer.groups == 1
        if plain and height % stride[0] == 0 and width % stride[1] == 0:
            yield layer, weights
