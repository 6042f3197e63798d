"""Folds constants that are added to the channels of a dense layer into its bias, as files of Paddle need it."""

from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.graph import A, add_constant, argument, constant, drop_constants, layer_name, shape_of


def fold_biases(graph: GraphModule) -> int:
    """Fold each constant per channel that is added to a layer's only use into the bias of the layer.

    Returns the number of sums folded.
    """
    folded = 0
    for node in graph.graph.find_nodes(op="call_function", target=A.add.Tensor):
        if node.kwargs:
            continue
        for layer, added in (node.args, node.args[::-1]):
            shift = _per_channel(layer, constant(graph, added))
            if shift is None or len(layer.users) != 1:
                continue
            old = constant(graph, argument(layer, 2, None))
            bias = add_constant(graph, layer, f"{layer_name(layer)}.bias", shift if old is None else old + shift)
            before, layer.args = layer.args, (*layer.args[:2], bias, *layer.args[3:])
            drop_constants(graph, before[2:3])
            node.replace_all_uses_with(layer)
            folded += 1
            break
    return folded


def _per_channel(layer: Argument, value: Tensor | None) -> Tensor | None:
    """A value [C] for each output channel of a layer, if it broadcasts so; None for other nodes and shapes."""
    if value is None or not isinstance(layer, Node) or layer.target not in (A.conv2d.default, A.linear.default):
        return None
    shape = [1] * len(shape_of(layer))
    axis = 1 if layer.target is A.conv2d.default else len(shape) - 1
    shape[axis] = shape_of(layer)[axis]
    return value.flatten() if [1] * (len(shape) - value.ndim) + list(value.shape) == shape else None
