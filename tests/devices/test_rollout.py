"""Pushes to several devices: the canary first, a limit, and the end of a roll-out."""

import json
import threading

import pytest

from edgekit.cli.main import main
from edgekit.devices import push as push_module
from edgekit.devices.push import Pushed, PushedDevice, roll_out
from edgekit.devices.registry import Device
from edgekit.support.progress import Reporter

PUSH = Pushed(app="door", sha256="12" * 32, results=())
DEVICES = [Device(str(index), f"ssh://{index}") for index in range(6)]


@pytest.mark.parametrize(
    ("bad", "canary", "parallel", "begun"),
    [
        (None, 1, 4, "012345"),
        (None, 0, 1, "012345"),
        ("0", 1, 4, "0"),
        ("1", 2, 1, "01"),
        ("3", 2, 1, "0123"),
        ("5", 9, 6, "012345"),
    ],
)
def test_a_device_that_does_not_pass_stops_the_roll_out(
    bad: str | None, canary: int, parallel: int, begun: str
) -> None:
    def push(device: Device) -> PushedDevice:
        return PushedDevice(device=device.name, verdict="fail" if device.name == bad else "pass")

    results = roll_out(PUSH, DEVICES, push, canary, parallel).results
    assert [result.device for result in results] == [device.name for device in DEVICES]
    assert "".join(result.device for result in results if result.verdict) == begun
    assert [result.device for result in results if result.verdict == "fail"] == ([bad] if bad else [])


def test_the_canary_comes_first_and_the_others_at_the_same_time() -> None:
    """Three pushes wait for each other, which ends only if they run at the same time; the canary's has ended before."""
    ended: list[str] = []
    together = threading.Barrier(3, timeout=20)

    def push(device: Device) -> PushedDevice:
        if device in DEVICES[2:5]:
            assert ended[:2] in (["0", "1"], ["1", "0"])
            together.wait()
        ended.append(device.name)
        return PushedDevice(device=device.name, verdict="pass")

    assert all(result.verdict for result in roll_out(PUSH, DEVICES[:5], push, 2, 3).results)


def test_a_device_that_fails_does_not_stop_a_rollback_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def roll_back(device: Device, app: str, *_: object) -> PushedDevice:
        return PushedDevice(device=device.name, verdict="error" if device.name == "0" else "pass")

    monkeypatch.setattr(push_module, "roll_back", roll_back)
    monkeypatch.setattr(push_module, "find_remote", lambda name: DEVICES[int(name)])
    rolled_back = push_module.roll_back_devices([device.name for device in DEVICES], "door", Reporter(quiet=True))
    assert [result.device for result in rolled_back.results] == [device.name for device in DEVICES]
    assert [result.verdict for result in rolled_back.results] == ["error"] + ["pass"] * 5


def test_a_bug_during_a_roll_out_stops_it() -> None:
    begun: list[str] = []

    def push(device: Device) -> PushedDevice:
        begun.append(device.name)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        roll_out(PUSH, DEVICES, push, 1, 4)
    assert begun == ["0"]


def test_after_ctrl_c_the_answers_of_the_devices_are_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Some of them have switched."""
    answered = threading.Event()

    def roll_back(device: Device, *_: object) -> PushedDevice:
        if device.name == "ssh://1":
            assert answered.wait(20)
            raise KeyboardInterrupt
        answered.set()
        return PushedDevice(device=device.name, verdict="pass")

    monkeypatch.setattr(push_module, "roll_back", roll_back)
    assert main(["rollback", "ssh://0", "ssh://1", "--json"]) == 130
    results = json.loads(capfd.readouterr().out)["results"]
    assert [(result["device"], result["verdict"]) for result in results] == [("ssh://0", "pass"), ("ssh://1", None)]
    assert [bool(result["reasons"]) for result in results] == [False, True]
    assert main(["rollback", "ssh://0", "ssh://1"]) == 130
    out = capfd.readouterr().out
    assert "ssh://1  unknown" in out
    assert "edgekit devices status ssh://1" in out
