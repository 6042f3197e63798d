"""What a job will take, before it is begun: from the network on torch's meta device, without weights.

Sizes follow from the layers and the recipe; peaks and times are lines that `benchmarks/scale.py --fit` has fitted to
measured runs.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from edgekit.compiler.quantize import gptq as rounding
from edgekit.compiler.rewrites import PASSES
from edgekit.config.device_classes import DeviceClass
from edgekit.config.precisions import PRECISIONS, Precision
from edgekit.config.recipes import Recipe, load_recipe, recipe_for
from edgekit.config.runtimes import RUNTIMES
from edgekit.errors import InputError, ModelError, PlanError
from edgekit.measure.memory import machine_memory
from edgekit.models.meta import build_meta
from edgekit.models.options import ModelOptions
from edgekit.pipeline.job import GPTQ_MOST
from edgekit.pipeline.options import Options
from edgekit.support.libraries import quiet

GIB = 2**30
FLATBUFFER_LIMIT = 2**31
"""Offsets in a TFLite file are signed 32-bit numbers; a protobuf holds no more either."""

STAGES = ("load", "export", "rewrite", "compile float", "quantize", "compile int8", "run")


@dataclass(frozen=True)
class Shape:
    """A network without weights: what sizes and memory follow from."""

    params: int
    macs: int
    dense: tuple[tuple[str, int, int, bool], ...]
    """(name, weights, output channels, depthwise) of each convolution and Linear."""
    expanded: int
    """Values that constants take in a graph beyond the parameters: relative position biases for each pair of places."""
    size: tuple[int, int]


def plan_model(
    options: ModelOptions,
    targets: Sequence[str] = tuple(RUNTIMES),
    device_class: DeviceClass | None = None,
    recipe: str | None = None,
    memory_of_class: bool = False,
) -> dict[str, Any]:
    """The document of `edgekit plan`: parameters, MACs, stages and artifacts. Sizes in bytes, times in seconds.

    `fits` of an artifact is whether its format can hold it, and this machine, or with `memory_of_class` the device
    class, has memory for it. Raises ModelError or UsageError as `load_network` does; no weights are read.
    """
    with quiet():
        shape = shape_of_model(options)
    wants = load_recipe(recipe, PASSES) if recipe else recipe_for(options.name, PASSES)
    memory, where = available_memory(), "this machine"
    if device_class and memory_of_class:
        memory, where = int(device_class.memory_gib * GIB), device_class.name
    fit = read_fit()
    artifacts = [
        _artifact(shape, wants, target, precision, memory, where) for target in targets for precision in PRECISIONS
    ]
    planned: dict[str, Any] = {
        "schema_version": 1,
        "model": options.name,
        "params": shape.params,
        "macs": shape.macs,
        "input_shape": [1, 3, *shape.size],
        "memory_available_bytes": available_memory(),
        "disk_bytes": sum(each["size_bytes"] for each in artifacts),
        "memory_model": f"fitted on {', '.join(fit['fitted_on'])} with {fit['calibration_images']} calibration images",
        "stages": _stages(shape, wants, targets),
        "artifacts": artifacts,
    }
    if device_class:
        bounds = {p: device_class.bound_ms(shape.macs, p, device_class.threads) for p in PRECISIONS}
        planned["latency_bound_ms"] = {"device_class": device_class.name, "threads": device_class.threads} | bounds
    return planned


def shape_of_model(options: ModelOptions) -> Shape:
    """Parameters, MACs and dense layers of a network that is never given weights."""
    module, size = build_meta(options)
    counter = FlopCounterMode(display=False)
    try:
        with counter, torch.no_grad():
            module(torch.zeros(1, 3, *size, device="meta"))
    except Exception as error:  # a network may raise anything on a size that it wasn't made for, or on meta tensors
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"can't plan '{options.name}' at {size[0]}x{size[1]} ({type(error).__name__}: {reason})"
        ) from error
    dense = tuple(
        (name, layer.weight.numel(), layer.weight.shape[0], getattr(layer, "groups", 1) > 1)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    )
    params = sum(parameter.numel() for parameter in module.parameters())
    # A flop counter counts a multiply-accumulate as two.
    return Shape(params, counter.get_total_flops() // 2, dense, _expanded(module), size)


def _expanded(module: nn.Module) -> int:
    count = 0
    for layer in module.modules():
        index, table = (getattr(layer, f"relative_position_{name}", None) for name in ("index", "bias_table"))
        if isinstance(index, torch.Tensor) and isinstance(table, torch.Tensor):
            count += index.numel() * table.shape[-1]
    return count


@dataclass(frozen=True)
class Refusals:
    """Bundles of a job that can't be finished on this machine."""

    reasons: Mapping[str, str] = field(default_factory=dict)
    """Why not, with the numbers, by the bundle's name."""
    unplanned: InputError | None = None
    """Why the job could not be planned: then nothing of it is refused."""


def refusals(options: Options) -> Refusals:
    """Bundles of a job that can't be finished here. Raises PlanError if none can be, so that nothing is begun.

    A job may be right and yet not be planned, such as one of a factory whose code needs real tensors. Other mistakes
    in it come up when the model is loaded.
    """
    try:
        planned = plan_model(options.model, options.targets, recipe=options.recipe)
    except InputError as error:
        return Refusals(unplanned=error)
    memory = planned["memory_available_bytes"]
    found: dict[str, str] = {}
    wanted = [each for each in planned["artifacts"] if each["precision"] in options.precisions]
    for each in wanted:
        name = f"{each['target']}-{each['precision']}"
        stages = [s for s in planned["stages"] if s["target"] == each["target"] and _is_for(s, each)]
        worst = max(stages, key=lambda stage: int(stage["peak_bytes"]), default=None)
        if each["size_bytes"] >= FLATBUFFER_LIMIT and each["target"] == "tflite":
            found[name] = each["why"]
        elif worst and worst["peak_bytes"] > memory:
            found[name] = (
                f"{worst['stage']} takes about {worst['peak_bytes'] / GIB:.1f} GiB of memory and "
                f"{memory / GIB:.1f} GiB are available"
            )
    if len(found) == len(wanted):
        reasons = "; ".join(f"{name}: {why}" for name, why in found.items())
        raise PlanError(
            f"'{options.model.name}' ({planned['params'] / 1e6:,.0f} M parameters) can't be finished here: {reasons}. "
            "--force goes on all the same; see: edgekit plan"
        )
    return Refusals(found)


def available_memory() -> int:
    """Bytes that this machine could give a process now."""
    memory = machine_memory()
    return memory.available or memory.total or 0


def _is_for(stage: dict[str, Any], artifact: dict[str, Any]) -> bool:
    """The stages of an artifact: those of its own precision, and those that both share. To run means both."""
    other = {"float": ("quantize", "compile int8"), "int8": ("rewrite", "compile float", "run")}[artifact["precision"]]
    return stage["stage"] not in other


def _artifact(
    shape: Shape, recipe: Recipe, target: str, precision: Precision, memory: int, where: str
) -> dict[str, Any]:
    size = predicted_size(shape, recipe, target, precision)
    why = f"{size / 1e6:,.1f} MB"
    fits = size < memory
    if not fits:
        why += f"; {where} has {memory / 1e6:,.0f} MB of memory"
    if target == "tflite" and size >= FLATBUFFER_LIMIT:
        fits, why = False, f"{why}: a TFLite file holds at most 2 GB"
    elif target == "onnx" and size >= FLATBUFFER_LIMIT:
        why += ": weights in a file of their own, a protobuf holds at most 2 GB"
    return {"target": target, "precision": precision, "size_bytes": size, "fits": fits, "why": why}


def predicted_size(shape: Shape, recipe: Recipe, target: str, precision: Precision) -> int:
    """Bytes of a bundle's model files: weights, and what the fit found for each layer of the graph."""
    layer = read_fit()["layer_bytes"].get(target, {}).get(precision, 0)
    return int(size_of_weights(shape, recipe, target, precision) + layer * len(shape.dense))


def size_of_weights(shape: Shape, recipe: Recipe, target: str, precision: Precision) -> int:
    """Bytes of the weights in a bundle."""
    size = 4 * (shape.params + shape.expanded)
    if precision == "int8":
        size += sum(4 * channels - 3 * weights for weights, channels in _in_int8(shape, recipe, target))
    return size


def gptq_bytes(shape: Shape, recipe: Recipe, target: str) -> int:
    """Bytes of the matrices that GPTQ keeps at a time, float32 [inputs,inputs] of each layer; 0 without GPTQ."""
    if recipe.weight_rounding != "gptq" or shape.params > GPTQ_MOST:
        return 0
    inputs = (weights // channels for weights, channels in _in_int8(shape, recipe, target))
    return min(rounding.MEMORY_BYTES, sum(4 * each * each for each in inputs if each <= rounding.MOST_INPUTS))


def _in_int8(shape: Shape, recipe: Recipe, target: str) -> Iterator[tuple[int, int]]:
    """(weights, output channels) of each layer that gets int8 weights."""
    own = recipe.for_target(target)
    for name, weights, channels, depthwise in shape.dense:
        in_float = any(fnmatchcase(name, pattern) for pattern in own.float_layers)
        if not in_float and (own.targets[target].quantize_depthwise or not depthwise):
            yield weights, channels


def terms(shape: Shape, recipe: Recipe, target: str, stage: str) -> list[int]:
    """What a stage's peak and seconds are sums of: 1, and bytes of the float weights, of those that are equalized, of
    GPTQ's matrices, and of those that are written in the model's own protobuf."""
    weights = 4 * shape.params
    equalized = gptq = inside = 0
    if stage == "quantize":
        equalized, gptq = weights if recipe.equalization else 0, gptq_bytes(shape, recipe, target)
    if (target, stage) == ("onnx", "compile float") and weights < FLATBUFFER_LIMIT:
        inside = weights
    return [1, weights, equalized, gptq, inside]


def _stages(shape: Shape, recipe: Recipe, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Those of targets that were measured: a new one has none until `benchmarks/scale.py` has run it."""
    found: list[dict[str, Any]] = []
    fitted = read_fit()["stages"]
    for target in (each for each in targets if each in fitted):
        for stage in STAGES:
            lines, given = fitted[target][stage], terms(shape, recipe, target, stage)
            peak, seconds = (
                int(sum(a * x for a, x in zip(lines[key], given, strict=True))) for key in ("peak_bytes", "seconds")
            )
            found.append({"stage": stage, "target": target, "peak_bytes": peak, "seconds": seconds})
    return found


@lru_cache
def read_fit() -> dict[str, Any]:
    """What `benchmarks/scale.py --fit` found on measured runs."""
    found: dict[str, Any] = json.loads((files("edgekit") / "_assets" / "plan.json").read_text("utf-8"))
    return found
