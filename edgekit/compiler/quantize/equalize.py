"""Equalizes the ranges of activation channels without extra operations, like SmoothQuant (arXiv 2211.10438).

All channels share one int8 range, so a channel with large values costs the others resolution. If the operation before a
dense layer already has a factor per channel (ConvNeXt V2's response norm, a LayerNorm's affine), a constant divides the
channels there and multiplies the layer's weights. The function and its operations stay the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from edgekit.compiler.execution.collector import Collector
from edgekit.compiler.graph import add_constant, constants, refresh, weight_of
from edgekit.compiler.layers import DenseLayer, axes_but, distinct_names, scale_input
from edgekit.compiler.nodes import A, argument, integers, operand, shape_of
from edgekit.compiler.rewrites.affine import dense_consumers
from edgekit.compiler.rewrites.response_norm import channel_axis
from edgekit.support.progress import Step, no_step


@dataclass(frozen=True)
class _Place:
    """A node with a factor per channel."""

    node: Node
    layers: list[DenseLayer]
    """Dense layers, which are the node's only consumers."""
    axis: int
    """Axis of the channels."""

    key: frozenset[str]
    """Distinct names of the layers, which are the same in every runtime's graph of a network."""


Divisors: TypeAlias = Mapping[frozenset[str], Tensor]
"""Divisor of each channel [C] at each place, by the distinct names of the layers that read it."""


def equalize(graph: GraphModule, samples: Sequence[NDArray[np.float32]], strength: float, step: Step = no_step) -> int:
    """Equalize a float graph in place, on images float32 [1,C,H,W]. Returns the number of places changed.

    `strength`, from 0 to 1, is the share of a channel's range that moves into the weights: SmoothQuant's alpha.
    """
    return divide(graph, find_divisors(graph, samples, strength, step))


@torch.no_grad()
def find_divisors(
    graph: GraphModule, samples: Sequence[NDArray[np.float32]], strength: float, step: Step = no_step
) -> Divisors:
    """The divisors that `equalize` would use. Reads each image once, unless the graph has no place."""
    places = _places(graph)
    if not places:
        step()
        return {}
    collector = _PeakCollector(graph, places)
    collector.collect(samples, step)
    return {place.key: _divisor(graph, place, collector.peaks[node], strength) for node, place in places.items()}


@torch.no_grad()
def divide(graph: GraphModule, divisors: Divisors) -> int:
    """Divide the channels at the places of a float graph that have a divisor, in place. Returns their number."""
    places = [place for place in _places(graph).values() if place.key in divisors]
    for place in places:
        divisor = divisors[place.key]
        _divide(graph, place, divisor)
        for layer in place.layers:
            scale_input(graph, layer, divisor, None)
    refresh(graph)
    return len(places)


def _places(graph: GraphModule) -> dict[Node, _Place]:
    names = distinct_names(graph)
    return {node: place for node in graph.graph.nodes if (place := _match(graph, node, names)) is not None}


def _match(graph: GraphModule, node: Node, names: Mapping[Node, str]) -> _Place | None:
    if node.target is A.layer_norm.default:
        affine = constants(graph, argument(node, 2), argument(node, 3))
        if affine is None or any(part is None for part in affine) or len(integers(node.args[1])) != 1:
            return None
        axis: int | None = len(shape_of(node)) - 1
    elif node.target is A.mul.Tensor and (weight := _response_weight(graph, node.args[1])) is not None:
        axis = channel_axis(weight, node)
    else:
        return None
    below = None if axis is None else dense_consumers(graph, node, axis)
    if axis is None or below is None:
        return None
    return _Place(node, below, axis, frozenset(names[layer.node] for layer in below))


def _response_weight(graph: GraphModule, factor: Argument) -> Tensor | None:
    """The weight of ``n * weight + 1``, which `fold_response_norm` makes; None for other nodes."""
    if not isinstance(factor, Node) or factor.target is not A.add.Tensor or len(factor.users) != 1:
        return None
    product = factor.args[0]
    if factor.args[1] != 1.0 or not isinstance(product, Node) or product.target is not A.mul.Tensor:
        return None
    (weight,) = constants(graph, product.args[1]) or (None,)
    return weight if len(product.users) == 1 else None


class _PeakCollector(Collector[Tensor]):
    """Records the largest magnitude of each channel at each place."""

    def __init__(self, graph: GraphModule, places: dict[Node, _Place]) -> None:
        super().__init__(graph, places)
        self._places = places
        self.peaks: dict[Node, Tensor] = {}

    def measure(self, node: Node, inputs: Sequence[Tensor], output: Tensor) -> Tensor:
        return output.abs().amax(axes_but(self._places[node].axis, output.ndim))

    def add(self, node: Node, part: Tensor) -> None:
        self.peaks[node] = torch.maximum(part, self.peaks[node]) if node in self.peaks else part


def _divisor(graph: GraphModule, place: _Place, peaks: Tensor, strength: float) -> Tensor:
    """Divisor of each channel, [C]; 1 for channels that are always zero."""
    weights = torch.zeros_like(peaks)
    for layer in place.layers:
        weight = weight_of(graph, layer.weight)
        weights = torch.maximum(weights, weight.abs().amax(axes_but(1, weight.ndim)))
    alive = (peaks > 0) & (weights > 0)
    divisor = peaks.where(alive, torch.ones(())) ** strength / weights.where(alive, torch.ones(())) ** (1 - strength)
    return (divisor / divisor[alive].log().mean().exp()).where(alive, torch.ones(()))


def _divide(graph: GraphModule, place: _Place, divisor: Tensor) -> None:
    """Divide the channels of the place's output by changing its constants."""
    node = place.node
    if node.target is A.layer_norm.default:
        affine = [weight_of(graph, node.args[position]) for position in (2, 3)]
        new = [add_constant(graph, node, f"{node.name}.{index}", part / divisor) for index, part in enumerate(affine)]
        node.args = (*node.args[:2], *new, *node.args[4:])
        return
    factor = operand(node, 1)
    product = operand(factor)
    weight = weight_of(graph, product.args[1])
    shape = weight.shape
    product.args = (product.args[0], add_constant(graph, product, f"{node.name}.weight", weight / divisor.view(shape)))
    factor.args = (product, add_constant(graph, factor, f"{node.name}.one", 1 / divisor.view(shape)))
