"""Converts patch convolutions to Linear. Their kernels are as large as their strides, so they see each pixel once."""

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import insert_layer, inserter
from edgekit.compiler.layers import DenseLayer, FixedWeights, replace_layers
from edgekit.compiler.nodes import A, operand, shape_of
from edgekit.compiler.rewrites.layout import TO_FIRST, is_permute, sink_permutes


@torch.no_grad()
def patch_linear(graph: GraphModule) -> int:
    """Replace each k x k convolution with stride k by a Linear on k*k*C values.

    The input must already be channels last, after a permute, as in ConvNeXt's downsampling but not in its stem.

    Returns the number of convolutions replaced.
    """

    def linear(layer: DenseLayer, weights: FixedWeights) -> Node | None:
        if not _has_patches(layer) or not is_permute(layer.source, TO_FIRST):
            return None
        inner, call = operand(layer.source), inserter(graph, layer.node)
        n, height, width, channels = shape_of(inner)
        rows, columns = layer.kernel
        tall, wide = height // rows, width // columns
        split = call(A.reshape.default, inner, [n * tall, rows, wide, columns * channels])
        turned = call(A.permute.default, split, [0, 2, 1, 3])
        patches = call(A.reshape.default, turned, [n, tall, wide, -1])
        return _linear(graph, layer, patches, weights.weight.permute(0, 2, 3, 1).flatten(1), weights.bias)

    replaced = replace_layers(graph, linear)
    sink_permutes(graph, TO_FIRST)
    return replaced


@torch.no_grad()
def image_patch_linear(graph: GraphModule) -> int:
    """Replace a k x k convolution with stride k on the image itself, channels first, by a Linear.

    The image is transposed directly into rows of C*k*k values instead of to channels last.

    Returns the number of convolutions replaced.
    """

    def linear(layer: DenseLayer, weights: FixedWeights) -> Node | None:
        if not _has_patches(layer) or layer.source.op != "placeholder":
            return None
        call = inserter(graph, layer.node)
        n, channels, height, width = shape_of(layer.source)
        rows, columns = layer.kernel
        tall, wide = height // rows, width // columns
        split = call(A.reshape.default, layer.source, [n, channels, tall, rows, wide, columns])
        turned = call(A.permute.default, split, [0, 2, 4, 1, 3, 5])
        patches = call(A.reshape.default, turned, [n, tall, wide, -1])
        return _linear(graph, layer, patches, weights.weight.flatten(1), weights.bias)

    replaced = replace_layers(graph, linear)
    sink_permutes(graph, TO_FIRST)
    return replaced


def _has_patches(layer: DenseLayer) -> bool:
    """Whether a layer is a convolution whose patches cover the input without overlap."""
    if not layer.is_conv or layer.kernel != layer.stride or layer.stride == (1, 1):
        return False
    plain = layer.padding == (0, 0) and layer.dilation == (1, 1) and layer.groups == 1
    return plain and all(size % step == 0 for size, step in zip(shape_of(layer.source)[2:], layer.stride, strict=True))


def _linear(graph: GraphModule, layer: DenseLayer, patches: Node, weight: Tensor, bias: Tensor | None) -> Node:
    """Insert a Linear on patches [N,height,width,in] with a weight [out,in]; the result is channels first."""
    rows = insert_layer(graph, layer.node, A.linear.default, patches, weight, bias)
    return inserter(graph, layer.node)(A.permute.default, rows, TO_FIRST)
