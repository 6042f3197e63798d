"""Keeps pairs of INT8 weights from saturating on x86 without VNNI, where kernels add two products in 16 bits.

Where a pair of weights could saturate, its output channel gets a larger scale, at which the real weights of each pair
sum up to at most 127 levels. Rounded to nearest, they sum up to at most 128, which can't saturate. Rounding that moves
weights further, such as GPTQ's, limits the second weight of a pair to what the first one leaves.

In a product of two activations, the second one takes the place of the weights.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgekit.compiler.graph import A, Q, argument, constant, has_int8_weights, insert, set_int8_weights
from edgekit.support.weight_pairs import LARGEST_SUM, pairings


def pairings_of(layer: Any, weight: Tensor) -> list[Tensor]:
    """How kernels may pair a layer's inputs within a group: int64 [pairs,2] each. Empty if it has no pairs."""
    groups = argument(layer, 6, 1) if layer.target is A.conv2d.default else 1
    return [torch.from_numpy(pairs) for pairs in pairings(weight.shape, groups)]


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
    for node in filter(has_int8_weights, list(graph.graph.nodes)):
        weight, scale = (constant(graph, argument) for argument in node.args[1].args[0].args[:2])
        if weight is None or scale is None:
            continue
        wider = safe_scales(weight.flatten(1), scale, pairings_of(node, weight))
        if not torch.equal(wider, scale):
            set_int8_weights(graph, node, scale=wider)
            changed += 1
    graph.recompile()
    return changed


def limit_keys(graph: GraphModule) -> int:
    """Give INT8 keys of attention levels within ±64, half of the largest sum, in place. Returns how many it limited.

    The kernel for a product of two activations pairs neighbouring values of a key.
    """
    limited = 0
    for attention in graph.graph.find_nodes(op="call_function", target=A.scaled_dot_product_attention.default):
        dequantizer = attention.args[1]
        if dequantizer.target is not Q.dequantize_per_tensor.default:
            continue
        quantizer = dequantizer.args[0]
        key, scale, *rest = quantizer.args
        bound = LARGEST_SUM // 2 * 2 * scale
        quantizer.args = (insert(graph, quantizer, A.clamp.default, key, -bound, bound), 2 * scale, *rest)
        for node in list(quantizer.users):
            node.args = (quantizer, 2 * scale, *rest)
        limited += 1
    graph.recompile()
    return limited
