"""Replaces large depthwise convolutions by forms that XNNPACK runs fast: small kernels, or a grouped one on blocks."""

from dataclasses import dataclass
from functools import partial, reduce
from itertools import product

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, inserter
from edgekit.compiler.layers import DenseLayer, FixedWeights, replace_layers
from edgekit.compiler.nodes import A, shape_of
from edgekit.compiler.rewrites.layout import TO_FIRST, TO_LAST, sink_permutes

Part = tuple[tuple[int, ...], tuple[int, ...]]
"""Rows and columns of a small kernel's taps, evenly spaced around the centre."""
FIVE: tuple[Part, ...] = (
    ((-2, -1, 0, 1, 2), (-2, -1, 0, 1, 2)),
    ((-3, 3), (-3, -1, 1, 3)),
    ((-3, 3), (-2, 0, 2)),
    ((-2, 0, 2), (-3, 3)),
    ((-1, 1), (-3, 3)),
)
"""Kernels for 25, 9 and 4 taps, which together have each of the 49 taps once."""
THREE: tuple[Part, ...] = (
    ((-2, 0, 2), (-3, -2, -1, 0, 1, 2, 3)),
    ((-3, -1, 1, 3), (-2, -1, 0, 1, 2)),
    ((-3, -1, 1, 3), (-3, 3)),
)
"""Kernels of 21, 20 and 8 taps, which together have each of the 49 taps once, with two sums fewer."""


BLOCK = 4
"""Side of a block, in pixels."""


@dataclass(frozen=True)
class ConvolutionShape:
    """The settings of a convolution from which it follows whether and how a rewrite changes it."""

    weight: tuple[int, ...]
    """Shape of the weights, (outputs, inputs per group, height, width)."""
    output: tuple[int, ...]
    """Height and width of the output."""
    stride: tuple[int, ...]
    """Steps along height and width."""
    padding: tuple[int, ...]
    """Zeros above and below, and left and right."""
    dilation: tuple[int, ...]
    """Distances of the kernel's taps along height and width."""
    groups: int
    """Number of groups."""

    @property
    def is_seven_by_seven(self) -> bool:
        """Whether it is a 7x7 depthwise convolution with stride 1 and 'same' padding."""
        plain = self.stride == self.dilation == (1, 1) and self.padding == (3, 3)
        return plain and self.groups > 1 and self.weight[1:] == (1, 7, 7)

    @property
    def keeps_channels(self) -> bool:
        """Whether it is such a convolution with one output for each input channel."""
        return self.is_seven_by_seven and self.weight[0] == self.groups


def weights_on_blocks(shape: ConvolutionShape) -> int | None:
    """Number of weights after `depthwise-blocks`; None if it doesn't change the convolution."""
    if not shape.keeps_channels or any(side % BLOCK for side in shape.output):
        return None
    return shape.weight[0] * BLOCK**2 * BLOCK**2 * 3 * 3


def split_depthwise(graph: GraphModule) -> int:
    """Split each 7x7 depthwise convolution into a sum of five dilated ones with at most 25 taps each.

    XNNPACK has fast depthwise kernels for 25, 9 and 4 taps and pads smaller kernels to the next of these sizes. The
    five compute 56 taps for the 49; three of 3x7 would compute 75. Only stride 1 with 'same' padding is supported.

    Returns the number of convolutions split.
    """
    return _split(graph, FIVE)


def split_depthwise_in_three(graph: GraphModule) -> int:
    """Split each 7x7 depthwise convolution into three: 59 taps instead of 56, but two sums fewer.

    Returns the number of convolutions split.
    """
    return _split(graph, THREE)


@torch.no_grad()
def _split(graph: GraphModule, sizes: tuple[Part, ...]) -> int:
    def sum_of_parts(layer: DenseLayer, weights: FixedWeights) -> Node | None:
        if not _shape(layer).is_seven_by_seven:
            return None
        node, call = layer.node, inserter(graph, layer.node)
        parts: list[Node] = []
        for rows, columns in sizes:
            taps = weights.weight[:, :, [3 + row for row in rows]][..., [3 + column for column in columns]]
            kernel = add_constant(graph, node, f"{node.name}.taps", taps)
            dilation = [rows[1] - rows[0], columns[1] - columns[0]]
            args = (kernel, None if parts else layer.bias, [1, 1], [rows[-1], columns[-1]], dilation, layer.groups)
            parts.append(call(A.conv2d.default, layer.source, *args))
        return reduce(lambda total, part: call(A.add.Tensor, total, part), parts)

    return replace_layers(graph, sum_of_parts)


def _shape(layer: DenseLayer) -> ConvolutionShape:
    """The shape of a convolution in a graph."""
    sides = (layer.stride, layer.padding, layer.dilation)
    return ConvolutionShape(shape_of(layer.weight), shape_of(layer.node)[-2:], *sides, layer.groups)


@torch.no_grad()
def depthwise_blocks(graph: GraphModule) -> int:
    """Turn each 7x7 depthwise convolution into one on blocks of 4x4 pixels, if height and width are multiples of 4.

    The 16 pixels of a block become the channels of a group, so a grouped 3x3 convolution computes the same sums, with
    144 products for the 49. This pays in INT8, where XNNPACK multiplies much faster than a depthwise kernel can load.
    The weights take 47 times the space.

    Returns the number of convolutions changed.
    """
    replaced = replace_layers(graph, partial(_on_blocks, graph))
    sink_permutes(graph, TO_FIRST)
    return replaced


def _on_blocks(graph: GraphModule, layer: DenseLayer, weights: FixedWeights) -> Node | None:
    """Insert the convolution on blocks, between the operations that cut its input and put its output together."""
    if weights_on_blocks(_shape(layer)) is None:
        return None
    node, call, (n, channels, height, width) = layer.node, inserter(graph, layer.node), shape_of(layer.node)
    tall, wide = height // BLOCK, width // BLOCK
    x = call(A.permute.default, layer.source, TO_LAST)
    # Two transposes are faster than one of six axes.
    x = call(A.reshape.default, x, [n * tall, BLOCK, wide, BLOCK * channels])
    x = call(A.permute.default, x, [0, 2, 1, 3])
    x = call(A.reshape.default, x, [1, n * tall * wide, BLOCK * BLOCK, channels])
    x = call(A.permute.default, x, [0, 1, 3, 2])
    x = call(A.reshape.default, x, [n, tall, wide, channels * BLOCK * BLOCK])
    kernel = add_constant(graph, node, f"{layer.name}.weight", _block_weight(weights.weight))
    bias = None
    if weights.bias is not None:
        bias = add_constant(graph, node, f"{layer.name}.bias", weights.bias.repeat_interleave(BLOCK * BLOCK))
    x = call(A.permute.default, x, TO_FIRST)
    x = call(A.conv2d.default, x, kernel, bias, [1, 1], [1, 1], [1, 1], layer.groups)
    x = call(A.permute.default, x, TO_LAST)
    x = call(A.reshape.default, x, [1, n * tall * wide, channels, BLOCK * BLOCK])
    x = call(A.permute.default, x, [0, 1, 3, 2])
    x = call(A.reshape.default, x, [n * tall, wide, BLOCK, BLOCK * channels])
    x = call(A.permute.default, x, [0, 2, 1, 3])
    x = call(A.reshape.default, x, [n, height, width, channels])
    return call(A.permute.default, x, TO_FIRST)


def _block_weight(weight: Tensor) -> Tensor:
    """Weight [C*16,16,3,3] on blocks for a weight [C,1,7,7]: a window of 12x12 pixels, of which 49 count."""
    window = weight.new_zeros(len(weight), BLOCK, BLOCK, 3 * BLOCK, 3 * BLOCK)
    for row, column in product(range(BLOCK), repeat=2):
        window[:, row, column, row + 1 : row + 8, column + 1 : column + 8] = weight[:, 0]
    taps = window.reshape(-1, 3, BLOCK, 3, BLOCK).permute(0, 2, 4, 1, 3)
    return taps.reshape(-1, BLOCK * BLOCK, 3, 3)
