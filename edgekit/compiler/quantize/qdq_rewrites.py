"""Small rewrites of a calibrated graph that don't depend on the runtime."""

import torch
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import add_constant, constant, replace_layer
from edgekit.compiler.layers import dense_layers
from edgekit.compiler.nodes import A, is_padding, operand
from edgekit.compiler.quantizers import (
    QUANTIZE_CHANNELS,
    Grid,
    Quantizer,
    int8_weight,
    layer_weights,
    quantizer_of,
    quantizers,
    set_grid,
    set_int8_weights,
)

REARRANGEMENTS = {
    A.max_pool2d.default, A.flip.default, A.fliplr.default, A.flipud.default, A.rot90.default, A.roll.default,
    A.permute.default, A.transpose.int, A.reshape.default, A.flatten.using_ints, A.channel_shuffle.default,
    A.pixel_shuffle.default, A.pixel_unshuffle.default,
}  # fmt: skip
"""Operations whose output has values of their input only."""
LARGEST_BIAS = 2**30
"""Largest level of a bias: half of what int32 holds, because kernels add the products to it."""


def tie_rearrangements(graph: GraphModule) -> int:
    """Give each quantizer of int8 values that were only rearranged or pooled their range from before, in place.

    This avoids a second rounding, and LiteRT's kernel that flips values can't change their range. Returns the number of
    quantizers changed.
    """
    tied = 0
    for after in list(quantizers(graph)):
        value = after.source
        while value.target in REARRANGEMENTS:
            value = operand(value)
        before = quantizer_of(value)
        if before is not None and before.grid[2:] == after.grid[2:] and before.grid != after.grid:
            set_grid(after, before.grid)
            tied += 1
    graph.recompile()
    return tied


def set_known_grids(graph: GraphModule) -> int:
    """Give quantizers the grids that INT8 kernels of activations need, in place.

    LiteRT's sigmoid has the scale 1/256, and the clamp of a gate costs nothing where its grid ends at 0 and 1. The
    HardSwish of x is x * clip(x, -3, 3) / 6 + x / 2, whose second factor has levels of x if 3 is a level of x. No grid
    becomes narrower by that. Returns the number of quantizers changed.
    """
    known = [(quantizer, _known_grid(quantizer)) for quantizer in quantizers(graph)]
    for quantizer, grid in known:
        set_grid(quantizer, grid)
    graph.recompile()
    return sum(grid != quantizer.grid for quantizer, grid in known)


def _known_grid(quantizer: Quantizer) -> Grid:
    """The grid that the operation before or behind a quantizer needs, or the one that it has."""
    source, (scale, _, least, most, dtype) = quantizer.source, quantizer.grid
    readers = {reader.target for dequantizer in quantizer.node.users for reader in dequantizer.users}
    if A.hardswish.default in readers:
        low, high = quantizer.representable_range
        to_three = int(3 * (most - least) / (high - min(low, -3)))
        if to_three == 0:  # three would be less than a level
            return quantizer.grid
        scale = 3 / to_three
        return scale, least + max(to_three, round(-low / scale)), least, most, dtype
    if A.mul.Tensor in readers and source.target is A.sigmoid.default:
        return 1 / 256, least, least, most, dtype
    if A.mul.Tensor in readers and source.target is A.clamp.default and source.args[1:] == (0, 1):
        return 1 / (most - least), least, least, most, dtype
    return quantizer.grid


@torch.no_grad()
def center_weights(graph: GraphModule) -> int:
    """Give every channel of the weights the zero point 0, in place. Returns the number of weights changed.

    Ranges of weights are symmetric, but NNCF gives a channel that contains only zeros the zero point -127, and LiteRT
    then refuses the file.
    """
    changed = 0
    for node in graph.graph.find_nodes(op="call_function", target=QUANTIZE_CHANNELS):
        zeros = constant(graph, operand(node, 2))
        if zeros is None or not bool(zeros.any()):
            continue
        centred = add_constant(graph, node, f"{node.name}.zero_point", torch.zeros_like(zeros))
        for part in (node, *node.users):
            part.args = (*part.args[:2], centred, *part.args[3:])
        changed += 1
    graph.recompile()
    return changed


@torch.no_grad()
def use_all_levels(graph: GraphModule) -> int:
    """Give weights that use half of their levels a scale at which they use all, in place. Returns their number.

    NNCF halves the levels of the first layers against saturation, which `pair_limits` prevents with a smaller loss and
    only where it can happen.
    """
    changed = 0
    for layer in dense_layers(graph):
        quantizer, weights = int8_weight(layer.node), layer_weights(graph, layer)
        if quantizer is None or weights is None:
            continue
        largest = weights.weight.abs().flatten(1).amax(1) / quantizer.high
        halved = (largest > 0) & (weights.scale > 1.5 * largest)
        if halved.any():
            set_int8_weights(graph, layer.node, scale=torch.where(halved, largest, weights.scale))
            changed += 1
    graph.recompile()
    return changed


@torch.no_grad()
def fit_biases(graph: GraphModule) -> int:
    """Give weights a scale at which kernels can store the bias, in place. Returns the number of layers changed.

    The bias is an int32 number of levels of the input times levels of the weight. The weights of a channel that is
    nearly constant, as batch norms and pruning leave it, may have levels of which its bias is too many.
    """
    changed = 0
    for layer in dense_layers(graph):
        source = operand(layer.source) if is_padding(layer.source) else layer.source
        quantizer, weights = quantizer_of(source), layer_weights(graph, layer)
        if quantizer is None or weights is None or weights.bias is None:
            continue
        scale = torch.maximum(weights.scale, weights.bias.abs() / (LARGEST_BIAS * quantizer.scale))
        if not torch.equal(scale, weights.scale):
            set_int8_weights(graph, layer.node, scale=scale)
            changed += 1
    graph.recompile()
    return changed


@torch.no_grad()
def fold_weights(graph: GraphModule) -> int:
    """Replace the float weights before Q/DQ by their int8 levels, in place. Returns the number of weights replaced.

    The float weights are freed one by one, so compilation starts with a quarter of the memory. The levels are numbered,
    because names of nodes change when `edgekit quantize` writes a graph to a file, and the files would differ.
    """
    folded = 0
    for node in graph.graph.find_nodes(op="call_function", target=QUANTIZE_CHANNELS):
        weight, *args = (constant(graph, arg) if isinstance(arg, Node) else arg for arg in node.args)
        if weight is None:
            continue
        levels = add_constant(graph, node, f"weight_{folded}.int8", node.target(weight, *args))
        replace_layer(graph, node, levels)
        folded += 1
    graph.recompile()
    return folded
