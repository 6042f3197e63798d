"""Replaces large depthwise convolutions by forms that XNNPACK runs fast: small kernels, or a grouped one on blocks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, inserter
from edgekit.compiler.layers import DenseLayer, FixedWeights, dense_layers, replace_layers
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
ALONG = (-4, -2, 0, 2, 4), (-3, -1, 1, 3)
FOUR: tuple[Part, ...] = tuple(product(ALONG, ALONG))
"""Kernels of 25, 20, 20 and 16 taps, which together have each of 81 taps once."""
LARGE = {7: (FIVE, THREE), 9: (FOUR, FOUR)}
"""By side, the kernels whose taps are too many for XNNPACK's depthwise kernels: parts for many kernels, and for few."""
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
    def is_large(self) -> bool:
        """Whether it is a depthwise convolution with one of the kernels in `LARGE`."""
        return self.groups > 1 and self.weight[1:] in {(1, side, side) for side in LARGE}

    @property
    def fits_blocks(self) -> bool:
        """Whether it is one with stride 1, 'same' padding, whole blocks, and one output for each input channel."""
        if not self.is_large or self.stride != (1, 1) or self.dilation != (1, 1) or self.weight[0] != self.groups:
            return False
        half = self.weight[2] // 2
        return self.padding == (half, half) and not any(side % BLOCK for side in self.output)


def weights_on_blocks(shape: ConvolutionShape) -> int | None:
    """Number of weights after `depthwise-blocks`; None if it doesn't change the convolution."""
    if not shape.fits_blocks:
        return None
    return shape.weight[0] * BLOCK**2 * BLOCK**2 * 3 * 3


def depth_multiplier(graph: GraphModule) -> int:
    """Give each output of a depthwise convolution its own copy of an input channel, where several share one.

    ONNX Runtime and XNNPACK have depthwise kernels only for one output, and compute others group by group.

    Returns the number of convolutions changed.
    """
    changed = 0
    for layer in dense_layers(graph):
        outputs, groups = shape_of(layer.weight)[0], layer.groups
        if layer.is_depthwise and outputs > groups:
            call, (n, _, *sides) = inserter(graph, layer.node), shape_of(layer.source)
            times = outputs // groups
            x = call(A.cat.default, [layer.source] * times, 1)  # expand is slow on LiteRT
            x = call(A.reshape.default, x, [n, times, groups, *sides])
            x = call(A.permute.default, x, [0, 2, 1, 3, 4])
            x = call(A.reshape.default, x, [n, outputs, *sides])
            layer.node.args = (x, *layer.node.args[1:6], outputs)
            changed += 1
    return changed


def split_depthwise(graph: GraphModule) -> int:
    """Split each 7x7 or 9x9 depthwise convolution into a sum of five or four dilated ones with at most 25 taps each.

    XNNPACK has fast depthwise kernels for 25, 9 and 4 taps and pads smaller kernels to the next of these sizes. The
    five compute 56 taps for the 49; three of 3x7 would compute 75. The convolution needs zeros around its input.

    Returns the number of convolutions split.
    """
    return _split(graph, {side: many for side, (many, _) in LARGE.items()})


def split_depthwise_in_three(graph: GraphModule) -> int:
    """Split each 7x7 depthwise convolution into three: 59 taps instead of 56, but two sums fewer; 9x9 into four.

    Returns the number of convolutions split.
    """
    return _split(graph, {side: few for side, (_, few) in LARGE.items()})


@torch.no_grad()
def _split(graph: GraphModule, sizes: Mapping[int, tuple[Part, ...]]) -> int:
    def sum_of_parts(layer: DenseLayer, weights: FixedWeights) -> Node | None:
        if not _shape(layer).is_large:
            return None
        node, call, middle = layer.node, inserter(graph, layer.node), layer.kernel[0] // 2
        parts = sizes[layer.kernel[0]]
        settings = [_padding_and_dilation(layer, part) for part in parts]
        if any(zeros < 0 for padding, _ in settings for zeros in padding):
            return None
        sums: list[Node] = []
        for (rows, columns), own in zip(parts, settings, strict=True):
            taps = weights.weight[:, :, [middle + row for row in rows]][..., [middle + column for column in columns]]
            kernel = add_constant(graph, node, f"{node.name}.taps", taps)
            args = (kernel, None if sums else layer.bias, [*layer.stride], *own, layer.groups)
            sums.append(call(A.conv2d.default, layer.source, *args))
        return reduce(lambda total, part: call(A.add.Tensor, total, part), sums)

    return replace_layers(graph, sum_of_parts)


def _padding_and_dilation(layer: DenseLayer, part: Part) -> tuple[list[int], list[int]]:
    """The settings of a small kernel. A negative padding means that the layer has too few zeros to be split."""
    axes = [*zip(part, layer.padding, layer.dilation, layer.kernel, strict=True)]
    padding = [zeros - step * (side // 2 - along[-1]) for along, zeros, step, side in axes]
    return padding, [step * (along[1] - along[0]) for along, _, step, _ in axes]


def _shape(layer: DenseLayer) -> ConvolutionShape:
    """The shape of a convolution in a graph."""
    sides = (layer.stride, layer.padding, layer.dilation)
    return ConvolutionShape(shape_of(layer.weight), shape_of(layer.node)[-2:], *sides, layer.groups)


@torch.no_grad()
def depthwise_blocks(graph: GraphModule) -> int:
    """Turn each 7x7 or 9x9 depthwise convolution into one on blocks of 4x4 pixels, if height and width allow it.

    The 16 pixels of a block become the channels of a group, so a grouped 3x3 convolution computes the same sums, with
    144 products for the 49 or 81. This pays in INT8, where XNNPACK multiplies much faster than a depthwise kernel can
    load. The weights take 47 or 28 times the space.

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
    """Weight [C*16,16,3,3] on blocks for a weight [C,1,side,side]: windows of 12x12 pixels, of which side² count."""
    window, side = weight.new_zeros(len(weight), BLOCK, BLOCK, 3 * BLOCK, 3 * BLOCK), weight.shape[-1]
    for row, column in product(range(BLOCK), repeat=2):
        top, left = (BLOCK + place - side // 2 for place in (row, column))
        window[:, row, column, top : top + side, left : left + side] = weight[:, 0]
    taps = window.reshape(-1, 3, BLOCK, 3, BLOCK).permute(0, 2, 4, 1, 3)
    return taps.reshape(-1, BLOCK * BLOCK, 3, 3)
