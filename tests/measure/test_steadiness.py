"""An unreliable latency comes with reasons, and does not pass if the user claims a speed-up."""

import math
import time
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from edgekit.measure.gates import judge
from edgekit.measure.latency import MOST_SPREAD, TURNS, Turns, spread, time_in_turns, unreliable
from edgekit.measure.settings import Gates, Timing
from edgekit.report.figure import Conditions
from edgekit.report.row import Row, Sustained, SustainedLatency
from edgekit.support.progress import Reporter
from tests.helpers.measurements import conditions, latency, measurement, sample, speedup

HOT = conditions(throttled=("frequency capped",), series=tuple(map(sample, (71.0, 84.2, None))))


def row(claimed: bool = True, **figures: Any) -> Row:
    """The row of a measurement on four threads with these figures; `claimed` means that the user stated a speed-up."""
    gates = Gates(needs_steady_timing=claimed)
    calm: dict[str, Any] = {"thermal": conditions(), "latency_ms": latency(threads=4)}
    return judge(measurement(**{**calm, **figures}), gates, random_weights=False)


def test_a_calm_machine_is_reliable() -> None:
    judged = row()
    assert (judged.verdict, judged.notes) == ("pass", ())
    unknown = conditions(throttled=None, cpus=2, other_cpus=None)
    assert unreliable(unknown, 4, None) == [], "unknown conditions count as reliable"


def test_throttling_makes_it_inconclusive() -> None:
    judged = row(thermal=HOT)
    assert judged.verdict == "inconclusive"
    (reason,) = judged.reasons
    assert reason.startswith("unreliable timing: the processor was throttled")
    assert "(frequency capped, 84 °C)" in reason


def test_without_a_claim_unreliable_timing_is_a_remark() -> None:
    judged = row(claimed=False, thermal=conditions(other_cpus=3.9))
    assert (judged.verdict, judged.reasons) == ("pass", ())
    (remark,) = judged.remarks
    assert remark.startswith("unreliable timing: other processes used 3.9 CPUs beside 4 threads on 4 cores")


@pytest.mark.parametrize(
    ("threads", "cores", "other", "reliable"),
    [
        (1, 2, 0.9, True),  # one CPU is free for the thread
        (1, 2, 1.3, False),
        (4, 4, 0.3, True),
        (4, 4, 0.5, False),
        (8, 4, 0.1, True),  # more threads than CPUs, which is not the fault of others
        (8, 4, 0.5, False),
    ],
)
def test_other_load(threads: int, cores: int, other: float, reliable: bool) -> None:
    """A machine with two CPUs on each core is as busy as one without, also if an old report doesn't know its cores."""
    for known in (conditions(cpus=cores, other_cpus=other), conditions(cpus=2 * cores, cores=cores, other_cpus=other)):
        reasons = unreliable(known, threads, None)
        if reliable:
            assert reasons == []
        else:
            (reason,) = reasons
            assert f"other processes used {other:.1f} CPUs beside {threads} thread" in reason


def test_spread_compares_blocks_and_not_rounds() -> None:
    random = np.random.default_rng(0)
    noisy = np.where(random.random(400) < 0.1, 50.0, 5.0)
    assert spread(noisy) == 0, "single slow rounds show in p99"
    drifting = np.linspace(5, 10, 400)
    assert spread(drifting) == pytest.approx(0.5, abs=0.01)
    jumping = spread(np.repeat([5.0, 10.0, 5.0, 10.0], 100))
    assert jumping is not None
    assert jumping > MOST_SPREAD
    one_hiccup = np.full(400, 5.0)
    one_hiccup[100:140] = 50
    assert spread(one_hiccup) == 0
    assert spread(np.ones(99)) is None


def test_unreliable_timing_does_not_hide_a_failed_gate() -> None:
    judged = row(speedup=speedup(0.5, 0.4, 0.6), latency_ms=latency(spread=0.9))
    assert judged.verdict == "fail"
    slow, drift = judged.reasons
    assert slow.startswith("0.50x its float")
    assert drift.startswith("unreliable timing: latency drifted by 90% of p50")


def test_heat_and_drift_are_remarks_in_a_sustained_run() -> None:
    window = SustainedLatency(5.0, 5.0, 5.0, 100)
    sustain = Sustained(seconds=600, window_s=60, first=window, last=window, change=0.0, series=())
    judged = row(thermal=HOT, latency_ms=latency(threads=4, spread=0.9), sustain=sustain)
    assert (judged.verdict, judged.reasons) == ("pass", ())
    (remark,) = judged.remarks
    assert remark.startswith("the processor was throttled during timing (frequency capped, 84 °C)")
    busy = replace(HOT, other_cpus=3.0)
    assert row(thermal=busy, sustain=sustain).verdict == "inconclusive", "the load of other processes still counts"


@pytest.mark.parametrize(
    ("early", "distinct", "rounds"),
    [
        (True, True, 100),
        (True, False, 100),  # two calls of the same latency, which is as precise
        (False, True, 130),  # the user stated the number of rounds
    ],
)
def test_timing_ends_when_the_ratio_is_precise(
    monkeypatch: pytest.MonkeyPatch, early: bool, distinct: bool, rounds: int
) -> None:
    clock, latency_ms = [0], {"float": 8, "int8": 5 if distinct else 8}
    monkeypatch.setattr(time, "perf_counter_ns", lambda: clock[0])

    def call(name: str) -> None:
        clock[0] += latency_ms[name] * 1_000_000

    calls = {name: partial(call, name) for name in latency_ms}
    timing = Timing(threads=1, warmup=1, iterations=130, may_end_early=early)
    times = time_in_turns(calls, 1, timing, "time", Reporter(quiet=True)).times
    assert {name: len(values) for name, values in times.items()} == dict.fromkeys(latency_ms, rounds)


def test_an_unreliable_latency_is_timed_again(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    loads = iter([3.0, 2.0, 0.0, 0.0])

    class Sampler:
        def __call__(self) -> None:
            pass

        def finish(self) -> Conditions:
            return conditions(other_cpus=next(loads))

    monkeypatch.setattr("edgekit.measure.latency.TelemetrySampler", Sampler)
    done: list[int] = []
    timing = Timing(warmup=1, iterations=2)
    monkeypatch.setattr("edgekit.measure.latency.TURNS", Turns(lead_ms=math.inf))
    timed = time_in_turns({"a": lambda: done.append(1)}, 4, timing, "time", Reporter())
    assert timed.conditions
    assert (len(timed.times["a"]), len(done), timed.conditions.other_cpus) == (2, 3 * (1 + TURNS.lead_runs + 2), 0)
    assert capfd.readouterr().err.count("timing again: other processes used") == 2
    loads = iter([3.0, 2.0, 2.5])
    last = time_in_turns({"a": lambda: None}, 4, timing, "time", Reporter(quiet=True)).conditions
    assert last
    assert last.other_cpus == 2.5, "it is timed at most three times"
