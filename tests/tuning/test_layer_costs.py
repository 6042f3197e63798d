"""What layers in float cost or save, and the sets that save the most."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch

from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import Recipe
from edgekit.report.row import Measurement, ThreadTime, TimedLayer, TimeProfile
from edgekit.tuning.mixtures import DIFFERS, Border, LayerCosts, LayerTimes, steps_of, total_ms
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
from tests.helpers.measurements import device, latency, measurement
from tests.helpers.residual import Residual


def chain(times: Mapping[str, tuple[float, float]], conversions: Iterable[float]) -> LayerCosts:
    """Layers one after the other, with their times in INT8 and in float, and the conversion before each."""
    names = list(times)
    places = [names[:1], *map(list, pairwise(names))]
    borders = tuple(Border(frozenset(place), ms) for place, ms in zip(places, conversions, strict=True))
    return LayerCosts(
        {name: int8 for name, (int8, _) in times.items()},
        {name: plain / DIFFERS for name, (_, plain) in times.items()},
        borders,
    )


FAST = (0.1, 0.3)


@pytest.mark.parametrize(
    ("times", "conversion", "sets"),
    [
        ({"stem": (0.5, 0.2), "a": FAST, "b": FAST}, 0.1, ["stem"]),
        ({"stem": FAST, "depthwise": (0.4, 0.2), "b": FAST}, 0.15, []),
        ({"stem": FAST, "depthwise": (0.4, 0.2), "b": FAST}, 0.05, ["depthwise"]),
        ({"a": FAST, "b": (0.4, 0.3), "c": (0.31, 0.3), "d": (0.4, 0.3), "e": FAST}, 0.08, ["bcd"]),
        ({"stem": (0.5, 0.2), "a": FAST, "b": FAST, "c": (0.9, 0.2)}, 0.1, ["c", "stem"]),
        ({"a": FAST, "b": FAST}, 0.0, []),
    ],
    ids=["a stem", "an island that costs more", "an island", "a run", "the largest gain first", "all faster in INT8"],
)
def test_sets_that_are_faster_in_float(
    times: Mapping[str, tuple[float, float]], conversion: float, sets: list[str]
) -> None:
    costs = chain(times, [conversion] * len(times))
    wanted = [{name} if name in times else set(name) for name in sets]
    assert costs.slower_in_int8() == wanted
    assert all(costs.lost_ms(layers) < 0 for layers in wanted)


@pytest.mark.parametrize("seed", range(20))
def test_no_other_layers_save_more(seed: int) -> None:
    chance, names = random.Random(seed), "abcdef"
    int8, plain = ({name: chance.random() for name in names} for _ in range(2))
    borders = tuple(
        Border(frozenset(chance.sample(names, chance.randint(1, 3))), chance.random() / 2) for _ in range(7)
    )
    costs = LayerCosts(int8, plain, borders + borders[:3])
    subsets = [layers for count in range(len(names) + 1) for layers in combinations(names, count)]
    found = frozenset().union(*costs.slower_in_int8())
    lost = [costs.lost_ms(layers, DIFFERS) for layers in (found, *subsets)]
    assert lost[0] == pytest.approx(min(lost))


def test_a_layer_without_times_stays_where_it_is() -> None:
    costs = chain({"a": (0.5, 0.2), "b": (0.5, 0.2)}, [0.1, 0.1])
    del costs.int8_ms["b"]  # type: ignore[attr-defined]
    assert costs.slower_in_int8() == [{"a"}]


HERE = "x86-64-v4"
"""Class of the device that has measured."""


def profiled(precision: Any, **changes: Any) -> Measurement:
    profile = TimeProfile(
        layers=(TimedLayer("stem", "conv", precision == "int8", 0.4, 0.1),), sum_ms=1.0, conversion_ns=0.3
    )
    return replace(measurement(precision), profile=profile, **changes)


def test_only_times_of_a_real_device_count() -> None:
    int8, plain = profiled("int8"), profiled("float")
    assert LayerTimes.measured(int8, plain, HERE)
    assert LayerTimes.measured(int8, plain, "raspberry-pi-5") is None, "another processor has other times"
    assert LayerTimes.measured(int8, None, HERE) is None
    assert LayerTimes.measured(replace(int8, device=device(emulated=True)), plain, HERE) is None
    assert LayerTimes.measured(replace(int8, profile=TimeProfile(missing="a browser")), plain, HERE) is None
    assert LayerTimes.measured(int8, replace(plain, profile=None), HERE) is None


def test_times_are_those_without_a_profiler_and_with_as_many_threads() -> None:
    by_threads = (ThreadTime(1, 6.0), ThreadTime(2, 4.0))
    plain = profiled("float", latency_ms=latency(threads=2, by_threads=by_threads))
    times = LayerTimes.measured(profiled("int8"), plain, HERE)
    assert times
    assert (times.int8_ms, times.conversion_ns) == ({"stem": 5.0}, 3.0), "of 10 ms, not of the profile's 1 ms"
    assert times.float_ms == pytest.approx({"stem": 7.5}), "INT8 was measured with one thread"


def test_free_layers_come_first_then_those_that_lose_the_least_for_their_noise() -> None:
    in_float = {"cheap": 1.1, "free": 0.9, "dear": 9.0}
    costs = LayerCosts(dict.fromkeys(in_float, 1.0), in_float, ())
    steps = steps_of({"cheap": 1.0, "free": 0.2, "dear": 2.0, "unknown": 1.5}, costs)
    assert steps == [(name, "float") for name in ("free", "cheap", "dear", "unknown")]


def test_layers_become_dynamic_before_others_are_in_float() -> None:
    """A dynamic layer loses nearly all of its noise for a fraction of the time; unless float costs nothing at all."""
    in_float = {"linear": 2.0, "quiet": 2.0, "conv": 2.0, "free": 0.9}
    noise, dynamic = {"linear": 1.0, "quiet": 0.1, "conv": 1.0, "free": 0.1}, {"linear", "quiet", "free"}
    costs = LayerCosts(dict.fromkeys(in_float, 1.0), in_float, ())
    last = [("quiet", "dynamic"), ("linear", "float"), ("quiet", "float")]
    assert steps_of(noise, costs, dynamic) == [("free", "float"), ("linear", "dynamic"), ("conv", "float"), *last]
    first = [("conv", "float"), ("linear", "dynamic")]
    assert steps_of(noise, None, dynamic)[:2] == first, "without times, by the noise"
    assert sorted(steps_of(noise, None)) == sorted((name, "float") for name in noise)


def test_layers_without_a_static_range_can_be_faster_in_float() -> None:
    costs = LayerCosts({"dynamic": 0.5, "static": 0.1}, {"dynamic": 0.2, "static": 0.3}, ())
    assert costs.slower_in_int8() == [{"dynamic"}]


def test_costs_of_a_graph() -> None:
    torch.manual_seed(0)
    graph = export_graph(Residual().eval(), (1, 3, 32, 32))
    recipe = replace(Recipe.load("default"), weight_rounding="nearest", estimator="minmax")
    images = [np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)]
    int8 = quantize(rewrite(graph, recipe.targets["onnx"].rewrites).graph, images, recipe, "onnx")
    timed = {name: [TimedLayer(name, "kernel", True, 0.2, 0.1)] * 2 for name in ("stem", "one", "two", "three")}
    layers = [layer for parts in timed.values() for layer in parts]
    in_float = [TimedLayer(name, "kernel", False, 0.1, 0.0) for name in (*timed, "head")]
    assert LayerTimes({}, total_ms(in_float), 10.0).costs(int8) is None
    costs = LayerTimes(total_ms(layers), total_ms(in_float), 10.0).costs(int8)
    assert costs
    assert costs.int8_ms == pytest.approx(dict.fromkeys(timed, 0.6)), "with what surrounds them; the head has no time"
    assert costs.float_ms == pytest.approx(dict.fromkeys(timed, 0.1))
    gain, conversion = 0.6 - 0.1, 16 * 15 * 15 * 10 / 1e6
    assert costs.lost_ms(["stem"]) == pytest.approx(conversion - gain), "only the output of its pooling is converted"
    assert costs.lost_ms(["three"]) == pytest.approx(conversion - gain), "its sum moves with it"
    everything = frozenset().union(*(border.layers for border in costs.borders))
    assert costs.lost_ms(everything) == pytest.approx(-4 * gain), "nothing is left to convert"
