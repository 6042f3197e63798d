"""What the machine was like while it was timed, on made-up machines whose files change meanwhile."""

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgekit.measure import telemetry as conditions
from edgekit.measure.telemetry import Watch, throttling
from tests.devices.test_check import PI5, root

QUIET: dict[str, Any] = {"throttled": None, "throttle_events": None, "cooling_state": None}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set by hand."""
    now = [0.0]
    monkeypatch.setattr("edgekit.measure.telemetry.time.monotonic", lambda: now[0])
    return now


def test_heat_and_clocks_between_rounds(tmp_path: Path, clock: list[float]) -> None:
    machine = root(tmp_path, PI5)
    watch = Watch(machine)
    for second, heat in ((0.4, 1), (1.1, 55), (1.5, 2), (2.2, 61)):
        clock[0] = second
        (machine / "sys/class/thermal/thermal_zone0/temp").write_text(f"{heat * 1000}\n")
        watch()
    clock[0] = 2.5
    found = watch.finish()
    assert [(each["s"], each["celsius"]) for each in found["series"]] == [(1.1, 55), (2.2, 61), (2.5, 61)]
    assert {each["clock_mhz"] for each in found["series"]} == {2400}
    assert (found["before"]["celsius"], found["after"]["celsius"], found["seconds"]) == (48.25, 61, 2.5)


def test_what_is_not_told_is_null(tmp_path: Path, clock: list[float]) -> None:
    watch = Watch(tmp_path)
    clock[0] = 1.5
    watch()
    found = watch.finish()
    assert found["series"][0] == {"s": 1.5, "clock_mhz": None, "celsius": None, "throttled": None}
    assert (found["throttled"], found["other_cpus"]) == (None, None)
    assert found["cpus"] == len(os.sched_getaffinity(0))


def test_a_long_series_is_thinned_out(tmp_path: Path, clock: list[float]) -> None:
    watch = Watch(tmp_path)
    for second in range(1, 1000):
        clock[0] = second
        watch()
    at = [each["s"] for each in watch.finish()["series"]]
    assert 40 < len(at) <= conditions.MOST_SAMPLES + 1
    assert at[-1] == 999
    assert max(later - sooner for sooner, later in pairwise(at)) <= 20


def stat(machine: Path, busy: int) -> None:
    (machine / "proc").mkdir(exist_ok=True)
    lines = [f"cpu{cpu} {busy} 0 0 99 0 0 0 0 0 0" for cpu in os.sched_getaffinity(0)]
    (machine / "proc/stat").write_text("cpu 1 1\n" + "\n".join(lines) + "\nintr 0\n")


def test_other_load(tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    own = [3.0]
    monkeypatch.setattr(conditions, "_own_seconds", lambda: own[0])
    cpus, tick = len(os.sched_getaffinity(0)), os.sysconf("SC_CLK_TCK")
    stat(tmp_path, 0)
    watch = Watch(tmp_path)
    clock[0], own[0] = 10.0, 3.0 + 5 * cpus
    stat(tmp_path, 8 * tick)  # each CPU for 8 s, of which 5 were ours
    assert watch.finish()["other_cpus"] == pytest.approx(0.3 * cpus)
    own[0] += 100
    assert watch.finish()["other_cpus"] is None, "the counts can't be those of our CPUs"
    watch = Watch(tmp_path)
    clock[0] += 0.3
    assert watch.finish()["other_cpus"] is None, "too short to tell"


def test_the_machine_that_runs_this() -> None:
    found = Watch().finish()
    assert found["other_cpus"] is None
    assert found["before"]["load"] >= 0


@pytest.mark.parametrize(
    ("before", "after", "samples", "expected"),
    [
        ({}, {}, [None], None),
        ({"throttled": {"now": [], "since_boot": []}}, {"throttled": {"now": [], "since_boot": []}}, [[]], []),
        (
            {"throttled": {"now": [], "since_boot": ["throttled"]}},
            {"throttled": {"now": [], "since_boot": ["throttled"]}},
            [[]],
            [],
        ),
        (
            {"throttled": {"now": [], "since_boot": []}},
            {"throttled": {"now": [], "since_boot": ["under-voltage"]}},
            [[], ["frequency capped"], ["frequency capped"]],
            ["frequency capped", "under-voltage"],
        ),
        ({"throttle_events": 3}, {"throttle_events": 3}, [None], []),
        ({"throttle_events": 3}, {"throttle_events": 4}, [None], ["throttled by the processor"]),
        ({"cooling_state": 0}, {"cooling_state": 0}, [None], []),
        ({"cooling_state": 0}, {"cooling_state": 2}, [None], ["clock capped against heat"]),
    ],
)
def test_throttling(before: Any, after: Any, samples: Any, expected: list[str] | None) -> None:
    series = [{"throttled": names} for names in samples]
    assert throttling([QUIET | before, QUIET | after], series) == expected
