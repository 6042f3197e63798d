"""Conditions during timing, on simulated machines whose files change meanwhile."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from edgekit.measure import machine
from edgekit.measure.machine import TelemetrySampler, throttling
from edgekit.report.figure import MachineState, Sample, Throttling
from tests.devices.test_probe_result import PI5, root
from tests.helpers.measurements import machine_state


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr("edgekit.measure.machine.time.monotonic", lambda: now[0])
    return now


def test_temperature_and_clocks_are_sampled_between_rounds(tmp_path: Path, clock: list[float]) -> None:
    machine = root(tmp_path, PI5)
    sampler = TelemetrySampler(machine)
    for second, heat in ((0.4, 1), (1.1, 55), (1.5, 2), (2.2, 61)):
        clock[0] = second
        (machine / "sys/class/thermal/thermal_zone0/temp").write_text(f"{heat * 1000}\n")
        sampler()
    clock[0] = 2.5
    conditions = sampler.finish()
    assert [(point.s, point.celsius) for point in conditions.series] == [(1.1, 55), (2.2, 61), (2.5, 61)]
    assert {point.clock_mhz for point in conditions.series} == {2400}
    assert (conditions.before.celsius, conditions.after.celsius, conditions.seconds) == (48.25, 61, 2.5)
    assert conditions.before.governor == "ondemand"


def test_unknown_values_are_none(tmp_path: Path, clock: list[float]) -> None:
    sampler = TelemetrySampler(tmp_path)
    clock[0] = 1.5
    sampler()
    conditions = sampler.finish()
    assert conditions.series[0] == Sample(s=1.5, clock_mhz=None, celsius=None, throttled=None)
    assert (conditions.throttled, conditions.other_cpus) == (None, None)
    assert conditions.cpus == len(os.sched_getaffinity(0))


def test_the_state_has_the_report_of_the_firmware(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.support.probe.output_of", lambda *_: "throttled=0x50004")
    throttled = machine.machine_state(tmp_path).throttled
    assert throttled == Throttling(0x50004, now=("throttled",), since_boot=("under-voltage", "throttled"))


def test_a_long_series_is_thinned_out(tmp_path: Path, clock: list[float]) -> None:
    sampler = TelemetrySampler(tmp_path)
    for second in range(1, 1000):
        clock[0] = second
        sampler()
    at = [point.s for point in sampler.finish().series]
    assert 40 < len(at) <= machine.MOST_SAMPLES + 1
    assert at[-1] == 999
    assert max(later - sooner for sooner, later in pairwise(at)) <= 20


def stat(machine: Path, busy: int) -> None:
    (machine / "proc").mkdir(exist_ok=True)
    lines = [f"cpu{cpu} {busy} 0 0 99 0 0 0 0 0 0" for cpu in os.sched_getaffinity(0)]
    (machine / "proc/stat").write_text("cpu 1 1\n" + "\n".join(lines) + "\nintr 0\n")


def test_other_load(tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    own = [3.0]
    monkeypatch.setattr(os, "times", lambda: (own[0], 0.0, 0.0, 0.0, 0.0))
    cpus, tick = len(os.sched_getaffinity(0)), os.sysconf("SC_CLK_TCK")
    stat(tmp_path, 0)
    sampler = TelemetrySampler(tmp_path)
    clock[0], own[0] = 10.0, 3.0 + 5 * cpus
    stat(tmp_path, 8 * tick)  # each CPU was busy for 8 s, of which this process used 5
    assert sampler.finish().other_cpus == pytest.approx(0.3 * cpus)
    own[0] += 100
    assert sampler.finish().other_cpus is None, "the counts can't belong to the CPUs of this process"
    sampler = TelemetrySampler(tmp_path)
    clock[0] += 0.3
    assert sampler.finish().other_cpus is None, "too short to tell"


def test_this_machine_has_a_load() -> None:
    conditions = TelemetrySampler().finish()
    assert conditions.other_cpus is None
    assert conditions.before.load is not None
    assert conditions.before.load >= 0


def firmware(*since_boot: str) -> MachineState:
    return machine_state(throttled=Throttling(0, now=(), since_boot=since_boot))


@pytest.mark.parametrize(
    ("before", "after", "samples", "expected"),
    [
        (machine_state(), machine_state(), [None], None),
        (firmware(), firmware(), [()], ()),
        (firmware("throttled"), firmware("throttled"), [()], ()),
        (
            firmware(),
            firmware("under-voltage"),
            [(), ("frequency capped",), ("frequency capped",)],
            ("frequency capped", "under-voltage"),
        ),
        (machine_state(throttle_events=3), machine_state(throttle_events=3), [None], ()),
        (
            machine_state(throttle_events=3),
            machine_state(throttle_events=4),
            [None],
            ("throttled by the processor",),
        ),
        (machine_state(cooling_state=0), machine_state(cooling_state=0), [None], ()),
        (machine_state(cooling_state=0), machine_state(cooling_state=2), [None], ("clock capped because of heat",)),
    ],
)
def test_throttling(
    before: MachineState,
    after: MachineState,
    samples: list[tuple[str, ...] | None],
    expected: tuple[str, ...] | None,
) -> None:
    series = [Sample(float(at), None, None, names) for at, names in enumerate(samples)]
    assert throttling(before, after, series) == expected
