"""A study: one target's trials, which are planned once and run by all workers, and the best of them."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from threading import Event, Thread
from typing import Any

from edgekit.errors import EdgekitError, StageError, UsageError
from edgekit.report.search_document import TargetSearch, TrialSummary
from edgekit.support import tracebacks
from edgekit.tuning.bugs import bug_of
from edgekit.tuning.database import TrialTable
from edgekit.tuning.space import Choices
from edgekit.tuning.trial import Figures, Trial

POLL_S = 0.5
"""Seconds between two checks of other workers' progress."""


def planned(
    table: TrialTable,
    worker: str,
    make: Callable[[], tuple[list[str], list[Choices]]],
    wait: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Let one worker queue the plan that `make` returns while the others wait. Returns the order of layers."""
    while (layers := table.layers()) is None:
        if table.claim_plan(worker):
            with _heartbeat(table, lambda: table.claim_plan(worker)):
                table.plan(*make())
        else:
            wait(POLL_S)
    return layers


def drain(
    table: TrialTable,
    worker: str,
    measure: Callable[[Choices], Figures],
    until: float,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Run trials until none is waiting or running anywhere, or until the time `until` (as of time.time()).

    A StageError of `measure` fails the trial for good, and so does a bug in edgekit, whose traceback is printed. A
    trial is pruned if one with fewer layers in float met the bounds, because it can't be the best. An InputError, such
    as for a full disk, and KeyboardInterrupt return the trial to the queue.
    """
    while time.time() < until:
        number = table.claim(worker)
        if number is not None:
            _run(table, worker, number, measure)
        elif any(trial.state == "running" for trial in table.trials()):
            wait(POLL_S)  # until the other worker finishes its trial or is lost
        else:
            return


def _run(table: TrialTable, worker: str, number: int, measure: Callable[[Choices], Figures]) -> None:
    """Run one trial. If the worker counts as lost meanwhile, its result is discarded."""
    try:
        trials = table.trials()
        choices = trials[number].choices
        if any(trial.choices.layers_in_float < choices.layers_in_float for trial in within(trials)):
            table.finish(worker, "pruned")
            return
        with _heartbeat(table, lambda: table.beat(worker)):
            figures = measure(choices)
        table.finish(worker, "complete", figures=figures)
    except StageError as error:
        table.finish(worker, "fail", str(error))
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, EdgekitError):
            print(tracebacks.text_of(error), file=sys.stderr)
            table.finish(worker, "fail", bug_of(error))
            return
        table.release(worker)
        raise


@contextmanager
def _heartbeat(table: TrialTable, beat: Callable[[], object]) -> Iterator[None]:
    """Call `beat` regularly from a thread while the block runs."""
    stop = Event()

    def run() -> None:
        while not stop.wait(table.silence_s / 6):
            with suppress(UsageError):  # the worker itself reports it at its next write
                beat()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def complete(trials: Sequence[Trial]) -> list[tuple[Trial, Figures]]:
    """The completed trials with their figures."""
    return [(trial, trial.figures) for trial in trials if trial.figures is not None]


def within(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that met the bounds on the tuning images.

    Estimator and bias correction change numbers, but not the operations. It is therefore enough if any trial with the
    same layers in float and the same smoothing was fast enough, so that a busy moment doesn't decide.
    """
    fast = {_structure(trial) for trial, figures in complete(trials) if figures.fast_enough}
    return [trial for trial, figures in complete(trials) if figures.drop_kept and _structure(trial) in fast]


def _structure(trial: Trial) -> tuple[int, bool]:
    return trial.choices.layers_in_float, trial.choices.smooth_quant


def best(trials: Sequence[Trial]) -> Trial | None:
    """The best trial; None if none is complete.

    Of the trials that met the bounds, it is the one with the fewest layers in float, and among equals the one that
    agrees most with the float network. If none met them, it is the one with the smallest drop. Times don't decide among
    these, so the result doesn't depend on which worker ran which trial.
    """
    passed = within(trials)

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


def summary(trials: Sequence[Trial], target: str) -> TargetSearch:
    """One target's part of the report: its trials, the Pareto front of drop and latency, and the best trial."""
    winner, passed = best(trials), {trial.number for trial in within(trials)}
    rows = tuple(
        TrialSummary(
            number=trial.number,
            state=trial.state,
            met=trial.number in passed,
            reason=trial.reason,
            **asdict(trial.choices),
            **({} if trial.figures is None else vars(trial.figures)),
        )
        for trial in trials
    )
    best_number = None if winner is None else winner.number
    return TargetSearch(target=target, trials=rows, front=tuple(front(trials)), best=best_number)
