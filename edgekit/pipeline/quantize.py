"""Rewrites an exported graph for one runtime and calibrates it."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch.fx import GraphModule, Node

from edgekit.compiler.graph import copy_sharing
from edgekit.compiler.layers import Layer, dense_layer, dense_layers, fixed_weights, layers
from edgekit.compiler.quantize.calibrate import calibrate, placement_of, quantize, quantize_like
from edgekit.compiler.quantize.calibration import Calibration
from edgekit.compiler.quantize.placement import Placement
from edgekit.compiler.rewrites import APPROXIMATE
from edgekit.config.device_classes import DeviceClass
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.config.runtimes import find_runtime
from edgekit.pipeline.graph_to_compile import GraphFacts, GraphToCompile, ParitySamples
from edgekit.pipeline.parity import Rewriter
from edgekit.pipeline.request import BundleRequest, provenance_of
from edgekit.runtime.backend import load_lowering
from edgekit.runtime.manifest import ManifestLayer
from edgekit.support.progress import Step, no_step


def quantize_stage(
    request: BundleRequest,
    graph: GraphModule,
    samples: ParitySamples,
    calibration: Sequence[NDArray[np.float32]] = (),
    step: Step = no_step,
    shared: Calibration | None = None,
) -> GraphToCompile:
    """Rewrite the exported graph for the request's target and, for int8, calibrate it on float32 images [1,C,H,W].

    Where the calibration that its runtimes share fits the graph, it takes the place of an own one. The
    calibration counts as 1 in `step`. Raises CompileError when NNCF fails, and WrongRewrite if the rewritten graph
    doesn't compute what torch does.
    """
    network, recipe, int8 = request.network, request.target_recipe, request.precision == "int8"
    wants = recipe.targets[request.target]
    names = wants.rewrites_of(request.precision)
    rewriter = Rewriter(network, samples)
    done = rewriter.rewrite(graph, names)
    if not int8 and not APPROXIMATE.isdisjoint(names) and not rewriter.is_precise(done.graph):
        names = tuple(name for name in names if name not in APPROXIMATE)
        done = rewriter.rewrite(graph, names)
    rewritten, matched = done.graph, tuple(name for name in names if done.counts[name])
    lowering = load_lowering(request.target)
    placement = placement_of(recipe, request.target, lowering, rewritten)
    integer = int8 and recipe.scheme == "w8a8"
    covered = {layer.name for layer in dense_layers(rewritten) if integer and placement.quantizes(rewritten, layer)}
    products = placement.int8_products(rewritten) if integer else set()

    def is_int8(node: Node, layer: Layer) -> bool:
        return layer.name in products if layer.op == "matmul" else layer.name in covered and _has_weights(graph, node)

    table = tuple(
        ManifestLayer(name=layer.name, op=layer.op, macs=layer.macs, int8=is_int8(node, layer))
        for node, layer in layers(graph)
    )
    scheme = "float32"
    if int8:
        scheme = _scheme(recipe, wants, placement.phrases(rewritten))
        settings = (recipe, request.target, lowering, rewriter.check_equalized)
        limit_pairs = limits_pairs(recipe, request.target, request.device_class)
        alike = shared and quantize_like(copy_sharing(rewritten), calibration[0], shared, *settings, limit_pairs)
        rewritten = alike or quantize(rewritten, calibration, *settings, step, limit_pairs)
    facts = GraphFacts(
        target=request.target,
        precision=request.precision,
        scheme=scheme,
        preprocessing=network.preprocessing,
        labels=network.labels,
        layers=table,
        provenance=provenance_of(request, matched),
        device_class=request.device_class,
        fingerprint=request.inputs.key,
        unmatched=tuple(name for name in names if name not in {*matched, *recipe.optional_rewrites}),
        task=request.task.name,
        activation=request.task.activation,
        thresholds=request.task.thresholds,
        session={key: value for each in lowering.enabled(wants) for key, value in each.session.items() if integer},
    )
    return GraphToCompile(rewritten, facts, samples)


def _has_weights(graph: GraphModule, node: Node) -> bool:
    """Whether a layer has weights. A product of two activations has none, and may have the same name as a layer."""
    layer = dense_layer(node)
    return layer is not None and fixed_weights(graph, layer) is not None


def calibrate_together(
    recipe: Recipe,
    device_class: DeviceClass,
    rewriter: Rewriter,
    graph: GraphModule,
    images: Sequence[NDArray[np.float32]],
    step: Step = no_step,
) -> Calibration:
    """Calibrate the exported graph for all runtimes of a `BundleRequest.shared_recipe`, on float32 images [1,C,H,W].

    It gets the rewrites that these runtimes have in common, and Q/DQ wherever one of them has. The calibration
    counts as 1 in `step`. Raises WrongRewrite as `quantize_stage` does.
    """
    tables = recipe.targets
    common = [set(table.rewrites_of("int8")) for table in tables.values()]
    rewritten = rewriter.rewrite(graph, set.intersection(*common)).graph
    union = replace(
        next(iter(tables.values())),
        rewrites=(),
        int8_rewrites=None,
        activations="int8",
        quantize_outputs=any(table.quantize_outputs for table in tables.values()),
        quantize_depthwise=True,  # some runtime's rewrites may make dense layers of depthwise ones
        quantize_residuals=any(table.quantize_residuals for table in tables.values()),
    )
    lowerings = {name: tuple(load_lowering(name).enabled(table)) for name, table in tables.items()}
    settings = (recipe.float_layers, recipe.scheme)
    placements = [Placement(table, *settings, lowerings[name]) for name, table in tables.items()]
    of_all = Placement(union, *settings, [lowering for each in lowerings.values() for lowering in each])
    limit_pairs = any(limits_pairs(recipe, name, device_class) for name in tables)
    return calibrate(rewritten, images, recipe, placements, of_all, rewriter.check_equalized, step, limit_pairs)


def limits_pairs(recipe: Recipe, target: str, device_class: DeviceClass) -> bool:
    """Whether pairs of weights of a target's INT8 bundle must not saturate on x86 without VNNI."""
    wants, inputs = recipe.targets[target], find_runtime(target).saturating_inputs
    adds_in_16_bits = wants.activations in inputs and recipe.scheme == "w8a8" and not device_class.is_arm
    return wants.limit_weight_pairs and adds_in_16_bits


def _scheme(recipe: Recipe, wants: TargetRecipe, phrases: Sequence[str]) -> str:
    """Describe in words what an int8 bundle computes in int8, with phrases for all but its dense layers."""
    if recipe.scheme == "w8":
        return "w8, int8 weights per channel of dense layers, computed with in float"
    where = "inputs and outputs" if wants.quantize_outputs else "inputs"
    dense = f"static w8a8, int8 weights per channel, {wants.activations} {where} of dense layers"
    return ", ".join([dense, *phrases])
