"""Merges parallel convolutions of one input, with which RepVGG, MobileOne, RepViT and FastViT are trained."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument
from torch.nn.functional import pad

from edgekit.compiler.graph import add_constant, constant, insert
from edgekit.compiler.layers import DenseLayer, dense_layer, fixed_weights
from edgekit.compiler.nodes import A, layer_name, operand, shape_of
from edgekit.compiler.simplify.batch_norms import factor_and_shift

SUMS: Mapping[Any, int] = {A.add.Tensor: 1, A.sub.Tensor: -1}
"""Sums of two values, and the sign of the second one."""


@dataclass(frozen=True)
class _Branches:
    """What a value is made of: convolutions of one input, that input times a factor, and a constant per channel."""

    convs: tuple[DenseLayer, ...]
    """Convolutions with the same stride and groups, each centred on its output's pixel."""
    kernel: Tensor
    """The sum of their kernels, float64 [out,in/groups,H,W]; a zero without convolutions."""
    factor: Tensor
    """Factor of each channel of the input itself, float64 [out]; a zero where the input isn't added."""
    shift: Tensor
    """Constant of each channel, float64 [out]; a zero without constants."""
    count: int
    """Number of branches that have weights: convolutions, and batch norms or products of the input itself."""

    def times(self, factor: Tensor) -> "_Branches":
        """The same branches, each multiplied by a factor, [out] or a single one."""
        own = self.count or 1  # a product of the input itself is a branch with weights
        kernel, scaled, shift = self.kernel * factor.view(-1, 1, 1, 1), self.factor * factor, self.shift * factor
        return replace(self, kernel=kernel, factor=scaled, shift=shift, count=own)

    def plus(self, other: "_Branches", sign: int) -> "_Branches":
        """The sum of both, or the difference."""
        height, width = (max(sizes) for sizes in zip(self.kernel.shape[2:], other.kernel.shape[2:], strict=True))
        kernels = [_in_the_middle(kernel, height, width) for kernel in (self.kernel, other.kernel)]
        return _Branches(
            (*self.convs, *other.convs),
            kernels[0] + sign * kernels[1],
            self.factor + sign * other.factor,
            self.shift + sign * other.shift,
            self.count + other.count,
        )


@torch.no_grad()
def merge_branches(graph: GraphModule) -> int:
    """Merge the branches of each sum into one convolution, in place. Returns the number of sums.

    Branches are convolutions of the same input, also with batch norms and factors after them, and the input itself, if
    it has a batch norm or there are several convolutions. `x + conv(x)` stays, because it is a residual sum, and so do
    convolutions of 1x7 and 7x1, which would become one of 7x7.
    """
    merged, gone = 0, set[Node]()
    for node in reversed(list(graph.graph.nodes)):  # the largest sums first
        if node.target not in SUMS or node in gone:
            continue
        for source in dict.fromkeys(_conv_inputs(node)):
            tree: list[Node] = []
            branches = _branches(graph, node, source, tree)
            if branches is not None and _is_one_convolution(branches):
                _replace(graph, node, source, branches)
                for part in tree:
                    graph.graph.erase_node(part)
                gone.update(tree)
                merged += 1
                break
    return merged


def _conv_inputs(node: Argument) -> Iterator[Node]:
    """The inputs of the convolutions that a value is the sum of."""
    if not isinstance(node, Node):
        return
    if node.target is A.conv2d.default:
        yield operand(node)
    elif node.target in SUMS or node.target in (A.mul.Tensor, A.batch_norm.default):
        for value in node.args[:2]:
            if isinstance(value, Node) and len(value.users) == 1:
                yield from _conv_inputs(value)


def _branches(graph: GraphModule, node: Argument, source: Node, tree: list[Node]) -> _Branches | None:
    """What a value is made of, if `source` is the only input of its branches. Adds the nodes to `tree`, outer first."""
    zero = torch.zeros(1, dtype=torch.float64)
    none = _Branches((), zero.view(1, 1, 1, 1), zero, zero, 0)
    if node is source:
        return replace(none, factor=torch.ones(shape_of(source)[1], dtype=torch.float64))
    if not isinstance(node, Node) or node in tree or (tree and len(node.users) != 1):
        return None
    tree.append(node)
    if (layer := dense_layer(node)) is not None:
        weights = fixed_weights(graph, layer) if _is_centred(layer) else None
        if weights is None or layer.source is not source:
            return None
        shift = zero if weights.bias is None else weights.bias.double()
        return _Branches((layer,), weights.weight.double(), zero, shift, 1)
    if node.target in SUMS:
        return _sum(graph, node, source, tree)
    if node.target is A.batch_norm.default:
        affine, inner = factor_and_shift(graph, node), _branches(graph, node.args[0], source, tree)
        if affine is None or inner is None:
            return None
        scaled = inner.times(affine[0])
        return replace(scaled, shift=scaled.shift + affine[1])
    if node.target is A.mul.Tensor:
        factor, inner = _channel_factor(graph, node), _branches(graph, node.args[0], source, tree)
        return None if factor is None or inner is None else inner.times(factor)
    return None


def _sum(graph: GraphModule, node: Node, source: Node, tree: list[Node]) -> _Branches | None:
    """What a sum of two values of the same shape is made of. Its convolutions must have the same stride and groups."""
    alike = all(isinstance(value, Node) and shape_of(value) == shape_of(node) for value in node.args)
    if node.kwargs or not alike:
        return None
    first, second = (_branches(graph, value, source, tree) for value in node.args)
    if first is None or second is None:
        return None
    geometries = {(conv.stride, conv.groups) for conv in (*first.convs, *second.convs)}
    return first.plus(second, SUMS[node.target]) if len(geometries) < 2 else None


def _is_centred(layer: DenseLayer) -> bool:
    """Whether a layer is a convolution whose kernel is centred on the pixel that it computes, or on every n-th."""
    centred = layer.padding == tuple(size // 2 for size in layer.kernel) and all(size % 2 for size in layer.kernel)
    return layer.is_conv and centred and layer.dilation == (1, 1)


def _channel_factor(graph: GraphModule, product: Node) -> Tensor | None:
    """The factors of a product with a number or with one constant per channel, float64 [1] or [C]."""
    factor = product.args[1]
    if isinstance(factor, int | float):
        return torch.tensor([factor], dtype=torch.float64)
    if not isinstance(product.args[0], Node) or not isinstance(factor, Node):
        return None
    value, shape = constant(graph, factor), shape_of(product.args[0])
    fits = value is not None and len(shape) == 4 and tuple(value.shape) in ((1, shape[1], 1, 1), (shape[1], 1, 1))
    return value.double().flatten() if value is not None and fits else None


def _is_one_convolution(branches: _Branches) -> bool:
    """Whether several branches with weights cost no more as one convolution."""
    return branches.count > 1 and any(conv.kernel == branches.kernel.shape[2:] for conv in branches.convs)


def _replace(graph: GraphModule, total: Node, source: Node, branches: _Branches) -> None:
    """Compute a sum as one convolution, which gets the name of the branch with the largest kernel."""
    largest = max(branches.convs, key=lambda conv: conv.kernel)
    out, per_group, height, width = branches.kernel.shape
    kernel = branches.kernel.clone()
    channels = torch.arange(out)
    kernel[channels, channels % per_group, height // 2, width // 2] += branches.factor
    name = layer_name(largest.node)
    weight = add_constant(graph, total, f"{name}.weight", kernel.float())
    bias = add_constant(graph, total, f"{name}.bias", branches.shift.expand(out).float())
    geometry = (list(largest.stride), [height // 2, width // 2], [1, 1], largest.groups)
    conv = insert(graph, total, A.conv2d.default, source, weight, bias, *geometry, like=largest.node)
    total.replace_all_uses_with(conv)


def _in_the_middle(kernel: Tensor, height: int, width: int) -> Tensor:
    """A kernel with zeros around it."""
    rows, columns = (height - kernel.shape[2]) // 2, (width - kernel.shape[3]) // 2
    return pad(kernel, (columns, columns, rows, rows))
