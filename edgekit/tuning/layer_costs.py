"""What it costs or saves to keep layers in float, by the runtime's profiles of the float and the INT8 bundle.

A layer's time includes that of what surrounds it, such as activations and conversions. Layers that move to float alone
need conversions to and from the INT8 layers around them.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Protocol

import networkx as nx
from torch.fx import GraphModule

from edgekit.compiler.nodes import shape_of
from edgekit.compiler.quantizers import owners_of, quantizers
from edgekit.report.measurement import Measurement
from edgekit.report.sensitivity_document import FREE, order_of
from edgekit.report.times import Latency, TimedLayer, TimeProfile

DIFFERS = 1.1
"""Ratio from which two times of a layer differ. Profiles of a few runs vary by several percent."""


class Timed(Protocol):
    """A layer, or a part of one, in a profile."""

    @property
    def name(self) -> str: ...

    @property
    def ms(self) -> float: ...

    @property
    def around_ms(self) -> float: ...


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

    in_int8: Sequence[Timed]
    in_float: Sequence[Timed]
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
        return cls(_scaled(profile, factor), _scaled(float_profile, float_factor), conversion_ns)

    @property
    def int8_ms(self) -> float:
        """Time of all layers in INT8, with what surrounds them."""
        return sum(total_ms(self.in_int8).values())

    @property
    def most_saved_ms(self) -> float:
        """Time that layers in float would save if nothing had to be converted for it."""
        int8_ms, float_ms = total_ms(self.in_int8), total_ms(self.in_float)
        return sum(max(0.0, int8_ms[name] - float_ms[name]) for name in int8_ms.keys() & float_ms.keys())

    def costs(self, graph: GraphModule) -> "LayerCosts | None":
        """The costs in the graph with Q/DQ that the INT8 bundle was made from; None if no layer has both times."""
        owned = [(quantizer.source, list(map(owners_of, quantizer.node.users))) for quantizer in quantizers(graph)]
        borders = tuple(
            Border(frozenset().union(*owners), math.prod(shape_of(source)) * (self.conversion_ns or 0.0) / 1e6)
            for source, owners in owned
        )
        int8_ms, float_ms = total_ms(self.in_int8), total_ms(self.in_float)
        both = frozenset().union(*(border.layers for border in borders)) & int8_ms.keys() & float_ms.keys()
        return LayerCosts({n: int8_ms[n] for n in both}, {n: float_ms[n] for n in both}, borders) if both else None


@dataclass(frozen=True)
class LayerCosts:
    """Times of the layers of one INT8 graph that could stay in float, and of the conversions between them."""

    int8_ms: Mapping[str, float]
    """Time of each layer in the INT8 bundle, with what surrounds it."""
    float_ms: Mapping[str, float]
    """Time of each of these layers in the float bundle."""
    borders: tuple[Border, ...]
    """Values that are quantized for these layers."""

    def lost_ms(self, layers: Collection[str], factor: float = 1.0) -> float:
        """Time that the bundle takes longer if these layers stay in float as well; below 0 if it takes less.

        Times in float are multiplied by the factor.
        """
        chosen = frozenset(layers)
        converted = sum(border.ms for border in self.borders if border.layers & chosen and border.layers - chosen)
        return converted + sum(
            factor * self.float_ms[name] - self.int8_ms[name] for name in chosen & self.int8_ms.keys()
        )

    def order(self, noise: Mapping[str, float]) -> list[str]:
        """Layers sorted by the noise that they remove for the time that they lose in float, largest first."""
        lost = {name: self.lost_ms([name]) for name in self.int8_ms}
        return order_of(noise, lost, FREE * sum(self.int8_ms.values()))

    def slower_in_int8(self) -> list[frozenset[str]]:
        """The sets of connected layers that save the most time in float, each with what it has to convert.

        A layer is slower if the times differ by more than `DIFFERS`. The set that saves most is first.
        """
        graph = nx.DiGraph()
        graph.add_nodes_from((_FLOAT, _INT8))
        for name in frozenset().union(*(border.layers for border in self.borders)):
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


def _scaled(profile: TimeProfile, factor: float) -> list[TimedLayer]:
    return [replace(layer, ms=factor * layer.ms, around_ms=factor * layer.around_ms) for layer in profile.layers]


def total_ms(layers: Iterable[Timed]) -> dict[str, float]:
    """Time of each layer, with that of what surrounds it, in milliseconds."""
    times: dict[str, float] = defaultdict(float)
    for layer in layers:
        times[layer.name] += layer.ms + layer.around_ms
    return dict(times)


_FLOAT, _INT8 = object(), object()
"""Source and sink of the graph whose minimum cut separates the layers that should be in float from the others."""
