"""Energy of an inference, with a fake `vcgencmd` and a fake tree of RAPL."""

import os
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import pytest

from edgekit.errors import EngineError
from edgekit.measure import machine
from edgekit.measure.machine import IDLE_SAMPLES, EnergyMeter, Pmic, Rapl, find_sensor
from edgekit.report.row import Energy
from edgekit.support.progress import Reporter
from tests.devices.test_probe_result import root
from tests.helpers.pmic import IDLE_W, LOAD_W, PI4, adc, fake_pmic

PACKAGE = "sys/class/powercap/intel-rapl:0"
MOST = 1_000_000
"""Microjoules at which the fake counter starts again."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure for milliseconds."""
    monkeypatch.setattr(machine, "ENERGY_EVERY_S", 0.001)
    monkeypatch.setattr(machine, "LOAD_S", 0.05)


@pytest.fixture
def vcgencmd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that puts a script named `vcgencmd` on the path."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    def write(script: str) -> None:
        path = tmp_path / "bin/vcgencmd"
        path.parent.mkdir(exist_ok=True)
        path.write_text(script)
        path.chmod(0o755)

    return write


@pytest.fixture
def no_vcgencmd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the tool of a Raspberry Pi that runs the tests."""
    monkeypatch.setattr("edgekit.measure.machine.shutil.which", lambda name: None)


@pytest.fixture
def rapl(tmp_path: Path, no_vcgencmd: None) -> Path:
    """The root of a machine with one package, whose core has a counter, too."""
    counters = {"max_energy_range_uj": str(MOST), "energy_uj": "999000\n"}
    files = {f"{PACKAGE}/{name}": content for name, content in {"name": "package-0\n", **counters}.items()}
    files |= {f"{PACKAGE}:0/{name}": content for name, content in {"name": "core\n", **counters}.items()}
    return root(tmp_path, files)


def measure(call: Callable[[], object] = lambda: None, place: Path = Path("/")) -> Energy:
    return EnergyMeter(Reporter(quiet=True), place).measure(call)


@pytest.mark.usefixtures("quick")
def test_power_of_all_rails_of_a_pi_5(tmp_path: Path, vcgencmd: Callable[[str], None]) -> None:
    vcgencmd(fake_pmic(tmp_path / "count"))
    measured = measure()
    assert (measured.source, measured.idle_w, measured.load_w) == ("vcgencmd pmic_read_adc", IDLE_W, LOAD_W)
    assert measured.seconds
    assert measured.inferences
    joules = (LOAD_W - IDLE_W) * measured.seconds / measured.inferences
    assert measured.inference_mj == pytest.approx(1000 * joules)
    assert int((tmp_path / "count").read_text()) >= 1 + IDLE_SAMPLES + machine.FEWEST_SAMPLES


def test_the_lines_of_a_real_pi_5(vcgencmd: Callable[[str], None]) -> None:
    """The external supply has a voltage without a current, and an unused rail has no current."""
    rails = {"3V7_WL_SW": (0.00390372, 3.694), "DDR_VDDQ": (0.0, 0.6), "VDD_CORE": (0.801, 0.7203)}
    vcgencmd(f"#!/bin/sh\ncat <<EOF\n{adc(rails)}   EXT5V_V volt(24)=5.13400000V\nEOF\n")
    sample = Pmic().read()
    assert sample is not None
    assert sample == pytest.approx((0.00390372 * 3.694 + 0.801 * 0.7203,))


def test_a_pi_4_has_no_sensor(vcgencmd: Callable[[str], None]) -> None:
    vcgencmd(PI4)
    measured = measure()
    assert (measured.inference_mj, measured.idle_w, measured.load_w) == (None, None, None)
    assert "a Raspberry Pi 4 has no such sensor" in measured.source


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("after", "reason"),
    [("exit 255", "stopped answering"), (f"echo '{adc({'VDD_CORE': (0.0, 0.7)})}'", "reports 0 W under load")],
)
def test_a_sensor_that_fails_during_the_load(
    tmp_path: Path, vcgencmd: Callable[[str], None], after: str, reason: str
) -> None:
    vcgencmd(fake_pmic(tmp_path / "count", after))
    measured = measure()
    assert measured.inference_mj is None
    assert reason in measured.source


@pytest.mark.usefixtures("quick")
def test_a_bundle_that_fails_under_load(tmp_path: Path, vcgencmd: Callable[[str], None]) -> None:
    def fail() -> None:
        raise EngineError("the accelerator was lost")

    vcgencmd(fake_pmic(tmp_path / "count"))
    assert measure(fail) == Energy(inference_mj=None, source="unknown: the accelerator was lost")


def test_counters_that_start_again(rapl: Path) -> None:
    sensor = find_sensor(rapl)
    assert isinstance(sensor, Rapl)
    # 100 + 700,000 microjoules of one package, and 500,000 + 500,000 of another, in two seconds.
    both = Rapl([rapl / PACKAGE, rapl / PACKAGE])
    assert both.watts([(5.0, 999_900, 0), (6.0, 0, 500_000), (7.0, 700_000, 0)]) == pytest.approx(1.7001 / 2)
    assert sensor.read() is not None


@pytest.mark.usefixtures("quick")
def test_energy_from_rapl(rapl: Path) -> None:
    counter = rapl / PACKAGE / "energy_uj"

    def spend() -> None:
        new = counter.with_suffix(".new")
        new.write_text(str((int(counter.read_text()) + 300) % MOST))
        new.replace(counter)

    measured = measure(spend, rapl)
    assert (measured.source, measured.idle_w) == ("RAPL", 0)
    assert measured.load_w
    assert measured.seconds
    assert measured.inferences
    assert measured.inference_mj == pytest.approx(1000 * measured.load_w * measured.seconds / measured.inferences)


def test_rapl_that_only_root_may_read(rapl: Path) -> None:
    (rapl / PACKAGE / "energy_uj").unlink()
    (rapl / PACKAGE / "energy_uj").mkdir()  # root, who runs tests in CI, may read any file
    measured = measure(place=rapl)
    assert measured.inference_mj is None
    assert "RAPL can't be read, which usually takes root" in measured.source
    assert "energy_uj" in measured.source


def test_a_machine_without_a_sensor(tmp_path: Path, no_vcgencmd: None) -> None:
    assert measure(place=tmp_path) == Energy(
        inference_mj=None,
        source="unknown: neither a Raspberry Pi 5's `vcgencmd` nor RAPL in /sys/class/powercap was found",
    )


class Cooling:
    """A sensor of a machine whose power falls from one figure to the next."""

    source = "fake"

    def __init__(self, watts: Sequence[float]) -> None:
        self._watts = cycle([each for each in watts for _ in range(IDLE_SAMPLES)])

    def read(self) -> tuple[float, ...]:
        return (next(self._watts),)

    def watts(self, samples: Sequence[tuple[float, ...]]) -> float:
        return sum(watts for (watts,) in samples) / len(samples)


@pytest.mark.parametrize(
    ("watts", "idle"),
    [
        ([5, 4, 3.2, 3.0, 2.99, 1], 2.99),  # it has settled at the fifth
        ([3.0, 3.1, 1], 3.0),
        ([30 - each for each in range(20)], 11),  # it never settles, and waiting ends
    ],
)
def test_the_idle_power_is_that_of_a_machine_that_has_cooled_down(
    monkeypatch: pytest.MonkeyPatch, watts: list[float], idle: float
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("edgekit.measure.machine.time.sleep", waited.append)
    monkeypatch.setattr(machine, "find_sensor", lambda _: Cooling(watts))
    assert EnergyMeter(Reporter(quiet=True))._idle == pytest.approx(idle)
    assert len(waited) <= machine.MOST_FIGURES * IDLE_SAMPLES
