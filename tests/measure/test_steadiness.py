"""What is unfit to quote isn't passed, and says why."""

from typing import Any

import numpy as np
import pytest

from edgekit.measure import steadiness
from edgekit.measure.gates import judge_steadiness
from edgekit.measure.settings import Settings
from edgekit.measure.steadiness import spread, time_steadily, unfit
from edgekit.support.progress import Reporter

CALM: dict[str, Any] = {"throttled": [], "series": [], "cpus": 4, "other_cpus": 0.1}


def row(**more: Any) -> dict[str, Any]:
    latency = {"p50": 5.0, "threads": 4, "spread": 0.05}
    return {"verdict": "pass", "reasons": [], "latency_ms": latency, "thermal": CALM} | more


def test_calm_is_fit() -> None:
    assert judge_steadiness(row(), claimed=True) == row()
    assert unfit(None, 4, None) == []
    assert unfit({"throttled": None, "cpus": 2, "other_cpus": None}, 4, None) == [], (
        "what isn't known isn't held against"
    )


def test_heat() -> None:
    hot = CALM | {
        "throttled": ["frequency capped"],
        "series": [{"celsius": 71.0}, {"celsius": 84.2}, {"celsius": None}],
    }
    given = row(thermal=hot)
    found = judge_steadiness(given, claimed=True)
    assert found["verdict"] == "not shown"
    (reason,) = found["reasons"]
    assert reason.startswith(
        "unfit to quote: the processor was slowed down while it was timed (frequency capped, 84 °C)"
    )
    assert given["verdict"] == "pass", "the given row is left alone"


def test_without_a_claim_it_is_a_remark() -> None:
    found = judge_steadiness(row(thermal=CALM | {"other_cpus": 3.9}), claimed=False)
    assert (found["verdict"], found["reasons"]) == ("pass", [])
    assert found["remarks"][0].startswith("unfit to quote: other processes kept 3.9 of 4 CPUs busy")


@pytest.mark.parametrize(
    ("threads", "cpus", "other", "fit"),
    [
        (1, 2, 0.9, True),  # a CPU of its own is left
        (1, 2, 1.3, False),
        (4, 4, 0.3, True),
        (4, 4, 0.5, False),
        (8, 4, 0.1, True),  # more threads than CPUs: nobody else's doing
        (8, 4, 1.0, False),
    ],
)
def test_other_load(threads: int, cpus: int, other: float, fit: bool) -> None:
    reasons = unfit(CALM | {"cpus": cpus, "other_cpus": other}, threads, None)
    assert fit == (reasons == [])
    assert fit or f"other processes kept {other:.1f} of {cpus} CPUs busy beside {threads} thread" in reasons[0]


def test_spread_is_of_blocks_not_of_rounds() -> None:
    random = np.random.default_rng(0)
    noisy = np.where(random.random(400) < 0.1, 50.0, 5.0)
    assert spread(noisy) == 0, "single slow rounds are what p99 is for"
    drifting = np.linspace(5, 10, 400)
    assert spread(drifting) == pytest.approx(0.5, abs=0.01)
    jumping = np.repeat([5.0, 10.0, 5.0, 10.0], 100)
    assert spread(jumping) > steadiness.MOST_SPREAD  # type: ignore[operator]
    one_hiccup = np.full(400, 5.0)
    one_hiccup[100:140] = 50
    assert spread(one_hiccup) == 0
    assert spread(np.ones(99)) is None


def test_what_failed_stays_failed_and_what_has_no_figures_stays() -> None:
    wide = {"p50": 5.0, "threads": 1, "spread": 0.9}
    found = judge_steadiness(row(verdict="fail", reasons=["slow"], latency_ms=wide), claimed=True)
    assert found["verdict"] == "fail"
    assert found["reasons"][0] == "slow"
    assert "its blocks of rounds are 90% of p50 apart" in found["reasons"][1]
    lost = {"verdict": "error", "reasons": ["x"], "latency_ms": None, "thermal": None}
    assert judge_steadiness(lost, claimed=True) == lost


def test_heat_is_what_a_sustained_run_is_about() -> None:
    hot = CALM | {"throttled": ["throttled"]}
    wide = {"p50": 5.0, "threads": 4, "spread": 0.9}
    found = judge_steadiness(row(thermal=hot, latency_ms=wide, sustain={"seconds": 600}), claimed=True)
    assert (found["verdict"], found["reasons"]) == ("pass", [])
    assert "slowed down while it was timed (throttled)" in found["remarks"][0]
    busy = hot | {"other_cpus": 3.0}
    assert judge_steadiness(row(thermal=busy, sustain={"seconds": 600}), claimed=True)["verdict"] == "not shown"


def test_what_is_unfit_is_timed_again(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    loads = iter([3.0, 2.0, 0.0, 0.0])

    class Fake:
        def __call__(self) -> None:
            pass

        def finish(self) -> dict[str, Any]:
            return CALM | {"other_cpus": next(loads)}

    monkeypatch.setattr(steadiness, "Watch", Fake)
    done: list[int] = []
    settings = Settings(warmup=1, iterations=2)
    times, conditions = time_steadily({"a": lambda: done.append(1)}, 4, settings, "time", Reporter())
    assert (len(times["a"]), len(done), conditions["other_cpus"]) == (2, 9, 0)
    assert capfd.readouterr().err.count("timing again: other processes kept") == 2
    loads = iter([3.0, 2.0, 2.5])
    _, conditions = time_steadily({"a": lambda: None}, 4, settings, "time", Reporter(quiet=True))
    assert conditions["other_cpus"] == 2.5, "three times at most"
