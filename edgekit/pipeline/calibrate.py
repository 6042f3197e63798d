"""Rewrite an exported graph for one runtime and calibrate it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.graph import layers
from edgekit.compiler.quantize.calibrate import quantize
from edgekit.compiler.quantize.placement import Placement
from edgekit.compiler.rewrites import rewrite
from edgekit.config.precisions import Precision
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.models import Network
from edgekit.pipeline.prepared import Prepared, fingerprint, provenance_of
from edgekit.runtime.manifest import Layer


def quantize_stage(
    network: Network,
    graph: GraphModule,
    target: str,
    precision: Precision,
    recipe: Recipe,
    device_class: str,
    pixels: NDArray[np.uint8],
    logits: NDArray[np.float32],
    calibration: Sequence[NDArray[np.float32]] = (),
    calibration_sha256: str = "",
    on_sample: Callable[[], None] = lambda: None,
) -> Prepared:
    """Rewrite the exported graph for `target` and, for int8, calibrate it on images float32 [1,3,H,W]."""
    recipe = recipe.for_target(target)
    wants = recipe.targets[target]
    rewritten = rewrite(graph, wants.rewrites)
    placement = Placement(wants, recipe.float_layers)
    integer = precision == "int8" and recipe.scheme == "w8a8"
    covered = {layer.name for node, layer in layers(rewritten) if integer and placement.covers(node)}
    table = tuple(
        Layer(name=layer.name, op=layer.op, macs=layer.macs, int8=layer.name in covered) for _, layer in layers(graph)
    )
    scheme = "float32"
    if precision == "int8":
        rewritten = quantize(rewritten, calibration, recipe, target, on_sample)
        scheme = _scheme(recipe, wants)
    return Prepared(
        rewritten,
        target,
        precision,
        scheme,
        network.preprocessing,
        network.labels,
        table,
        provenance_of(network, recipe, target, calibration_sha256),
        device_class,
        fingerprint(network, target, precision, recipe, calibration_sha256, device_class),
        pixels,
        logits,
    )


def _scheme(recipe: Recipe, wants: TargetRecipe) -> str:
    """What is int8 in an int8 bundle, in words."""
    if recipe.scheme == "w8":
        return "w8, int8 weights per channel of dense layers, computed with in float"
    where = "inputs and outputs" if wants.quantize_outputs else "inputs"
    gelu = ", GELU from int8 to int8" if wants.quantize_gelu else ""
    residuals = ", residual sums from int8 to int8" if wants.quantize_residuals else ""
    return f"static w8a8, int8 weights per channel, {wants.activations} {where} of dense layers{gelu}{residuals}"
