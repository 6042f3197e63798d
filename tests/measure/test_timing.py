"""Sessions are timed in turns. One that fails is dropped, and the others are timed again from the start."""

from collections.abc import Callable

import numpy as np
import pytest

from edgekit.errors import EngineError, UsageError
from edgekit.job.kinds import Duration
from edgekit.measure import latency as module
from edgekit.measure.end_to_end import time_end_to_end
from edgekit.measure.latency import (
    POINTS,
    TURNS,
    latency_of,
    sustained,
    time_in_turns,
    time_sustained,
)
from edgekit.measure.settings import Timing
from edgekit.report.row import SustainedLatency
from edgekit.support.progress import Reporter

TIMING = Timing(threads=1, warmup=1, iterations=4)
FRESH = {"threads": 3, "load": 20.0, "first": 3.0}


class Calls:
    """Calls by name that record their turns. `good` gives the number of turns after which a call raises the error."""

    def __init__(self, names: str, **good: int) -> None:
        self.order: list[str] = []
        self.error = EngineError("the runtime failed")
        self._good = good
        self.calls: dict[str, Callable[[], object]] = {name: self._call(name) for name in names}

    def _call(self, name: str) -> Callable[[], object]:
        def call() -> None:
            if self.order.count(name) == self._good.get(name, -1):
                raise self.error
            self.order.append(name)

        return call


@pytest.mark.usefixtures("all_lead_runs")
@pytest.mark.parametrize("good", [0, 3], ids=["at once", "after a while"])
def test_the_others_are_timed_again_without_the_one_that_fails(good: int) -> None:
    calls = Calls("abc", b=good)
    timed = time_in_turns(calls.calls, 1, TIMING, "time", Reporter(quiet=True))
    assert timed.failures == {"b": calls.error}
    assert {name: len(times) for name, times in timed.times.items()} == {"a": 4, "c": 4}
    runs = TURNS.lead_runs + 4
    assert "".join(calls.order).endswith("ac" + "a" * runs + "c" * runs), "one warm-up round and a turn of four"
    assert timed.conditions is not None


def test_several_may_fail_one_after_the_other() -> None:
    calls = Calls("abcd", d=1, a=10)
    timed = time_in_turns(calls.calls, 1, TIMING, "time", Reporter(quiet=True))
    assert list(timed.failures) == ["d", "a"]
    assert list(timed.times) == ["b", "c"]


def test_there_are_no_times_if_all_fail() -> None:
    calls = Calls("ab", a=0, b=0)
    timed = time_in_turns(calls.calls, 1, TIMING, "time", Reporter(quiet=True))
    assert set(timed.failures) == {"a", "b"}
    assert (timed.times, timed.sustained, timed.conditions) == ({}, {}, None)


def test_nothing_to_time_gives_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    nothing: dict[str, Callable[[], object]] = {}
    timed = time_in_turns(nothing, 1, TIMING, "time", Reporter())
    assert (timed.times, timed.conditions, timed.failures) == ({}, None, {})
    assert capfd.readouterr().err == "", "no stage was started"


def test_a_sustained_run_drops_the_one_that_fails_too() -> None:
    calls = Calls("ab", b=2)
    sustained = Timing(threads=1, warmup=1, sustain_s=0.05)
    timed = time_in_turns(calls.calls, 1, sustained, "time", Reporter(quiet=True))
    assert list(timed.failures) == ["b"]
    assert timed.sustained.keys() == timed.times.keys() == {"a"}
    assert timed.sustained["a"].last.count > 0


@pytest.mark.usefixtures("all_lead_runs")
def test_end_to_end_times_need_fewer_rounds_and_drop_the_one_that_fails() -> None:
    calls = Calls("abc", a=6)
    times, failures = time_end_to_end(calls.calls, Timing(warmup=20, iterations=200))
    assert failures == {"a": calls.error}
    assert {name: len(values) for name, values in times.items()} == {"b": 25, "c": 25}
    runs = TURNS.lead_runs + TURNS.turn
    assert "".join(calls.order).endswith("cbc" + ("b" * runs + "c" * runs) * 5), "at most two warm-up rounds"


def test_there_are_no_end_to_end_times_if_all_fail() -> None:
    times, failures = time_end_to_end(Calls("a", a=0).calls, TIMING)
    assert (times, list(failures)) == ({}, ["a"])


def test_a_programming_error_is_not_taken_for_a_failing_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    def enough(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(module, "enough_rounds", enough)
    with pytest.raises(ZeroDivisionError):
        time_in_turns({"a": lambda: None}, 1, Timing(may_end_early=True), "time", Reporter(quiet=True))


def test_latency_has_the_figures_of_the_times() -> None:
    latency = latency_of(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), **FRESH)
    assert (latency.p50, latency.mean, latency.count, latency.threads) == (3.0, 3.0, 5, 3)
    assert (latency.p25, latency.p75) == (2.0, 4.0)
    assert (latency.load, latency.first) == (20.0, 3.0)
    assert [latency.p5, latency.p90, latency.p95, latency.p99] == pytest.approx([1.2, 4.6, 4.8, 4.96])
    assert latency.std == pytest.approx(np.sqrt(2.5))
    assert latency.spread is None, "too few rounds to tell drift from noise"


def test_latency_of_drifting_times_has_a_spread() -> None:
    assert latency_of(np.linspace(5, 10, 400), **FRESH).spread == pytest.approx(0.5, abs=0.01)


def test_a_single_time_has_no_deviation() -> None:
    assert latency_of(np.array([2.0]), **FRESH).std == 0.0


def test_first_and_last_minute() -> None:
    at = np.arange(0, 600, 0.5) + 2
    times = np.where(at < 302, 5.0, 8.0)
    run = sustained(times, at)
    assert (run.window_s, run.seconds) == (60, 599.5)
    assert (run.first.p50, run.last.p50) == (5, 8)
    assert (run.first.count, run.last.count) == (121, 121)
    assert run.change == pytest.approx(0.6)
    assert len(run.series) <= POINTS + 1
    assert sum(point.count for point in run.series) == len(times)
    assert [point.p50 for point in run.series[:2]] == [5, 5]
    assert run.series[-1].p50 == 8


def test_a_run_of_less_than_two_minutes_is_halved() -> None:
    at = np.arange(0, 90, 1.0)
    run = sustained(at + 1, at)
    assert run.window_s == 44.5
    assert (run.first.count, run.last.count) == (45, 45)


def test_a_single_round() -> None:
    run = sustained(np.array([7.0]), np.array([3.0]))
    assert run.first == run.last == SustainedLatency(p50=7, p90=7, p99=7, count=1)
    assert run.change == 0


@pytest.mark.usefixtures("all_lead_runs")
def test_calls_take_turns_until_the_time_is_over() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    timed = time_sustained(calls, 2, 1.2, "time", Reporter(quiet=True))
    times, runs, conditions = timed.times, timed.sustained, timed.conditions
    assert conditions
    assert conditions.seconds >= 1.2
    assert order[:4] == list("abab")
    turns = (len(order) - 4) // (2 * (TURNS.lead_runs + TURNS.turn))
    assert len(times["a"]) == len(times["b"]) == turns * TURNS.turn
    assert runs["a"].first.count + runs["a"].last.count >= len(times["a"])
    assert conditions.series, "conditions were sampled during the run"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90", 90), ("10m", 600), ("1h30m", 5400), ("1h", 3600), ("24h", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert Duration().read("--sustain", text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "10 m", "-5", "1.5m", "ten", "25h", "m", "5m1h", "nan"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Duration().read("--sustain", text)
    assert caught.value.problem == f"--sustain is '{text}'"
    assert "1s to 24h" in caught.value.valid
