"""Calibrates a graph with NNCF: inserts quantize/dequantize nodes (Q/DQ) according to a recipe.

The graphs of several runtimes differ in layout and in the form of operations, not in the values that their layers read
and write. Ranges, scales and rounded weights are therefore found once, in a graph with the rewrites and the placement
that the runtimes share, and are copied into each runtime's graph by the names of its layers.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node

from edgekit.compiler.execution import at_once, threads
from edgekit.compiler.graph import keep_constants_in, set_bias, store_of
from edgekit.compiler.layers import (
    DenseLayer,
    LayerWeights,
    Quantizer,
    dense_layers,
    distinct_names,
    fixed_weights,
    layer_weights,
    places_of,
    quantizers,
    set_grid,
    set_int8_weights,
    set_quantized_values,
    weight_quantizer_of,
)
from edgekit.compiler.nncf_compat import RangeEstimatorParametersSet, nncf, quantize_pt2e
from edgekit.compiler.placement import (
    Placement,
    RuntimeLowering,
    center_weights,
    fit_biases,
    set_known_grids,
    tie_rearrangements,
    use_all_levels,
)
from edgekit.compiler.ranges import (
    Divisors,
    Effect,
    divide,
    effects,
    equalize,
    find_divisors,
    find_ranges,
)
from edgekit.compiler.rounding import Hessians, fit_weights, limit_keys, round_weights, widen_scales
from edgekit.compiler.torch_compat import lazily_compiled
from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import LayerKind
from edgekit.errors import CompileError
from edgekit.support.libraries import LibraryErrors, first_line, quiet
from edgekit.support.progress import Step, no_step, parts_of

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
class Calibrated:
    """What the calibration of a network found."""

    divisors: Divisors
    """Divisors of the equalization."""
    ranges: Mapping[str, Range]
    """Range of each quantized value, by its places."""
    layers: Mapping[str, CalibratedLayer]
    """The layers in INT8, by their distinct names."""
    dynamic: Mapping[str, CalibratedLayer] = field(default_factory=dict)
    """The same for inputs with ranges at run time; empty if the weights of `layers` serve for them too."""

    def without_weights(self) -> "Calibrated":
        """This calibration with its ranges alone, for layers that keep their float weights."""
        return replace(self, layers={})

    def layouts(self, graph: GraphModule, placement: Placement) -> "Mapping[Node, LayerLayout] | None":
        """How the layers of a runtime's float graph store the weights of this calibration.

        It leaves out those that the recipe keeps in float. None if the graph lacks others in INT8, or if its rewrites
        changed their values.
        """
        names = distinct_names(graph)
        in_float = {names[layer.node] for layer in dense_layers(graph) if placement.kind_of(layer) == "float"}
        covered = {names[layer.node]: layer for layer in dense_layers(graph) if placement.quantizes(graph, layer)}
        wanted = self.layers.keys() - in_float
        if not wanted <= covered.keys():
            return None
        kinds = {name: placement.kind_of(covered[name]) for name in wanted}
        found = {covered[name].node: self._layout(graph, covered[name], name, kinds[name]) for name in wanted}
        layouts = {node: layout for node, layout in found.items() if layout is not None}
        return layouts if len(layouts) == len(found) else None

    def _layout(self, graph: GraphModule, layer: DenseLayer, name: str, kind: LayerKind) -> "LayerLayout | None":
        calibrated, weights = self.layers[name], fixed_weights(graph, layer)
        if weights is None or not _equal(weights.bias, calibrated.bias_before):
            return None
        weight = weights.weight
        for channels_last in (False, True):
            layout = LayerLayout(name, weight.shape, channels_last, kind)
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
                calibrated = (self.dynamic if layout.kind == "dynamic" else {}) or self.layers
                weights = calibrated[layout.name].limited if limit_pairs else calibrated[layout.name].unlimited
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
    kind: LayerKind
    """Kind of the layer there."""

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


Check: TypeAlias = Callable[[GraphModule], object]
"""Raises an error if a graph doesn't compute what it should."""

FAST_BIAS_CORRECTION = {"none": None, "fast": True, "accurate": False}


def no_check(graph: GraphModule) -> None:
    """Accept any graph."""


def quantize(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    target: str,
    lowering: RuntimeLowering,
    check: Check = no_check,
    step: Step = no_step,
    limit_pairs: bool = False,
) -> GraphModule:
    """The graph with Q/DQ in the places of the runtime's recipe, and ranges from `samples`, each float32 [1,C,H,W].

    `lowering` is the runtime's. The graph is consumed. `check` gets it after its equalization. All passes together
    count as 1 in `step`. With `limit_pairs`, nothing saturates in kernels that add two products in 16 bits. Raises
    CompileError if NNCF fails, for example on activations that aren't finite.
    """
    placement = lowering.placement(recipe, target, graph)
    equalizing, inserting, measuring, rounding = _passes(step, recipe)
    with torch.no_grad(), quiet():
        if recipe.equalization and equalize(graph, samples, recipe.equalization, equalizing):
            check(graph)
        quantized = _insert(graph, samples, recipe, placement, inserting)
        hessians = _find_ranges(quantized, samples, recipe, effects(quantized), measuring)
        set_known_grids(quantized)
        _round(quantized, samples, recipe, limit_pairs, {}, hessians, rounding)
        fit_biases(quantized)
        return quantized


def calibrate(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    placements: Sequence[Placement],
    union: Placement,
    check: Check = no_check,
    step: Step = no_step,
    limit_pairs: bool = False,
) -> Calibrated:
    """Calibrate a graph for several runtimes with these placements, on images float32 [1,C,H,W].

    `union` has the Q/DQ of all placements. Values that only a minority quantizes get a range, but stay exact, so the
    weights are rounded for what most runtimes compute. The graph is consumed. `check` gets it after its equalization.
    All passes together count as 1 in `step`. `limit_pairs` says whether some of the runtimes need weights of which no
    pair saturates. Raises CompileError as `quantize` does.
    """
    names = distinct_names(graph)
    before = {
        names[layer.node]: weights
        for layer in dense_layers(graph)
        if union.covers(layer.node) and (weights := fixed_weights(graph, layer)) is not None
    }
    places, layers = (_of_most(found) for found in zip(*(p.places(graph) for p in placements), strict=True))
    equalizing, inserting, measuring, rounding = _passes(step, recipe)
    with torch.no_grad(), quiet():
        divisors = find_divisors(graph, samples, recipe.equalization, equalizing) if recipe.equalization else {}
        if divide(graph, divisors):
            check(graph)
        quantized = _insert(graph, samples, recipe, union, inserting)
        consumed = effects(quantized)
        idle = _idle(quantized, places, layers)
        hessians = _find_ranges(quantized, samples, recipe, consumed, measuring)
        set_known_grids(quantized)
        ranges = _ranges(quantizers(quantized))
        for node in idle:
            quantized.graph.erase_node(node)
        quantized.recompile()
        unlimited = _weights(quantized) if limit_pairs else {}
        _round(quantized, samples, recipe, limit_pairs, unlimited, hessians, rounding)
    names = distinct_names(quantized)
    calibrated = {
        names[node]: CalibratedLayer(*before[names[node]], limited=weights, unlimited=unlimited.get(node, weights))
        for node, weights in _weights(quantized).items()
    }
    return Calibrated(divisors, ranges, calibrated)


def _passes(step: Step, recipe: Recipe) -> list[Step]:
    """The steps of four equal passes, which equalize channels, insert Q/DQ, find ranges and round weights."""
    finding, rounding = recipe.estimator != "histogram", recipe.weight_rounding != "nearest"
    return parts_of(step, [bool(recipe.equalization), _reads_all(recipe), finding, rounding])


def _of_most(found: Collection[Iterable[str]]) -> set[str]:
    """What more than half of these have."""
    counts = Counter(name for names in found for name in names)
    return {name for name, count in counts.items() if 2 * count > len(found)}


def _idle(quantized: GraphModule, places: Set[str], layers: Set[str]) -> list[Node]:
    """Let the values outside of these places, and the weights of other layers, stay exact. Returns the unused Qs."""
    names = distinct_names(quantized)
    for layer in list(dense_layers(quantized)):
        weights = weight_quantizer_of(layer.weight)
        if weights is not None and names[layer.node] not in layers:
            layer.weight.replace_all_uses_with(weights.source)
            quantized.graph.erase_node(layer.weight)
            quantized.graph.erase_node(weights.node)
    idle = []
    for quantizer in quantizers(quantized):
        if places_of(quantizer.node).isdisjoint(places):
            for dequantizer in list(quantizer.node.users):
                dequantizer.replace_all_uses_with(quantizer.source)
                quantized.graph.erase_node(dequantizer)
            idle.append(quantizer.node)
    quantized.recompile()
    return idle


def _ranges(of: Iterable[Quantizer]) -> dict[str, Range]:
    """The ranges of quantizers, by their places."""
    return {
        place: Range(quantizer.scale, quantizer.zero_point - quantizer.low)
        for quantizer in of
        for place in places_of(quantizer.node)
    }


def quantize_like(
    graph: GraphModule,
    sample: NDArray[np.float32],
    calibration: Calibrated,
    recipe: Recipe,
    target: str,
    lowering: RuntimeLowering,
    check: Check = no_check,
    limit_pairs: bool = False,
) -> GraphModule | None:
    """What `quantize` returns, with the ranges and weights of a calibration; `sample` is any image float32 [1,C,H,W].

    The graph is consumed. Returns None if the calibration doesn't fit this runtime's graph.
    """
    placement = lowering.placement(recipe, target, graph)
    layouts = calibration.layouts(graph, placement)
    if layouts is None:
        return None
    own = [
        layer
        for layer in dense_layers(graph)
        if placement.quantizes(graph, layer) and placement.kind_of(layer) == "static" and layer.node not in layouts
    ]
    if own and (limit_pairs or not _stay_nearest(own, recipe)):
        return None
    with torch.no_grad(), quiet():
        if divide(graph, calibration.divisors) < len(calibration.divisors):
            return None
        if calibration.divisors:
            check(graph)
        quantized = _insert(graph, [sample], recipe, placement)
        if not calibration.write(quantized, {node.name: layout for node, layout in layouts.items()}, limit_pairs):
            return None
        tie_rearrangements(quantized)
        if limit_pairs:
            limit_keys(quantized)
        fit_biases(quantized)
        return quantized


def _stay_nearest(layers: Iterable[DenseLayer], recipe: Recipe) -> bool:
    """Whether the weights of these layers are rounded to nearest, so that they need no statistics."""
    grouped = all(layer.groups > 1 for layer in layers)
    return recipe.weight_rounding == "nearest" or (recipe.weight_rounding == "gptq" and grouped)


def _insert(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    placement: Placement,
    step: Step = no_step,
) -> GraphModule:
    """Let NNCF insert Q/DQ. It reads the images once, or twice for SmoothQuant, if it needs them for more than shapes.

    Each image runs by itself, because batches distort statistics (nncf#2619).
    """
    samples = samples if _reads_all(recipe) else samples[:1]
    ranges = RangeEstimatorParametersSet
    reads = len(samples) * (1 + recipe.smooth_quant)
    unread = iter(range(reads))

    def feed(sample: NDArray[np.float32]) -> torch.Tensor:
        if next(unread, None) is not None:
            step(1 / reads)
        return torch.from_numpy(sample)

    # A NameError comes from the Python code of edgekit's graph.
    refuse = LibraryErrors(
        lambda raised: CompileError(f"NNCF can't calibrate the graph: {first_line(raised)}"), passing=(NameError,)
    )
    with refuse, threads(torch.get_num_threads() // at_once(graph)):
        quantized = quantize_pt2e(
            graph,
            placement,
            nncf.Dataset(samples, feed),
            subset_size=len(samples),
            fast_bias_correction=FAST_BIAS_CORRECTION[recipe.bias_correction],
            smooth_quant=recipe.smooth_quant,
            activations_range_estimator_params=ranges.HISTOGRAM if recipe.estimator == "histogram" else ranges.MINMAX,
            fold_quantize=False,
        )
    for _ in unread:
        step(1 / reads)
    quantized = lazily_compiled(quantized)
    keep_constants_in(quantized, store_of(graph))
    placement.write_owners(set_quantized_values(quantized))
    center_weights(quantized)
    use_all_levels(quantized)
    return quantized


def _reads_all(recipe: Recipe) -> bool:
    """Whether NNCF needs all images: for its histograms, for SmoothQuant or for its bias correction."""
    return recipe.estimator == "histogram" or recipe.smooth_quant or recipe.bias_correction != "none"


def _find_ranges(
    quantized: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    of: Mapping[Node, Effect],
    step: Step,
) -> Hessians | None:
    """Find the ranges of a Q/DQ graph, unless they are NNCF's. Returns the Hessians, if the same pass collects them."""
    if recipe.estimator == "histogram":
        return None
    hessians = Hessians.of_all(quantized, len(samples)) if recipe.weight_rounding == "gptq" else None
    find_ranges(quantized, samples, of, recipe.estimator == "mse", step, [hessians] if hessians else [])
    return hessians


def _round(
    quantized: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    limit_pairs: bool,
    unlimited: MutableMapping[Node, LayerWeights],
    hessians: Hessians | None,
    step: Step,
) -> None:
    """Round the weights of a Q/DQ graph with its final ranges, in place, and the weights in `unlimited`."""
    tie_rearrangements(quantized)
    if limit_pairs:
        widen_scales(quantized)
        limit_keys(quantized)
    if recipe.weight_rounding == "gptq":
        round_weights(quantized, samples, limit_pairs, unlimited, step, hessians)
    elif recipe.weight_rounding == "fit":
        fit_weights(quantized, samples, limit_pairs, unlimited, step)


def _weights(quantized: GraphModule) -> dict[Node, LayerWeights]:
    """The weights of the layers in INT8, by their nodes."""
    layers = dense_layers(quantized)
    return {layer.node: weights for layer in layers if (weights := layer_weights(quantized, layer)) is not None}
