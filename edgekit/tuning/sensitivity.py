"""Which layers cost accuracy in INT8, and what each of them saves: one calibration, then simulation in torch."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.measure.accuracy import Predictions, compare, predict
from edgekit.support.progress import Reporter, Step
from edgekit.tuning.simulate import Run, Simulation

Row = dict[str, Any]
Mixture = frozenset[str]
"""Names of the layers that are in INT8."""


@dataclass(frozen=True, eq=False)
class Images:
    """What a simulation is run on: images float32 [1,3,H,W] by their index, and their labels."""

    load: Callable[[int], NDArray[np.float32]]
    labels: Sequence[int]


@dataclass(eq=False)
class Trials:
    """Mixtures of one graph on the same images; each is run once, however often it is asked for."""

    simulation: Simulation
    images: Images
    logits: dict[Mixture, NDArray[np.float32]] = field(default_factory=dict)
    """Of each mixture that was run, [N,classes]."""

    @property
    def everything(self) -> Mixture:
        return frozenset(self.simulation.layers)

    def run(self, mixtures: Iterable[Mixture], on_image: Step = lambda: None) -> None:
        """Run those mixtures that weren't. Each starts where it differs from all layers in float, or all in INT8."""
        ends = (frozenset[str](), self.everything)
        wanted = [each for each in dict.fromkeys((*ends, *mixtures)) if each not in self.logits]
        found: dict[Mixture, list[NDArray[np.float32]]] = {each: [] for each in wanted}
        for index in range(len(self.images.labels)):
            image = self.images.load(index)
            plain = [self.simulation.run(image, each) for each in ends]
            for mixture in wanted:
                near = min(plain, key=lambda run: len(run.quantized ^ mixture))
                run: Run = near if near.quantized == mixture else self.simulation.run(image, mixture, near)
                found[mixture].append(run.logits)
            on_image()
        self.logits |= {mixture: np.stack(each) for mixture, each in found.items() if each}

    def figures(self, mixture: Mixture) -> Row:
        """Signal to noise and accuracy of a mixture that was run, against all layers in float."""
        given = compare(self._predictions(mixture), self._predictions(frozenset()))
        kept = ("drop_top1_points", "drop_ci95_points", "agreement")
        snr = self.snr(mixture)
        return {"snr_db": snr if isfinite(snr) else None} | {key: given[key] for key in kept}

    def snr(self, mixture: Mixture) -> float:
        """Decibels of the float logits over their difference to the mixture's; infinite where there is none."""
        noise = self.noise(mixture)
        return -10 * log10(noise) if noise else inf

    def noise(self, mixture: Mixture) -> float:
        """Power of the difference to the float logits, as a share of theirs."""
        plain = self.logits[frozenset()].astype(np.float64)
        return float(np.square(self.logits[mixture] - plain).sum() / np.square(plain).sum())

    def top1(self) -> float:
        """Share of right answers with all layers in float."""
        return float(self._predictions(frozenset()).hit1.mean())

    def _predictions(self, mixture: Mixture) -> Predictions:
        answers = self.logits[mixture]
        return predict(
            lambda logits: logits, ((row[None], label) for row, label in zip(answers, self.images.labels, strict=True))
        )


def block_of(layer: str) -> str:
    """The block that a layer belongs to: its path up to the last number that has something behind it."""
    path = re.sub(r"\.\d+$", "", layer)
    numbered = re.match(r"((?:.*\.)?\d+)\.", path)
    return numbered[1] if numbered else path.split(".")[0]


def measure(trials: Trials, macs: Mapping[str, int], max_drop: float, reporter: Reporter, title: str) -> Row:
    """One target's part of the document: INT8 as a whole, each layer and block, and the layers that did the harm."""
    everything, layers = trials.everything, trials.simulation.layers
    blocks: dict[str, list[str]] = {}
    for name in layers:
        blocks.setdefault(block_of(name), []).append(name)
    groups = [frozenset([name]) for name in layers] + [frozenset(names) for names in blocks.values()]
    with reporter.stage(f"{title}: simulate {len(layers)} layers", len(trials.images.labels)) as step:
        trials.run([mixture for group in groups for mixture in (group, everything - group)], step)
    rows = [_row(trials, name, [name], macs) | {"block": block_of(name)} for name in layers]
    whole = trials.figures(everything)
    harmful = culprits(trials, max_drop, reporter, title)
    return {
        "float": {"top1": trials.top1()},
        "int8": whole,
        "layers": rows,
        "blocks": [_row(trials, name, names, macs) | {"layers": names} for name, names in blocks.items()],
        "culprits": harmful,
        "verdict": "fail" if harmful["layers"] else "pass",
    }


def _row(trials: Trials, name: str, layers: Collection[str], macs: Mapping[str, int]) -> Row:
    """A layer, or a block of them: alone in INT8, and alone in float."""
    alone, rest = frozenset(layers), trials.everything - frozenset(layers)
    whole, without = trials.figures(trials.everything), trials.figures(rest)
    gain = {
        "snr_gain_db": _difference(without["snr_db"], whole["snr_db"]),
        "gain_top1_points": whole["drop_top1_points"] - without["drop_top1_points"],
    }
    return {
        "name": name,
        "macs": sum(macs.get(each, 0) for each in layers),
        "only_int8": trials.figures(alone),
        "only_float": without | gain,
        "noise_share": _share(trials, alone),
    }


def with_times(measured: Row, times: Mapping[str, Row]) -> Row:
    """The same with `time` of every layer and block: milliseconds in float, in INT8, and saved; null if not known."""

    def time(layers: Collection[str]) -> Row | None:
        known = [times[each] for each in layers if each in times]
        summed = {key: sum(each[key] for each in known) for key in ("float_ms", "int8_ms", "saved_ms")}
        return summed if len(known) == len(layers) else None

    rows = [row | {"time": time([row["name"]])} for row in measured["layers"]]
    return measured | {"layers": rows, "blocks": [row | {"time": time(row["layers"])} for row in measured["blocks"]]}


def _share(trials: Trials, alone: Mixture) -> float:
    """The part of all layers' noise, each taken alone, that is this one's."""
    total = sum(trials.noise(frozenset([name])) for name in trials.simulation.layers)
    return trials.noise(alone) / total if total else 0.0


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def culprits(trials: Trials, max_drop: float, reporter: Reporter, title: str) -> Row:
    """The noisiest layers that have to stay in float for the drop to be within `max_drop`; none if it is."""
    everything = trials.everything
    order = sorted(trials.simulation.layers, key=lambda name: -trials.noise(frozenset([name])))

    def met(count: int) -> bool:
        mixture = everything - frozenset(order[:count])
        if mixture not in trials.logits:
            with reporter.stage(f"{title}: simulate {count} layers in float", len(trials.images.labels)) as step:
                trials.run([mixture], step)
        return bool(trials.figures(mixture)["drop_top1_points"] <= max_drop)

    low, high = 0, 0
    while not met(high):  # all layers in float lose nothing, so this ends
        low, high = high, min(max(1, 2 * high), len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if met(middle) else (middle, high)
    return {"layers": order[:high], "then": trials.figures(everything - frozenset(order[:high]))}
