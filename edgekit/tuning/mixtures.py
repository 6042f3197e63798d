"""Mixtures of INT8 and float layers, simulated in torch, and the layers that should stay in float by their noise."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import constant
from edgekit.compiler.layers import DenseLayer, dense_layer, dense_layers, layers
from edgekit.compiler.nodes import operation_of
from edgekit.compiler.quantizers import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    QUANTIZATIONS,
    int8_weight,
    owners_of,
    quantizer_of,
)
from edgekit.images.dataset import LabelledCrops, crop_samples
from edgekit.images.preprocess import Preprocessing
from edgekit.measure.accuracy import snr_db
from edgekit.measure.tasks import Answers, Task
from edgekit.measure.tasks.single_label import SingleLabel
from edgekit.pipeline.graph_to_compile import GraphToCompile
from edgekit.pipeline.graphs import JobGraphs
from edgekit.report.measurement import Accuracy
from edgekit.report.sensitivity_document import Simulated, order_of
from edgekit.support.progress import Step, no_step
from edgekit.tuning.layer_costs import LayerTimes

RANKING_IMAGES = 32
"""Largest number of calibration images on which a repair simulates each layer alone."""
NOISE_IMAGES = 64
"""Largest number of calibration images on which it simulates sets of layers. On few, the noise depends on their
choice."""
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of layers in float that a repair simulates."""
NOISE_LEFT = (1 / 4, 1 / 16, 1 / 64)
"""Share of the INT8 noise that each attempt of a repair may leave: its amplitude, and about the drop with it, halves
each time."""

Mixture = frozenset[str]
"""Names of the layers in INT8."""


@dataclass(frozen=True, eq=False)
class Run:
    """The result of running one image through the graph with some layers in INT8."""

    logits: NDArray[np.float32]
    """Logits of the image, [classes]."""
    quantized: frozenset[str]
    """Names of the layers in INT8."""
    values: Mapping[Node, Any]
    """Output of every node, which other mixtures reuse up to the first layer that differs."""


class Simulation:
    """A graph that `quantize` returned, with a switch for each layer.

    A layer that is off uses its float input and weights, and doesn't cause its output to be quantized. The network is
    then the one that `quantize` returns with this layer among the recipe's `float_layers`. If GPTQ or the fit changed
    weights, `unrounded` is the same graph with the original ones. The fit of the other layers stays as it is.
    """

    def __init__(self, graph: GraphModule, unrounded: GraphModule | None = None) -> None:
        self._graph = graph
        self._nodes: list[Node] = list(graph.graph.nodes)
        self._layers = {layer.node: layer for layer in dense_layers(graph) if int8_weight(layer.node) is not None}
        self._int8 = _int8_constants(graph, self._layers.values())
        self._float = self._int8 | _float_constants(unrounded or graph, self._layers.values())
        self._first: dict[str, int] = {}
        for index, node in enumerate(self._nodes):
            for value in node.all_input_nodes:
                if value.target in (DEQUANTIZE, DEQUANTIZE_CHANNELS):
                    for name in sorted(owners_of(value)):
                        self._first.setdefault(name, index)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers that have a switch, in the graph's order."""
        return tuple(self._first)

    @torch.no_grad()
    def run(self, image: NDArray[np.float32], quantized: Collection[str], like: Run | None = None) -> Run:
        """Run one image float32 [1,C,H,W] with these layers in INT8.

        `like` is an earlier run of the same image, whose values are reused up to the first layer that differs.
        """
        active, start = frozenset(quantized), 0
        values: dict[Node, Any] = {}
        if like is not None:
            start = min((self._first[name] for name in active ^ like.quantized), default=len(self._nodes) - 1)
            values = {node: like.values[node] for node in self._nodes[:start] if node in like.values}
        for node in self._nodes[start:-1]:
            if node.op == "placeholder":
                values[node] = torch.from_numpy(image)
            elif node.op != "get_attr" and node.target not in QUANTIZATIONS:
                args, kwargs = self._arguments(node, values, active)
                values[node] = self._function(node)(*args, **kwargs)
        ((logits,),) = self._arguments(self._nodes[-1], values, active)[0]
        return Run(logits[0].numpy(), active, values)

    def _function(self, node: Node) -> Callable[..., Any]:
        """The callable of a node: an operation, or a module that NNCF inserted, for example to smooth."""
        return self._graph.get_submodule(str(node.target)) if node.op == "call_module" else operation_of(node)

    def _arguments(self, node: Node, values: dict[Node, Any], active: frozenset[str]) -> Any:
        """Positional and keyword arguments of a node, with the current values."""
        layer = self._layers.get(node)
        constants = self._int8 if layer is not None and layer.name in active else self._float

        def value(origin: Node) -> Any:
            if origin in constants:
                return constants[origin]
            quantizer = quantizer_of(origin)
            if quantizer is None:
                return values[origin]
            plain = self._float[quantizer.source] if quantizer.source in self._float else values[quantizer.source]
            if owners_of(origin).isdisjoint(active):
                return plain
            if origin not in values:
                levels = operation_of(quantizer.node)(plain, *quantizer.grid)
                values[origin] = operation_of(origin)(levels, *quantizer.grid, **origin.kwargs)
            return values[origin]

        return map_arg(node.args, value), map_arg(node.kwargs, value)


def _int8_constants(graph: GraphModule, layers: Collection[DenseLayer]) -> dict[Node, Tensor | None]:
    """Values of the constants of a graph, and of the weights of its layers between INT8 and float."""
    values = {node: constant(graph, node) for node in graph.graph.nodes if node.op == "get_attr"}
    for layer in layers:
        quantizer = int8_weight(layer.node)
        assert quantizer is not None
        values[layer.weight] = quantizer.rounded(graph)
    return values


def _float_constants(unrounded: GraphModule, layers: Collection[DenseLayer]) -> dict[Node, Tensor | None]:
    """Original weights and biases of the layers, from the graph that has nodes of the same names."""
    originals = {node.name: node for node in unrounded.graph.nodes}
    values: dict[Node, Tensor | None] = {}
    for layer in layers:
        original, quantizer = dense_layer(originals[layer.node.name]), int8_weight(originals[layer.node.name])
        assert original is not None
        assert quantizer is not None
        values[layer.weight] = constant(unrounded, quantizer.source)
        if layer.bias is not None and original.bias is not None:
            values[layer.bias] = constant(unrounded, original.bias)
    return values


@dataclass(eq=False)
class Mixtures:
    """Runs mixtures of one graph on the same images, each mixture once."""

    simulation: Simulation
    """Simulation of the quantized graph."""
    images: LabelledCrops
    """Images to run the mixtures on."""
    preprocessing: Preprocessing
    """Preprocessing of the network."""
    task: Task = field(default_factory=SingleLabel)
    """What the network's outputs mean."""
    logits: dict[Mixture, NDArray[np.float32]] = field(default_factory=dict)
    """Logits [N,classes] of each mixture that has run."""

    @property
    def everything(self) -> Mixture:
        return frozenset(self.simulation.layers)

    def run(self, mixtures: Iterable[Mixture], on_image: Step = no_step) -> None:
        """Run the mixtures that have not run yet, and the two that have all layers in float or in INT8.

        Each mixture reuses the values of the more similar of these two, up to the first layer that differs.
        """
        ends = (frozenset[str](), self.everything)
        missing = [mixture for mixture in dict.fromkeys((*ends, *mixtures)) if mixture not in self.logits]
        if not missing:
            return
        logits: dict[Mixture, list[NDArray[np.float32]]] = {mixture: [] for mixture in missing}
        for image in self.images.normalized(self.preprocessing):
            end_runs = [self.simulation.run(image, end) for end in ends]
            for mixture in missing:
                near = min(end_runs, key=lambda run: len(run.quantized ^ mixture))
                run: Run = near if near.quantized == mixture else self.simulation.run(image, mixture, near)
                logits[mixture].append(run.logits)
            on_image()
        self.logits |= {mixture: np.stack(rows) for mixture, rows in logits.items() if rows}

    def figures(self, mixture: Mixture) -> Simulated:
        """Signal-to-noise ratio and accuracy of a mixture that has run, against all layers in float."""
        answers, plain = self._answers(mixture), self._answers(frozenset())
        accuracy = self.task.compare(answers, plain, self.images.labels)
        snr = self.snr(mixture)
        return Simulated(
            snr_db=snr if isfinite(snr) else None,
            drop_top1_points=accuracy.drop_points,
            drop_ci95_points=accuracy.drop_ci95_points,
            agreement=accuracy.agreement,
        )

    def snr(self, mixture: Mixture) -> float:
        """Signal-to-noise ratio of the mixture's logits in dB against float; infinite if they are equal."""
        return snr_db(self.logits[frozenset()], self.logits[mixture])

    def noise(self, mixture: Mixture) -> float:
        """Power of the difference from the float logits, divided by the power of the float logits."""
        plain = self.logits[frozenset()].astype(np.float64)
        return float(np.square(self.logits[mixture] - plain).sum() / np.square(plain).sum())

    def alone(self, on_image: Step = no_step) -> dict[str, float]:
        """The noise of each layer with only this layer in INT8."""
        mixtures = {name: frozenset([name]) for name in self.simulation.layers}
        self.run(mixtures.values(), on_image)
        return {name: self.noise(mixture) for name, mixture in mixtures.items()}

    def float_accuracy(self) -> Accuracy:
        """Accuracy with all layers in float."""
        plain = self._answers(frozenset())
        return self.task.compare(plain, plain, self.images.labels)

    def _answers(self, mixture: Mixture) -> Answers:
        answers: Answers = self.task.kept(self.logits[mixture])
        return answers


def simulate(graphs: JobGraphs, to_compile: GraphToCompile, images: LabelledCrops) -> Mixtures:
    """Mixtures of a graph that was calibrated for one target, on these images."""
    spec = graphs.spec
    rounded = spec.recipe.weight_rounding != "nearest"
    simulation = Simulation(to_compile.graph, graphs.unrounded(to_compile.facts.target) if rounded else None)
    return Mixtures(simulation, images, spec.network.preprocessing, spec.task)


def layer_macs(graphs: JobGraphs) -> dict[str, int]:
    """Multiply-accumulates of each layer."""
    macs: Counter[str] = Counter()
    for _, layer in layers(graphs.simplified):
        macs[layer.name] += layer.macs
    return macs


def rank_layers(graphs: JobGraphs, target: str, times: LayerTimes | None = None) -> tuple[tuple[str, ...], ...]:
    """The layers of the job's INT8 bundle to keep in float, for each attempt as many as cut the noise enough.

    Those are first that remove the most noise for the time that they lose; without times, the noisiest. Simulates the
    bundle in torch. No attempt leaves all layers in float. Raises StageError.
    """
    spec = graphs.spec
    samples = spec.calibration.samples[:NOISE_IMAGES]
    crops = crop_samples(spec.calibration_dataset, samples, spec.network.preprocessing)
    to_compile = graphs.graph_to_compile(target, "int8")
    mixtures = simulate(graphs, to_compile, crops)
    title, layers = f"{target}-int8", mixtures.simulation.layers
    first = LabelledCrops(crops.pixels[:RANKING_IMAGES], crops.labels[:RANKING_IMAGES])
    with graphs.reporter.stage(f"{title}: rank {len(layers)} layers", len(first)) as step:
        noise = Mixtures(mixtures.simulation, first, mixtures.preprocessing).alone(step)
    costs = times.costs(to_compile.graph) if times else None
    order = costs.order(noise) if costs else order_of(noise, {}, 1.0)
    with graphs.reporter.stage(f"{title}: simulate layers in float", len(samples)) as step:
        return tuple(attempts_of(mixtures, order, step))


def attempts_of(mixtures: Mixtures, order: Sequence[str], on_image: Step = no_step) -> Iterator[tuple[str, ...]]:
    """The layers of each attempt: the fewest from the front of the order that leave no more noise than allowed."""
    counts = [count for count in COUNTS if count < len(order)]
    left = {count: mixtures.everything - frozenset(order[:count]) for count in counts}
    mixtures.run(left.values(), on_image)
    whole, tried = mixtures.noise(mixtures.everything), 0
    for share in NOISE_LEFT:
        enough = (n for n in counts if n > tried and mixtures.noise(left[n]) <= share * whole)
        if (count := next(enough, None)) is not None:
            tried = count
            yield tuple(order[:count])
