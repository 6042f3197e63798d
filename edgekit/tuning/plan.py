"""The trials of a search for a recipe: their plan, which of them meet the bounds, the best one, and their summary.

The plan excludes 16-bit activations. ONNX Runtime 1.32 and OpenVINO 2026.4 compute such a layer in floating point, and
LiteRT 2.3 computes it outside XNNPACK, where convnextv2_atto took fifteen times as long as its float model.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from edgekit.compiler.quantize.calibrate import ESTIMATORS
from edgekit.config.recipes import Recipe
from edgekit.measure.settings import Gates
from edgekit.report.figure import counted
from edgekit.report.measurement import Measurement
from edgekit.report.recipe_search import TargetSearch, TrialSummary
from edgekit.runtime.bundle import Bundle
from edgekit.tuning.study import Candidate, Loop, Study, Trial


def plan(recipe: Recipe, layers: Sequence[str]) -> tuple[Candidate, ...]:
    """All candidates in the order of trials.

    The recipe's own settings come first, with 0, 1, 2, 4, … of the layers in float: the first of them that meets the
    bounds ends what is worth trying, so even a short search has a result. The other settings follow, fewest layers in
    float first. `recipe` is the one for a target, from `for_target`. The first ones of `layers` are left in float.
    """
    levels = [0] + [count for count in (1 << power for power in range(16)) if count < len(layers)]
    own: Any = (recipe.estimator, recipe.smooth_quant, recipe.bias_correction)
    others = [it for it in product(ESTIMATORS, (False, True), ("none", "fast")) if it != own]
    order = [(own, level) for level in levels] + [(it, level) for level in levels for it in others]
    return tuple(Candidate(tuple(layers[:level]), *settings) for settings, level in order)


def walk(study: Study, gates: Gates, limit: int | None = None) -> list[Trial]:
    """The trials of the plan in its order, with those that did not run: at most `limit` besides the pruned ones.

    Once a trial meets the bounds, those with more layers in float are pruned, because they can't be better.
    """
    done = {trial.number: trial for trial in study.trials}
    walked: list[Trial] = []
    count, most = 0, float("inf")
    for number, candidate in enumerate(study.candidates):
        if limit is not None and count >= limit:
            break
        if number in done:
            walked.append(done[number])
            most = min((len(trial.candidate.float_layers) for trial in within(walked, gates)), default=most)
        elif len(candidate.float_layers) > most:
            walked.append(Trial(number, candidate, "pruned"))
        else:
            walked.append(Trial(number, candidate, "untried"))
        count += walked[-1].state != "pruned"
    return walked


@dataclass(frozen=True)
class SearchLoop(Loop):
    """Tries the plan of one target, cheapest candidates first."""

    measure: Callable[[Candidate], tuple[Bundle, Measurement]]
    """Builds the bundle of a candidate and measures it. Raises StageError."""
    limit: int | None = None
    """Maximum number of trials; None for the whole plan."""
    until: float = float("inf")
    """Time after which only the first trial runs, so that every study has one."""
    now: Callable[[], float] = time.monotonic
    """Clock in seconds."""

    def search(self, recipe: Recipe, order: Callable[[], Sequence[str]]) -> list[Trial]:
        """Run what no earlier run has finished. Returns the trials of the plan, also those that did not run.

        `order` returns the layers in the order in which trials leave them in float.
        """
        target, study = self.store.target, self.store.load()
        if study is None:
            with self.reporter.stage(f"{target}: order the layers by their noise"):
                study = Study(plan(recipe.for_target(target), order()))
            self.store.save(study)
        if study.trials:
            self.reporter.say(f"{target}: {len(study.trials)} trials reused from an earlier run")
        trials = walk(self.run(study), self.gates, self.limit)
        if untried := sum(trial.state == "untried" for trial in trials):
            self.reporter.say(f"{target}: the time is up: {untried} recipes were not tried")
        return trials

    def propose(self, study: Study) -> Candidate | None:
        """The first candidate of the plan that could be the best one."""
        if study.trials and self.now() >= self.until:
            return None
        return next(
            (trial.candidate for trial in walk(study, self.gates, self.limit) if trial.state == "untried"), None
        )

    def make(self, study: Study, candidate: Candidate) -> tuple[Bundle, Measurement]:
        """Build and measure the bundle."""
        return self.measure(candidate)

    def title(self, trial: Trial) -> str:
        """The target, and the number and settings of the trial."""
        return f"{self.store.target}: {title(trial)}"

    def tell(self, study: Study) -> None:
        """Print a line for the last trial if it is complete. That of a failed one has been printed."""
        trial = study.trials[-1]
        if trial.measured is not None:
            left = sum(trial.state == "untried" for trial in walk(study, self.gates, self.limit))
            self.reporter.say(f"{self.store.target}: {describe(trial, self.gates)}; {left} to go")


def within(trials: Sequence[Trial], gates: Gates) -> list[Trial]:
    """The trials that met the bounds on the tuning images.

    Estimator and bias correction change numbers, but not the operations. It is therefore enough if any trial with the
    same layers in float and the same smoothing was fast enough, so that a busy moment doesn't decide.
    """
    fast = {_structure(trial) for trial in trials if trial.is_fast(gates)}
    return [trial for trial in trials if trial.keeps_drop(gates) and _structure(trial) in fast]


def _structure(trial: Trial) -> tuple[int, bool]:
    return len(trial.candidate.float_layers), bool(trial.candidate.smooth_quant)


def best(trials: Sequence[Trial], gates: Gates) -> Trial | None:
    """The best trial; None if none is complete.

    Of the trials that met the bounds, it is the one with the fewest layers in float, and among equals the one that
    agrees most with the float network. If none met them, it is the one with the smallest drop. Times don't decide among
    these, so that a repeated search has the same result.
    """
    passed = within(trials, gates)

    def rank(trial: Trial) -> tuple[Any, ...]:
        assert trial.measured is not None
        assert trial.measured.accuracy is not None
        accuracy = (-trial.measured.accuracy.agreement, trial.measured.accuracy.drop_points)
        settings = (trial.candidate.bias_correction != "none", trial.candidate.estimator)
        cost = _structure(trial)
        return (*cost, *accuracy, *settings) if passed else (*reversed(accuracy), *cost, *settings)

    return min(passed or (trial for trial in trials if trial.measured is not None), key=rank, default=None)


def summary(target: str, trials: Sequence[Trial], gates: Gates) -> TargetSearch:
    """One target's part of the report: its trials, the Pareto front of drop and latency, and the best trial."""
    winner, passed = best(trials, gates), {trial.number for trial in within(trials, gates)}
    rows = tuple(_row(trial, trial.number in passed, gates) for trial in trials)
    best_number = None if winner is None else winner.number
    return TargetSearch(target=target, trials=rows, front=_front(rows), best=best_number)


def _row(trial: Trial, met: bool, gates: Gates) -> TrialSummary:
    candidate, measured = trial.candidate, trial.measured
    row = TrialSummary(
        number=trial.number,
        state=trial.state,
        met=met,
        reason=trial.error,
        estimator=str(candidate.estimator),
        smooth_quant=bool(candidate.smooth_quant),
        bias_correction=str(candidate.bias_correction),
        layers_in_float=len(candidate.float_layers),
    )
    if measured is None or measured.accuracy is None or measured.latency_ms is None or measured.speedup is None:
        return row
    return replace(
        row,
        float_layers=candidate.float_layers,
        drop_top1_points=measured.accuracy.drop_points,
        drop_ci95_points=measured.accuracy.drop_ci95_points,
        agreement=measured.accuracy.agreement,
        p50_ms=measured.latency_ms.p50,
        time_share=1 / measured.speedup.ratio,
        speedup=measured.speedup.ratio,
        speedup_ci95=measured.speedup.ci95,
        drop_kept=trial.keeps_drop(gates),
        fast_enough=trial.is_fast(gates),
        files=trial.files,
    )


def _front(rows: Sequence[TrialSummary]) -> tuple[int, ...]:
    """Numbers of the trials that are Pareto-optimal in drop and latency."""
    points = {
        row.number: (row.drop_top1_points, row.time_share)
        for row in rows
        if row.drop_top1_points is not None and row.time_share is not None
    }

    def is_beaten(own: tuple[float, float]) -> bool:
        return any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in points.values())

    return tuple(number for number, point in points.items() if not is_beaten(point))


def title(trial: Trial) -> str:
    """Number and candidate of a trial."""
    candidate = trial.candidate
    settings = [str(candidate.estimator), *(["smooth"] if candidate.smooth_quant else [])]
    settings += [f"bias {candidate.bias_correction}"] if candidate.bias_correction != "none" else []
    return f"trial {trial.number} ({', '.join(settings)}, {counted(len(candidate.float_layers), 'layer')} in float)"


def describe(trial: Trial, gates: Gates) -> str:
    """A completed or failed trial in one line."""
    row = _row(trial, False, gates)
    if trial.measured is None:
        return f"{title(trial)}: failed: {trial.error}"
    missed = "" if row.drop_kept else ", over --max-drop"
    missed += "" if row.fast_enough else ", under --min-speedup"
    rest = f"{row.p50_ms:.2f} ms, {row.speedup:.2f}x float, agreement {row.agreement:.2%}"
    return f"{title(trial)}: drop {row.drop_top1_points:+.2f} points, {rest}{missed}"
