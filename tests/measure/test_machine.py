"""Facts about the machine, and None where they are unknown."""

import platform
from pathlib import Path

import pytest

from edgekit.measure import machine
from edgekit.report.document import parse, to_json
from edgekit.report.figure import DeviceFacts
from edgekit.support import probe
from edgekit.support.probe import available_cores


def test_it_has_the_facts_of_a_report() -> None:
    here = machine.describe()
    assert here.name == "local"
    assert here.cores is not None
    assert here.cores >= 1
    assert here.memory_bytes is not None
    assert here.memory_bytes > 2**28
    assert here.system is not None
    assert here.system.startswith(platform.system())
    assert here.python == platform.python_version()
    assert parse(to_json(here), DeviceFacts, "the facts") == here


def test_cores_are_physical_in_every_description(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the agent measured and rows of a device that failed come from different code."""
    assert machine.describe().cores == probe.probe()["cores"] == available_cores()
    for cpu, siblings in {0: "0-1", 1: "0-1", 2: "2"}.items():
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(siblings + "\n")
    monkeypatch.setattr("edgekit.support.probe.os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert probe.processor(tmp_path)["cores"] == 3  # two hyperthreads of one core, one core, one without topology


def test_name_and_class_can_be_set() -> None:
    board = machine.describe("pi", "raspberry-pi-5")
    assert (board.name, board.device_class) == ("pi", "raspberry-pi-5")


@pytest.mark.parametrize(
    ("text", "cpu"),
    [
        ("processor : 0\nmodel name : AMD EPYC\nprocessor : 1\nmodel name : other\n", "AMD EPYC"),
        ("cpu family : 25\nmodel : 17\nmodel name : AMD EPYC\n", "AMD EPYC (family 25, model 17)"),
        ("processor : 0\nHardware : BCM2835\nModel : Raspberry Pi 4\n", "Raspberry Pi 4"),
        ("processor : 0\n", platform.machine()),
    ],
)
def test_the_processor_has_a_name(text: str, cpu: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(text)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine._cpu(tmp_path) == cpu


def test_a_board_has_the_name_in_its_device_tree(tmp_path: Path) -> None:
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("Raspberry Pi 5 Model B Rev 1.0\0")
    assert machine._cpu(tmp_path) == "Raspberry Pi 5 Model B Rev 1.0"


def test_the_processor_has_a_name_without_linux_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6")
    assert machine._cpu(tmp_path) == "Intel64 Family 6"
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert machine._cpu(tmp_path) == platform.machine()
    monkeypatch.setattr(platform, "machine", lambda: "")
    assert machine._cpu(tmp_path) is None
