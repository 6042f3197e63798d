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
from edgekit.runtime.bundle import Golden, read_bundle, write_bundle
from edgekit.support.progress import Reporter
from tests.helpers.refusals import refuses
from tests.helpers.ssh_server import Server, agents
from tests.helpers.tiny import MakeBundle, tiny_labels, tiny_manifest
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
def release(tiny_models: Path, tiny_golden: Golden, tmp_path: Path) -> MakeBundle:
    """Function that writes a bundle of the tiny network under a name, which its model contains."""

    def make(name: str) -> Path:
        model = tmp_path / f"{name}.onnx"
        text = name.encode()
        # A ModelProto's field 6 is its doc_string.
        model.write_bytes((tiny_models / "model.onnx").read_bytes() + bytes((6 << 3 | 2, len(text))) + text)
        manifest = tiny_manifest("onnx", fingerprint=name)
        return write_bundle(tmp_path / name, {"model.onnx": model}, manifest, tiny_labels(), tiny_golden).path

    return make


@pytest.fixture
def bundles(release: MakeBundle) -> list[Path]:
    """Two releases of the same network."""
    return [release("one"), release("two")]


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
    size = sum(path.stat().st_size for path in bundles[0].iterdir())
    assert (result["bundle_bytes"], result["copied_bytes"]) == (size, size)

    code, document = run_json(capfd, "push", bundles[1], "board", "--max-p99", "0.00001", "--threads", "1")
    (result,) = document["results"]
    assert (code, result["verdict"], active(lent_board)) == (1, "fail", one)
    assert 0 < result["copied_bytes"] < result["bundle_bytes"], "the labels are there"
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
    lent_board: Server, release: MakeBundle, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    """A push and its device are killed, or lose their connection, at a random time. One valid bundle is always active.

    Every bundle is a new one.

    `pytest tests/devices/test_push.py -k killed --kills 200` tries more often.
    """
    command = [sys.executable, "-m", "edgekit", "push", "board", "--max-p99", "0", "--threads", "1", "--quiet"]

    def start(path: Path) -> "subprocess.Popen[bytes]":
        words = [*command[:4], str(path), *command[4:]]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    begin = time.monotonic()
    first, last = release("first"), release("last")
    assert start(first).wait() == 0
    usual_s = time.monotonic() - begin
    before, moment = read_bundle(first).sha256, random.Random(5)
    assert active(lent_board) == before
    sides: list[tuple[Callable[[], list[int]] | None, float]] = [
        (None, 1),
        (lent_board.sessions, 0.9),
        (lambda: agents(lent_board), 0.3),
    ]
    for index in range(pytestconfig.getoption("kills")):
        begin, next_one = time.monotonic(), release(f"release {index}")
        with start(next_one) as process:
            victims, part = sides[index % len(sides)]
            kill_after(moment.uniform(0, part * usual_s), process, victims)
            usual_s = min(usual_s, time.monotonic() - begin) if process.wait() == 0 else usual_s
        wait_until(lambda: not agents(lent_board), "an agent notices that its host is gone")
        wait_until(lambda: not lent_board.clients(), "ssh ends with the process that started it")
        lent_board.cut()
        after = active(lent_board)
        assert after in (before, read_bundle(next_one).sha256)
        before = after
    assert start(last).wait() == 0
    assert active(lent_board) == read_bundle(last).sha256
    assert {path.name for path in (apps(lent_board) / "app").iterdir()} == {"current", "slots", "lock"}
