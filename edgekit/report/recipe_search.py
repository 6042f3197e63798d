"""The search for a recipe: INT8 bundles that a placement or a repair tried, and `tuning` in report.json."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from edgekit.report.figure import Interval, Milliseconds, counted, points
from edgekit.report.plot import INK, SERIES, Picture, drawing, svg_of
from edgekit.report.sensitivity_document import ImageSet

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


def price_words(name: str, repair: Repair) -> str:
    """What the first attempt within the bound of a bundle of this name costs; empty if there is none."""
    own, *attempts = repair.attempts
    kept = next((attempt for attempt in attempts if is_within(attempt, repair.max_drop_points)), None)
    if kept is None:
        return ""
    speed, before = (f" at {each.speedup:.2f}x float" if each.speedup is not None else "" for each in (kept, own))
    return (
        f"{name} keeps the bound with {counted(len(kept.float_layers), 'layer')} in float{speed}; without repair it "
        f"loses {_points(own)} points{before}."
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


@dataclass(frozen=True, kw_only=True)
class TrialSummary:
    """One recipe that was tried for one runtime. Its figures are null unless the trial is complete."""

    number: int
    """Number of the trial within the study."""
    state: Literal["complete", "fail", "pruned", "untried"]
    """Outcome: "pruned" if a recipe with fewer layers in float had met the bounds, "untried" if the time was up."""
    met: bool
    """Whether the trial met the bounds on drop and speedup, measured on the tuning images."""
    estimator: str
    """Estimator of activation ranges that the trial used."""
    smooth_quant: bool
    """Whether SmoothQuant was applied."""
    bias_correction: str
    """Bias correction that was applied: "fast" or "none"."""
    layers_in_float: int
    """Number of layers that stayed in float in addition to those of the recipe."""
    float_layers: tuple[str, ...] | None = None
    """Names of the layers that stayed in float."""
    drop_top1_points: float | None = None
    """Top-1 lost against torch on the tuning images, in percentage points."""
    drop_ci95_points: Interval | None = None
    """95 % interval of the drop, in percentage points."""
    agreement: float | None = None
    """Share of tuning images for which the model and torch predict the same class."""
    p50_ms: float | None = None
    """Median latency, in milliseconds."""
    time_share: float | None = None
    """Median latency as a share of the float bundle's."""
    speedup: float | None = None
    """Median latency of the float bundle divided by that of this trial."""
    speedup_ci95: Interval | None = None
    """95 % interval of the speedup."""
    drop_kept: bool | None = None
    """Whether the drop is within its bound."""
    fast_enough: bool | None = None
    """Whether the whole 95 % interval of the speedup is above its bound."""
    files: dict[str, str] | None = None
    """SHA-256 of each model file, by file name; null also if the classes had other names when the trial ran."""
    reason: str | None = None
    """Reason why the trial failed."""


@dataclass(frozen=True, kw_only=True)
class TargetSearch:
    """The trials for one runtime."""

    target: str
    """Runtime that the trials were compiled for."""
    trials: tuple[TrialSummary, ...]
    """All trials of the search."""
    front: tuple[int, ...]
    """Numbers of the trials on the Pareto front: no other trial is better in both drop and latency."""
    best: int | None
    """Number of the trial whose choices the recipe adopts; null if no trial is complete."""
    reproduced: bool | None = None
    """Whether the recipe reproduced the hashes of that trial's model files; null where they aren't known."""

    @property
    def complete(self) -> list[TrialSummary]:
        """Trials that have figures."""
        return [trial for trial in self.trials if trial.state == "complete"]

    @property
    def taken(self) -> TrialSummary | None:
        """Trial whose choices the recipe adopts."""
        return next((trial for trial in self.complete if trial.number == self.best), None)


@dataclass(frozen=True, kw_only=True)
class SearchSummary:
    """A search for a recipe, for all runtimes."""

    recipe: str
    """File name of the recipe that the search wrote into the run folder."""
    max_drop_points: float
    """Largest drop in top-1 that the search allowed, in percentage points."""
    min_speedup: float
    """Speedup that a trial had to exceed with its whole 95 % interval; 0 if the search didn't judge speed."""
    images: ImageSet
    """Tuning images, none of which is an evaluation image."""
    targets: tuple[TargetSearch, ...]
    """Trials for each runtime."""


def draw_tuning(search: SearchSummary, standalone: bool = False) -> Picture:
    """A picture of every trial's drop against its latency, with the Pareto front.

    The SVG is an element in the page's colours, or a standalone file. Raises MissingExtraError if matplotlib is not
    installed.
    """
    targets = search.targets
    with drawing(3.1 * len(targets)) as figure:
        for axes, target in zip(figure.subplots(len(targets), 1, squeeze=False)[:, 0], targets, strict=True):
            front = [trial for trial in target.complete if trial.number in target.front]
            front.sort(key=lambda trial: trial.time_share or 0.0)
            axes.plot(*_places(target.complete), "o", color=SERIES[0], mfc="none", ms=6, label="trial")
            axes.plot(*_places(front), "o-", color=SERIES[0], ms=6, label="Pareto front")
            if target.taken:
                axes.plot(*_places([target.taken]), "D", color=SERIES[1], ms=9, label="chosen")
            axes.axhline(search.max_drop_points, color=INK, linestyle="--", linewidth=1, label="bound")
            axes.set_title(target.target, loc="left", fontsize=11)
            axes.set_xlabel("latency, % of float's (lower is better)")
            axes.set_ylabel("drop, points (lower is better)")
            axes.legend(fontsize=9)
        svg = svg_of(figure, standalone)
    return Picture(svg, " ".join(lines(search)))


def _places(trials: Iterable[TrialSummary]) -> tuple[list[float], list[float]]:
    """Latencies in percent of the float bundle's, and drops in percentage points, of complete trials."""
    places = [(100 * (trial.time_share or 0.0), trial.drop_top1_points or 0.0) for trial in trials]
    return [x for x, _ in places], [y for _, y in places]


def lines(search: SearchSummary) -> list[str]:
    """The outcome of the search, with a sentence for each runtime."""
    return [_line(search, target) for target in search.targets]


def _line(search: SearchSummary, target: TargetSearch) -> str:
    taken = target.taken
    if taken is None:
        return f"{target.target}: no trial was completed."
    bounds = f"a drop of at most {points(search.max_drop_points)}"
    if search.min_speedup > 0:
        bounds += f" and a speedup of more than {search.min_speedup:g}x"
    chosen = "The best one" if taken.met else "No trial met these bounds; the one with the smallest drop"
    tried = counted(len(target.complete), "recipe")
    return (
        f"{target.target}: {tried} tried on {search.images.count:,} tuning images for {bounds}. "
        f"{chosen} is {_choices(taken)}: its drop on these images is {taken.drop_top1_points:.2f} points, and its "
        f"speedup over float is {taken.speedup:.2f}x."
    )


def _choices(trial: TrialSummary) -> str:
    choices = [trial.estimator]
    if trial.smooth_quant:
        choices.append("SmoothQuant")
    if trial.bias_correction != "none":
        choices.append(f"{trial.bias_correction} bias correction")
    if trial.layers_in_float:
        choices.append(f"{counted(trial.layers_in_float, 'more layer')} in float")
    return ", ".join(choices)
