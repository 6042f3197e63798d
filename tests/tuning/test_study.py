"""The trials of a study: they run one after the other and are stored as they end, so that the same command resumes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekit.errors import EngineError, OutputError
from edgekit.report.row import Measurement
from edgekit.report.sensitivity_document import order_of
from edgekit.support.files import Inputs
from edgekit.support.run_folder import RunFolder, open_run
from edgekit.tuning.study import ROOMS, Candidate, recalled
from tests.helpers.measurements import failed
from tests.helpers.trials import CANDIDATES, measured, studied


@dataclass(frozen=True)
class Key(Inputs):
    """Inputs of a study that are only a name."""

    name: str


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with open_run(tmp_path / "run") as run:
        yield run


def failing(candidate: Candidate, error: BaseException) -> Callable[[Candidate], Measurement]:
    """Measurements of trials, of which that of this candidate raises the error."""

    def measure(of: Candidate) -> Measurement:
        if of == candidate:
            raise error
        return measured(of)

    return measure


KEY = Key("inputs")


def test_a_whole_study(run: RunFolder) -> None:
    study = studied(run, KEY)
    assert [trial.number for trial in study.trials] == [0, 1, 2, 3]
    assert [trial.candidate for trial in study.trials] == list(CANDIDATES)
    assert [trial.drop for trial in study.trials] == [2.0, 1.0, 0.5, 0.25]
    assert recalled(run, "onnx", "study", KEY) == study


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OutputError("the disk is full")])
def test_an_interrupted_study_is_resumed(run: RunFolder, error: BaseException) -> None:
    with pytest.raises(type(error)):
        studied(run, KEY, failing(CANDIDATES[2], error))
    made: list[Candidate] = []
    study = studied(run, KEY, made=made)
    assert made == list(CANDIDATES[2:]), "completed trials are not repeated, and the interrupted one is"
    assert len(study.trials) == len(CANDIDATES)


def test_other_inputs_begin_a_study_anew(run: RunFolder) -> None:
    studied(run, KEY)
    made: list[Candidate] = []
    studied(run, Key("others"), made=made)
    assert made == list(CANDIDATES[1:])


def test_a_trial_that_fails_is_stored_with_its_reason_and_affects_no_other(
    run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    study = studied(run, KEY, failing(CANDIDATES[2], EngineError("no such operation")))
    assert [trial.error for trial in study.trials] == [None, None, "no such operation", None]
    assert "onnx-int8: study: no such operation" in capfd.readouterr().err
    assert studied(run, KEY) == study, "it would fail again"


def test_a_bug_costs_its_trial_and_is_called_one(run: RunFolder, capfd: pytest.CaptureFixture[str]) -> None:
    study = studied(run, KEY, failing(CANDIDATES[1], KeyError("model_constant_49")))
    assert [trial.measured is None for trial in study.trials] == [False, True, False, False]
    assert str(study.trials[1].error).startswith("bug in edgekit: KeyError: 'model_constant_49'")
    assert "Traceback" in capfd.readouterr().err


def test_a_device_that_is_lost_ends_the_study_and_the_same_command_goes_on(run: RunFolder) -> None:
    lost = failed("device")
    assert len(studied(run, KEY, lambda each: lost if each == CANDIDATES[2] else measured(each)).trials) == 2
    assert len(studied(run, KEY).trials) == 4


def test_a_study_depends_on_the_code_that_orders_the_layers() -> None:
    assert order_of.__module__.split(".")[1] in ROOMS
