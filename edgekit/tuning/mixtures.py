"""Mixtures of INT8 and float layers: what they save in time, and lose in accuracy.

Times come from the runtime's profiles of the float and the INT8 bundle. A layer's time includes that of what surrounds
it, such as activations and conversions. Layers that move to float alone need conversions to and from the INT8 layers
around them. Losses are simulated in torch, and the noise of layers says which should stay in float.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import isfinite
from typing import Any

import networkx as nx
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edgekit.compiler.graph import constant, operation_of, shape_of
from edgekit.compiler.layers import (
    DEQUANTIZE,
    DEQUANTIZE_CHANNELS,
    QUANTIZATIONS,
    DenseLayer,
    dense_layer,
    dense_layers,
    int8_weight,
    layers,
    owners_of,
    quantizer_of,
    quantizers,
)
from edgekit.config.runtimes import LayerKind
from edgekit.images.dataset import LabelledCrops
from edgekit.images.preprocess import Preprocessing
from edgekit.measure.accuracy import snr_db
from edgekit.measure.task import Answers, Task
from edgekit.measure.tasks import SingleLabel
from edgekit.pipeline.graphs import JobGraphs
from edgekit.report.row import Accuracy, Latency, Measurement, TimedLayer, TimeProfile
from edgekit.report.sensitivity_document import Simulated, order_of
from edgekit.runtime.profile import ProfiledLayer
from edgekit.support.progress import Step, no_step

DIFFERS = 1.1
"""Ratio from which two times of a layer differ. Profiles of a few runs vary by several percent."""


@dataclass(frozen=True)
class Border:
    """A value that is quantized for some layers: if only some of them stay in INT8, it has to be converted."""

    layers: frozenset[str]
    """Layers that write or read the value in INT8."""
    ms: float
    """Time of the conversion."""


@dataclass(frozen=True)
class LayerTimes:
    """Times of the layers of a runtime's INT8 bundle, and of its float bundle with as many threads."""

    int8_ms: Mapping[str, float]
    """Time of each layer in the INT8 bundle, with what surrounds it."""
    float_ms: Mapping[str, float]
    """Time of each layer in the float bundle."""
    conversion_ns: float | None
    """Nanoseconds to convert one value between float and INT8; None if nothing converts values."""

    @classmethod
    def measured(cls, int8: Measurement, in_float: Measurement | None, device_class: str) -> "LayerTimes | None":
        """The times of two rows; None unless a real device of this class has reported both.

        Profilers add time to each operation, of which INT8 may have more. So each profile is scaled to the undisturbed
        inferences of its row, and the float bundle's to as many threads as the INT8 bundle has.
        """
        own, other = _timed(int8), in_float and _timed(in_float)
        if not int8.times_are_of(device_class) or not own or not other:
            return None
        (profile, latency, factor), (float_profile, float_latency, float_factor) = own, other
        p50 = {each.threads: each.p50 for each in float_latency.by_threads}
        if p50.keys() >= {latency.threads, float_latency.threads}:
            float_factor *= p50[latency.threads] / p50[float_latency.threads]
        conversion_ns = profile.conversion_ns and factor * profile.conversion_ns
        return cls(total_ms(profile.layers, factor), total_ms(float_profile.layers, float_factor), conversion_ns)

    @property
    def most_saved_ms(self) -> float:
        """Time that layers in float would save if nothing had to be converted for it."""
        both = self.int8_ms.keys() & self.float_ms.keys()
        return sum(max(0.0, self.int8_ms[name] - self.float_ms[name]) for name in both)

    def costs(self, graph: GraphModule) -> "LayerCosts | None":
        """The costs in the graph with Q/DQ that the INT8 bundle was made from; None if no layer has both times."""
        owned = [(quantizer.source, list(map(owners_of, quantizer.node.users))) for quantizer in quantizers(graph)]
        borders = tuple(
            Border(frozenset().union(*owners), math.prod(shape_of(source)) * (self.conversion_ns or 0.0) / 1e6)
            for source, owners in owned
        )
        int8_ms, float_ms = self.int8_ms, self.float_ms
        in_int8 = frozenset(layer.name for layer in dense_layers(graph) if int8_weight(layer.node) is not None)
        both = in_int8 & int8_ms.keys() & float_ms.keys()
        return LayerCosts({n: int8_ms[n] for n in both}, {n: float_ms[n] for n in both}, borders) if both else None


@dataclass(frozen=True)
class LayerCosts:
    """Times of the layers of one INT8 graph that could stay in float, and of the conversions between them."""

    int8_ms: Mapping[str, float]
    """Time of each layer in the INT8 bundle, with what surrounds it."""
    float_ms: Mapping[str, float]
    """Time of each of these layers in the float bundle."""
    borders: tuple[Border, ...]
    """Values that have one range for all images for these layers."""

    def lost_ms(self, layers: Collection[str], factor: float = 1.0) -> float:
        """Time that the bundle takes longer if these layers stay in float as well; below 0 if it takes less.

        Times in float are multiplied by the factor.
        """
        chosen = frozenset(layers)
        converted = sum(border.ms for border in self.borders if border.layers & chosen and border.layers - chosen)
        return converted + sum(
            factor * self.float_ms[name] - self.int8_ms[name] for name in chosen & self.int8_ms.keys()
        )

    def slower_in_int8(self) -> list[frozenset[str]]:
        """The sets of connected layers that save the most time in float, each with what it has to convert.

        A layer is slower if the times differ by more than `DIFFERS`. The set that saves most is first.
        """
        graph = nx.DiGraph()
        graph.add_nodes_from((_FLOAT, _INT8))
        for name in frozenset(self.int8_ms).union(*(border.layers for border in self.borders)):
            gain = self.int8_ms[name] - DIFFERS * self.float_ms[name] if name in self.int8_ms else -math.inf
            graph.add_edge(_FLOAT, name, capacity=max(0.0, gain))
            graph.add_edge(name, _INT8, capacity=max(0.0, -gain))
        for index, border in enumerate(self.borders):  # two values may be of the same layers, and as large
            first, last = (index, "first in float"), (index, "all in float")
            graph.add_edge(first, last, capacity=border.ms)
            graph.add_edges_from(edge for name in border.layers for edge in ((name, first), (last, name)))  # uncut
        _, (in_float, _) = nx.minimum_cut(graph, _FLOAT, _INT8)
        chosen = in_float & self.int8_ms.keys()
        return sorted(self._connected(chosen), key=lambda layers: self.lost_ms(layers, DIFFERS))

    def _connected(self, layers: Set[str]) -> list[frozenset[str]]:
        """The layers in sets, so that no value passes from one set to another."""
        graph = nx.Graph()
        graph.add_nodes_from(sorted(layers))
        for border in self.borders:
            nx.add_path(graph, sorted(border.layers & layers))
        return [frozenset(names) for names in nx.connected_components(graph)]


def _timed(row: Measurement) -> tuple[TimeProfile, Latency, float] | None:
    """Profile and latency of a row, and the time of an inference divided by that under the profiler; None without."""
    profile, latency = row.profile, row.latency_ms
    if latency is None or profile is None or not profile.layers or not profile.sum_ms:
        return None
    return profile, latency, latency.p5 / profile.sum_ms


def total_ms(layers: Iterable[ProfiledLayer | TimedLayer], factor: float = 1.0) -> dict[str, float]:
    """Time of each layer, with that of what surrounds it, in milliseconds, multiplied by a factor."""
    times: dict[str, float] = defaultdict(float)
    for layer in layers:
        times[layer.name] += factor * layer.ms + factor * layer.around_ms
    return dict(times)


_FLOAT, _INT8 = object(), object()
"""Source and sink of the graph whose minimum cut separates the layers that should be in float from the others."""


RANKING_IMAGES = 32
"""Largest number of calibration images on which a repair simulates each layer alone."""
NOISE_IMAGES = 64
"""Largest number of calibration images on which it simulates sets of layers. On few, the noise depends on their
choice."""
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
"""Numbers of layers in float that a repair simulates."""
NOISE_LEFT = (1 / 4, 1 / 16, 1 / 64)
"""Share of the INT8 noise that each of a repair's first attempts may leave: its amplitude, and about the drop with it,
halves each time."""

Mixture = frozenset[str]
"""Names of the layers in INT8."""


@dataclass(frozen=True, eq=False)
class MixedRun:
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
    def run(self, image: NDArray[np.float32], quantized: Collection[str], like: MixedRun | None = None) -> MixedRun:
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
        return MixedRun(logits[0].numpy(), active, values)

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
        original = dense_layer(originals[layer.node.name])
        quantizer = int8_weight(originals[layer.node.name])
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
                run: MixedRun = near if near.quantized == mixture else self.simulation.run(image, mixture, near)
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


def simulate(graphs: JobGraphs, target: str, graph: GraphModule, images: LabelledCrops) -> Mixtures:
    """Mixtures of a graph that was calibrated for a target, on these images."""
    spec = graphs.spec
    rounded = spec.recipe.weight_rounding != "nearest"
    simulation = Simulation(graph, graphs.unrounded(target) if rounded else None)
    return Mixtures(simulation, images, spec.network.preprocessing, spec.task)


def layer_macs(graphs: JobGraphs) -> dict[str, int]:
    """Multiply-accumulates of each layer."""
    macs: Counter[str] = Counter()
    for _, layer in layers(graphs.simplified):
        macs[layer.name] += layer.macs
    return macs


LayerStep = tuple[str, LayerKind]
"""Name of a layer, and a kind that it gets."""


@dataclass(frozen=True)
class Ranking:
    """The steps of a repair, each of which gives another kind to one layer of an INT8 bundle."""

    steps: tuple[LayerStep, ...]
    """Layers with their next kinds, the first to take first."""
    counts: tuple[int, ...]
    """Numbers of steps from the front that leave the shares `NOISE_LEFT` of the INT8 noise, as far as any does."""


AT_ONCE: Mapping[LayerKind, tuple[float, float]] = {"float": (1.0, 1.0)}
BY_DYNAMIC: Mapping[LayerKind, tuple[float, float]] = {
    "dynamic": (0.9, 0.3),
    "float": (0.1, 0.7),
}
"""Shares of its noise that a layer loses on its way to float, and of the time that it costs there, by its next kinds.
A dynamic DINOv2 has 9 dB less noise than a static one, for 6 % of that time on LiteRT and 45 % on OpenVINO."""


def steps_of(
    noise: Mapping[str, float],
    costs: LayerCosts | None,
    dynamic: Set[str] = frozenset(),
) -> list[LayerStep]:
    """The steps sorted by the noise that they remove for the time that they lose; without costs, by the noise.

    These layers can be dynamic. They become that first, unless they are faster in float anyway.
    """
    lost = {name: costs.lost_ms([name]) for name in costs.int8_ms} if costs else {}
    int8_ms = sum(costs.int8_ms.values()) if costs else 0.0
    removed: dict[LayerStep, float] = {}
    slower: dict[LayerStep, float] = {}
    for name, power in noise.items():
        shares = BY_DYNAMIC if name in dynamic and lost.get(name, 1.0) > 0 else AT_ONCE
        for kind, (of_noise, of_time) in shares.items():
            removed[name, kind] = of_noise * power
            if name in lost:
                slower[name, kind] = of_time * lost[name]
    return order_of(removed, slower, int8_ms)


def rank_layers(graphs: JobGraphs, target: str, times: LayerTimes | None = None) -> Ranking:
    """The steps that a repair of the job's INT8 bundle takes, and how many cut the noise enough.

    Simulates the bundle in torch, in which a dynamic layer computes in float. Raises StageError.
    """
    spec = graphs.spec
    samples = spec.calibration.samples[:NOISE_IMAGES]
    crops = spec.calibration_dataset.crop(samples, spec.network.preprocessing)
    graph = graphs.graph_to_compile(target, "int8").graph
    mixtures = simulate(graphs, target, graph, crops)
    title, layers = f"{target}-int8", mixtures.simulation.layers
    first = LabelledCrops(crops.pixels[:RANKING_IMAGES], crops.labels[:RANKING_IMAGES])
    with graphs.reporter.stage(f"{title}: rank {len(layers)} layers", len(first)) as step:
        noise = Mixtures(mixtures.simulation, first, mixtures.preprocessing).alone(step)
    steps = steps_of(noise, times.costs(graph) if times else None, graphs.could_be_dynamic(target, graph))
    with graphs.reporter.stage(f"{title}: simulate layers in float", len(samples)) as step:
        return Ranking(tuple(steps), tuple(counts_of(mixtures, [name for name, _ in steps], step)))


def counts_of(mixtures: Mixtures, order: Sequence[str], on_image: Step = no_step) -> Iterator[int]:
    """For each share of the noise, the fewest layers from the front of the order that leave no more; never all."""
    counts = [count for count in COUNTS if count < len(order)]
    left = {count: mixtures.everything - frozenset(order[:count]) for count in counts}
    mixtures.run(left.values(), on_image)
    whole, tried = mixtures.noise(mixtures.everything), 0
    for share in NOISE_LEFT:
        enough = (n for n in counts if n > tried and mixtures.noise(left[n]) <= share * whole)
        if (count := next(enough, None)) is not None:
            tried = count
            yield count
