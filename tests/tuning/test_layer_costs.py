"""What layers in float cost or save, and the sets that save the most."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

from edgekit.compiler.rewrites import rewrite
from edgekit.config.recipes import load_recipe
from edgekit.report.times import TimedLayer
from edgekit.tuning.layer_costs import DIFFERS, Border, LayerCosts
from tests.helpers.calibration import quantize
from tests.helpers.graphs import export_graph
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
    costs = LayerCosts(int8, plain, borders)
    covered = sorted(frozenset().union(*(border.layers for border in borders)))
    subsets = [layers for count in range(len(covered) + 1) for layers in combinations(covered, count)]
    found = frozenset().union(*costs.slower_in_int8())
    assert costs.lost_ms(found) == pytest.approx(min(map(costs.lost_ms, subsets)))


def test_a_layer_without_times_stays_where_it_is() -> None:
    costs = chain({"a": (0.5, 0.2), "b": (0.5, 0.2)}, [0.1, 0.1])
    del costs.int8_ms["b"]  # type: ignore[attr-defined]
    assert costs.slower_in_int8() == [{"a"}]


def test_costs_of_a_graph() -> None:
    torch.manual_seed(0)
    graph = export_graph(Residual().eval(), (1, 3, 32, 32))
    recipe = replace(load_recipe("default"), weight_rounding="nearest", estimator="minmax")
    images = [np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)]
    int8 = quantize(rewrite(graph, recipe.targets["onnx"].rewrites).graph, images, recipe, "onnx")
    timed = {name: [TimedLayer(name, "kernel", True, 0.2, 0.1)] * 2 for name in ("stem", "one", "two", "three")}
    layers = [layer for parts in timed.values() for layer in parts]
    in_float = [TimedLayer(name, "kernel", False, 0.1, 0.0) for name in (*timed, "head")]
    assert LayerCosts.of(int8, [], in_float, 10.0) is None
    costs = LayerCosts.of(int8, layers, in_float, 10.0)
    assert costs
    assert costs.int8_ms == pytest.approx(dict.fromkeys(timed, 0.6)), "with what surrounds them; the head has no time"
    assert costs.float_ms == pytest.approx(dict.fromkeys(timed, 0.1))
    gain, conversion = 0.6 - DIFFERS * 0.1, 16 * 15 * 15 * 10 / 1e6
    assert costs.lost_ms(["stem"]) == pytest.approx(conversion - gain), "only the output of its pooling is converted"
    assert costs.lost_ms(["three"]) == pytest.approx(conversion - gain), "its sum moves with it"
    everything = frozenset().union(*(border.layers for border in costs.borders))
    assert costs.lost_ms(everything) == pytest.approx(-4 * gain), "nothing is left to convert"
