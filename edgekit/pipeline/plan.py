"""Predicts memory and sizes of a job from the shape of its network, measured on torch's meta device without weights.

Sizes follow from the layers and the recipe. Peaks are linear fits to measured runs, which `benchmarks/scale.py --fit`
makes.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from importlib.resources import files
from typing import Any, Literal

import msgspec
import numpy as np
import torch
from msgspec import Struct
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from edgekit.compiler.layouts import ConvolutionShape
from edgekit.compiler.rewrites import REWRITES, weights_after
from edgekit.compiler.rounding import MOST_INPUTS, hessian_bytes
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.config.runtimes import PRECISIONS, RUNTIMES, DeviceClass, FileLimit, Precision, Runtime
from edgekit.devices.registry import THIS, Device
from edgekit.errors import InputError, ModelError, PlanError
from edgekit.images.preprocess import CHANNELS
from edgekit.job import Job
from edgekit.measure.machine import machine_memory
from edgekit.models.checkpoint import run_on_rgb_or_grey
from edgekit.models.loading import build_meta, identify
from edgekit.models.options import ModelOptions
from edgekit.pipeline.loading import JobSettings, choose_class, for_size
from edgekit.support.libraries import quiet

_PRODUCTS = (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__)


@dataclass(frozen=True)
class Shape:
    """The properties of a network from which sizes and memory follow."""

    params: int
    macs: int
    dense: tuple[tuple[str, int, int, bool], ...]
    """(name, number of weights, output channels, depthwise) of each convolution, Linear and product with a matrix."""
    expanded: int
    """Values of a graph's constants beyond its parameters: relative position biases of each pair of positions."""
    convolutions: tuple[ConvolutionShape, ...]
    """All convolutions that an image passes."""
    channels: int
    """Channels of an image."""
    size: tuple[int, int]
    """Input size (height, width) in pixels."""


class _MatrixProducts(TorchFunctionMode):
    """Collects the matrices [in,out] among a network's parameters that `forward` multiplies with, which run in INT8."""

    def __init__(self) -> None:
        super().__init__()
        self.matrices: set[nn.Parameter] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS and isinstance(args[-1], nn.Parameter) and args[-1].ndim == 2:
            self.matrices.add(args[-1])
        return func(*args, **(kwargs or {}))


def shape_of_model(options: ModelOptions) -> Shape:
    """Measure the shape of a network without creating its weights."""
    module, size = build_meta(options)
    counter, products = FlopCounterMode(display=False), _MatrixProducts()
    convolutions: dict[nn.Conv2d, ConvolutionShape] = {}

    def image(channels: int) -> torch.Tensor:
        return torch.zeros(1, channels, *size, device="meta")

    def see(layer: Any, _: object, output: torch.Tensor) -> None:
        convolutions[layer] = _convolution_shape(layer, output)

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(see)
    try:
        with torch.no_grad():
            with counter, products:
                channels, _ = run_on_rgb_or_grey(module, image)
            if channels != CHANNELS[0]:  # else what failed is counted too
                with counter, products:
                    module(image(channels))
    except Exception as error:  # a network may raise anything on an unsupported size, or on meta tensors
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"can't plan '{options.name}' at {size[0]}x{size[1]} ({type(error).__name__}: {reason})",
            fix="Correct `--imgsz` or `--model-args`; a network that uses tensors of its module can be "
            "deployed without a plan",
        ) from error
    dense = [
        (name, layer.weight.numel(), layer.weight.shape[0], getattr(layer, "groups", 1) > 1)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    for name, parameter in module.named_parameters():
        if parameter in products.matrices:
            dense.append((name, parameter.numel(), parameter.shape[1], False))
    params = sum(parameter.numel() for parameter in module.parameters())
    # The flop counter counts a multiply-accumulate as two operations.
    macs = counter.get_total_flops() // 2
    return Shape(params, macs, tuple(dense), _expanded(module), tuple(convolutions.values()), channels, size)


def _convolution_shape(layer: nn.Conv2d, output: torch.Tensor) -> ConvolutionShape:
    """The shape of an exported convolution. Padding with anything but zeros is a separate node, so it doesn't count."""
    padding = layer.padding if layer.padding_mode == "zeros" else (0, 0)
    if isinstance(padding, str):
        sides = zip(layer.kernel_size, layer.dilation, strict=True)
        padding = tuple(dilation * (size - 1) // 2 if padding == "same" else 0 for size, dilation in sides)
    weight, extent = tuple(layer.weight.shape), tuple(output.shape[-2:])
    return ConvolutionShape(weight, extent, layer.stride, padding, layer.dilation, layer.groups)


def _expanded(module: nn.Module) -> int:
    count = 0
    for layer in module.modules():
        index, table = (getattr(layer, f"relative_position_{name}", None) for name in ("index", "bias_table"))
        if isinstance(index, torch.Tensor) and isinstance(table, torch.Tensor):
            count += index.numel() * table.shape[-1]
    return count


GIB = 2**30


@dataclass(frozen=True)
class PlannedStage:
    """Predicted peak memory in bytes of one stage for one target."""

    stage: str
    target: str
    peak_bytes: int


@dataclass(frozen=True)
class PlannedBundle:
    """Predicted size of one bundle's model files, and whether they fit."""

    target: str
    precision: Precision
    size_bytes: int
    fits: bool
    """Whether the file format allows the size, and the machine that runs the bundle has enough memory."""
    why: str
    """Size in MB, and the limits that it exceeds."""
    peak_bytes: int | None
    """Largest peak memory of the stages that make it; None for a target whose stages were not measured."""

    @property
    def name(self) -> str:
        """The bundle's name in a run folder."""
        return f"{self.target}-{self.precision}"


class NominalLatency(Struct, frozen=True, kw_only=True):
    """Latency of an inference at the nominal peak rate of a device class, in milliseconds."""

    # A Struct and not a dataclass, because two JSON keys are names of Python types.
    device_class: str
    threads: int
    float_ms: float = msgspec.field(name="float")
    int8_ms: float = msgspec.field(name="int8")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The document of `edgekit plan`."""

    schema_version: Literal[1] = 1
    model: str
    params: int
    macs: int
    input_shape: tuple[int, int, int, int]
    memory_available_bytes: int
    """Free memory on this machine, or the memory that was asked about."""
    disk_bytes: int
    """Sum of the sizes of all bundles."""
    memory_model: str
    """Description of the measured runs to which the peaks were fitted."""
    stages: tuple[PlannedStage, ...]
    """Stages of all targets that the fit includes. A new target has none until `benchmarks/scale.py` measured it."""
    artifacts: tuple[PlannedBundle, ...]
    latency_bound_ms: NominalLatency | None = None
    """Latency at the nominal peak rate, or None without a device class."""
    float_on_device: tuple[str, ...] = ()
    """Targets that compute most of an INT8 model in float on the device class, so that it is hardly faster there."""

    def possible(self, bundle: PlannedBundle) -> bool:
        """Whether the memory suffices to make a bundle; True if that isn't known."""
        return bundle.peak_bytes is None or bundle.peak_bytes < self.memory_available_bytes

    def page(self, machine: str = "this machine") -> list[str]:
        """The plan as lines of text; `machine` is what makes the bundles."""
        height, width = self.input_shape[2:]
        lines = [
            f"{self.model}: {self.params / 1e6:,.2f} M parameters, {self.macs / 1e9:,.2f} GMAC at {height}x{width}",
            f"{machine} has {self.memory_available_bytes / GIB:.1f} GiB of memory free; all bundles take "
            f"{self.disk_bytes / 1e6:,.0f} MB of disk",
            f"peak memory per stage, {self.memory_model}:",
        ]
        for stage in self.stages:
            over = "" if stage.peak_bytes < self.memory_available_bytes else "  more than is free"
            lines.append(f"{stage.target:<9} {stage.stage:<14} {stage.peak_bytes / GIB:6.2f} GiB{over}")
        lines += [self._fits(bundle, machine) for bundle in self.artifacts]
        if nominal := self.latency_bound_ms:
            lines.append(
                f"multiply-accumulates at the nominal rate of {nominal.device_class}: {nominal.float_ms:.2f} ms in "
                f"float, {nominal.int8_ms:.2f} ms in int8 ({nominal.threads} threads)"
            )
        for target in self.float_on_device:
            lines.append(f"{target}-int8 will hardly be faster than float, because most of it runs in float on Arm")
        return lines

    def _fits(self, bundle: PlannedBundle, machine: str) -> str:
        """Whether a bundle fits where it will run, and whether the machine can make it."""
        line = f"{bundle.name}: {'fits' if bundle.fits else 'does not fit'}: {bundle.why}"
        if bundle.peak_bytes is None:
            return line
        verdict = "suffices" if self.possible(bundle) else "does not suffice"
        return f"{line}; making it takes {bundle.peak_bytes / GIB:.1f} GiB: {machine} {verdict}"


@dataclass(frozen=True)
class Fit:
    """Coefficients that `benchmarks/scale.py --fit` fitted to measured runs."""

    fitted_on: tuple[str, ...]
    calibration_images: int
    peak_bytes: Mapping[str, Mapping[str, tuple[float, ...]]]
    """Coefficients of `edgekit.pipeline.plan.terms` by target and stage, in the order of the stages."""
    layer_bytes: Mapping[str, Mapping[Precision, float]]
    """Overhead of a model file in bytes per dense layer, by target and precision."""

    def bytes_per_layer(self, target: str, precision: Precision) -> float:
        """Overhead in bytes per dense layer; for a target that was not measured, the largest of any target."""
        measured = self.layer_bytes.get(target)
        return measured[precision] if measured else max(overhead[precision] for overhead in self.layer_bytes.values())


def plan_model(
    options: ModelOptions,
    targets: Sequence[str] | None = None,
    device_class: DeviceClass | None = None,
    recipe: Recipe | None = None,
    memory_of_class: bool = False,
    memory: int | None = None,
) -> Plan:
    """Plan the stages and bundles of a job for these targets, by default all.

    The recipe, by default that of the model's family, is taken with its settings for the device class. The job runs on
    a machine with `memory` bytes, by default those that are free here. A bundle must fit in that memory or, with
    `memory_of_class`, in that of the device class. Raises ModelError or UsageError as `load_network` does; reads no
    weights.
    """
    targets = tuple(RUNTIMES) if targets is None else targets
    with quiet():
        options = identify(options)
        shape = shape_of_model(options)
    wants = recipe or Recipe.for_model(options.name, REWRITES)
    if device_class:
        wants = wants.for_class(device_class)
    available = available_memory() if memory is None else memory
    limit = available
    where = "this machine" if memory is None else "such a machine"
    if device_class and memory_of_class:
        limit, where = int(device_class.memory_gib * GIB), device_class.name
    fit = read_fit()
    stages = tuple(
        PlannedStage(stage, target, int(np.dot(coefficients, terms(shape, wants, target, stage))))
        for target in targets
        for stage, coefficients in fit.peak_bytes.get(target, {}).items()
    )
    bundles = tuple(
        _planned_bundle(shape, wants, target, precision, limit, where, _peak(stages, target, precision))
        for target in targets
        for precision in PRECISIONS
    )
    return Plan(
        model=options.name,
        params=shape.params,
        macs=shape.macs,
        input_shape=(1, shape.channels, *shape.size),
        memory_available_bytes=available,
        disk_bytes=sum(bundle.size_bytes for bundle in bundles),
        memory_model=f"fitted on {', '.join(fit.fitted_on)} with {fit.calibration_images} calibration images",
        stages=stages,
        artifacts=bundles,
        latency_bound_ms=_nominal(device_class, shape.macs) if device_class else None,
        float_on_device=tuple(
            target
            for target in targets
            if device_class and device_class.is_arm and not Runtime.find(target).has_int8_on_arm
        ),
    )


def predict(job: Job, first: Device, device_class: str | None, memory: int | None) -> Plan:
    """The plan of `edgekit plan`: for a device class or, without one, for that of a device.

    The class is unknown on a machine that fits none. `memory` is as for `plan_model`.
    """
    is_here = first == THIS and device_class is None
    is_known = not is_here or DeviceClass.of_host() is not None
    cls = choose_class(device_class, first) if is_known else None
    recipe = Recipe.load(job.recipe, REWRITES) if job.recipe else None
    return plan_model(job.model_options, job.targets, cls, recipe, not is_here, memory)


def _peak(stages: Sequence[PlannedStage], target: str, precision: Precision) -> int | None:
    """Largest peak of the stages that make a bundle.

    The stage "run" runs both bundles, so it only counts for the float bundle.
    """
    others = ("quantize", "compile int8") if precision == "float" else ("rewrite", "compile float", "run")
    mine = [stage.peak_bytes for stage in stages if stage.target == target and stage.stage not in others]
    return max(mine, default=None)


def _nominal(device_class: DeviceClass, macs: int) -> NominalLatency:
    threads = device_class.threads
    float_ms, int8_ms = (device_class.nominal_ms(macs, precision, threads) for precision in PRECISIONS)
    return NominalLatency(device_class=device_class.name, threads=threads, float_ms=float_ms, int8_ms=int8_ms)


def refusals(
    settings: JobSettings, targets: Sequence[str], precisions: Sequence[Precision]
) -> Mapping[str, str] | InputError:
    """Reasons, with the numbers, why bundles of a job don't fit on this machine, by the bundle's name.

    Returns the error if the job can't be planned: a valid job may be impossible to plan, such as one with a factory
    whose code needs real tensors. Loading the model reports all other mistakes. Raises PlanError if no bundle fits.
    """
    try:
        planned = plan_model(settings.model, targets, settings.device_class, settings.recipe)
    except InputError as error:
        return error
    reasons: dict[str, str] = {}
    bundles = [bundle for bundle in planned.artifacts if bundle.precision in precisions]
    for bundle in bundles:
        limit = _exceeded(bundle.target, bundle.size_bytes)
        if limit and not limit.external_data:
            reasons[bundle.name] = bundle.why
        elif bundle.peak_bytes is not None and not planned.possible(bundle):
            reasons[bundle.name] = (
                f"making it needs about {bundle.peak_bytes / GIB:.1f} GiB of memory, but only "
                f"{planned.memory_available_bytes / GIB:.1f} GiB are available"
            )
    if len(reasons) == len(bundles):
        listed = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise PlanError(
            f"'{planned.model}' ({planned.params / 1e6:,.0f} M parameters) does not fit on this machine: {listed}",
            fix=f"Use `--force` to try anyway, or run `edgekit plan {planned.model}` for details",
        )
    return reasons


def available_memory() -> int:
    """Bytes of memory that a process on this machine could use now."""
    memory = machine_memory()
    return memory.available or memory.total or 0


def _planned_bundle(
    shape: Shape, recipe: Recipe, target: str, precision: Precision, memory: int, where: str, peak: int | None
) -> PlannedBundle:
    layers = read_fit().bytes_per_layer(target, precision) * len(shape.dense)
    size = int(size_of_weights(shape, recipe, target, precision) + layers)
    why = f"{size / 1e6:,.1f} MB"
    fits = size < memory
    if limit := _exceeded(target, size):
        fits = fits and limit.external_data
        cause = f"{limit.format} is limited to {limit.size_bytes / 1e9:.0f} GB"
        why += f", with the weights in a separate file because {cause}" if limit.external_data else f", but {cause}"
    if size >= memory:
        why += f"; {where} has only {memory / 1e6:,.0f} MB of memory"
    return PlannedBundle(target, precision, size, fits, why, peak)


def _exceeded(target: str, size: int) -> FileLimit | None:
    """The limit of the target's model file if `size` bytes exceed it."""
    limit = Runtime.find(target).file_limit
    return limit if limit and size >= limit.size_bytes else None


def size_of_weights(shape: Shape, recipe: Recipe, target: str, precision: Precision) -> int:
    """Bytes of the weights in a bundle."""
    size = 4 * (shape.params + shape.expanded)
    if precision == "int8":
        own = Runtime.find(target).bytes_per_channel
        names = recipe.targets[target].rewrites_of("int8")
        size += sum(own * channels - 3 * weights for weights, channels in _in_int8(shape, recipe, target))
        for convolution in shape.convolutions:
            after = weights_after(names, convolution)
            if after is not None:
                size += after - 4 * math.prod(convolution.weight)
    return size


def _in_int8(shape: Shape, recipe: Recipe, target: str) -> Iterator[tuple[int, int]]:
    """(weights, output channels) of each layer that gets int8 weights."""
    own = recipe.for_target(target)
    for name, weights, channels, depthwise in shape.dense:
        in_float = any(fnmatchcase(name, pattern) for pattern in own.float_layers)
        if not in_float and (own.targets[target].quantize_depthwise or not depthwise):
            yield weights, channels


def terms(shape: Shape, recipe: Recipe, target: str, stage: str) -> list[int]:
    """The terms of a stage's peak: 1, and bytes.

    The bytes are those of the float weights, of the largest layer's weights, of the matrices that GPTQ holds at once,
    float32 [inputs,inputs] for each layer, of one of the matrices, float64 [inputs,inputs], with which the widest
    layer's weights are fitted, and of the weights inside the model's protobuf.
    """
    weights = 4 * shape.params
    largest = gptq = moments = inside = 0
    if stage in ("quantize", "compile int8"):
        largest = 4 * max((count for _, count, _, _ in shape.dense), default=0)
    if stage == "quantize":
        rounding = for_size(recipe, shape.params).weight_rounding
        inputs = [count // channels for count, channels in _in_int8(shape, recipe, target)]
        if rounding == "gptq":
            gptq = hessian_bytes(inputs, shape.params)
        elif rounding == "fit":
            moments = max((8 * count**2 for count in inputs if count <= MOST_INPUTS), default=0)
    limit = Runtime.find(target).file_limit
    if stage == "compile float" and limit and limit.external_data and weights < limit.size_bytes:
        inside = weights
    return [1, weights, largest, gptq, moments, inside]


@lru_cache
def read_fit() -> Fit:
    """Read the fit that edgekit ships."""
    return msgspec.json.decode((files("edgekit") / "_assets" / "plan.json").read_bytes(), type=Fit)


@dataclass(frozen=True)
class ListedRewrites:
    """The rewrites that a table of a recipe enables for the bundles of one precision."""

    target: str
    """Runtime of the table."""
    on: str | None
    """Pattern of device classes of a table under `on`; None for the runtime's own table."""
    device_classes: tuple[str, ...]
    """Shipped device classes to which the table applies, sorted by name."""
    precision: Precision
    """Whether the list is for float or INT8 bundles."""
    rewrites: tuple[str, ...]
    """Names of the rewrites in the order of application."""


@dataclass(frozen=True, kw_only=True)
class RecipeRewrites:
    """The document of `edgekit targets --recipe`."""

    schema_version: Literal[1] = 1
    """Version of this document's format."""
    name: str
    """Name of the recipe."""
    description: str
    """One sentence about the recipe."""
    rewrites: tuple[ListedRewrites, ...]
    """The list of each table and precision, with `add` and `drop` applied."""

    def page(self) -> Iterator[str]:
        """The recipe, then a line for each table of device classes and for each precision."""
        yield f"{self.name}: {self.description}"
        for row in self.rewrites:
            table = f"[{row.target}]" if row.on is None else f'[{row.target}.on."{row.on}"]'
            if row.precision == "float":
                yield f"{table} {', '.join(row.device_classes)}".rstrip()
            yield f"  {row.precision:<5}  {', '.join(row.rewrites) or 'none'}"


def list_rewrites(recipe_name: str) -> RecipeRewrites:
    """List the rewrites of a recipe, given by name or file.

    Raises ProfileError as `Recipe.load` does.
    """
    recipe = Recipe.load(recipe_name, REWRITES)
    listed = []
    for target, row in recipe.targets.items():
        for pattern, variant, classes in _tables(row):
            for precision in PRECISIONS:
                names = tuple(name for name in REWRITES if name in variant.rewrites_of(precision))
                listed.append(ListedRewrites(target, pattern, classes, precision, names))
    return RecipeRewrites(name=recipe.name, description=recipe.description, rewrites=tuple(listed))


def _tables(row: TargetRecipe) -> Iterator[tuple[str | None, TargetRecipe, tuple[str, ...]]]:
    """Each table of a runtime: the pattern after `on`, the settings, and the shipped device classes that take them."""
    patterns = {name: row.pattern_of(name) for name in DeviceClass.listed()}
    for pattern, variant in ((None, row), *row.on.items()):
        yield pattern, variant, tuple(name for name in patterns if patterns[name] == pattern)
