"""The table of trials: each is claimed once, and again if its worker is lost. Its file can be named in two ways."""

from pathlib import Path

import pytest

from edgekit.errors import UsageError
from edgekit.tuning.database import TrialTable, database_file
from edgekit.tuning.space import Choices

POINTS = [Choices("minmax", False, "none", level) for level in (0, 1, 2)]
SILENCE_S = 60.0


class Clock:
    """A clock that advances only when a test sets it."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def table(tmp_path: Path, clock: Clock) -> TrialTable:
    table = TrialTable(tmp_path / "tune.db", "study", SILENCE_S, clock)
    table.plan(["b", "a"], POINTS)
    return table


def test_a_study_is_planned_once(table: TrialTable) -> None:
    table.plan(["other"], POINTS[:1])
    assert table.layers() == ["b", "a"]
    assert [(trial.number, trial.choices, trial.state) for trial in table.trials()] == [
        (number, point, "waiting") for number, point in enumerate(POINTS)
    ]


def test_studies_in_one_file_are_separate(table: TrialTable, tmp_path: Path) -> None:
    other = TrialTable(tmp_path / "tune.db", "another study", SILENCE_S)
    assert other.layers() is None
    assert other.trials() == []
    assert other.claim("w") is None


def test_a_planner_that_falls_silent_is_replaced(tmp_path: Path, clock: Clock) -> None:
    table = TrialTable(tmp_path / "tune.db", "study", SILENCE_S, clock)
    assert table.claim_plan("first")
    assert not table.claim_plan("second")
    clock.seconds += SILENCE_S - 1
    assert table.claim_plan("first"), "a repeated claim is a heartbeat"
    clock.seconds += SILENCE_S - 1
    assert not table.claim_plan("second")
    clock.seconds += 2
    assert table.claim_plan("second")
    table.plan(["a"], POINTS)
    assert not table.claim_plan("second"), "planned already"


def test_each_trial_is_claimed_once_in_the_order_of_the_plan(table: TrialTable) -> None:
    assert [table.claim(worker) for worker in ("v", "w", "v", "w")] == [0, 1, 2, None]


def test_a_silent_worker_s_trial_is_repeated_after_those_never_started(table: TrialTable, clock: Clock) -> None:
    assert table.claim("dead") == 0
    assert table.claim("alive") == 1
    clock.seconds += SILENCE_S - 1
    table.beat("alive")
    clock.seconds += 2
    assert [table.claim("next") for _ in range(3)] == [2, 0, None]
    assert not table.finish("dead", "complete"), "another worker runs it now"
    assert table.finish("alive", "pruned")
    assert [trial.state for trial in table.trials()] == ["running", "pruned", "running"]


def test_a_trial_that_loses_four_workers_fails_until_the_next_command(table: TrialTable, clock: Clock) -> None:
    for _ in range(4):
        for _ in POINTS:
            assert table.claim("w") is not None
        clock.seconds += SILENCE_S + 1
    assert table.claim("w") is None
    assert [(trial.state, trial.reason) for trial in table.trials()] == [("fail", None)] * 3
    table.retry_lost()
    assert table.claim("w") == 0


def test_a_failure_with_a_reason_is_final(table: TrialTable) -> None:
    table.claim("w")
    assert table.finish("w", "fail", "no such operation")
    table.retry_lost()
    assert table.claim("w") == 1
    assert (table.trials()[0].state, table.trials()[0].reason) == ("fail", "no such operation")


def test_a_released_trial_waits_again(table: TrialTable) -> None:
    table.claim("w")
    table.release("w")
    assert [trial.state for trial in table.trials()] == ["waiting"] * 3


@pytest.mark.parametrize("storage", ["tune.db", "sqlite:///tune.db", "sqlite:////{}/tune.db", "{}/tune.db"])
def test_a_file_can_be_named_by_path_or_url(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        database_file(storage.format(str(tmp_path).lstrip("/") if "://" in storage else tmp_path))
        == tmp_path / "tune.db"
    )


@pytest.mark.parametrize(
    "storage", ["postgresql://user@host/base", "sqlite://", "sqlite:///", "sqlite:///:memory:", ""]
)
def test_other_storages_are_refused(storage: str) -> None:
    with pytest.raises(UsageError) as caught:
        database_file(storage)
    assert caught.value.problem == f"--storage is '{storage}'"
    assert "sqlite:///PATH" in caught.value.valid
    assert caught.value.exit_code == 2


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("something else, and long enough to be looked at " * 20)
    for file in (tmp_path / "text", tmp_path / "missing" / "tune.db", tmp_path):
        with pytest.raises(UsageError, match="--storage"):
            TrialTable(file, "study", SILENCE_S)
