"""The study: one target's trials in a database that several processes and machines share. Optuna keeps it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.errors import StageError, UsageError
from edgekit.support.libraries import import_needed, quiet
from edgekit.tuning.space import Choices

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

Row = dict[str, Any]
REASON, LAYERS, WORKER, ORDER, PLANNED = "reason", "float_layers", "worker", "order", "planned"
KEPT, FAST = "drop_kept", "fast_enough"
"""What a trial's row says of the two bounds."""
PLANNING_S = 600
"""For so long a worker waits for the one that plans."""


@dataclass(frozen=True)
class Storage:
    """Where studies are: a database's URL, and after how many silent seconds a worker counts as dead."""

    url: str
    silence_s: int

    def open(self) -> "RDBStorage":
        """UsageError for a URL that no database answers to."""
        optuna = import_needed("optuna", "tune")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        try:
            with quiet():
                retry = optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=3)
                found: RDBStorage = optuna.storages.RDBStorage(
                    self.url,
                    engine_kwargs={"connect_args": {"timeout": 60}} if self.url.startswith("sqlite") else None,
                    heartbeat_interval=max(1, self.silence_s // 6),
                    grace_period=self.silence_s,
                    heartbeat_stale_trial_callback=retry,
                )
                return found
        except Exception as error:  # SQLAlchemy's, and those of whatever driver the URL names
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UsageError(
                f"--storage: can't open the study's database: {said}. Give a URL such as sqlite:///tune.db or "
                "postgresql://USER:PASSWORD@HOST/DATABASE, and install its driver."
            ) from error


def open_study(storage: "RDBStorage", name: str) -> "Study":
    """The study of this name, made unless it is there.

    Its values are the drop in points and the latency as a share of the float's beside it, both to be small: trials of
    different times and machines can be compared by that share, and not by milliseconds.
    """
    optuna = import_needed("optuna", "tune")
    study: Study = optuna.create_study(
        storage=storage,
        study_name=name,
        load_if_exists=True,
        directions=["minimize", "minimize"],
        sampler=optuna.samplers.RandomSampler(seed=0),  # never asked: trials come from the plan
    )
    return study


def planned(study: "Study", make: Callable[[], tuple[list[str], list[Choices]]]) -> list[str]:
    """The order of layers, after seeing to it that every point of the plan is a trial, done or to be done.

    One worker makes the plan, others wait for it. A point whose trial was cut short is queued again: a trial that
    failed for a reason says it.
    """
    if PLANNED not in study.user_attrs and not _claims(study):
        until = time.monotonic() + PLANNING_S
        while PLANNED not in study.user_attrs and time.monotonic() < until:
            time.sleep(0.5)
    if PLANNED in study.user_attrs:
        points = [Choices(**each) for each in study.user_attrs[PLANNED]]
    else:
        order, points = make()
        study.set_user_attr(ORDER, order)
    known = {_choices(trial) for trial in study.get_trials(deepcopy=False) if not _was_cut(trial)}
    for point in points:
        if point not in known:
            study.enqueue_trial(point.params())
    study.set_user_attr(PLANNED, [point.params() for point in points])
    found: list[str] = study.user_attrs[ORDER]
    return found


def _claims(study: "Study") -> bool:
    """Whether this process is the first to want to plan: a name can be taken only once, on whatever machines."""
    optuna = import_needed("optuna", "tune")
    try:
        optuna.create_study(storage=study._storage, study_name=f"{study.study_name} (plan)")
    except optuna.exceptions.DuplicatedStudyError:
        return False
    return True


def _was_cut(trial: "FrozenTrial") -> bool:
    """Failed without a reason of its own: interrupted, or its worker died too often."""
    return trial.state.name == "FAIL" and REASON not in trial.user_attrs


def _choices(trial: "FrozenTrial") -> Choices | None:
    given = trial.system_attrs.get("fixed_params")
    return Choices(**given) if given else None


def drain(
    study: "Study", measure: Callable[[Choices], Row], worker: str, until: float, on_trial: Callable[[], None]
) -> None:
    """Do trials until none is waiting or running anywhere, or it is `until` (time.time()).

    `measure` gives a trial's row: `drop_top1_points`, `time_share`, KEPT, FAST and what else to keep, or a StageError.
    A trial that can't be the best, since one with fewer layers in float met the bounds, is passed over.
    """
    optuna = import_needed("optuna", "tune")

    def objective(trial: "Trial") -> Sequence[float]:
        choices = _choices(study._storage.get_trial(trial._trial_id))
        if choices is None or any(each.layers_in_float < choices.layers_in_float for each in met(study)):
            raise optuna.TrialPruned
        trial.set_user_attr(WORKER, worker)
        try:
            row = measure(choices)
        except StageError as error:
            trial.set_user_attr(REASON, str(error))
            raise
        for key, value in row.items():
            trial.set_user_attr(key, value)
        return row["drop_top1_points"], row["time_share"]

    while time.time() < until:
        with quiet():
            optuna.storages.fail_stale_trials(study)
        states = {trial.state.name for trial in study.get_trials(deepcopy=False)}
        if "WAITING" in states:
            _do_one(study, objective)
            on_trial()
        elif "RUNNING" in states:
            time.sleep(1)  # another's: it ends, or falls silent and is queued again
        else:
            return


def _do_one(study: "Study", objective: "Callable[[Trial], Sequence[float]]") -> None:
    try:
        study.optimize(objective, n_trials=1, catch=(StageError,))
    except ValueError as error:
        if "Cannot tell" not in str(error):  # it was silent for too long, and its trial given to another
            raise


def within(study: "Study") -> "list[FrozenTrial]":
    """The trials that kept the bounds on the tuning images.

    Estimator and bias correction change numbers, not what is computed: it is enough that a trial with the same layers
    in float, smoothed alike, was fast enough, so that a busy moment doesn't decide.
    """
    done = _done(study)
    fast = {_structure(trial) for trial in done if trial.user_attrs[FAST]}
    return [trial for trial in done if trial.user_attrs[KEPT] and _structure(trial) in fast]


def met(study: "Study") -> list[Choices]:
    """Their points."""
    return [choices for trial in within(study) if (choices := _choices(trial))]


def _done(study: "Study") -> "list[FrozenTrial]":
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]


def _structure(trial: "FrozenTrial") -> tuple[int, bool]:
    choices = Choices(**trial.system_attrs["fixed_params"])
    return choices.layers_in_float, choices.smooth_quant


def best(study: "Study") -> "FrozenTrial | None":
    """The trial to take: of those that kept the bounds the one with the fewest layers in float, and of these the one
    that answers most as the float network does. If none kept them, the smallest drop; None if no trial is complete.

    No time decides among those, so that it is the same whoever ran the trials.
    """
    kept = within(study)

    def rank(trial: "FrozenTrial") -> tuple[Any, ...]:
        choices = _choices(trial)
        assert choices is not None
        seen = (-trial.user_attrs["agreement"], trial.user_attrs["drop_top1_points"])
        cost = (choices.layers_in_float, choices.smooth_quant)
        settings = (choices.bias_correction != "none", choices.estimator)
        return (*cost, *seen, *settings) if kept else (*reversed(seen), *cost, *settings)

    return min(kept or _done(study), key=rank, default=None)


def summary(study: "Study", target: str) -> Row:
    """One target's part of the report: its trials, the front of accuracy against latency, and the one taken."""
    taken, rows, good = best(study), [], {trial.number for trial in within(study)}
    for trial in study.get_trials(deepcopy=False):
        choices = _choices(trial)
        if choices is None:
            continue
        known = {"number": trial.number, "state": trial.state.name.lower(), "met": trial.number in good}
        known |= choices.params()
        rows.append(known | {key: value for key, value in trial.user_attrs.items() if key != WORKER})
    return {
        "target": target,
        "trials": rows,
        "front": sorted(trial.number for trial in study.best_trials),
        "best": None if taken is None else taken.number,
    }
