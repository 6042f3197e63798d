"""The trials of a study: they run one after the other, are stored as they end, and stop when the time is up."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.config.recipes import load_recipe
from edgekit.errors import EngineError, OutputError
from edgekit.measure.settings import Gates
from edgekit.report.measurement import Measurement
from edgekit.support.files import Inputs
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, open_run
from edgekit.tuning.plan import SearchLoop, plan
from edgekit.tuning.study import Candidate, StudyStore, Trial
from tests.helpers.trials import GATES, LAYERS, FakeBench, measured

RECIPE = load_recipe("convnextv2")
POINTS = list(plan(RECIPE.for_target("onnx"), LAYERS))
PER_LEVEL = Counter(len(point.float_layers) for point in POINTS)
NEEDED = [point for point in POINTS if len(point.float_layers) <= 2]
"""The points up to the level that meets the bounds of the fake figures."""


@dataclass(frozen=True)
class Key(Inputs):
    """Inputs of a study that are only a name."""

    name: str


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with open_run(tmp_path / "run") as run:
        yield run


@pytest.fixture
def search(run: RunFolder) -> Callable[..., list[Trial]]:
    """A function that searches with this bench. Other fields of the loop have defaults."""

    def search(bench: FakeBench, limit: int | None = None, key: str = "inputs", **fields: Any) -> list[Trial]:
        store = StudyStore(run, "onnx", Key(key), "study")
        defaults = {"gates": GATES, "reporter": Reporter(quiet=True), "measure": bench, "limit": limit}
        return SearchLoop(store, **{**defaults, **fields}).search(RECIPE, bench.layers)

    return search


def states(trials: list[Trial]) -> Counter[str]:
    return Counter(trial.state for trial in trials)


def failing(times: int, error: BaseException) -> Callable[[Candidate], Measurement]:
    """Measurements of trials, of which the one after this many raises the error."""
    ended: list[Candidate] = []

    def measure(candidate: Candidate) -> Measurement:
        if len(ended) == times:
            ended.append(candidate)
            raise error
        ended.append(candidate)
        return measured(candidate)

    return measure


def test_a_whole_study(search: Callable[..., list[Trial]], capfd: pytest.CaptureFixture[str]) -> None:
    bench = FakeBench()
    trials = search(bench, reporter=Reporter())
    assert [trial.number for trial in trials] == list(range(len(POINTS)))
    assert [trial.candidate for trial in trials] == POINTS
    assert bench.measured == NEEDED, "a trial with more layers in float can't be the best"
    assert states(trials) == {"complete": len(NEEDED), "pruned": PER_LEVEL[4]}
    lines = [line for line in capfd.readouterr().err.splitlines() if "to go" in line]
    assert len(lines) == len(NEEDED)
    assert lines[0].endswith(f"; {len(POINTS) - 1} to go")
    assert lines[-1].endswith("; 0 to go"), "the pruned trials are not to come"


def test_at_most_so_many_trials(search: Callable[..., list[Trial]]) -> None:
    bench = FakeBench()
    assert states(search(bench, 5)) == {"complete": 5, "pruned": 1}
    assert bench.measured == NEEDED[:5], "the fourth point was pruned, because the third met the bounds"
    assert states(search(bench, 5)) == {"complete": 5, "pruned": 1}
    assert len(bench.measured) == 5, "reused trials count"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutputError("the disk is full")])
def test_an_interrupted_study_is_resumed(search: Callable[..., list[Trial]], error: BaseException) -> None:
    with pytest.raises(type(error)):
        search(FakeBench(failing(7, error)))
    bench = FakeBench()
    trials = search(bench)
    assert bench.orders == 0, "the layers have their order"
    assert bench.measured == NEEDED[7:], "completed trials are not repeated, and the interrupted one is"
    assert states(trials) == {"complete": len(NEEDED), "pruned": PER_LEVEL[4]}


def test_other_inputs_begin_a_study_anew(search: Callable[..., list[Trial]]) -> None:
    search(FakeBench(), 3)
    bench = FakeBench()
    search(bench, 3, "others")
    assert (bench.orders, bench.measured) == (1, POINTS[:3])


def test_other_bounds_and_more_trials_reuse_a_study(search: Callable[..., list[Trial]]) -> None:
    search(FakeBench(), 3)
    bench = FakeBench()
    trials = search(bench, gates=Gates(max_drop=100))
    without = [point for point in POINTS if len(point.float_layers) == 0]
    assert bench.measured == without[1:], "each trial without layers in float meets these bounds"
    assert states(trials) == {"complete": 2 + len(without), "pruned": len(POINTS) - len(without) - 2}


def test_a_trial_that_fails_is_stored_with_its_reason_and_affects_no_other(
    search: Callable[..., list[Trial]], capfd: pytest.CaptureFixture[str]
) -> None:
    trials = search(FakeBench(failing(2, EngineError("no such operation"))), 8)
    assert states(trials) == {"complete": 7, "fail": 1}
    assert (trials[2].state, trials[2].error) == ("fail", "no such operation")
    assert "trial 2" in capfd.readouterr().err
    assert search(FakeBench(), 8) == trials, "it would fail again"


def test_a_bug_costs_its_trial_and_is_called_one(
    search: Callable[..., list[Trial]], capfd: pytest.CaptureFixture[str]
) -> None:
    trials = search(FakeBench(failing(0, KeyError("model_constant_49"))), 3)
    assert states(trials) == {"complete": 2, "fail": 1}
    assert str(trials[0].error).startswith("bug in edgekit: KeyError: 'model_constant_49'")
    assert "Traceback" in capfd.readouterr().err


def test_no_trial_but_the_first_starts_when_the_time_is_up(search: Callable[..., list[Trial]]) -> None:
    bench = FakeBench()
    for _ in range(2):
        trials = search(bench, 3, now=lambda: 100.0, until=99.0)
        assert states(trials) == {"complete": 1, "untried": 2}
    assert bench.measured == POINTS[:1], "which an earlier run may have done"
    assert states(search(bench, 3, now=lambda: 100.0, until=101.0)) == {"complete": 3}
