"""Rewrites an exported graph for one runtime and calibrates it."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule

from edgekit.compiler.layers import layers
from edgekit.compiler.quantize.calibrate import placement_of, quantize
from edgekit.compiler.quantize.runtime_lowering import RuntimeLowering
from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.config.runtimes import find_runtime
from edgekit.pipeline.graph_to_compile import GraphFacts, GraphToCompile, ParitySamples
from edgekit.pipeline.request import BundleRequest, provenance_of
from edgekit.runtime.backend import load_lowering
from edgekit.runtime.manifest import ManifestLayer


def quantize_stage(
    request: BundleRequest,
    graph: GraphModule,
    samples: ParitySamples,
    calibration: Sequence[NDArray[np.float32]] = (),
    on_sample: Callable[[], None] = lambda: None,
) -> GraphToCompile:
    """Rewrite the exported graph for the request's target and, for int8, calibrate it on float32 images [1,C,H,W].

    `on_sample` is called after each calibration image. Raises CompileError when NNCF fails.
    """
    network, recipe, int8 = request.network, request.target_recipe, request.precision == "int8"
    wants = recipe.targets[request.target]
    names = wants.rewrites_of(request.precision)
    done = rewrite(graph, names)
    rewritten, matched = done.graph, tuple(name for name in names if done.counts[name])
    lowering = load_lowering(request.target)
    placement = placement_of(recipe, request.target, lowering, rewritten)
    integer = int8 and recipe.scheme == "w8a8"
    covered = {layer.name for node, layer in layers(rewritten) if integer and placement.covers(node)}
    table = tuple(
        ManifestLayer(name=layer.name, op=layer.op, macs=layer.macs, int8=layer.name in covered)
        for _, layer in layers(graph)
    )
    if int8:
        limit_pairs = limits_pairs(request)
        rewritten = quantize(rewritten, calibration, recipe, request.target, lowering, on_sample, limit_pairs)
    facts = GraphFacts(
        target=request.target,
        precision=request.precision,
        scheme=_scheme(recipe, wants, lowering) if int8 else "float32",
        preprocessing=network.preprocessing,
        labels=network.labels,
        layers=table,
        provenance=provenance_of(request, matched),
        device_class=request.device_class,
        fingerprint=request.inputs.key,
        unmatched=tuple(name for name in names if name not in {*matched, *recipe.optional_rewrites}),
    )
    return GraphToCompile(rewritten, facts, samples)


def limits_pairs(request: BundleRequest) -> bool:
    """Whether pairs of weights of this INT8 bundle must not saturate on x86 without VNNI."""
    recipe = request.target_recipe
    wants, inputs = recipe.targets[request.target], find_runtime(request.target).saturating_inputs
    adds_in_16_bits = wants.activations in inputs and recipe.scheme == "w8a8" and not request.device_class.is_arm
    return wants.limit_weight_pairs and adds_in_16_bits


def _scheme(recipe: Recipe, wants: TargetRecipe, lowering: RuntimeLowering) -> str:
    """Describe in words what an int8 bundle computes in int8."""
    if recipe.scheme == "w8":
        return "w8, int8 weights per channel of dense layers, computed with in float"
    where = "inputs and outputs" if wants.quantize_outputs else "inputs"
    parts = [f"static w8a8, int8 weights per channel, {wants.activations} {where} of dense layers"]
    if wants.quantize_gelu:
        parts.append("GELU from int8 to int8")
    parts += [enabled.scheme for enabled in lowering.enabled(wants) if enabled.scheme]
    if wants.quantize_residuals:
        parts.append("residual sums from int8 to int8")
    return ", ".join(parts)
