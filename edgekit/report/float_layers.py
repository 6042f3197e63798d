"""Layers of INT8 bundles that a placement by profile or a repair keeps in float."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from edgekit.report.figure import Interval, Milliseconds, counted

SHOWN = 4
"""Number of layers that a sentence names before it only counts them."""


@dataclass(frozen=True)
class PlacedLayer:
    """Time of a layer that stays in float, with that of what surrounds it, from the runtime's profiler."""

    name: str
    """Name of the layer."""
    int8_ms: Milliseconds
    """Time in the INT8 bundle of the recipe, in milliseconds."""
    float_ms: Milliseconds
    """Time in the float bundle, in milliseconds."""

    @property
    def reason(self) -> str:
        """The two times in words."""
        return f"{self.int8_ms:.2g} ms in INT8, {self.float_ms:.2g} in float"


@dataclass(frozen=True, kw_only=True)
class ProfilePlacement:
    """Layers that stay in float because the INT8 bundle is faster with them in float."""

    device: str
    """Name of the device whose profile and times decided."""
    layers: tuple[PlacedLayer, ...]
    """Layers kept in float besides those of the recipe."""
    speedup: float
    """Speedup over the recipe's own INT8 bundle."""
    bundles: Annotated[int, Meta(ge=1)]
    """Number of other INT8 bundles that were timed beside it."""


HARDLY = 0.1
"""Share of the multiply-accumulates below which a placement shows that INT8 doesn't pay."""


def placement_words(placement: ProfilePlacement, share: float | None = None) -> str:
    """What stays in float and why, in a sentence, and another one if hardly any share of the work is left in INT8."""
    layers = placement.layers
    named = "; ".join(f"{layer.name}, {layer.reason}" for layer in layers[:SHOWN])
    more = f"; and {len(layers) - SHOWN} more" if len(layers) > SHOWN else ""
    words = (
        f"placed by profile: {counted(len(layers), 'layer')} in float ({named}{more}) made it {placement.speedup:.2f}x "
        "as fast as the recipe's own INT8 bundle"
    )
    if share is None or share >= HARDLY:
        return words
    return f"{words}. INT8 doesn't pay here: it is left with {share:.1%} of the multiply-accumulates"


@dataclass(frozen=True, kw_only=True)
class RepairAttempt:
    """One INT8 bundle that a repair compared: the recipe's own, or one with more layers in float."""

    float_layers: tuple[str, ...] = ()
    """Layers kept in float besides those of the recipe, the noisiest first; empty for the recipe's own bundle."""
    drop_top1_points: float | None = None
    """Drop in top-1 against the float network, in percentage points; null where the attempt failed."""
    drop_ci95_points: Interval | None = None
    """95 % interval of the drop, in percentage points."""
    p50_ms: float | None = None
    """Median latency in ms."""
    speedup: float | None = None
    """Speedup over the runtime's fastest float bundle; null where it was not measured, as on an emulated device."""
    speedup_ci95: Interval | None = None
    """95 % interval of the speedup."""
    error: str | None = None
    """Message of the error because of which the bundle could not be made or measured."""


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Attempts to bring the accuracy of an INT8 bundle within its bound by keeping layers in float."""

    device: str
    """Name of the device that judged the attempts."""
    max_drop_points: float
    """Largest drop in top-1 that the gate allows, in percentage points."""
    ranking_images: Annotated[int, Meta(ge=0)]
    """Number of calibration images on which INT8 was simulated to choose the layers."""
    attempts: Annotated[tuple[RepairAttempt, ...], Meta(min_length=1)]
    """Bundles that were compared, in order; the first is the recipe's own."""
    chosen: Annotated[int, Meta(ge=0)]
    """Position among the attempts of the bundle that the row has."""
    choosing_images: Annotated[int, Meta(ge=0)] | None = None
    """Number of images, none of them an evaluation image, on which the attempts were compared; null if the evaluation
    images, which judge the row, did that too."""

    @property
    def where(self) -> str:
        """The images on which the attempts were compared, in words, unless they are the evaluation images."""
        return "" if self.choosing_images is None else f" on {self.choosing_images:,} other images"

    @property
    def result(self) -> RepairAttempt:
        """The attempt whose bundle the row has."""
        return self.attempts[self.chosen]

    @property
    def succeeded(self) -> bool:
        """Whether layers in float brought the drop of the row's bundle within the bound."""
        return self.chosen > 0 and is_within(self.result, self.max_drop_points)


def is_within(attempt: RepairAttempt, max_drop: float) -> bool:
    """Whether the drop of an attempt is at most `max_drop` points."""
    return attempt.drop_top1_points is not None and attempt.drop_top1_points <= max_drop


def repair_words(repair: Repair) -> str:
    """What was kept in float and what it cost, or what was tried, in one sentence."""
    before, after = repair.attempts[0], repair.result
    same = "; the same images chose and judged" if repair.choosing_images is None else ""
    if repair.succeeded:
        return (
            f"repaired: {layers_words(after)} kept in float changed the drop from {_points(before)} to "
            f"{_points(after)} points{_speed(before, after)}{repair.where}{same}"
        )
    if len(repair.attempts) == 1:
        return "not repaired: no set of layers in float cuts the INT8 noise to a quarter"
    tried = "; ".join(f"{layers_words(attempt)}: {outcome_words(attempt)}" for attempt in repair.attempts[1:])
    kept = f"the bundle with {layers_words(after)} in float" if repair.chosen else "the recipe's own bundle"
    return f"not repaired: kept in float{repair.where}, {tried}; this is {kept}{same}"


def price_words(name: str, repair: Repair) -> str:
    """What the first attempt within the bound of a bundle of this name costs; empty if there is none."""
    own, *attempts = repair.attempts
    kept = next((attempt for attempt in attempts if is_within(attempt, repair.max_drop_points)), None)
    if kept is None:
        return ""
    speed, before = (f" at {each.speedup:.2f}x float" if each.speedup is not None else "" for each in (kept, own))
    return (
        f"{name} keeps the bound with {counted(len(kept.float_layers), 'layer')} in float{speed}{repair.where}; "
        f"without repair it loses {_points(own)} points{before}."
    )


def layers_words(attempt: RepairAttempt) -> str:
    """The names of a few layers, or the number of many."""
    names = attempt.float_layers
    return ", ".join(names) if len(names) <= SHOWN else f"{len(names)} layers ({', '.join(names[:SHOWN])}, …)"


def outcome_words(attempt: RepairAttempt) -> str:
    """The drop and the speedup of an attempt, or the error that it failed with."""
    if attempt.error is not None:
        return attempt.error
    speed = f" and {attempt.speedup:.2f}x float" if attempt.speedup is not None else ""
    return f"drop {_points(attempt)} points{speed}"


def _speed(before: RepairAttempt, after: RepairAttempt) -> str:
    if before.speedup is None or after.speedup is None:
        return ""
    return f" and the speedup over float from {before.speedup:.2f}x to {after.speedup:.2f}x"


def _points(attempt: RepairAttempt) -> str:
    return "unknown" if attempt.drop_top1_points is None else f"{attempt.drop_top1_points:.2f}"
