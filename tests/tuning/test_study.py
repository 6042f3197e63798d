"""Trials that processes share: planned once, none lost when a worker is killed, always the same best trial."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from edgekit.config.recipes import load_recipe
from edgekit.errors import EngineError
from edgekit.tuning.database import TrialTable
from edgekit.tuning.space import Choices, plan
from edgekit.tuning.study import best, drain, planned, summary, within
from edgekit.tuning.trial import Figures

POINTS = [
    point
    for point in plan(replace(load_recipe("default"), estimator="histogram"), 5)
    if point.estimator != "mean-minmax"
]
ORDER = ["d", "b", "a", "c", "e"]
SILENCE_S = 60.0
FOREVER = float("inf")

DOOMED = """
import sys, time
from pathlib import Path
from edgekit.tuning.database import TrialTable
from edgekit.tuning.study import drain
def measure(choices):
    print("begun", flush=True)
    sys.stdin.read()
drain(TrialTable(Path(sys.argv[1]), "s", 60), "doomed", measure, float("inf"))
"""


def figures(choices: Choices, **changes: Any) -> Figures:
    """Figures without a model: min-max misses the bound, two layers in float meet it, smoothing agrees most."""
    passed = choices.layers_in_float >= 2 and choices.estimator != "minmax"
    measured = Figures(
        drop_top1_points=0.1 if passed else 1.5,
        drop_ci95_points=(0.0, 2.0),
        agreement=0.9 + 0.01 * choices.smooth_quant + 0.001 * (choices.bias_correction == "fast"),
        p50_ms=1.0,
        time_share=1.0 + choices.layers_in_float,
        speedup=1.5,
        speedup_ci95=(1.4, 1.6),
        files={"model.onnx": "0" * 64},
        drop_kept=passed,
        fast_enough=True,
        float_layers=tuple(ORDER[: choices.layers_in_float]),
    )
    return replace(measured, **changes)


def never(_: float) -> None:
    pytest.fail("the worker waits for another one")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tune.db"


@pytest.fixture
def table(file: Path) -> TrialTable:
    """A study of all points."""
    table = TrialTable(file, "s", SILENCE_S)
    assert planned(table, "w", lambda: (ORDER, POINTS), never) == ORDER
    return table


def finished(file: Path, points: list[Choices], measure: Callable[[Choices], Figures] = figures) -> TrialTable:
    """A study of these points that one worker has finished."""
    table = TrialTable(file, "alone", SILENCE_S)
    planned(table, "w", lambda: (ORDER, points), never)
    drain(table, "w", measure, FOREVER, never)
    return table


def states(table: TrialTable) -> Counter[str]:
    return Counter(trial.state for trial in table.trials())


def best_choices(table: TrialTable) -> Choices:
    trial = best(table.trials())
    assert trial is not None
    return trial.choices


def test_one_worker(file: Path) -> None:
    table = finished(file, POINTS)
    # 0, 1 and 2 layers in float have 12 points each. Those with 4 can't be the best.
    assert states(table) == {"complete": 36, "pruned": 12}
    assert best_choices(table) == Choices("histogram", False, "fast", 2)
    trials = table.trials()
    assert {trial.choices.layers_in_float for trial in within(trials)} == {2}
    search = summary(trials, "onnx")
    assert search.target == "onnx"
    assert search.best == next(trial.number for trial in trials if trial.choices == best_choices(table))
    assert [trial.number for trial in search.trials] == list(range(48))
    front = [trial for trial in search.trials if trial.number in search.front]
    assert {(trial.drop_top1_points, trial.time_share) for trial in front} == {(1.5, 1.0), (0.1, 3.0)}
    assert {trial.met for trial in search.trials if trial.layers_in_float == 4} == {False}
    best_trial = search.trials[search.best]
    assert (best_trial.float_layers, best_trial.files) == (("d", "b"), {"model.onnx": "0" * 64})
    assert {trial.agreement for trial in search.trials if trial.state == "pruned"} == {None}


def test_the_smallest_drop_wins_if_no_trial_meets_the_bounds(file: Path) -> None:
    def measure(choices: Choices) -> Figures:
        return figures(choices, drop_top1_points=3.0 - choices.smooth_quant)

    table = finished(file, POINTS[:8], measure)
    assert best_choices(table).smooth_quant
    assert within(table.trials()) == []


def test_one_fast_trial_suffices_for_all_of_the_same_structure(file: Path) -> None:
    def measure(choices: Choices) -> Figures:
        lucky = choices.estimator == "minmax" and not choices.smooth_quant
        return figures(choices, drop_kept=choices.estimator == "histogram", fast_enough=lucky)

    passed = [trial.choices for trial in within(finished(file, POINTS[:8], measure).trials())]
    assert {(choices.estimator, choices.smooth_quant) for choices in passed} == {("histogram", False)}


def test_a_trial_that_fails_records_its_reason_and_affects_no_other(file: Path) -> None:
    def measure(choices: Choices) -> Figures:
        if choices.smooth_quant:
            raise EngineError("no such operation")
        return figures(choices)

    table = finished(file, POINTS[:8], measure)
    failed = [trial for trial in table.trials() if trial.state == "fail"]
    assert states(table) == {"complete": 4, "fail": 4}
    assert {trial.reason for trial in failed} == {"no such operation"}
    search = summary(failed, "onnx")
    assert {trial.reason for trial in search.trials} == {"no such operation"}
    assert (search.best, search.front) == (None, ())


def test_a_bug_costs_its_trial_and_is_called_one(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def measure(choices: Choices) -> Figures:
        if choices.smooth_quant:
            raise KeyError("model_constant_49")
        return figures(choices)

    table = finished(file, POINTS[:4], measure)
    reasons = {trial.reason for trial in table.trials() if trial.state == "fail"}
    assert reasons == {"a bug in edgekit, not in your input (KeyError: 'model_constant_49')"}
    assert states(table)["complete"] == sum(not point.smooth_quant for point in POINTS[:4])
    assert "Traceback" in capfd.readouterr().err


def test_an_interrupted_study_is_resumed(file: Path, table: TrialTable) -> None:
    done: list[Choices] = []

    def measure(choices: Choices) -> Figures:
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(choices)
        return figures(choices)

    with pytest.raises(KeyboardInterrupt):
        drain(table, "w", measure, FOREVER, never)
    assert states(table) == {"complete": 7, "waiting": 41}
    planned(table, "w", lambda: pytest.fail("the study is planned twice"), never)
    drain(table, "w", figures, FOREVER, never)
    assert states(table) == {"complete": 36, "pruned": 12}
    assert best_choices(table) == best_choices(finished(file, POINTS))


def test_no_trial_starts_when_the_time_is_up(table: TrialTable) -> None:
    drain(table, "w", lambda choices: pytest.fail("a trial starts"), time.time(), never)
    assert best(table.trials()) is None


def test_a_worker_sends_heartbeats_while_it_measures(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement ends after two heartbeats. A worker without heartbeats would wait for them and fail."""
    table = TrialTable(file, "s", 0.006)
    planned(table, "w", lambda: (ORDER, POINTS[:1]), never)
    beats: list[str] = []
    twice = Event()

    def beat(worker: str) -> None:
        beats.append(worker)
        if len(beats) == 2:
            twice.set()

    monkeypatch.setattr(table, "beat", beat)

    def measure(choices: Choices) -> Figures:
        assert twice.wait(60)
        return figures(choices)

    drain(table, "w", measure, FOREVER, never)
    assert set(beats) == {"w"}
    assert states(table) == {"complete": 1}


def test_workers_at_once_do_each_trial_once(file: Path, table: TrialTable) -> None:
    points = [point for point in POINTS if point.layers_in_float < 2]  # none of these is pruned
    study = TrialTable(file, "busy", SILENCE_S)
    begun: list[Choices] = []

    def measure(choices: Choices) -> Figures:
        begun.append(choices)
        return figures(choices)

    def work(worker: str) -> None:
        mine = TrialTable(file, "busy", SILENCE_S)
        planned(mine, worker, lambda: (ORDER, points))
        drain(mine, worker, measure, FOREVER)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert states(study) == {"complete": len(points)}
    assert Counter(begun) == Counter(points)


def test_two_workers_and_a_kill(file: Path, table: TrialTable) -> None:
    """One worker is killed in a trial. The other repeats it, and the best trial is that of a single worker."""
    command = [sys.executable, "-W", "ignore", "-c", DOOMED, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline() == "begun\n"
        (lost,) = (trial for trial in table.trials() if trial.state == "running")
        late = [0.0]
        begun: list[Choices] = []

        def measure(choices: Choices) -> Figures:
            begun.append(choices)
            return figures(choices)

        def kill(_: float) -> None:
            """Only the doomed worker's trial is left: kill the worker, and advance the clock beyond its silence."""
            assert late == [0.0], "the trial is repeated as soon as its worker counts as lost"
            assert states(table)["running"] == 1
            doomed.kill()
            doomed.wait()
            late[0] = SILENCE_S + 1

        other = TrialTable(file, "s", SILENCE_S, lambda: time.time() + late[0])
        drain(other, "other", measure, FOREVER, kill)
    assert lost.worker == "doomed"
    assert states(table) == {"complete": 36, "pruned": 12}
    assert begun[-1] == lost.choices, "the lost trial is repeated after the others"
    assert Counter(begun) == Counter(point for point in POINTS if point.layers_in_float <= 2)
    assert best_choices(table) == best_choices(finished(file, POINTS))


def test_a_worker_waits_for_the_plan_of_another(file: Path) -> None:
    table = TrialTable(file, "s", SILENCE_S)
    assert table.claim_plan("planner")

    def other_plans(_: float) -> None:
        table.plan(ORDER, POINTS)

    assert planned(table, "w", lambda: pytest.fail("the study is planned twice"), other_plans) == ORDER
