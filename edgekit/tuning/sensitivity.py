"""Find the layers that cost accuracy in INT8, and the time that each saves, by simulating one calibration in torch."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgekit.report.sensitivity_document import (
    Culprits,
    FloatAccuracy,
    LayerTime,
    SensitiveBlock,
    SensitiveLayer,
    Spared,
    TargetSensitivity,
)  # fmt: skip
from edgekit.support.progress import Reporter
from edgekit.tuning.mixtures import Mixture, Mixtures


def block_of(layer: str) -> str:
    """The block of a layer: its path up to the last number that a name follows."""
    path = re.sub(r"\.\d+$", "", layer)
    numbered = re.match(r"((?:.*\.)?\d+)\.", path)
    return numbered[1] if numbered else path.split(".")[0]


def measure(
    mixtures: Mixtures,
    target: str,
    macs: Mapping[str, int],
    max_drop: float,
    reporter: Reporter,
    time_layers: Callable[[], Mapping[str, LayerTime]] = dict,
) -> TargetSensitivity:
    """One target's part of the document: INT8 as a whole, each layer and block, and the culprits.

    `time_layers` returns the times of the layers that the runtime reports. It is called after the simulation.
    """
    everything, layers = mixtures.everything, mixtures.simulation.layers
    blocks: dict[str, list[str]] = {}
    for name in layers:
        blocks.setdefault(block_of(name), []).append(name)
    groups = [frozenset([name]) for name in layers] + [frozenset(names) for names in blocks.values()]
    with reporter.stage(f"{target}: simulate {len(layers)} layers", len(mixtures.images)) as step:
        mixtures.run([mixture for group in groups for mixture in (group, everything - group)], step)
    harmful = culprits(mixtures, max_drop, reporter, target)
    noise, times = sum(mixtures.alone().values()), time_layers()

    def costs(name: str, own: Sequence[str]) -> dict[str, Any]:
        """The figures of a layer or a block."""
        alone = frozenset(own)
        return {
            "name": name,
            "macs": sum(macs.get(layer, 0) for layer in own),
            "only_int8": mixtures.figures(alone),
            "only_float": _spared(mixtures, alone),
            "noise_share": mixtures.noise(alone) / noise if noise else 0.0,
            "time": _total([times[layer] for layer in own]) if times.keys() >= alone else None,
        }

    return TargetSensitivity(
        target=target,
        float=FloatAccuracy(mixtures.top1()),
        int8=mixtures.figures(everything),
        layers=tuple(SensitiveLayer(block=block_of(name), **costs(name, [name])) for name in layers),
        blocks=tuple(SensitiveBlock(layers=tuple(own), **costs(name, own)) for name, own in blocks.items()),
        culprits=harmful,
        verdict="fail" if harmful.layers else "pass",
    )


def _spared(mixtures: Mixtures, layers: Mixture) -> Spared:
    """All layers in INT8 except these, and the gain from that."""
    whole, without = mixtures.figures(mixtures.everything), mixtures.figures(mixtures.everything - layers)
    gain = None if without.snr_db is None or whole.snr_db is None else without.snr_db - whole.snr_db
    return Spared(
        **vars(without),
        snr_gain_db=gain,
        gain_top1_points=whole.drop_top1_points - without.drop_top1_points,
    )


def _total(times: Sequence[LayerTime]) -> LayerTime:
    return LayerTime(
        float_ms=sum(time.float_ms for time in times),
        int8_ms=sum(time.int8_ms for time in times),
        saved_ms=sum(time.saved_ms for time in times),
    )


def culprits(mixtures: Mixtures, max_drop: float, reporter: Reporter, title: str) -> Culprits:
    """The noisiest layers: as many as must stay in float to keep the drop within `max_drop` points."""
    everything, noise = mixtures.everything, mixtures.alone()
    order = sorted(noise, key=lambda name: -noise[name])

    def suffices(count: int) -> bool:
        mixture = everything - frozenset(order[:count])
        if mixture not in mixtures.logits:
            with reporter.stage(f"{title}: simulate {count} layers in float", len(mixtures.images)) as step:
                mixtures.run([mixture], step)
        return bool(mixtures.figures(mixture).drop_top1_points <= max_drop)

    low, high = 0, 0
    while not suffices(high):  # terminates, because all layers in float lose nothing
        low, high = high, min(max(1, 2 * high), len(order))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return Culprits(tuple(order[:high]), mixtures.figures(everything - frozenset(order[:high])))
