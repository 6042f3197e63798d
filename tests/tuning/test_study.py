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
from edgekit.support.hashes import Inputs
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, open_run
from edgekit.tuning.space import Choices, plan
from edgekit.tuning.study import Searcher, Study, StudyStore
from edgekit.tuning.trial import Figures
from tests.helpers.trials import GATES, LAYERS, FakeBench, figures

RECIPE = load_recipe("convnextv2")
POINTS = plan(RECIPE.for_target("onnx"), len(LAYERS))
PER_LEVEL = Counter(point.layers_in_float for point in POINTS)
NEEDED = [point for point in POINTS if point.layers_in_float <= 2]
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
def searcher(run: RunFolder) -> Callable[..., Searcher]:
    """A function that makes a searcher with this bench. Other fields have defaults."""

    def make(bench: FakeBench, key: str = "inputs", **fields: Any) -> Searcher:
        store = StudyStore(run, "onnx", Key(key))
        return Searcher(store, bench, **{"gates": GATES, "reporter": Reporter(quiet=True), **fields})

    return make


def states(study: Study) -> Counter[str]:
    return Counter(trial.state for trial in study.trials)


def failing(times: int, error: BaseException) -> Callable[[Choices], Figures]:
    """Figures of trials, of which the one after this many raises the error."""
    ended: list[Choices] = []

    def measure(choices: Choices) -> Figures:
        if len(ended) == times:
            ended.append(choices)
            raise error
        ended.append(choices)
        return figures(choices)

    return measure


def test_a_whole_study(searcher: Callable[..., Searcher], capfd: pytest.CaptureFixture[str]) -> None:
    bench = FakeBench()
    study = searcher(bench, reporter=Reporter()).search(RECIPE)
    assert study.layers == LAYERS
    assert [trial.number for trial in study.trials] == list(range(len(POINTS)))
    assert [trial.choices for trial in study.trials] == POINTS
    assert bench.measured == NEEDED, "a trial with more layers in float can't be the best"
    assert states(study) == {"complete": len(NEEDED), "pruned": PER_LEVEL[4]}
    lines = [line for line in capfd.readouterr().err.splitlines() if "to go" in line]
    assert len(lines) == len(NEEDED)
    assert lines[0].endswith(f"; {len(POINTS) - 1} to go")
    assert lines[-1].endswith("; 0 to go"), "the pruned trials are not to come"


def test_at_most_so_many_trials(searcher: Callable[..., Searcher]) -> None:
    bench = FakeBench()
    assert states(searcher(bench).search(RECIPE, 5)) == {"complete": 5, "pruned": 1}
    assert bench.measured == NEEDED[:5], "the fourth point was pruned, because the third met the bounds"
    assert states(searcher(bench).search(RECIPE, 5)) == {"complete": 5, "pruned": 1}
    assert len(bench.measured) == 5, "reused trials count"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutputError("the disk is full")])
def test_an_interrupted_study_is_resumed(searcher: Callable[..., Searcher], error: BaseException) -> None:
    with pytest.raises(type(error)):
        searcher(FakeBench(failing(7, error))).search(RECIPE)
    bench = FakeBench()
    study = searcher(bench).search(RECIPE)
    assert bench.orders == 0, "the layers have their order"
    assert bench.measured == NEEDED[7:], "completed trials are not repeated, and the interrupted one is"
    assert states(study) == {"complete": len(NEEDED), "pruned": PER_LEVEL[4]}


def test_other_inputs_begin_a_study_anew(searcher: Callable[..., Searcher]) -> None:
    searcher(FakeBench()).search(RECIPE, 3)
    bench = FakeBench()
    searcher(bench, "others").search(RECIPE, 3)
    assert (bench.orders, bench.measured) == (1, POINTS[:3])


def test_other_bounds_and_more_trials_reuse_a_study(searcher: Callable[..., Searcher]) -> None:
    searcher(FakeBench()).search(RECIPE, 3)
    bench = FakeBench()
    study = searcher(bench, gates=Gates(max_drop=100)).search(RECIPE)
    without = [point for point in POINTS if point.layers_in_float == 0]
    assert bench.measured == without[1:], "each trial without layers in float meets these bounds"
    assert states(study) == {"complete": 2 + len(without), "pruned": len(POINTS) - len(without) - 2}


def test_a_trial_that_fails_is_stored_with_its_reason_and_affects_no_other(
    searcher: Callable[..., Searcher], capfd: pytest.CaptureFixture[str]
) -> None:
    study = searcher(FakeBench(failing(2, EngineError("no such operation")))).search(RECIPE, 8)
    assert states(study) == {"complete": 7, "fail": 1}
    assert (study.trials[2].state, study.trials[2].reason) == ("fail", "no such operation")
    assert "trial 2" in capfd.readouterr().err
    assert searcher(FakeBench()).search(RECIPE, 8) == study, "it would fail again"


def test_a_bug_costs_its_trial_and_is_called_one(
    searcher: Callable[..., Searcher], capfd: pytest.CaptureFixture[str]
) -> None:
    study = searcher(FakeBench(failing(0, KeyError("model_constant_49")))).search(RECIPE, 3)
    assert states(study) == {"complete": 2, "fail": 1}
    assert str(study.trials[0].reason).startswith("bug in edgekit: KeyError: 'model_constant_49'")
    assert "Traceback" in capfd.readouterr().err


def test_no_trial_but_the_first_starts_when_the_time_is_up(searcher: Callable[..., Searcher]) -> None:
    bench = FakeBench()
    late = searcher(bench, now=lambda: 100.0)
    assert states(late.search(RECIPE, 3, until=99.0)) == {"complete": 1, "untried": 2}
    assert states(late.search(RECIPE, 3, until=99.0)) == {"complete": 1, "untried": 2}
    assert bench.measured == POINTS[:1], "which an earlier run may have done"
    assert states(late.search(RECIPE, 3, until=101.0)) == {"complete": 3}
