"""The trials of a study in comparison: which of them meet the bounds, which one is best, and their summary."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgekit.measure.settings import Gates
from edgekit.report.figure import counted
from edgekit.report.recipe_search import TargetSearch, TrialSummary
from edgekit.tuning.trial import Figures, Trial


def keeps_drop(figures: Figures, gates: Gates) -> bool:
    """Whether the measured drop is at most `max_drop`. Its interval is checked later, on the held-out images."""
    return figures.drop_top1_points <= gates.max_drop


def is_fast_enough(figures: Figures, gates: Gates) -> bool:
    """Whether the whole 95 % interval of the speedup is above `min_speedup`. A bound of 0 turns this off."""
    low = figures.speedup if figures.speedup_ci95 is None else figures.speedup_ci95[0]
    return gates.min_speedup <= 0 or low > gates.min_speedup


def complete(trials: Sequence[Trial]) -> list[tuple[Trial, Figures]]:
    """The completed trials with their figures."""
    return [(trial, trial.figures) for trial in trials if trial.figures is not None]


def within(trials: Sequence[Trial], gates: Gates) -> list[Trial]:
    """The trials that met the bounds on the tuning images.

    Estimator and bias correction change numbers, but not the operations. It is therefore enough if any trial with the
    same layers in float and the same smoothing was fast enough, so that a busy moment doesn't decide.
    """
    fast = {_structure(trial) for trial, figures in complete(trials) if is_fast_enough(figures, gates)}
    return [trial for trial, figures in complete(trials) if keeps_drop(figures, gates) and _structure(trial) in fast]


def _structure(trial: Trial) -> tuple[int, bool]:
    return trial.choices.layers_in_float, trial.choices.smooth_quant


def best(trials: Sequence[Trial], gates: Gates) -> Trial | None:
    """The best trial; None if none is complete.

    Of the trials that met the bounds, it is the one with the fewest layers in float, and among equals the one that
    agrees most with the float network. If none met them, it is the one with the smallest drop. Times don't decide among
    these, so that a repeated search has the same result.
    """
    passed = within(trials, gates)

    def rank(pair: tuple[Trial, Figures]) -> tuple[Any, ...]:
        trial, figures = pair
        accuracy = (-figures.agreement, figures.drop_top1_points)
        settings = (trial.choices.bias_correction != "none", trial.choices.estimator)
        cost = _structure(trial)
        return (*cost, *accuracy, *settings) if passed else (*reversed(accuracy), *cost, *settings)

    winner = min(complete(passed or trials), key=rank, default=None)
    return None if winner is None else winner[0]


def front(trials: Sequence[Trial]) -> list[int]:
    """Numbers of the trials that are Pareto-optimal in drop and latency."""
    points = {trial.number: (figures.drop_top1_points, figures.time_share) for trial, figures in complete(trials)}

    def is_beaten(own: tuple[float, float]) -> bool:
        return any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in points.values())

    return [number for number, point in points.items() if not is_beaten(point)]


def summary(target: str, trials: Sequence[Trial], gates: Gates) -> TargetSearch:
    """One target's part of the report: its trials, the Pareto front of drop and latency, and the best trial."""
    winner, passed = best(trials, gates), {trial.number for trial in within(trials, gates)}

    def measured(figures: Figures | None) -> dict[str, Any]:
        if figures is None:
            return {}
        judged = {"drop_kept": keeps_drop(figures, gates), "fast_enough": is_fast_enough(figures, gates)}
        return vars(figures) | judged

    rows = tuple(
        TrialSummary(
            number=trial.number,
            state=trial.state,
            met=trial.number in passed,
            reason=trial.reason,
            **asdict(trial.choices),
            **measured(trial.figures),
        )
        for trial in trials
    )
    best_number = None if winner is None else winner.number
    return TargetSearch(target=target, trials=rows, front=tuple(front(trials)), best=best_number)


def title(trial: Trial) -> str:
    """Number and choices of a trial."""
    choices = trial.choices
    settings = [choices.estimator, *(["smooth"] if choices.smooth_quant else [])]
    settings += [f"bias {choices.bias_correction}"] if choices.bias_correction != "none" else []
    return f"trial {trial.number} ({', '.join(settings)}, {counted(choices.layers_in_float, 'layer')} in float)"


def describe(trial: Trial, gates: Gates) -> str:
    """A completed or failed trial in one line."""
    figures = trial.figures
    if figures is None:
        return f"{title(trial)}: failed: {trial.reason}"
    missed = "" if keeps_drop(figures, gates) else ", over --max-drop"
    missed += "" if is_fast_enough(figures, gates) else ", under --min-speedup"
    rest = f"{figures.p50_ms:.2f} ms, {figures.speedup:.2f}x float, agreement {figures.agreement:.2%}"
    return f"{title(trial)}: drop {figures.drop_top1_points:+.2f} points, {rest}{missed}"
