"""What it costs or saves to keep layers in float, by the runtime's profiles of the float and the INT8 bundle.

A layer's time includes that of what surrounds it, such as activations and conversions. Layers that move to float alone
need conversions to and from the INT8 layers around them.
"""

import math
from collections import defaultdict, deque
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from torch.fx import GraphModule

from edgekit.compiler.nodes import shape_of
from edgekit.compiler.quantizers import owners_of, quantizers
from edgekit.report.measurement import Measurement
from edgekit.report.sensitivity_document import FREE, order_of

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
    def measured(cls, int8: Measurement, in_float: Measurement | None) -> "LayerTimes | None":
        """The times of two rows; None unless a real device has reported both.

        Those of the float bundle are scaled if it was faster with another number of threads.
        """
        both = (int8.profile, int8.latency_ms, in_float and in_float.profile, in_float and in_float.latency_ms)
        profile, latency, float_profile, float_latency = both
        if int8.device.emulated or not (profile and latency and float_profile and float_latency):
            return None
        p50 = {each.threads: each.p50 for each in float_latency.by_threads}
        own, other = p50.get(float_latency.threads), p50.get(latency.threads)
        factor = other / own if own and other else 1.0
        scaled = [
            replace(layer, ms=factor * layer.ms, around_ms=factor * layer.around_ms) for layer in float_profile.layers
        ]
        return cls(profile.layers, scaled, profile.conversion_ns) if profile.layers and scaled else None

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
        capacity: dict[Hashable, dict[Hashable, float]] = defaultdict(lambda: defaultdict(float))
        for name in frozenset().union(*(border.layers for border in self.borders)):
            gain = self.int8_ms[name] - DIFFERS * self.float_ms[name] if name in self.int8_ms else -math.inf
            capacity[_FLOAT][name], capacity[name][_INT8] = max(0.0, gain), max(0.0, -gain)
        for border in self.borders:
            first, last = (border, "first in float"), (border, "all in float")
            capacity[first][last] += border.ms
            for name in border.layers:
                capacity[name][first] = capacity[last][name] = math.inf
        in_float = _source_side(capacity)
        chosen = [name for name in self.int8_ms if name in in_float]
        return sorted(self._connected(chosen), key=self.lost_ms)

    def _connected(self, layers: Collection[str]) -> list[frozenset[str]]:
        """The layers in sets, so that no value passes from one set to another."""
        sets = [frozenset([name]) for name in sorted(layers)]
        for border in self.borders:
            touched = [each for each in sets if each & border.layers]
            if touched:
                sets = [each for each in sets if each not in touched] + [frozenset().union(*touched)]
        return sets


def total_ms(layers: Iterable[Timed]) -> dict[str, float]:
    """Time of each layer, with that of what surrounds it, in milliseconds."""
    times: dict[str, float] = defaultdict(float)
    for layer in layers:
        times[layer.name] += layer.ms + layer.around_ms
    return dict(times)


_FLOAT, _INT8 = object(), object()
"""Source and sink of the flow whose minimum cut separates the layers that should be in float from the others."""


def _source_side(capacity: dict[Hashable, dict[Hashable, float]]) -> set[Hashable]:
    """The nodes on the source's side of a minimum cut (Edmonds and Karp's algorithm). Uses up `capacity`."""
    while True:
        came_from: dict[Hashable, Hashable] = {_FLOAT: _FLOAT}
        queue = deque([_FLOAT])
        while queue:
            node = queue.popleft()
            for other, left in capacity[node].items():
                if left > 0 and other not in came_from:
                    came_from[other] = node
                    queue.append(other)
        if _INT8 not in came_from:
            return set(came_from)
        path = [_INT8]
        while path[-1] is not _FLOAT:
            path.append(came_from[path[-1]])
        steps = [(before, after) for after, before in pairwise(path)]
        flow = min(capacity[before][after] for before, after in steps)
        for before, after in steps:
            capacity[before][after] -= flow
            capacity[after][before] += flow
