"""Bundles that are pushed over a real sshd: tried there, refused, taken back, and interrupted at any time."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.devices.push import MARGIN, Bound, PushedDevice, bound_for, push_to, refuse_other_processor
from edgekit.devices.registry import Device
from edgekit.devices.remote import open_board
from edgekit.devices.scripts.apps import app_state
from edgekit.errors import BundleRefusedError, UsageError
from edgekit.report import load_report
from edgekit.runtime.bundle import Golden, read_bundle
from edgekit.support.progress import Reporter
from tests.helpers.refusals import refuses
from tests.helpers.ssh_server import Server, agents
from tests.helpers.tiny import MakeBundle
from tests.helpers.waiting import wait_until

QUIET = Reporter(quiet=True)
ANY = Bound(None, 1, "")


def run_json(capfd: Any, *arguments: str | Path) -> tuple[int, Any]:
    """Run a command in this process. Returns its exit code, and its JSON document."""
    capfd.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capfd.readouterr().out)


def apps(server: Server) -> Path:
    return server.home / "edgekit-apps"


def active(server: Server, app: str = "app") -> str:
    """Hash of the active bundle, which must be intact, and give the numbers of its golden samples."""
    state: Any = app_state(apps(server) / app)
    assert state["verdict"] == "pass"
    with edgekit.load(apps(server) / app / "current", threads=1, verify=True) as session:
        assert session.bundle.sha256 == state["active"]["record"]["sha256"]
        return session.bundle.sha256


@pytest.fixture
def bundles(make_bundle: MakeBundle) -> list[Path]:
    """Two bundles of the same network."""
    return [make_bundle("onnx", name, fingerprint=name) for name in ("one", "two")]


def test_a_bundle_is_pushed_refused_and_taken_back(
    lent_board: Server, bundles: list[Path], make_bundle: MakeBundle, tiny_golden: Golden, capfd: Any
) -> None:
    one, two = (read_bundle(path).sha256 for path in bundles)
    code, document = run_json(capfd, "push", bundles[0], "board", "--max-p99", "1000", "--threads", "1")
    (result,) = document["results"]
    assert (code, result["verdict"], document["sha256"], active(lent_board)) == (0, "pass", one, one)
    assert result["trial"]["threads"] == 1
    assert 0 < result["trial"]["p50_ms"] <= result["trial"]["p99_ms"] <= 1000
    assert result["app"]["path"] == str(apps(lent_board) / "app" / "current")

    code, document = run_json(capfd, "push", bundles[1], "board", "--max-p99", "0.00001", "--threads", "1")
    (result,) = document["results"]
    assert (code, result["verdict"], active(lent_board)) == (1, "fail", one)
    assert result["failure"]["error"] == "BundleRefusedError"
    assert result["trial"]["p99_ms"] > 0.00001
    assert result["app"]["active"]["record"]["sha256"] == one

    other = make_bundle("onnx", "other", device_class="raspberry-pi-5")
    code, document = run_json(capfd, "push", other, "board", "--max-p99", "0")
    (result,) = document["results"]
    assert (code, result["verdict"], result["failure"]["error"]) == (1, "fail", "BundleRefusedError")
    assert result["app"]["active"]["record"]["sha256"] == one, "what it has is told without a trial too"

    wrong = replace(tiny_golden, logits=tiny_golden.logits + np.float32(1))
    code, document = run_json(capfd, "push", make_bundle("onnx", "wrong", wrong), "board", "--max-p99", "0")
    (result,) = document["results"]
    assert (code, result["verdict"], result["failure"]["error"]) == (1, "fail", "GoldenError")
    assert active(lent_board) == one

    (bundles[1] / "model.sig").write_text("a signature")
    assert run_json(capfd, "push", bundles[1], "board", "--max-p99", "0", "--threads", "1")[0] == 0
    assert active(lent_board) == two
    assert (apps(lent_board) / "app/current/model.sig").read_text() == "a signature"
    code, document = run_json(capfd, "rollback", "board")
    assert (code, document["results"][0]["verdict"], active(lent_board)) == (0, "pass", one)
    code, document = run_json(capfd, "devices", "status")
    (app,) = document["devices"][0]["apps"]
    assert (code, app["name"], app["verdict"], app["active"]["record"]["sha256"]) == (0, "app", "pass", one)
    assert app["previous"]["record"]["sha256"] == two
    assert document["devices"][0]["disk_free_bytes"] > 0

    assert main(["rollback", "board", "--name", "door"]) == 1
    assert "the app 'door' has no bundle to return to" in " ".join(capfd.readouterr().out.split())
    (apps(lent_board) / "app/slots/a/model.onnx").unlink()
    assert main(["devices", "status", "board"]) == 1
    assert "verdict:  error: file 'model.onnx' can't be read" in capfd.readouterr().out


def test_what_is_refused_before_anything_is_copied(
    board: Server, bundles: list[Path], make_bundle: MakeBundle, capfd: Any
) -> None:
    other = make_bundle("onnx", "other", device_class="raspberry-pi-5")
    capfd.readouterr()
    assert main(["push", str(other), "board", "--max-p99", "0"]) == 1
    assert "was made for raspberry-pi-5" in " ".join(capfd.readouterr().out.split())
    (bundles[0] / "model.onnx").write_bytes(b"")
    for arguments, problem in (
        ([str(bundles[0]), "board"], "file 'model.onnx' has 0 bytes"),
        ([str(bundles[1]), "board"], "there is no p99 to compare"),
        ([str(bundles[1]), "nobody"], "unknown device 'nobody'"),
        ([str(bundles[1]), "local"], "'local' is this machine"),
        ([str(bundles[1]), "board", "--name", "../door"], "the app's name is '../door'"),
    ):
        assert main(["push", *arguments]) == 2
        assert problem in capfd.readouterr().err
    assert not apps(board).exists()
    assert not board.cache.exists()


def test_the_processors_of_a_class(board: Server, make_bundle: MakeBundle) -> None:
    with open_board(board.device(), False, QUIET) as opened:
        facts = replace(opened.facts, features=("fp", "asimd"), board="Raspberry Pi 4 Model B")
    for name in ("raspberry-pi-4", "my-own-class"):
        refuse_other_processor("board", read_bundle(make_bundle("onnx", device_class=name)), facts)
    with refuses(BundleRefusedError, "asimddp, asimdhp"):
        refuse_other_processor("board", read_bundle(make_bundle("onnx", device_class="raspberry-pi-5")), facts)


def test_the_bound_comes_from_the_report(finished_run: Path) -> None:
    report = load_report(finished_run)
    (row,) = [row for row in report.results if row.bundle == "onnx-int8"]
    assert row.latency_ms
    assert row.device.device_class
    bundle = read_bundle(finished_run / "onnx-int8")
    for device in (Device("local"), Device("other", "ssh://other", row.device.device_class)):
        bound = bound_for(bundle, device, None, None)
        assert (bound.max_p99_ms, bound.threads) == (MARGIN * row.latency_ms.p99, row.latency_ms.threads)
    assert bound_for(bundle, Device("other", "ssh://other"), 7, 3) == Bound(7, 3, "the value of --max-p99")
    with refuses(UsageError, "7 threads"):
        bound_for(bundle, Device("local"), None, 7)
    with pytest.raises(UsageError):
        bound_for(bundle, Device("other", "ssh://other", "raspberry-pi-4"), None, None)


def test_two_pushes_at_once(lent_board: Server, bundles: list[Path]) -> None:
    hashes = [read_bundle(path).sha256 for path in bundles]
    results: list[PushedDevice] = []

    def push(path: Path) -> None:
        results.append(push_to(lent_board.device(), read_bundle(path), "app", ANY, QUIET))

    threads = [threading.Thread(target=push, args=(path,)) for path in bundles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.verdict for result in results] == ["pass", "pass"]
    state: Any = app_state(apps(lent_board) / "app")
    assert {active(lent_board), state["previous"]["record"]["sha256"]} == set(hashes)


def kill_after(seconds: float, push: "subprocess.Popen[bytes]", on_device: Callable[[], list[int]] | None) -> None:
    """Kill a push or, once they exist, its processes on the device, unless the push ends earlier."""
    if on_device:
        wait_until(lambda: on_device() or push.poll() is not None, "there is a process on the device")
    try:
        push.wait(seconds)
    except subprocess.TimeoutExpired:
        for pid in on_device() if on_device else [push.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_pushes_that_are_killed_at_any_time(
    lent_board: Server, bundles: list[Path], pytestconfig: pytest.Config
) -> None:
    """A push and its device are killed, or lose their connection, at a random time. One valid bundle is always active.

    `pytest tests/devices/test_push.py -k killed --kills 200` tries more often.
    """
    hashes = [read_bundle(path).sha256 for path in bundles]
    command = [sys.executable, "-m", "edgekit", "push", "board", "--max-p99", "0", "--threads", "1", "--quiet"]

    def start(path: Path) -> "subprocess.Popen[bytes]":
        words = [*command[:4], str(path), *command[4:]]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begin = time.monotonic()
    assert start(bundles[0]).wait() == 0
    usual_s = time.monotonic() - begin
    assert active(lent_board) == hashes[0]
    moment, before = random.Random(5), 0
    sides: list[tuple[Callable[[], list[int]] | None, float]] = [
        (None, 1),
        (lent_board.sessions, 0.9),
        (lambda: agents(lent_board), 0.3),
    ]
    for index in range(pytestconfig.getoption("kills")):
        begin = time.monotonic()
        with start(bundles[1 - before]) as process:
            victims, part = sides[index % len(sides)]
            kill_after(moment.uniform(0, part * usual_s), process, victims)
            usual_s = min(usual_s, time.monotonic() - begin) if process.wait() == 0 else usual_s
        wait_until(lambda: not agents(lent_board), "an agent notices that its host is gone")
        lent_board.cut()
        before = hashes.index(active(lent_board))
    assert start(bundles[1 - before]).wait() == 0
    assert active(lent_board) == hashes[1 - before]
    assert {path.name for path in (apps(lent_board) / "app").iterdir()} == {"current", "slots", "lock"}
