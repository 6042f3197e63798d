"""What the calibration of a network found, for the graphs of several runtimes.

These graphs differ in layout and in the form of operations, not in the values that their layers read and write. Ranges,
scales and rounded weights are therefore found once, in a graph with the rewrites and the placement that the runtimes
share, and are copied into each runtime's graph by the names of its layers.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import set_bias
from edgekit.compiler.layers import DenseLayer, dense_layers, distinct_names, fixed_weights
from edgekit.compiler.quantize.equalize import Divisors
from edgekit.compiler.quantize.placement import Placement
from edgekit.compiler.quantizers import LayerWeights, places_of, quantizers, set_grid, set_int8_weights

SAME = 1e-5
"""Largest relative difference that rewrites may make between the weights of a layer in two graphs."""


@dataclass(frozen=True)
class Range:
    """The range of a quantized value."""

    scale: float
    below: int
    """Number of levels below the zero point."""


@dataclass(frozen=True, eq=False)
class CalibratedLayer:
    """A layer in INT8."""

    before: Tensor
    """Its float weight before calibration, [out,in/groups,H,W] or [out,in]."""
    bias_before: Tensor | None
    """Its bias before calibration, [out]."""
    limited: LayerWeights
    """Its weights for a runtime in which no pair of them may saturate."""
    unlimited: LayerWeights
    """Its weights for the others."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the calibration of a network found."""

    divisors: Divisors
    """Divisors of the equalization."""
    ranges: Mapping[str, Range]
    """Range of each quantized value, by its places."""
    layers: Mapping[str, CalibratedLayer]
    """The layers in INT8, by their distinct names."""

    def without_weights(self) -> "Calibration":
        """This calibration with its ranges alone, for layers that keep their float weights."""
        return replace(self, layers={})

    def layouts(self, graph: GraphModule, placement: Placement) -> "Mapping[Node, LayerLayout] | None":
        """How the layers of a runtime's float graph store the weights of this calibration.

        It leaves out those that the recipe keeps in float. None if the graph lacks others in INT8, or if its rewrites
        changed their values.
        """
        names = distinct_names(graph)
        covered = {names[layer.node]: layer for layer in dense_layers(graph) if placement.quantizes(graph, layer)}
        in_float = {names[layer.node] for layer in dense_layers(graph) if placement.keeps_in_float(layer)}
        wanted = self.layers.keys() - in_float
        if not wanted <= covered.keys():
            return None
        found = {covered[name].node: self._layout(graph, covered[name], name) for name in wanted}
        layouts = {node: layout for node, layout in found.items() if layout is not None}
        return layouts if len(layouts) == len(found) else None

    def _layout(self, graph: GraphModule, layer: DenseLayer, name: str) -> "LayerLayout | None":
        calibrated, weights = self.layers[name], fixed_weights(graph, layer)
        if weights is None or not _equal(weights.bias, calibrated.bias_before):
            return None
        weight = weights.weight
        for channels_last in (False, True):
            layout = LayerLayout(name, weight.shape, channels_last)
            if layout.holds(calibrated.before) and _equal(weight, layout.arrange(calibrated.before)):
                return layout
        return None

    def write(self, graph: GraphModule, layouts: "Mapping[str, LayerLayout]", limit_pairs: bool) -> bool:
        """Give a Q/DQ graph the ranges and weights of this calibration, in place; `layouts` is by the layers' nodes.

        Returns False, and leaves the graph half done, if it quantizes a value that was not calibrated.
        """
        for quantizer in quantizers(graph):
            places = sorted(places_of(quantizer.node) & self.ranges.keys())
            if not places:
                return False
            found = self.ranges[places[0]]
            set_grid(quantizer, (found.scale, quantizer.low + found.below, *quantizer.grid[2:]))
        for layer in dense_layers(graph):
            if layout := layouts.get(layer.node.name):
                calibrated = self.layers[layout.name]
                weights = calibrated.limited if limit_pairs else calibrated.unlimited
                _set_weights(graph, layer, replace(weights, weight=layout.arrange(weights.weight)))
        graph.recompile()
        return True


@dataclass(frozen=True)
class LayerLayout:
    """How a layer of a runtime's graph stores a weight."""

    name: str
    """Distinct name of the layer."""
    shape: torch.Size
    """Shape of the weight."""
    channels_last: bool
    """Whether the channels of each output come last, not before the positions of the kernel."""

    def holds(self, weight: Tensor) -> bool:
        """Whether this layout can store a weight."""
        return weight.numel() == self.shape.numel() and (weight.ndim == 4 or not self.channels_last)

    def arrange(self, weight: Tensor) -> Tensor:
        """A weight in this layout."""
        return (weight.permute(0, 2, 3, 1) if self.channels_last else weight).reshape(self.shape)


def _equal(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and torch.allclose(one, other, rtol=SAME, atol=SAME * float(other.abs().max()))


def _set_weights(graph: GraphModule, layer: DenseLayer, weights: LayerWeights) -> None:
    """Give a layer in INT8 another weight, scale and bias."""
    node = layer.node
    set_int8_weights(graph, node, weights.weight, weights.scale)
    if layer.bias is not None and weights.bias is not None:
        set_bias(graph, node, f"{node.name}.bias", weights.bias)
