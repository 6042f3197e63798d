"""Calibrates a graph with NNCF: inserts quantize/dequantize nodes (Q/DQ) according to a recipe."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compat.nncf import RangeEstimatorParametersSet, nncf, quantize_pt2e
from edgekit.compiler.constant_store import keep_constants_in, store_of
from edgekit.compiler.execution.threads import at_once, threads
from edgekit.compiler.graph import set_values
from edgekit.compiler.quantize.equalize import equalize
from edgekit.compiler.quantize.fit import fit_weights
from edgekit.compiler.quantize.gptq import round_weights
from edgekit.compiler.quantize.lowering import center_weights, tie_pools
from edgekit.compiler.quantize.placement import Placement
from edgekit.compiler.quantize.ranges import minimize_range_mse
from edgekit.compiler.quantize.runtime_lowering import RuntimeLowering
from edgekit.compiler.quantize.saturation import limit_keys, widen_scales
from edgekit.compiler.quantizers import quantizers
from edgekit.config.recipes import Estimator, Recipe
from edgekit.errors import CompileError
from edgekit.support.libraries import LibraryErrors, first_line, quiet

ESTIMATORS: Mapping[Estimator, RangeEstimatorParametersSet] = {
    "histogram": RangeEstimatorParametersSet.HISTOGRAM,
    "minmax": RangeEstimatorParametersSet.MINMAX,
    "mean-minmax": RangeEstimatorParametersSet.MEAN_MINMAX,
    "mse": RangeEstimatorParametersSet.MINMAX,  # whole range, which `minimize_range_mse` narrows
}
FAST_BIAS_CORRECTION = {"none": None, "fast": True, "accurate": False}


def quantize(
    graph: GraphModule,
    samples: Sequence[NDArray[np.float32]],
    recipe: Recipe,
    target: str,
    lowering: RuntimeLowering,
    on_sample: Callable[[], None] = lambda: None,
    limit_pairs: bool = False,
) -> GraphModule:
    """The graph with Q/DQ in the places of the runtime's recipe, and ranges from `samples`, each float32 [1,C,H,W].

    `lowering` is the runtime's. The graph is consumed. Statistics are collected one image at a time, because batches
    distort them (nncf#2619). With `limit_pairs`, nothing saturates in kernels that add two products in 16 bits. Raises
    CompileError if NNCF fails, for example on activations that aren't finite.
    """

    def feed(sample: NDArray[np.float32]) -> torch.Tensor:
        on_sample()
        return torch.from_numpy(sample)

    placement = placement_of(recipe, target, lowering, graph)
    with torch.no_grad(), quiet():
        if recipe.equalization:
            equalize(graph, samples, recipe.equalization)
        refuse = LibraryErrors(lambda raised: CompileError(f"NNCF can't calibrate the graph: {first_line(raised)}"))
        with refuse, threads(torch.get_num_threads() // at_once(graph)):
            quantized = quantize_pt2e(
                graph,
                placement,
                nncf.Dataset(samples, feed),
                subset_size=len(samples),
                fast_bias_correction=FAST_BIAS_CORRECTION[recipe.bias_correction],
                smooth_quant=recipe.smooth_quant,
                activations_range_estimator_params=ESTIMATORS[recipe.estimator],
                fold_quantize=False,
            )
        assert isinstance(quantized, GraphModule)
        keep_constants_in(quantized, store_of(graph))
        placement.write_owners(set_values(quantized))
        _check_scales(quantized)
        center_weights(quantized)
        if recipe.estimator == "mse":
            minimize_range_mse(quantized, samples)
        tie_pools(quantized)
        if limit_pairs:
            widen_scales(quantized)
            limit_keys(quantized)
        if recipe.weight_rounding == "gptq":
            round_weights(quantized, samples, limit_pairs)
        elif recipe.weight_rounding == "fit":
            fit_weights(quantized, samples, limit_pairs)
        for enabled in lowering.enabled(recipe.targets[target]):
            enabled.rewrite(quantized)
    return quantized


def placement_of(recipe: Recipe, target: str, lowering: RuntimeLowering, graph: GraphModule) -> Placement:
    """The recipe's placement for a runtime, without the layers that its INT8 kernels would compute wrongly."""
    wrong = lowering.miscomputed_layers(graph) if recipe.scheme == "w8a8" else ()
    wants = recipe.targets[target]
    return Placement(wants, (*recipe.float_layers, *wrong), recipe.scheme, tuple(lowering.enabled(wants)))


def _check_scales(graph: GraphModule) -> None:
    """Raise CompileError if NNCF ignored that an activation is never finite."""
    for quantizer in quantizers(graph):
        if not 0 < quantizer.scale < math.inf:
            raise CompileError(f"NNCF can't calibrate the graph: the values of '{quantizer.source}' are not finite")
