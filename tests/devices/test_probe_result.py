"""The probe on simulated machines, what follows from it, and `edgekit devices` and `doctor` against a real sshd."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices import setup
from edgekit.devices.doctor import examine_device
from edgekit.devices.registry import Device
from edgekit.devices.scripts import PROBE, source
from edgekit.devices.setup import InstalledPython, ProbeResult, read_probe
from edgekit.errors import DeviceMemoryError, DevicePythonError
from edgekit.report.figure import Throttling
from edgekit.support import probe
from tests.helpers.refusals import refuses
from tests.helpers.ssh_server import Server, serve

PI5 = {
    "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp\n\nprocessor\t: 1\nFeatures\t: fp\n",
    "proc/meminfo": "MemTotal:        4000 kB\nMemFree:  1 kB\nMemAvailable:    3000 kB\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2400000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/class/thermal/thermal_zone0/temp": "48250\n",
    "sys/class/thermal/thermal_zone1/temp": "not a number\n",
}


def root(folder: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.fixture
def facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProbeResult:
    """A Raspberry Pi 5 without problems."""
    monkeypatch.setattr(probe, "pythons", list)  # which starts each
    return replace(
        read_probe(probe.probe(root(tmp_path, PI5))),
        machine="aarch64",
        glibc="2.41",
        pythons=(InstalledPython("/usr/bin/python3", "3.13.5"),),
        throttled=None,
        disk_free_bytes=9 << 30,
        cache_writable=True,
    )


def test_a_pi(tmp_path: Path) -> None:
    facts = probe.probe(root(tmp_path, PI5))
    assert facts["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts["noted_features"] == ["asimd", "asimddp", "asimdhp"]
    assert (facts["clock_mhz"], facts["clock_max_mhz"], facts["governor"]) == (2400, 2400, "ondemand")
    assert (facts["memory_bytes"], facts["memory_available_bytes"]) == (4000 * 1024, 3000 * 1024)
    assert facts["celsius"] == 48.25


def test_missing_facts_are_null(tmp_path: Path) -> None:
    facts = probe.probe(tmp_path)
    missing = ("board", "cpu", "features", "noted_features", "memory_bytes", "memory_available_bytes", "clock_mhz",
               "clock_max_mhz", "governor", "celsius")  # fmt: skip
    assert {key: facts[key] for key in missing} == dict.fromkeys(missing)
    assert json.loads(json.dumps(facts)) == facts


def test_throttling_bits() -> None:
    assert probe.throttled(None) is None
    assert probe.throttled('error=1 error_msg="Command not registered"') is None
    assert probe.throttled("throttled=0x0") == {"bits": 0, "now": [], "since_boot": []}
    bits = probe.throttled("throttled=0x50005")
    assert bits == {
        "bits": 0x50005,
        "now": ["under-voltage", "throttled"],
        "since_boot": ["under-voltage", "throttled"],
    }


def test_the_script_runs_alone() -> None:
    done = subprocess.run(
        ["python3", "-I", "-"],
        input=source(PROBE),
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/bin"},
    )
    assert json.loads(done.stdout)["machine"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"machine": "armv7l"}, "no runtime is published for armv7l, only for aarch64 and x86_64"),
        ({"glibc": None}, "no runtime is published for a system without glibc"),
        ({"glibc": "2.17"}, "its glibc is 2.17, but the runtimes need 2.28 or newer"),
        ({"pythons": ()}, "the device has no Python, but edgekit needs Python 3.11 to 3.14. Install"),
        (
            {"pythons": (InstalledPython("p", "3.9.2"),)},
            "the device has Python 3.9.2, but edgekit needs Python 3.11",
        ),
    ],
)
def test_reasons_against(facts: ProbeResult, change: dict[str, Any], reason: str | None) -> None:
    actual = setup.reason_against("pi", replace(facts, **change))
    assert actual is None if reason is None else reason in str(actual)


def test_openvino_s_wheels_for_arm_need_a_newer_glibc(facts: ProbeResult) -> None:
    old = replace(facts, machine="aarch64", glibc="2.31")
    problems = {runtime: setup.wheel_problem(runtime, old) for runtime in RUNTIMES}
    assert {runtime for runtime, problem in problems.items() if problem} == {"openvino"}
    assert "glibc 2.35 or newer, but it is 2.31" in str(problems["openvino"])
    assert setup.reason_against("pi", old) is None
    assert setup.wheel_problem("openvino", replace(old, glibc="2.36")) is None


@pytest.mark.parametrize(
    ("change", "name", "status", "part"),
    [
        ({"disk_free_bytes": 1 << 20}, "free disk", "warning", "419 MB"),
        ({"cache_writable": False}, "cache", "warning", "can't be written"),
        ({"board": "Raspberry Pi 9"}, "device class", "warning", "none matches"),
        ({"throttled": Throttling(1, ("under-voltage",), ())}, "throttled", "warning", "under-voltage now"),
        ({"pythons": (InstalledPython("/p", "3.9.2"),)}, "Python", "broken", "needs Python 3.11 to 3.14"),
        ({"machine": "armv7l"}, "processor", "broken", "armv7l"),
        ({"glibc": "2.17"}, "glibc", "broken", "need 2.28 or newer"),
        ({"glibc": "2.31"}, "OpenVINO", "warning", "glibc 2.35 or newer, but it is 2.31"),
        ({"emulated": True}, "emulated", "warning", "by QEMU"),
    ],
)
def test_problems_of_a_device(facts: ProbeResult, change: dict[str, Any], name: str, status: str, part: str) -> None:
    pi = Device("pi", "ssh://pi")
    assert {finding.status for finding in examine_device(pi, facts)} == {"ok"}
    problems = {finding.name: finding for finding in examine_device(pi, replace(facts, **change)) if finding.fix}
    assert problems[name].status == status
    assert part in f"{problems[name].found}. {problems[name].fix}"
    assert set(problems) == {name, *(runtime.title for runtime in RUNTIMES.values() if name == "glibc")}


def test_settings_of_a_saved_device_solve_problems(facts: ProbeResult) -> None:
    strange = replace(facts, board="Raspberry Pi 9")
    assert strange.matching_class is None
    saved = Device("pi", "ssh://pi", "raspberry-pi-5")
    assert [finding for finding in examine_device(saved, strange) if finding.fix] == []


def test_the_first_suitable_python(facts: ProbeResult) -> None:
    old, new = (InstalledPython(version, version) for version in ("3.9.2", "3.12.1"))
    assert setup.python_of("pi", replace(facts, pythons=(old, new))) == new
    with refuses(DevicePythonError, "pi:", "3.9.2") as caught:
        setup.python_of("pi", replace(facts, pythons=(old,)))
    assert caught.value.valid == "Python 3.11 to 3.14"


def test_memory_that_is_clearly_too_small(facts: ProbeResult) -> None:
    free = replace(facts, memory_available_bytes=300_000_000)
    setup.check_memory("pi", free, {"small": 10_000_000})
    setup.check_memory("pi", replace(facts, memory_available_bytes=None), {"big": 10**12})
    setup.check_memory("pi", free, {"float": 90_000_000})
    with refuses(DeviceMemoryError, "pi:", "300 MB") as caught:
        setup.check_memory("pi", free, {"float": 90_000_000, "int8": 30_000_000})
    with refuses(DeviceMemoryError, "5 streams"):
        setup.check_memory("pi", free, {"float": 90_000_000, "int8": 30_000_000}, streams=5)
    assert all(fact in caught.value.problem for fact in ("345 MB", "'float' (90 MB)", "'int8' (30 MB)"))


def test_doctor(board: Server, capfd: Any) -> None:
    capfd.readouterr()
    assert main(["doctor", "board", "--json"]) == 0
    out, err = capfd.readouterr()
    document = json.loads(out)
    assert err == ""
    assert document["healthy"]
    assert document["facts"]["board"]["cache"] == str(board.cache)
    findings = {finding["name"]: finding for finding in document["findings"]}
    assert {finding["device"] for finding in findings.values()} == {"board"}
    assert all(findings[runtime.title]["found"] == "can run" for runtime in RUNTIMES.values())
    assert main(["doctor", "board"]) == 0
    out, _ = capfd.readouterr()
    assert "ok       board: LiteRT: can run" in out.splitlines()
    assert not list(board.home.iterdir()), "nothing is written"


def test_a_device_that_cannot_be_probed_is_a_finding(
    tmp_path: Path, key_folder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    with serve(tmp_path / "server", key_folder, path="/nowhere") as server:
        main(["devices", "add", "bare", "ssh://device", "--ssh-config", str(server.config)])
        main(["devices", "add", "gone", "ssh://127.0.0.1:1", "--ssh-config", str(server.config)])
        capfd.readouterr()
        assert main(["doctor", "bare", "gone", "--json"]) == 1
    document = json.loads(capfd.readouterr().out)
    bare, gone = document["findings"]
    assert (document["healthy"], document["facts"]) == (False, {})
    assert bare["found"].startswith("python3 can't be run there")
    assert "sudo apt install python3`" in bare["fix"]
    assert (gone["device"], gone["name"]) == ("gone", "connection")
    assert gone["found"].startswith("no connection")


def test_a_list_without_devices_says_how_to_add_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    assert main(["devices", "list"]) == 0
    assert capfd.readouterr().out == "no devices: add one with edgekit devices add NAME ssh://USER@HOST\n"
    assert main(["devices", "list", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["devices"] == []


def test_list_and_remove(board: Server, capfd: Any) -> None:
    capfd.readouterr()
    assert main(["devices", "list"]) == 0
    assert capfd.readouterr().out == f"board  ssh://device  configuration {board.config}\n"
    assert main(["devices", "list", "--json"]) == 0
    row = {"name": "board", "url": "ssh://device", "class": None, "ssh_config": str(board.config), "trust": None,
           "wheels": None, "web_network": None, "web_runtime": None}  # fmt: skip
    assert json.loads(capfd.readouterr().out) == {"schema_version": 1, "devices": [row]}
    assert main(["devices", "remove", "board"]) == 0
    assert main(["doctor", "board"]) == 2
    assert "unknown device 'board'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["add", "$(id)", "ssh://pi"], "the device's name is '$(id)'"),
        (["add", "pi", "raspberrypi"], "the device's address is 'raspberrypi'"),
        (["add", "pi", "ssh://pi", "--class", "raspberry-pi-6"], "Did you mean 'raspberry-pi-"),
        (["add", "pi", "ssh://pi", "--class", "./my.toml"], "unknown device class './my.toml'"),
        (["add", "pi", "ssh://pi", "--ssh-config", "gone"], "doesn't exist\n  valid: an ssh configuration file"),
        (["clean", "local"], "'local' is this machine"),
        (["clean", "ssh://-oProxyCommand=id"], "the device's address is 'ssh://-oProxyCommand=id'"),
        (["add", "phone", "web", "--web-runtime", "gone"], "--web-runtime is 'gone': No such file or directory"),
        (
            ["add", "phone", "web", "--class", "raspberry-pi-5"],
            "--device-class doesn't suit 'phone', which is a browser",
        ),
    ],
)
def test_bad_input(
    arguments: list[str], part: str, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    assert main(["devices", *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert part in err
    assert not (tmp_path / "devices.toml").exists()


def test_the_shape_of_a_device_that_was_never_reached() -> None:
    unknown = setup.unknown_device(Device("pi", "ssh://pi", "raspberry-pi-5"))
    assert (unknown.name, unknown.device_class, unknown.cpu) == ("pi", "raspberry-pi-5", None)


def test_the_shape_of_a_device_that_was_probed(facts: ProbeResult) -> None:
    row = setup.row_device(Device("pi", "ssh://pi"), facts)
    assert (row.name, row.device_class, row.cpu) == ("pi", "raspberry-pi-5", "Raspberry Pi 5 Model B Rev 1.0")
    assert (row.memory_bytes, row.python) == (4000 * 1024, "3.13.5")
    assert row.system is not None
    assert row.system.endswith(" aarch64")


def test_the_python_of_a_row_is_the_one_that_environments_are_made_with(facts: ProbeResult) -> None:
    old, suitable = (
        InstalledPython("/usr/bin/python3", "3.9.2"),
        InstalledPython("/usr/bin/python3.12", "3.12.1"),
    )
    assert setup.row_device(Device("pi", "ssh://pi"), replace(facts, pythons=(old, suitable))).python == "3.12.1"
    assert setup.row_device(Device("pi", "ssh://pi"), replace(facts, pythons=(old,))).python is None
