"""Devices that take only signed bundles, over a real sshd."""

import json
from pathlib import Path
from typing import Any

import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.devices.push import LatencyBound, Pushed, PushedDevice, push_to, roll_back
from edgekit.devices.registry import Device, fingerprint_of
from edgekit.devices.scripts.apps import TRUST, app_state
from edgekit.report.page import lines_of
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.signature import sign_bundle
from edgekit.support.progress import Reporter
from tests.helpers.signing import KeyPair, new_keys
from tests.helpers.ssh_server import Server, lend_environment
from tests.helpers.tiny import MakeBundle

QUIET = Reporter(quiet=True)


@pytest.fixture
def keys(tmp_path: Path) -> KeyPair:
    return new_keys(tmp_path)


@pytest.fixture
def trusting(board: Server, keys: KeyPair, tmp_path: Path) -> Server:
    """The board, which is in the devices file as `signed` too, with a key, and as `other` with another one."""
    for signed in (False, True):
        lend_environment(board, "onnx", "1.0", signed)
    for name, key in (("signed", keys), ("other", new_keys(tmp_path, "other"))):
        arguments = ["--ssh-config", str(board.config), "--trust", str(key.public)]
        assert main(["devices", "add", name, "ssh://device", *arguments]) == 0
    return board


def push(path: Path, device: str) -> PushedDevice:
    """Push a bundle without the check that the command makes before it connects."""
    return push_to(Device.find(device), read_bundle(path), "app", LatencyBound(None, 1, ""), QUIET)


def refused_by(result: PushedDevice) -> str:
    assert result.verdict == "fail"
    assert result.failure is not None
    return result.failure.error


def active(server: Server) -> str:
    state: Any = app_state(server.home / "edgekit-apps" / "app")
    return str(state["active"]["record"]["bundle"])


def test_a_device_takes_only_what_its_key_signed(
    trusting: Server, keys: KeyPair, make_bundle: MakeBundle, tmp_path: Path, capfd: Any
) -> None:
    apps = trusting.home / "edgekit-apps"
    unsigned, first, second = (make_bundle("onnx", name, fingerprint=name) for name in ("unsigned", "first", "second"))
    assert main(["push", str(unsigned), "signed", "--max-p99", "0"]) == 2
    assert f"bundle '{unsigned}' is not signed" in capfd.readouterr().err
    assert not apps.exists()

    assert push(unsigned, "board").verdict == "pass"  # the device has no key yet
    assert refused_by(push(first, "signed")) == "SignatureError"
    assert not (apps / TRUST).exists()

    sign_bundle(first, keys.private)
    too_slow = push_to(Device.find("signed"), read_bundle(first), "app", LatencyBound(1e-6, 1, ""), QUIET)
    assert refused_by(too_slow) == "BundleRefusedError"
    assert not (apps / TRUST).exists(), "the device trusts no key before a bundle of it has passed"
    assert push(unsigned, "board").verdict == "pass"
    assert main(["push", str(first), "signed", "--max-p99", "0", "--threads", "1", "--json"]) == 0
    (result,) = json.loads(capfd.readouterr().out)["results"]
    assert result["app"]["trust"] == str(apps / TRUST)
    assert fingerprint_of((apps / TRUST).read_text()) == fingerprint_of(keys.public.read_text())
    with edgekit.load(apps / "app/current", trust=apps / TRUST) as session:
        assert session.bundle.sha256 == read_bundle(first).sha256

    # The first signed bundle can be taken back.
    assert roll_back(Device.find("signed"), "app", QUIET).verdict == "pass"
    assert active(trusting) == "unsigned"
    assert roll_back(Device.find("signed"), "app", QUIET, read_bundle(first).sha256).verdict == "pass"

    # Now its own key counts, whoever pushes.
    assert refused_by(push(unsigned, "signed")) == "SignatureError"
    sign_bundle(second, tmp_path / "other.pem")
    assert refused_by(push(second, "other")) == "BundleRefusedError"
    assert refused_by(push(second, "board")) == "BundleRefusedError"
    assert refused_by(push(second, "signed")) == "SignatureError"
    assert active(trusting) == "first"
    sign_bundle(second, keys.private)
    result = push(second, "signed")
    assert active(trusting) == "second"
    shown = " ".join(map(str, lines_of(Pushed(app="app", sha256=None, results=(result,)).page(), 80)))
    assert f"edgekit.load('{apps}/app/current', trust='/etc/edgekit/trust.pem')" in shown
    assert "Copy the public key to /etc/edgekit/trust.pem as root." in " ".join(shown.split())
    assert refused_by(roll_back(Device.find("board"), "app", QUIET)) == "BundleRefusedError"
    assert roll_back(Device.find("signed"), "app", QUIET).verdict == "pass"
    assert active(trusting) == "first"
    assert {path.name for path in (apps / "app").iterdir()} == {"current", "slots", "lock"}


def test_a_bundle_that_was_signed_before_the_device_had_a_key_can_be_returned_to(
    trusting: Server, keys: KeyPair, make_bundle: MakeBundle
) -> None:
    first, second = (make_bundle("onnx", name, fingerprint=name) for name in ("first", "second"))
    for path in (first, second):
        sign_bundle(path, keys.private)
    assert push(first, "board").verdict == "pass"  # nobody verifies its signature
    assert push(first, "signed").verdict == "pass"
    assert push(second, "signed").verdict == "pass"
    assert roll_back(Device.find("signed"), "app", QUIET).verdict == "pass"
    assert active(trusting) == "first"


def test_the_list_of_devices_has_the_key(trusting: Server, keys: KeyPair, capfd: Any) -> None:
    capfd.readouterr()
    assert main(["devices", "list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [fingerprint_of(keys.public.read_text()) in line for line in lines] == [False, True, False]
    assert main(["devices", "list", "--json"]) == 0
    devices = json.loads(capfd.readouterr().out)["devices"]
    assert [device["trust"] for device in devices][:2] == [None, keys.public.read_text()]
