"""The graphs of one job: exports the network once, then rewrites and calibrates it for each runtime.

A graph is compared with torch before anything is made of it, and again after it is rewritten.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy, deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from edgekit.compiler.calibrate import Calibrated, calibrate, quantize, quantize_like
from edgekit.compiler.execution import is_small
from edgekit.compiler.graph import copy_sharing, layer_name
from edgekit.compiler.layers import dense_layers, layers
from edgekit.compiler.placement import Placement
from edgekit.compiler.rewrites import APPROXIMATE, REWRITES, Rewritten, rewrite
from edgekit.compiler.simplify import simplify
from edgekit.config.recipes import Recipe, TargetRecipe
from edgekit.config.runtimes import INPUT_LAYOUTS, DeviceClass, Precision, Runtime
from edgekit.errors import CompileError, ModelError, ParityError
from edgekit.images.dataset import Dataset, LabelledImage
from edgekit.models.network import Network, batched_logits, one_by_one, torch_logits
from edgekit.pipeline.request import (
    PARITY_IMAGES,
    BuildSpec,
    GraphFacts,
    GraphToCompile,
    ParitySamples,
)
from edgekit.runtime.backend import load_lowering
from edgekit.runtime.bundle import Manifest, ManifestLayer
from edgekit.support.files import digest, replacing, writing
from edgekit.support.libraries import quiet
from edgekit.support.progress import Reporter, Step, no_step, part_of

PARITY = 1e-3
"""Largest allowed difference of a float model's logits from torch's, as a fraction of the largest logit."""
ROUNDINGS = 10
"""Largest difference of a graph, which computes in another order, as a multiple of that between float32 and double."""
APPROXIMATION = 0.1
"""Largest difference of the logits that rewrites in `APPROXIMATE` may make, as a fraction of the largest logit.

In ten ConvNeXts, ViTs, DaViTs, Swins and CoAtNets, each with initial and with random weights, it was at most 1.4e-2.
That of all other rewrites together was at most 1.5e-6, as much as rounding makes.
"""
REWRITTEN_IMAGES = 2
"""Images on which a rewritten graph is compared with torch."""


def difference(logits: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Largest difference of logits from torch's, as a fraction of torch's largest; infinite unless all are finite.

    If torch's are all 0, as of a head that was never trained, it is the difference itself.
    """
    if not np.isfinite(logits).all():
        return float("inf")
    return float(np.abs(logits - expected).max() / (np.abs(expected).max() or 1))


class WrongRewrite(Exception):
    """A rewrite changes what a network computes, which is a bug in edgekit."""


class Rewriter:
    """Rewrites graphs of a network, and compares what they compute with torch, on these images."""

    def __init__(self, network: Network, samples: ParitySamples) -> None:
        self._network, self._samples = network, samples
        self._images = torch.from_numpy(network.preprocessing.normalize(samples.pixels[:REWRITTEN_IMAGES]))
        self._torch = self._expected = samples.logits[:REWRITTEN_IMAGES]

    @torch.no_grad()
    def rewrite(self, graph: GraphModule, names: Collection[str]) -> Rewritten:
        """Apply the named rewrites to a copy of the graph, as `rewrite` does.

        Raises WrongRewrite with the name of the first one that changes what the network computes. It compares twice,
        before the rewrites that approximate and after them, because their error would hide that of the others.
        """
        self._expected = self._torch
        exact = rewrite(graph, [name for name in names if name not in APPROXIMATE])
        if any(exact.counts.values()):
            self._compare(graph, exact, PARITY)
        approximate = APPROXIMATE.intersection(names)
        if not approximate:
            return exact
        done = rewrite(exact.graph, approximate)
        self._compare(exact.graph, done, APPROXIMATION)
        return Rewritten(done.graph, {**exact.counts, **done.counts})

    @torch.no_grad()
    def is_precise(self, graph: GraphModule) -> bool:
        """Whether a graph's logits differ from torch's by at most `PARITY`, as those of a float bundle must."""
        images = torch.from_numpy(self._network.preprocessing.normalize(self._samples.pixels))
        return difference(one_by_one([graph], images), self._samples.logits) <= PARITY

    @torch.no_grad()
    def check_equalized(self, graph: GraphModule) -> None:
        """Raise WrongRewrite if the equalization of the graph that `rewrite` returned changes what it computes."""
        if (off := self._excess(self._logits(graph), PARITY)) is not None:
            raise self._wrong("the equalization", off)

    def _compare(self, before: GraphModule, done: Rewritten, most: float) -> None:
        logits = self._logits(done.graph)
        if (off := self._excess(logits, most)) is not None:
            raise self._wrong(f"the rewrite '{self._first_wrong(before, done.counts, most)}'", off)
        self._expected = logits

    def _first_wrong(self, graph: GraphModule, names: Collection[str], most: float) -> str:
        """The first of these rewrites that makes the logits differ by more than `most`."""
        for name in [name for name in REWRITES if name in names]:
            done = rewrite(graph, [name])
            graph = done.graph
            if done.counts[name] and self._excess(self._logits(graph), most) is not None:
                return name
        return ", ".join(names)

    def _excess(self, logits: NDArray[np.float32], most: float) -> float | None:
        """The difference of a graph's logits if it is larger than `most` and than what rounding makes."""
        off = difference(logits, self._expected)
        return None if off <= most or off <= ROUNDINGS * self._rounding else off

    def _wrong(self, what: str, off: float) -> WrongRewrite:
        return WrongRewrite(
            f"{what} changes what '{self._network.name}' computes: the logits differ by {off:.2e} of the largest one "
            f"on {len(self._images)} real images"
        )

    def _logits(self, graph: GraphModule) -> NDArray[np.float32]:
        return np.concatenate([np.asarray(Interpreter(graph).run(image[None])) for image in self._images])

    @cached_property
    def _rounding(self) -> float:
        return _rounding(self._network.module, self._images, self._torch)


@torch.no_grad()
def check_graph(network: Network, graph: GraphModule, samples: ParitySamples) -> None:
    """Raise ParityError if the graph's logits differ from the network's, or ModelError if the network is the reason."""
    images = torch.from_numpy(network.preprocessing.normalize(samples.pixels))
    off = difference(one_by_one([graph], images), samples.logits)
    off_together = difference(_together(network.module, images, samples.logits), samples.logits)
    if max(off, off_together) <= PARITY:
        return
    if difference(one_by_one([network.module], images), samples.logits) > PARITY:
        raise ModelError(
            f"model '{network.name}' returns other logits when it runs again on the same image",
            valid="a network that draws no random numbers and keeps nothing from one image for the next",
            fix="Give F.dropout the argument training=self.training, and remove other sources of random numbers",
        )
    tolerance = max(PARITY, ROUNDINGS * _rounding(network.module, images, samples.logits))
    if off_together > tolerance:
        raise ModelError(
            f"model '{network.name}' returns other logits for an image alone than for the same image in a batch",
            valid="a network whose logits depend on one image only",
            fix="Train with running statistics (track_running_stats=True) if a BatchNorm has none",
        )
    if off <= tolerance:
        return
    layer = first_differing_layer(network.module, graph, images[:1], PARITY)
    place = f", first in the output of layer '{layer}'" if layer else ""
    raise ParityError(
        f"edgekit can't convert '{network.name}' correctly: its graph differs from torch by {off:.2e} of the largest "
        f"logit on {len(images)} real images{place}",
        valid=f"at most {PARITY:.0e}",
        fix="Write what the model's forward does there in other operations, and report this as a defect of edgekit",
    )


def _rounding(module: nn.Module, images: Tensor, alone: NDArray[np.float32]) -> float:
    """The difference that float32 itself makes; 0 if it isn't known, in large networks and those without double.

    Some networks with random weights amplify rounding more than a thousandfold.
    """
    if not is_small(module):
        return 0.0
    with suppress(RuntimeError):
        return difference(alone, one_by_one([deepcopy(module).double()], images.double()))
    return 0.0


def _together(module: nn.Module, images: Tensor, alone: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits [N,classes] of images that run in one batch; those of the images `alone` if the network takes no batch."""
    with suppress(Exception):  # code for one image may raise anything, or return logits of another shape
        together = np.asarray(module(images.clone()))
        if together.shape == alone.shape:
            return together
    return alone


@torch.no_grad()
def first_differing_layer(network: nn.Module, graph: GraphModule, image: Tensor, tolerance: float) -> str | None:
    """Name of the first layer whose output in the graph differs from the network's for an image [1,C,H,W].

    `tolerance` is a fraction of the layer's largest output. Returns None if all outputs that both have are equal. It
    skips layers into which a batch norm was folded, and those that run several times.
    """
    outputs = _outputs(network, image)
    last = {layer_name(node): node for node in graph.graph.nodes if node.op == "call_function"}
    expected = {node: outputs[name][0] for name, node in last.items() if _is_own(node, outputs)}
    interpreter = Interpreter(graph, garbage_collect_values=False)
    interpreter.run(image.clone())
    for node in graph.graph.nodes:
        if node in expected and _differs(interpreter.env[node], expected[node], tolerance):
            return layer_name(node)
    return None


def _differs(value: Tensor, expected: Tensor, tolerance: float) -> bool:
    most = tolerance * float(expected.abs().max())
    return value.shape == expected.shape and not torch.allclose(value, expected, rtol=0, atol=most)


def _outputs(network: nn.Module, image: Tensor) -> dict[str, list[Tensor]]:
    """The outputs of each layer, in the order of its calls."""
    outputs: dict[str, list[Tensor]] = {}

    def remember(name: str, output: Tensor | tuple[Tensor, ...]) -> None:
        if isinstance(output, Tensor):
            outputs.setdefault(name, []).append(output.clone())  # a later layer may write into it

    hooks = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: remember(name, output))
        for name, layer in network.named_modules()
        if not any(layer.children())
    ]
    try:
        network(image.clone())
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _is_own(node: Node, outputs: dict[str, list[Tensor]]) -> bool:
    """Whether a node gives the output of a layer that ran once and has the weights of the network."""
    name = layer_name(node)
    weight = node.args[1] if len(node.args) > 1 else None
    changed = isinstance(weight, Node) and weight.op == "get_attr" and str(weight.target) != f"{name}.weight"
    return len(outputs.get(name, ())) == 1 and not changed


def quantize_stage(
    spec: BuildSpec,
    target: str,
    precision: Precision,
    graph: GraphModule,
    samples: ParitySamples,
    calibration: Sequence[NDArray[np.float32]] = (),
    step: Step = no_step,
    shared: Calibrated | None = None,
) -> GraphToCompile:
    """Rewrite the exported graph for one bundle and, for int8, calibrate it on float32 images [1,C,H,W].

    Where the calibration that its runtimes share fits the graph, it takes the place of an own one. The
    calibration counts as 1 in `step`. Raises CompileError when NNCF fails, and WrongRewrite if the rewritten graph
    doesn't compute what torch does.
    """
    network = spec.network
    recipe = spec.recipe.for_target(target)
    int8 = precision == "int8"
    wants = recipe.targets[target]
    names = wants.rewrites_of(precision)
    rewriter = Rewriter(network, samples)
    done = rewriter.rewrite(graph, names)
    if not int8 and not APPROXIMATE.isdisjoint(names) and not rewriter.is_precise(done.graph):
        names = tuple(name for name in names if name not in APPROXIMATE)
        done = rewriter.rewrite(graph, names)
    rewritten = done.graph
    matched = tuple(name for name in names if done.counts[name])
    lowering = load_lowering(target)
    placement = lowering.placement(recipe, target, rewritten)
    integer = int8 and recipe.scheme == "w8a8"
    kinds = placement.kinds(graph, rewritten) if integer else {}
    table = tuple(
        ManifestLayer(name=layer.name, op=layer.op, macs=layer.macs, int8=node in kinds, kind=kinds.get(node, "float"))
        for node, layer in layers(graph)
    )
    scheme = "float32"
    if int8:
        scheme = _scheme(recipe, wants, placement.phrases(rewritten))
        settings = (recipe, target, lowering, rewriter.check_equalized)
        limit_pairs = limits_pairs(recipe, target, spec.device_class)
        alike = shared and quantize_like(copy_sharing(rewritten), calibration[0], shared, *settings, limit_pairs)
        rewritten = alike or quantize(rewritten, calibration, *settings, step, limit_pairs)
    runtime = Runtime.find(target)
    task = spec.task
    preprocessing = network.preprocessing
    has_dynamic = "dynamic" in kinds.values()
    manifest = Manifest(
        target=target,
        precision=precision,
        scheme=scheme,
        model_file="",
        input_shape=preprocessing.shape_of(spec.input_dtype),
        layout=INPUT_LAYOUTS[spec.input_dtype],
        dtype=spec.input_dtype,
        input_name="",
        output_name="",
        classes=len(network.labels),
        task=task.name,
        activation=task.activation,
        thresholds=task.thresholds if task.thresholds and task.activation == "sigmoid" else None,
        preprocessing=preprocessing,
        engine={
            "package": runtime.distributions[0],
            "minimum": runtime.oldest_version if has_dynamic else runtime.oldest_loading_version,
        },
        device_class=spec.device_class.name,
        fingerprint=spec.inputs(target, precision).key,
        session={key: value for each in lowering.enabled(wants) for key, value in each.session.items() if integer},
        layers=table,
        provenance=spec.provenance(target, precision, matched),
    )
    unmatched = tuple(name for name in names if name not in {*matched, *recipe.optional_rewrites})
    facts = GraphFacts(manifest, network.labels, spec.device_class, unmatched)
    return GraphToCompile(rewritten, facts, samples)


def calibrate_together(
    recipe: Recipe,
    device_class: DeviceClass,
    rewriter: Rewriter,
    graph: GraphModule,
    images: Sequence[NDArray[np.float32]],
    step: Step = no_step,
) -> Calibrated:
    """Calibrate the exported graph for all runtimes of a `BuildSpec.shared_recipe`, on float32 images [1,C,H,W].

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
        kinds={},
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
    wants, inputs = recipe.targets[target], Runtime.find(target).saturating_inputs
    adds_in_16_bits = wants.activations in inputs and recipe.scheme == "w8a8" and not device_class.is_arm
    return wants.limit_weight_pairs and adds_in_16_bits


def _scheme(recipe: Recipe, wants: TargetRecipe, phrases: Sequence[str]) -> str:
    """Describe in words what an int8 bundle computes in int8, with phrases for all but its dense layers."""
    if recipe.scheme == "w8":
        return "w8, int8 weights per channel of dense layers, computed with in float"
    where = "inputs and outputs" if wants.quantize_outputs else "inputs"
    dense = f"static w8a8, int8 weights per channel, {wants.activations} {where} of dense layers"
    return ", ".join([dense, *phrases])


T = TypeVar("T")


class JobGraphs:
    """Graphs of one job. The network is exported once, for the first graph.

    If other processes have graphs of the same job, `folder` has the new constants of each, and results that the first
    one stores for all: that it has compared the graph with torch, the calibration images that it has cropped and
    checked, and what it has calibrated.
    """

    def __init__(self, spec: BuildSpec, reporter: Reporter, folder: Path | None = None) -> None:
        self.spec, self.reporter, self._folder = spec, reporter, folder
        self._results: dict[str, Any] = {}

    def _once(self, name: str, make: Callable[[], T]) -> T:
        """The result of `make`, unless graphs with another recipe, or another process, have one under this name."""
        if name not in self._results:
            self._results[name] = make() if self._folder is None else _stored(self._folder / f"{name}.pt", make)
        result: T = self._results[name]
        return result

    def with_recipe(self, recipe: Recipe) -> "JobGraphs":
        """The same job with another recipe. It shares the network, its exported graph and the calibration images."""
        _ = self.simplified, self._calibration  # computed here, so that all copies share them
        other = copy(self)
        other.spec = replace(self.spec, recipe=recipe)
        return other

    def graph_to_compile(self, target: str, precision: Precision) -> GraphToCompile:
        """Rewrite the graph of one bundle; if it is int8, calibrate it."""
        if precision == "float":
            return self._to_compile(target, precision)
        return replace(self._to_compile(target, precision, self._shared_calibration(target)), fitting=self._fitting)

    def could_be_dynamic(self, target: str, graph: GraphModule) -> set[str]:
        """Names of a graph's layers that could be dynamic on a target, and whose kind the recipe leaves open."""
        recipe = self.spec.recipe.for_target(target)
        row = recipe.targets[target]
        kinds = dict(row.kinds)
        kinds.setdefault("*", "dynamic")
        recipe = replace(recipe, targets={target: replace(row, kinds=kinds)})
        placement = load_lowering(target).placement(recipe, target, graph)
        return {
            layer.name
            for layer in dense_layers(graph)
            if placement.kind_of(layer) == "dynamic" and row.kind_of(layer.name) == "static"
        }

    def unrounded(self, target: str) -> GraphModule:
        """The graph of a target's int8 bundle with the weights that its layers had before they were rounded.

        It needs no calibration of its own if the bundle shares one.
        """
        shared = self._shared_calibration(target)
        nearest = self.spec.recipe.rounding_to_nearest()
        alike = shared.without_weights() if shared else None
        return self.with_recipe(nearest)._to_compile(target, "int8", alike).graph

    def _to_compile(self, target: str, precision: Precision, shared: Calibrated | None = None) -> GraphToCompile:
        wants = self.spec, target, precision, self.simplified, self.samples
        name = f"{target}-{precision}"
        images = self._calibration if precision == "int8" else []
        if images and shared is None:
            with self._calibrating(f"{name}: calibrate", self.spec.recipe.for_target(target), len(images)) as step:
                return quantize_stage(*wants, images, step)
        with self.reporter.stage(f"{name}: rewrite"), quiet():
            return quantize_stage(*wants, images, shared=shared)

    def _shared_calibration(self, target: str) -> Calibrated | None:
        """The calibration that a runtime shares with others; None if it is calibrated alone."""
        recipe = self.spec.shared_recipe(target)
        if recipe is None:
            return None
        shared = self._calibrated(recipe)
        kinds = self.spec.recipe.targets[target].kinds.values()
        if recipe.weight_rounding != "fit" or "dynamic" not in kinds:
            return shared
        # Weights that are fitted to the noise of static inputs would cost dynamic layers up to 13 dB.
        return replace(shared, dynamic=self._calibrated(replace(recipe, scheme="w8", weight_rounding="gptq")).layers)

    def _calibrated(self, recipe: Recipe) -> Calibrated:
        """The calibration that several runtimes share, made for the first of them."""

        def calibrate() -> Calibrated:
            images = self._calibration
            rewriter = Rewriter(self.spec.network, self.samples)
            with self._calibrating("calibrate", recipe, len(images)) as step:
                return calibrate_together(recipe, self.spec.device_class, rewriter, self.simplified, images, step)

        key = digest(repr(recipe))[:16]
        return self._once(f"calibrated-{key}", calibrate)

    @cached_property
    def _calibration(self) -> list[NDArray[np.float32]]:
        """Calibration images, float32 [1,C,H,W]."""
        return [self.spec.network.preprocessing.normalize(pixels) for pixels in self._crops.numpy()]

    @property
    def _crops(self) -> Tensor:
        """Crops of the calibration images, uint8 [N,H,W,C]. Those of `samples` are cropped already."""
        return self._once("cropped", self._crop_images)

    def _crop_images(self) -> Tensor:
        spec, crops = self.spec, list(self.samples.pixels)
        with self.reporter.stage("crop calibration images", len(spec.calibration.samples)) as step:
            for _ in crops:
                step()
            rest = spec.calibration.samples[len(crops) :]
            for pixels in spec.calibration_dataset.crop_each(rest, spec.network.preprocessing):
                crops.append(pixels)
                step()
        return torch.from_numpy(np.stack(crops))

    @contextmanager
    def _calibrating(self, title: str, recipe: Recipe, images: int) -> Iterator[Step]:
        """The stage of a calibration. WeightsError if torch returns NaN for an image, which NNCF ignores in histograms.

        With other estimators it makes the calibration fail, and only then is each image checked.
        """
        if recipe.estimator == "histogram":
            self._check_images()
        try:
            with self.reporter.stage(title, images) as step, quiet():
                yield part_of(step, images)
        except CompileError:
            self._check_images()
            raise

    def _check_images(self) -> None:
        """Let torch predict the calibration images, once. Raises WeightsError if it returns NaN."""
        self._once("checked", self._predict_images)

    def _predict_images(self) -> bool:
        rest = self._crops.numpy()[len(self.samples.pixels) :]  # torch has predicted those in `samples`
        if len(rest):
            with self.reporter.stage("check calibration images", len(rest)) as step:
                for logits in batched_logits(self.spec.network, rest):
                    step(len(logits))
        return True

    @cached_property
    def simplified(self) -> GraphModule:
        """The network's graph before any rewrite. It is shared: don't change it.

        Raises ModelError if torch can't export the network, and ParityError if the graph computes something else.
        """
        with self.reporter.stage("simplify"), quiet():
            graph = simplify(copy_sharing(self.spec.network.traced), self._folder)

        def compare() -> ParityError | None:
            with self.reporter.stage("compare the graph with torch"), quiet():
                try:
                    check_graph(self.spec.network, graph, self.samples)
                except ParityError as error:
                    return error
            return None

        if difference := self._once("compared", compare):
            raise difference
        return graph

    @property
    def samples(self) -> ParitySamples:
        """The calibration images that check parity, with torch's logits."""
        return self._once("samples", self._predict_samples)

    def _predict_samples(self) -> ParitySamples:
        return self._predicted(self.spec.calibration_dataset, self.spec.calibration.samples[:PARITY_IMAGES])

    @property
    def _fitting(self) -> ParitySamples | None:
        """The images that fit a temperature, with torch's logits."""
        dataset, chosen = self.spec.fitting_dataset, self.spec.fitting
        if dataset is None or chosen is None:
            return None
        return self._once("fitting", lambda: self._predicted(dataset, chosen.samples))

    def _predicted(self, dataset: Dataset, samples: Sequence[LabelledImage]) -> ParitySamples:
        pixels = dataset.crop(samples, self.spec.network.preprocessing).pixels
        return ParitySamples(pixels, torch_logits(self.spec.network, pixels))


def _stored(file: Path, make: Callable[[], T]) -> T:
    """The result of `make`, stored in a file by the first process that needs it."""
    if file.exists():
        stored: T = torch.load(file, mmap=True, weights_only=False)  # safe: a process of this job wrote it
        return stored
    result = make()
    with writing(file), replacing(file) as temporary:
        torch.save(result, temporary)
    return result
