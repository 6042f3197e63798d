"""Calibrates a graph with NNCF: inserts quantize/dequantize nodes (Q/DQ) according to a recipe."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, MutableMapping, Sequence, Set
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from edgekit.compat.nncf import RangeEstimatorParametersSet, collecting_by, nncf, quantize_pt2e
from edgekit.compat.torch import lazily_compiled
from edgekit.compiler.constant_store import keep_constants_in, store_of
from edgekit.compiler.execution.threads import at_once, side_by_side, threads
from edgekit.compiler.layers import DenseLayer, dense_layers, distinct_names, fixed_weights
from edgekit.compiler.quantize.calibration import CalibratedLayer, Calibration, Range
from edgekit.compiler.quantize.equalize import divide, equalize, find_divisors
from edgekit.compiler.quantize.fit import fit_weights
from edgekit.compiler.quantize.gptq import Hessians, round_weights
from edgekit.compiler.quantize.lowering import RuntimeLowering
from edgekit.compiler.quantize.mse_ranges import Effect, effects, minimize_range_mse
from edgekit.compiler.quantize.pair_limits import limit_keys, widen_scales
from edgekit.compiler.quantize.placement import Placement
from edgekit.compiler.quantize.qdq_rewrites import (
    center_weights,
    fit_biases,
    set_known_grids,
    tie_rearrangements,
    use_all_levels,
)
from edgekit.compiler.quantizers import (
    LayerWeights,
    Quantizer,
    layer_weights,
    places_of,
    quantizers,
    set_quantized_values,
    weight_quantizer_of,
)
from edgekit.config.recipes import Estimator, Recipe
from edgekit.errors import CompileError
from edgekit.support.libraries import LibraryErrors, first_line, quiet
from edgekit.support.progress import Step, no_step, parts_of

Check: TypeAlias = Callable[[GraphModule], object]
"""Raises an error if a graph doesn't compute what it should."""

ESTIMATORS: Mapping[Estimator, RangeEstimatorParametersSet] = {
    "histogram": RangeEstimatorParametersSet.HISTOGRAM,
    "minmax": RangeEstimatorParametersSet.MINMAX,
    "mse": RangeEstimatorParametersSet.MINMAX,  # whole range, which `minimize_range_mse` narrows
}
ORDERLESS: Set[Estimator] = {"minmax", "mse"}
"""Estimators for which NNCF collects minima and maxima."""
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
    placement = placement_of(recipe, target, lowering, graph)
    equalizing, inserting, narrowing, rounding = _passes(step, recipe)
    with torch.no_grad(), quiet():
        if recipe.equalization and equalize(graph, samples, recipe.equalization, equalizing):
            check(graph)
        quantized = _insert(graph, samples, recipe, placement, inserting)
        _check_scales(quantized)
        hessians = _narrow(quantized, samples, recipe, effects(quantized), narrowing)
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
) -> Calibration:
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
    equalizing, inserting, narrowing, rounding = _passes(step, recipe)
    with torch.no_grad(), quiet():
        divisors = find_divisors(graph, samples, recipe.equalization, equalizing) if recipe.equalization else {}
        if divide(graph, divisors):
            check(graph)
        quantized = _insert(graph, samples, recipe, union, inserting)
        _check_scales(quantized)
        consumed = effects(quantized)
        idle = _idle(quantized, places, layers)
        hessians = _narrow(quantized, samples, recipe, consumed, narrowing)
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
    return Calibration(divisors, ranges, calibrated)


def _passes(step: Step, recipe: Recipe) -> list[Step]:
    """The steps of four equal passes, which equalize channels, insert Q/DQ, narrow ranges and round weights."""
    optional = recipe.equalization, True, recipe.estimator == "mse", recipe.weight_rounding != "nearest"
    return parts_of(step, [bool(each) for each in optional])


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
    calibration: Calibration,
    recipe: Recipe,
    target: str,
    lowering: RuntimeLowering,
    check: Check = no_check,
    limit_pairs: bool = False,
) -> GraphModule | None:
    """What `quantize` returns, with the ranges and weights of a calibration; `sample` is any image float32 [1,C,H,W].

    The graph is consumed. Returns None if the calibration doesn't fit this runtime's graph.
    """
    placement = placement_of(recipe, target, lowering, graph)
    layouts = calibration.layouts(graph, placement)
    if layouts is None:
        return None
    own = [layer for layer in dense_layers(graph) if placement.quantizes(graph, layer) and layer.node not in layouts]
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
    """Let NNCF insert Q/DQ with the ranges that it finds. It reads the images once, or twice for SmoothQuant.

    Each image runs by itself, because batches distort statistics (nncf#2619). Several run side by side for minima and
    maxima, which don't depend on the order of the images; means do.
    """
    reads = len(samples) * (1 + recipe.smooth_quant)
    unread = iter(range(reads))
    count = at_once(graph)
    ordered = recipe.smooth_quant or recipe.bias_correction != "none" or recipe.estimator not in ORDERLESS

    def feed(sample: NDArray[np.float32]) -> torch.Tensor:
        if next(unread, None) is not None:
            step(1 / reads)
        return torch.from_numpy(sample)

    # A NameError comes from the Python code of edgekit's graph.
    refuse = LibraryErrors(
        lambda raised: CompileError(f"NNCF can't calibrate the graph: {first_line(raised)}"), passing=(NameError,)
    )

    def run(network: Callable[[torch.Tensor], object], images: Iterator[torch.Tensor]) -> None:
        for _ in side_by_side(network, images, count):
            pass

    dataset = nncf.Dataset(samples, feed) if ordered else nncf.Dataset([samples], lambda images: map(feed, images))
    with collecting_by(run, refuse), refuse, threads(torch.get_num_threads() // count):
        quantized = quantize_pt2e(
            graph,
            placement,
            dataset,
            subset_size=len(samples),
            fast_bias_correction=FAST_BIAS_CORRECTION[recipe.bias_correction],
            smooth_quant=recipe.smooth_quant,
            activations_range_estimator_params=ESTIMATORS[recipe.estimator],
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


def _narrow(
    quantized: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    of: Mapping[Node, Effect],
    step: Step,
) -> Hessians | None:
    """Narrow the ranges of a Q/DQ graph if the recipe wants it. Returns the Hessians, if the same pass collects them.

    They are then those of inputs with whole ranges. That changes the signal-to-noise ratio by up to 0.2 dB either way
    (ConvNeXt V2 from atto to nano, 128 images), and another pass with the final ranges would take a fifth of the time.
    """
    if recipe.estimator != "mse":
        return None
    hessians = Hessians.of_all(quantized, len(samples)) if recipe.weight_rounding == "gptq" else None
    minimize_range_mse(quantized, samples, of, step, [hessians] if hessians else [])
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


def placement_of(recipe: Recipe, target: str, lowering: RuntimeLowering, graph: GraphModule) -> Placement:
    """The recipe's placement for a runtime, without the layers that its INT8 kernels would compute wrongly."""
    wrong = lowering.miscomputed_layers(graph) if recipe.scheme == "w8a8" else ()
    wants = recipe.targets[target]
    return Placement(wants, (*recipe.float_layers, *wrong), recipe.scheme, tuple(lowering.enabled(wants)))


def _check_scales(graph: GraphModule) -> None:
    """Raise CompileError if an activation isn't finite for an image, which every estimator but the histogram shows."""
    for quantizer in quantizers(graph):
        if not 0 < quantizer.scale < math.inf:
            raise CompileError(f"NNCF can't calibrate the graph: the values of '{quantizer.source}' are not finite")
