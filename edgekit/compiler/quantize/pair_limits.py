"""Keeps pairs of INT8 weights from saturating on x86 without VNNI, where kernels add two products in 16 bits.

Where a pair of weights could saturate, its output channel gets a larger scale, at which the real weights of each pair
sum up to at most 127 levels. Rounded to nearest, they sum up to at most 128, which can't saturate. Rounding that moves
weights further, such as GPTQ's, limits the second weight of a pair to what the first one leaves.

In a product of two activations, the second one takes the place of the weights.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgekit.compiler.graph import constant, insert
from edgekit.compiler.layers import DenseLayer, dense_layers
from edgekit.compiler.nodes import A
from edgekit.compiler.quantizers import int8_weight, quantizer_of, set_grid, set_int8_weights
from edgekit.support.weight_pairs import LARGEST_SUM, pairings


def pairings_of(layer: DenseLayer, weight: Tensor) -> list[Tensor]:
    """Pairings that kernels may use for a layer's inputs within a group: int64 [pairs,2] each. Empty without pairs."""
    return [torch.from_numpy(pairs) for pairs in pairings(weight.shape, layer.groups)]


def safe_scales(weight: Tensor, scales: Tensor, pairings: Sequence[Tensor]) -> Tensor:
    """The scales [..,out], raised where a pair of a weight [..,out,in] that is rounded to nearest could saturate."""
    for pairs in pairings:
        sums = weight[..., pairs[:, 0]] + weight[..., pairs[:, 1]]
        least = torch.cat([sums.abs(), torch.zeros_like(weight[..., :1])], -1).amax(-1) / (LARGEST_SUM - 1)
        scales = torch.maximum(scales, least.to(scales.dtype))
    return scales


@torch.no_grad()
def widen_scales(graph: GraphModule) -> int:
    """Give the layers of a Q/DQ graph scales at which no pair of weights saturates, in place.

    Returns the number of layers whose scales changed.
    """
    changed = 0
    for layer in dense_layers(graph):
        quantizer = int8_weight(layer.node)
        if quantizer is None or constant(graph, quantizer.source) is None:
            continue
        weight, scale = quantizer.weight_and_scale(graph)
        wider = safe_scales(weight.flatten(1), scale, pairings_of(layer, weight))
        if not torch.equal(wider, scale):
            set_int8_weights(graph, layer.node, scale=wider)
            changed += 1
    graph.recompile()
    return changed


def limit_keys(graph: GraphModule) -> int:
    """Give INT8 keys of attention levels within ±64, half of the largest sum, in place. Returns how many it limited.

    The kernel for a product of two activations pairs neighbouring values of a key.
    """
    limited = 0
    for attention in graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default):
        quantizer = quantizer_of(attention.args[1])
        if quantizer is None:
            continue
        node, bound = quantizer.node, LARGEST_SUM // 2 * 2 * quantizer.scale
        clamped = insert(graph, node, A.clamp.default, quantizer.source, -bound, bound)
        node.args = (clamped, *node.args[1:])
        set_grid(quantizer, (2 * quantizer.scale, *quantizer.grid[1:]))
        limited += 1
    graph.recompile()
    return limited
