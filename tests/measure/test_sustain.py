"""Runs of several minutes: the first minute, the last minute, and the time series."""

import numpy as np
import pytest

from edgekit.cli.options import seconds_of
from edgekit.errors import UsageError
from edgekit.measure.latency import LEAD_RUNS, TURN
from edgekit.measure.sustain import POINTS, sustained, time_sustained
from edgekit.report.times import SustainedLatency
from edgekit.support.progress import Reporter


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
    times, runs, conditions = time_sustained(calls, 2, 1.2, "time", Reporter(quiet=True))
    assert conditions.seconds >= 1.2
    assert order[:4] == list("abab")
    turns = (len(order) - 4) // (2 * (LEAD_RUNS + TURN))
    assert len(times["a"]) == len(times["b"]) == turns * TURN
    assert runs["a"].first.count + runs["a"].last.count >= len(times["a"])
    assert conditions.series, "conditions were sampled during the run"


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("90", 90), ("10m", 600), ("1h30m", 5400), ("1h", 3600), ("24h", 86400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "10 m", "-5", "1.5m", "ten", "25h", "m", "5m1h", "nan"])
def test_bad_durations(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        seconds_of(text)
    assert caught.value.problem == f"--sustain is '{text}'"
    assert "1s to 24h" in caught.value.valid
    assert seconds_of(None) is None
