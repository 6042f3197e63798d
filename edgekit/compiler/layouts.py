"""Rewrites of convolutions: between the layouts [N,C,H,W] and [N,H,W,C], and into forms with faster kernels.

Runtimes have faster kernels for one of the layouts. OpenVINO stores the channels last in memory anyway, but only for
operations whose shape is channels first. There, each permute to [N,H,W,C] or back copies the tensor. Other converters
put a transpose before and after every operation whose layout differs from their own: with channels last, each pointwise
convolution becomes a Linear between two permutes. The permutes back sink through operations that work in either layout,
until they meet their inverse and both cancel. One pair remains around each spatial convolution.

Patch convolutions, whose kernels are as large as their strides and see each pixel once, become Linear. Large depthwise
convolutions get forms that XNNPACK runs fast: small kernels, or a grouped one on blocks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument, Target

from edgekit.compiler.graph import (
    A,
    add_constant,
    argument,
    axes_of,
    constant,
    constants,
    insert,
    insert_layer,
    inserter,
    integers,
    node_of,
    operand,
    operation_of,
    pair,
    refresh,
    replace_each,
    set_values,
    shape_of,
    weight_of,
)
from edgekit.compiler.layers import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    QUANTIZE,
    DenseLayer,
    FixedWeights,
    dense_layer,
    dense_layers,
    replace_layers,
)

TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]

ELEMENTWISE = {
    A.gelu.default,
    A.relu.default,
    A.silu.default,
    A.hardswish.default,
    A.hardsigmoid.default,
    A.sigmoid.default,
    A.mish.default,
    A.clamp.default,
    A.tanh.default,
    A.sqrt.default,
    A.rsqrt.default,
    A.neg.default,
    A.pow.Tensor_Scalar,
    A.add.Tensor,
    A.sub.Tensor,
    A.mul.Tensor,
    A.div.Tensor,
    A.addcmul.default,
}
REDUCTIONS: dict[Target, int] = {
    A.mean.dim: 1,
    A.sum.dim_IntList: 1,
    A.linalg_vector_norm.default: 2,
}  # position of the axes


def sink_permutes(graph: GraphModule, order: list[int]) -> None:
    """Move permutes of `order` (TO_FIRST or TO_LAST) down until they meet their inverse, and both cancel."""
    refresh(graph)
    for node in list(graph.graph.nodes):
        _sink(graph, node, order)
    refresh(graph)


def is_permute(node: Argument, order: list[int]) -> bool:
    """Whether a node is a permute of this order."""
    return isinstance(node, Node) and node.target is A.permute.default and axes_of(node) == order


def _sink(graph: GraphModule, node: Node, order: list[int]) -> None:
    """Move a permute from the node's inputs to its output, or cancel it."""
    if node.op != "call_function" or not any(is_permute(value, order) for value in node.all_input_nodes):
        return
    if is_permute(node, _inverse(order)):
        node.replace_all_uses_with(operand(operand(node)))
    elif node.target in ELEMENTWISE:
        _sink_elementwise(graph, node, order)
    elif node.target in REDUCTIONS:
        _sink_reduction(graph, node, order)
    elif order == TO_FIRST:
        _sink_head(graph, node)


def _inverse(order: list[int]) -> list[int]:
    return TO_LAST if order == TO_FIRST else TO_FIRST


def _sink_head(graph: GraphModule, node: Node) -> None:
    """Remove the permute before a pooling to one pixel, and before a flatten that follows it."""
    first = node.args[0]
    if not is_permute(first, TO_FIRST):
        return
    first = node_of(first)
    if node.target is A.adaptive_avg_pool2d.default and pair(node.args[1]) == (1, 1):
        mean = insert(graph, node, A.mean.dim, first.args[0], [1, 2], True, like=node)
        _finish(graph, node, mean, TO_FIRST)
    elif node.target not in (A.flatten.using_ints, A.reshape.default):
        return
    elif math.prod(shape_of(first)[2:]) == 1:  # this permute is only a view
        node.replace_input_with(first, operand(first))
        node.target, node.args = A.reshape.default, (first.args[0], list(shape_of(node)))


def _sink_elementwise(graph: GraphModule, node: Node, order: list[int]) -> None:
    inverse = _inverse(order)
    if len(shape_of(node)) != 4:
        return  # an operand has more axes
    args: list[Argument] = []
    for value in node.args:
        if not isinstance(value, Node) or len(shape_of(value)) == 0:
            args.append(value)
        elif is_permute(value, order):
            args.append(operand(value))
        elif (fixed := constant(graph, value)) is not None:
            fixed = fixed.reshape([1] * (4 - fixed.ndim) + list(fixed.shape)).permute(inverse)
            args.append(add_constant(graph, node, f"{value.name}_permuted", fixed))
        elif len(shape_of(value)) < 4:
            return  # broadcasting along the width or the channels is rare
        else:
            args.append(insert(graph, node, A.permute.default, value, inverse, like=node))
    _finish(graph, node, insert(graph, node, operation_of(node), *args, like=node, **node.kwargs), order)


def _sink_reduction(graph: GraphModule, node: Node, order: list[int]) -> None:
    position = REDUCTIONS[node.target]
    over = argument(node, position)
    if over is None:
        return
    keep = argument(node, position + 1, False)
    axes = sorted(order[axis % 4] for axis in integers(over))
    if not keep and axes != ([1, 2] if order == TO_FIRST else [2, 3]):
        return
    args = list(node.args)
    args[0], args[position] = operand(operand(node)), axes
    reduced = insert(graph, node, operation_of(node), *args, like=node, **node.kwargs)
    if keep:
        _finish(graph, node, reduced, order)
    else:
        node.replace_all_uses_with(reduced)


def _finish(graph: GraphModule, node: Node, inner: Node, order: list[int]) -> None:
    """Replace `node` by `inner`, which is in the other layout, and a permute back."""
    node.replace_all_uses_with(insert(graph, node, A.permute.default, inner, order, like=node))


@torch.no_grad()
def channels_first(graph: GraphModule) -> int:
    """Replace each Linear on [N,H,W,C] by a pointwise convolution on [N,C,H,W].

    Returns the number of layers replaced.
    """

    def pointwise(layer: DenseLayer, weights: FixedWeights) -> Node | None:
        node, call = layer.node, inserter(graph, layer.node)
        if layer.is_conv or len(shape_of(node)) != 4:
            return None
        inner = call(A.permute.default, layer.source, TO_FIRST)
        conv = insert_layer(graph, node, A.conv2d.default, inner, weights.weight[:, :, None, None], weights.bias)
        return call(A.permute.default, conv, TO_LAST)

    replaced = replace_layers(graph, pointwise)
    sink_permutes(graph, TO_LAST)
    return replaced


@torch.no_grad()
def channels_last(graph: GraphModule) -> int:
    """Replace each pointwise convolution by a Linear on channels last.

    Returns the number of convolutions replaced.
    """

    def linear(layer: DenseLayer, weights: FixedWeights) -> Node | None:
        node, call = layer.node, inserter(graph, layer.node)
        plain = layer.stride == (1, 1) and layer.padding == (0, 0) and layer.groups == 1
        if not layer.is_conv or layer.kernel != (1, 1) or not plain:
            return None
        inner = call(A.permute.default, layer.source, TO_LAST)
        rows = insert_layer(graph, node, A.linear.default, inner, weights.weight.flatten(1), weights.bias)
        return call(A.permute.default, rows, TO_FIRST)

    replaced = replace_layers(graph, linear)
    sink_permutes(graph, TO_FIRST)
    return replaced


@torch.no_grad()
def channels_first_layer_norm(graph: GraphModule) -> int:
    """Decompose LayerNorm over the channels of [N,H,W,C] into operations on [N,C,H,W].

    Both reductions read the original tensor, so that centring, scaling and the operations after them need only one more
    pass. The variance is therefore the mean square minus the square of the mean. In float32 this loses precision by the
    factor by which the squared mean exceeds the variance: a digit or two after a depthwise convolution.

    Returns the number of norms changed.
    """

    def decomposed(norm: Node) -> Node | None:
        affine = constants(graph, argument(norm, 2), argument(norm, 3))
        if affine is None or len(integers(norm.args[1])) != 1 or len(shape_of(norm)) != 4:
            return None
        channels, eps, call = shape_of(norm)[-1], argument(norm, 4, 1e-5), inserter(graph, norm)
        x = call(A.permute.default, norm.args[0], TO_FIRST)
        # OpenVINO's kernels for a sum and a vector norm are faster than those for a mean and a mean square.
        mean = call(A.mul.Tensor, call(A.sum.dim_IntList, x, [1], True), 1 / channels)
        length = call(A.linalg_vector_norm.default, x, 2, [1], True)
        squares = [call(A.mul.Tensor, value, value) for value in (length, mean)]
        variance = call(A.sub.Tensor, call(A.mul.Tensor, squares[0], 1 / channels), squares[1])
        variance = call(A.add.Tensor, call(A.relu.default, variance), eps)  # rounding must not make it negative
        out = call(A.mul.Tensor, call(A.sub.Tensor, x, mean), call(A.rsqrt.default, variance))
        for part, target in zip(affine, (A.mul.Tensor, A.add.Tensor), strict=True):
            if part is not None:
                out = call(target, out, add_constant(graph, norm, f"{norm.name}.affine", part[:, None, None]))
        return call(A.permute.default, out, TO_LAST)

    replaced = replace_each(graph, {A.layer_norm.default}, decomposed)
    sink_permutes(graph, TO_LAST)
    return replaced


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


EACH_CHANNEL = {
    A.relu.default,
    A.clamp.default,
    A.leaky_relu.default,
    A.silu.default,
    A.hardswish.default,
    A.hardsigmoid.default,
    A.sigmoid.default,
    A.tanh.default,
    A.gelu.default,
    A.mish.default,
    A.add.Tensor,
    A.mul.Tensor,
    A.max_pool2d.default,
    A.avg_pool2d.default,
    A.adaptive_avg_pool2d.default,
    A.mean.dim,
    QUANTIZE,
    DEQUANTIZE,
}
"""Operations that compute each channel of [N,C,H,W] from the same channel of operands with as many channels.

What they compute of zeros is finite, so a weight of zero makes zero of it.
"""
VECTOR = 16
"""Channels that ONNX Runtime's depthwise INT8 kernel for x86 computes at once. It computes the others one by one."""


@torch.no_grad()
def pad_depthwise(graph: GraphModule) -> int:
    """Pad the channels of INT8 depthwise layers to a multiple of 16 in a Q/DQ graph whose weights are levels.

    The layers before get outputs of zeros, and the layers behind weights of zeros for them, so all outputs stay equal.
    Only layers in INT8 and operations in `EACH_CHANNEL` may read and write the padded values, and concatenations.

    Returns the number of layers changed, with those before and behind.
    """
    orders, changed = _orders(graph), 0
    for layer in dense_layers(graph):
        outputs, inputs = orders.get(layer.node), orders.get(layer.source)
        if outputs is inputs is None:
            continue
        weight, axes, name = layer.weight, [outputs] if layer.is_depthwise else [outputs, inputs], f"padded_{changed}"
        levels, scale, zero_point = (
            _padded(graph, operand(weight, place), f"{name}.{place}", axes, fill)
            for place, fill in enumerate((0, 1, 0))
        )
        weight.args = (levels, scale, zero_point, *weight.args[3:])
        bias = layer.bias and _padded(graph, layer.bias, f"{name}.bias", axes, 0)
        geometry = ([*sizes] for sizes in (layer.stride, layer.padding, layer.dilation))
        groups = shape_of(levels)[0] if layer.is_depthwise else 1
        layer.node.args = (layer.source, weight, bias, *geometry, groups)
        changed += 1
    if changed:
        set_values(refresh(graph))
    return changed


def _padded(graph: GraphModule, node: Node, name: str, axes: Sequence[list[int] | None], fill: int = 0) -> Node:
    """Insert a constant with these orders of another's slices along its axes; their number stands for `fill`."""
    value = weight_of(graph, node)
    for axis, order in enumerate(axes[: value.ndim]):
        if order is not None:
            end = torch.full_like(value.narrow(axis, 0, 1), fill)
            value = torch.cat([value, end], axis).index_select(axis, torch.tensor(order))
    return add_constant(graph, node, name, value)


def _orders(graph: GraphModule) -> dict[Node, list[int]]:
    """The channel in each place of the values that `pad_depthwise` pads; their number stands for zeros.

    Values have the same order if an operation computes each channel of one from that channel of the others.
    """
    like: dict[Node, Node] = {}

    def first(node: Node) -> Node:
        while node in like:
            node = like[node]
        return node

    fixed, odd, concatenations = set[Node](), set[Node](), dict[Node, list[Node]]()
    for node in graph.graph.nodes:
        layer, alike = dense_layer(node), list[Node]()
        if layer is not None and layer.is_conv and layer.weight.target is DEQUANTIZE_CHANNELS:
            if layer.is_depthwise and layer.groups == shape_of(node)[1]:
                alike = [layer.source]
                odd |= {node} if layer.source.target is DEQUANTIZE else set()
            elif layer.groups > 1:
                fixed |= {node, layer.source}
        elif node.target is A.cat.default and argument(node, 1, 0) == 1 and len(shape_of(node)) == 4:
            concatenations[node] = [*map(node_of, node.args[0])]
        elif node.target in EACH_CHANNEL and _has_channels_of_all(node):
            alike = node.all_input_nodes
        else:
            fixed |= {node, *node.all_input_nodes}
        for value in alike:
            if first(value) is not first(node):
                like[first(node)] = first(value)
    while True:
        kept = {first(node) for node in fixed}
        orders = {
            node: [*range(shape_of(node)[1]), *[shape_of(node)[1]] * (-shape_of(node)[1] % VECTOR)]
            for node in {first(node) for node in odd} - kept - {first(node) for node in concatenations}
        }
        for node, parts in [*concatenations.items()] * 2:  # a part may get its order from a later concatenation
            joined, start, channels = list[int](), 0, shape_of(node)[1]
            for part in parts:
                own = shape_of(part)[1]
                order = orders.get(first(part), range(own))
                joined += [channels if place == own else start + place for place in order]
                start += own
            if joined != ([*range(channels)] if first(node) in kept else orders.setdefault(first(node), joined)):
                fixed |= {node, *parts}
                break
        else:
            values = [node for node in graph.graph.nodes if first(node) in orders]
            return {node: orders[first(node)] for node in values if len(orders[first(node)]) > shape_of(node)[1]}


def _has_channels_of_all(node: Node) -> bool:
    """Whether an operation's value and all its operands are [N,C,H,W] with the same C, and none is a constant."""
    shapes = [shape_of(value) for value in (node, *node.all_input_nodes)]
    alike = all(len(shape) == 4 and shape[1] == shapes[0][1] for shape in shapes)
    return alike and all(value.op != "get_attr" for value in node.all_input_nodes)
