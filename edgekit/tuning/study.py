"""A study: one target's trials, planned once, done by all workers, and the best of them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from threading import Event, Thread
from typing import Any

from edgekit.errors import StageError, UsageError
from edgekit.report.search_document import TargetSearch, TrialSummary
from edgekit.tuning.database import TrialTable
from edgekit.tuning.space import Choices
from edgekit.tuning.trial import Figures, Trial

POLL_S = 0.5
"""Seconds between two looks at what other workers have done."""


def planned(
    table: TrialTable,
    worker: str,
    make: Callable[[], tuple[list[str], list[Choices]]],
    wait: Callable[[float], None] = time.sleep,
) -> list[str]:
    """The order of layers, after one worker has queued the plan that `make` gives; the other workers wait for it."""
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
    """Do trials until none is waiting or running anywhere, or it is `until` (time.time()).

    A StageError of `measure` fails its trial for good. A trial that can't be the best is pruned: one with fewer layers
    in float met the bounds. A trial that another exception ends, such as KeyboardInterrupt, waits again.
    """
    while time.time() < until:
        number = table.claim(worker)
        if number is not None:
            _run(table, worker, number, measure)
        elif any(trial.state == "running" for trial in table.trials()):
            wait(POLL_S)  # of another worker, which finishes it or is lost
        else:
            return


def _run(table: TrialTable, worker: str, number: int, measure: Callable[[Choices], Figures]) -> None:
    """Do one trial. A worker that was silent for too long has lost it, and its result is dropped."""
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
    except BaseException:
        table.release(worker)
        raise


@contextmanager
def _heartbeat(table: TrialTable, beat: Callable[[], object]) -> Iterator[None]:
    """Give a sign of life now and then from a thread, as long as the block runs."""
    stop = Event()

    def run() -> None:
        while not stop.wait(table.silence_s / 6):
            with suppress(UsageError):  # the worker reports it when it writes itself
                beat()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def complete(trials: Sequence[Trial]) -> list[tuple[Trial, Figures]]:
    """The trials that measured something, with what they measured."""
    return [(trial, trial.figures) for trial in trials if trial.figures is not None]


def within(trials: Sequence[Trial]) -> list[Trial]:
    """The trials that kept the bounds on the tuning images.

    Estimator and bias correction change numbers, not what is computed: it is enough that a trial with the same layers
    in float, smoothed alike, was fast enough, so that a busy moment doesn't decide.
    """
    fast = {_structure(trial) for trial, figures in complete(trials) if figures.fast_enough}
    return [trial for trial, figures in complete(trials) if figures.drop_kept and _structure(trial) in fast]


def _structure(trial: Trial) -> tuple[int, bool]:
    return trial.choices.layers_in_float, trial.choices.smooth_quant


def best(trials: Sequence[Trial]) -> Trial | None:
    """The trial to take: of those that kept the bounds the one with the fewest layers in float, and of these the one
    that answers most as the float network does. If none kept them, the smallest drop; None if no trial is complete.

    No time decides among those, so that it is the same whoever ran the trials.
    """
    kept = within(trials)

    def rank(pair: tuple[Trial, Figures]) -> tuple[Any, ...]:
        trial, figures = pair
        accuracy = (-figures.agreement, figures.drop_top1_points)
        settings = (trial.choices.bias_correction != "none", trial.choices.estimator)
        cost = _structure(trial)
        return (*cost, *accuracy, *settings) if kept else (*reversed(accuracy), *cost, *settings)

    taken = min(complete(kept or trials), key=rank, default=None)
    return None if taken is None else taken[0]


def front(trials: Sequence[Trial]) -> list[int]:
    """Numbers of the trials that no other beats in drop or latency without being worse in the other."""
    points = {trial.number: (figures.drop_top1_points, figures.time_share) for trial, figures in complete(trials)}

    def is_beaten(own: tuple[float, float]) -> bool:
        return any(other != own and other[0] <= own[0] and other[1] <= own[1] for other in points.values())

    return [number for number, point in points.items() if not is_beaten(point)]


def summary(trials: Sequence[Trial], target: str) -> TargetSearch:
    """One target's part of the report: its trials, the front of accuracy against latency, and the one taken."""
    taken, kept = best(trials), {trial.number for trial in within(trials)}
    rows = tuple(
        TrialSummary(
            number=trial.number,
            state=trial.state,
            met=trial.number in kept,
            reason=trial.reason,
            **asdict(trial.choices),
            **({} if trial.figures is None else vars(trial.figures)),
        )
        for trial in trials
    )
    best_number = None if taken is None else taken.number
    return TargetSearch(target=target, trials=rows, front=tuple(front(trials)), best=best_number)
