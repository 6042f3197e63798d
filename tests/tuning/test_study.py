"""Trials in a database that processes share: planned once, none lost when a worker is killed, the same best."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from edgekit.config.recipes import load_recipe
from edgekit.errors import EngineError, UsageError
from edgekit.tuning.space import Choices, plan
from edgekit.tuning.study import FAST, KEPT, REASON, Storage, best, drain, met, open_study, planned, summary

POINTS = [point for point in plan(load_recipe("default"), 5) if point.estimator != "mean-minmax"]
ORDER = ["d", "b", "a", "c", "e"]

WORKER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_tuning_study import ORDER, POINTS, figures
from edgekit.tuning.study import Storage, drain, open_study, planned
study = open_study(Storage(sys.argv[1], 6).open(), "s")
log = Path(sys.argv[2])
def measure(choices):
    with log.open("a") as file:
        file.write(f"{choices}\\n")
    if sys.argv[4] == "hangs" and len(log.read_text().splitlines()) > 5:
        log.with_suffix(".hung").touch()
        time.sleep(1000)
    time.sleep(0.05)
    return figures(choices)
assert planned(study, lambda: (ORDER, POINTS)) == ORDER
drain(study, measure, "w", time.time() + 100, lambda: None)
"""


def figures(choices: Choices) -> dict[str, Any]:
    """A trial without a model: min-max fails the bound, two layers in float keep it, smoothing agrees most."""
    kept = choices.layers_in_float >= 2 and choices.estimator != "minmax"
    agreement = 0.9 + 0.01 * choices.smooth_quant + 0.001 * (choices.bias_correction == "fast")
    drop = 0.1 if kept else 1.5
    return {
        "drop_top1_points": drop,
        "time_share": 1.0 + choices.layers_in_float,
        "agreement": agreement,
        KEPT: kept,
        FAST: True,
    }


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'tune.db'}"


def alone(url: str, name: str = "one") -> Any:
    """The study as one worker ends it."""
    study = open_study(Storage(url, 60).open(), name)
    assert planned(study, lambda: (ORDER, POINTS)) == ORDER
    drain(study, figures, "w", time.time() + 100, lambda: None)
    return study


def test_one_worker(url: str) -> None:
    study = alone(url)
    states = Counter(trial.state.name for trial in study.trials)
    # 0, 1 and 2 layers in float are 8 points each; those with 4 can't be the best.
    assert states == {"COMPLETE": 36, "PRUNED": 12}
    taken = best(study)
    assert taken is not None
    assert taken.system_attrs["fixed_params"] == Choices("histogram", False, "fast", 2).params()
    assert {choices.layers_in_float for choices in met(study)} == {2}
    found = summary(study, "onnx")
    assert found["best"] == taken.number
    assert len(found["trials"]) == 48
    front = [each for each in found["trials"] if each["number"] in found["front"]]
    assert {(each["drop_top1_points"], each["time_share"]) for each in front} == {(1.5, 1.0), (0.1, 3.0)}


def test_the_smallest_drop_where_none_keeps_the_bounds(url: str) -> None:
    study = open_study(Storage(url, 60).open(), "s")
    planned(study, lambda: (ORDER, POINTS[:8]))

    def measure(choices: Choices) -> dict[str, Any]:
        return figures(choices) | {"drop_top1_points": 3.0 - choices.smooth_quant}

    drain(study, measure, "w", time.time() + 100, lambda: None)
    taken = best(study)
    assert taken is not None
    assert taken.user_attrs["drop_top1_points"] == 2
    assert met(study) == []


def test_speed_is_what_any_trial_of_the_same_structure_showed(url: str) -> None:
    study = open_study(Storage(url, 60).open(), "s")
    planned(study, lambda: (ORDER, POINTS[:8]))

    def measure(choices: Choices) -> dict[str, Any]:
        lucky = choices.estimator == "minmax" and not choices.smooth_quant
        return figures(choices) | {KEPT: choices.estimator == "histogram", FAST: lucky}

    drain(study, measure, "w", time.time() + 100, lambda: None)
    assert {(choices.estimator, choices.smooth_quant) for choices in met(study)} == {("histogram", False)}


def test_a_trial_that_fails_says_why_and_costs_itself_alone(url: str) -> None:
    study = open_study(Storage(url, 60).open(), "s")
    planned(study, lambda: (ORDER, POINTS[:8]))

    def measure(choices: Choices) -> dict[str, Any]:
        if choices.smooth_quant:
            raise EngineError("no such operation")
        return figures(choices)

    drain(study, measure, "w", time.time() + 100, lambda: None)
    failed = [trial for trial in study.trials if trial.state.name == "FAIL"]
    assert len(failed) == 4
    assert {trial.user_attrs[REASON] for trial in failed} == {"no such operation"}
    planned(study, lambda: (ORDER, POINTS))
    assert all(trial.state.is_finished() for trial in study.trials), "what failed for a reason isn't tried again"


def test_an_interrupted_study_goes_on(url: str) -> None:
    study = open_study(Storage(url, 60).open(), "s")
    planned(study, lambda: (ORDER, POINTS))
    done: list[Choices] = []

    def measure(choices: Choices) -> dict[str, Any]:
        if len(done) == 7:
            raise KeyboardInterrupt
        done.append(choices)
        return figures(choices)

    with pytest.raises(KeyboardInterrupt):
        drain(study, measure, "w", time.time() + 100, lambda: None)
    planned(study, lambda: pytest.fail("planned already"))
    drain(study, figures, "w", time.time() + 100, lambda: None)
    states = Counter(trial.state.name for trial in study.trials)
    assert states == {"COMPLETE": 36, "PRUNED": 12, "FAIL": 1}
    taken, wanted = best(study), best(alone(url))
    assert taken is not None
    assert wanted is not None
    assert taken.system_attrs["fixed_params"] == wanted.system_attrs["fixed_params"]


def test_no_trial_is_begun_when_time_is_up(url: str) -> None:
    study = open_study(Storage(url, 60).open(), "s")
    planned(study, lambda: (ORDER, POINTS))
    drain(study, lambda choices: pytest.fail("begun"), "w", time.time(), lambda: None)
    assert best(study) is None


def test_two_workers_and_a_kill(url: str, tmp_path: Path) -> None:
    """One is killed in a trial: the other takes that up, and the best is the one that a single worker finds."""
    log = tmp_path / "log.txt"
    command = [sys.executable, "-W", "ignore", "-c", WORKER, url, str(log), str(Path(__file__).parent)]
    doomed = subprocess.Popen([*command, "hangs"])
    while not log.with_suffix(".hung").exists():
        assert doomed.poll() is None
        time.sleep(0.05)
    other = subprocess.Popen([*command, "works"])
    time.sleep(1)
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()
    assert other.wait(timeout=120) == 0
    study, one = open_study(Storage(url, 60).open(), "s"), alone(url)
    by_state: dict[str, list[Any]] = {}
    for trial in study.trials:
        by_state.setdefault(trial.state.name, []).append(Choices(**trial.system_attrs["fixed_params"]))
    (lost,) = by_state.pop("FAIL")
    assert set(by_state) == {"COMPLETE", "PRUNED"}
    assert lost in by_state["COMPLETE"], "taken up again"
    assert sorted(map(str, by_state["COMPLETE"])) == sorted(
        str(point) for point in POINTS if point.layers_in_float <= 2
    )
    taken, wanted = best(study), best(one)
    assert taken is not None
    assert wanted is not None
    assert taken.system_attrs["fixed_params"] == wanted.system_attrs["fixed_params"]
    assert log.read_text().splitlines().count(str(lost)) == 2


@pytest.mark.parametrize("url", ["sqlite:////no/such/folder/tune.db", "nonsense", "postgresql://nobody@localhost/x"])
def test_a_storage_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="--storage: can't open the study's database"):
        Storage(url, 60).open()
