"""Converts pointwise convolutions to Linear on [N,H,W,C], which saves transposes.

A converter puts a transpose before and after every operation whose layout differs from its own. Here each pointwise
convolution becomes a Linear between two permutes. The permutes back to channels first then sink through operations that
work in either layout, until they meet a permute to channels last and both cancel. One pair remains around each spatial
convolution.
"""

from torch.fx import GraphModule

from edgekit.compiler.graph import (
    A,
    insert,
    insert_layer,
    refresh,
    replace_layer,
)
from edgekit.compiler.layers import DenseLayer, dense_layers, fixed_weights
from edgekit.compiler.rewrites.layout import TO_FIRST, TO_LAST, sink_permutes


def channels_last(graph: GraphModule) -> int:
    """Replace each pointwise convolution by a Linear on channels last.

    Returns the number of convolutions replaced.
    """
    converted = 0
    for layer in dense_layers(graph):
        converted += _pointwise_to_linear(graph, layer)
    refresh(graph)
    sink_permutes(graph, TO_FIRST)
    return converted


def _pointwise_to_linear(graph: GraphModule, layer: DenseLayer) -> bool:
    if not layer.is_conv or layer.groups != 1:
        return False
    node, weights = layer.node, fixed_weights(graph, layer)
    plain = layer.stride == (1, 1) and layer.padding == (0, 0)
    if weights is None or layer.kernel != (1, 1) or not plain:
        return False
    inner = insert(graph, node, A.permute.default, layer.source, TO_LAST, like=node)
    linear = insert_layer(graph, node, A.linear.default, inner, weights.weight.flatten(1), weights.bias)
    outer = insert(graph, node, A.permute.default, linear, TO_FIRST, like=node)
    replace_layer(graph, node, outer)
    return True
