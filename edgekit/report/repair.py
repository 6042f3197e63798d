"""The repair of an INT8 bundle that missed its accuracy bound: the attempts, and what each kept in float."""

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

Interval = tuple[float, float]
SHOWN = 4
"""Number of layers that a sentence names before it only counts them."""


@dataclass(frozen=True, kw_only=True)
class RepairAttempt:
    """One INT8 bundle that the evaluation images judged: the recipe's own, or one with more layers in float."""

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
    """Bundles that the evaluation images judged, in order; the first is the recipe's own."""
    chosen: Annotated[int, Meta(ge=0)]
    """Position among the attempts of the bundle that the row has."""

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
    judged = f"the evaluation images judged {len(repair.attempts)} INT8 bundles"
    if repair.succeeded:
        return (
            f"repaired: {layers_words(after)} kept in float changed the drop from {_points(before)} to "
            f"{_points(after)} points{_speed(before, after)}; {judged}"
        )
    if len(repair.attempts) == 1:
        return "not repaired: no set of layers in float cuts the INT8 noise to a quarter"
    tried = "; ".join(f"{layers_words(attempt)}: {outcome_words(attempt)}" for attempt in repair.attempts[1:])
    kept = f"the bundle with {layers_words(after)} in float" if repair.chosen else "the recipe's own bundle"
    return f"not repaired: kept in float, {tried}; {judged}, and this is {kept}"


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
