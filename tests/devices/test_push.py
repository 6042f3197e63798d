"""Bundles that are pushed over a real sshd: tried there, refused, taken back, and interrupted at any time."""

import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekit
from edgekit.cli.main import main
from edgekit.devices import push as push_module
from edgekit.devices.push import MARGIN, LatencyBound, bound_for, push_to, refuse_other_processor
from edgekit.devices.registry import Device
from edgekit.devices.remote import open_board, run_agent
from edgekit.devices.scripts.apps import INCOMING, app_state
from edgekit.errors import BundleRefusedError, UsageError
from edgekit.report import load_report
from edgekit.runtime.bundle import Bundle, Golden, read_bundle, write_bundle
from edgekit.support.progress import Reporter
from tests.helpers.refusals import refuses
from tests.helpers.ssh_server import Server, agents
from tests.helpers.tiny import MakeBundle
from tests.helpers.waiting import wait_until

QUIET = Reporter(quiet=True)
ANY = LatencyBound(None, 1, "")


def run_json(capfd: Any, *arguments: str | Path) -> tuple[int, Any]:
    """Run a command in this process. Returns its exit code, and its JSON document."""
    capfd.readouterr()
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capfd.readouterr().out)


def apps(server: Server) -> Path:
    return server.home / "edgekit-apps"


def active(server: Server, app: str = "app") -> str:
    """Hash of the active bundle, which must be intact, and give the numbers of its test vectors."""
    state: Any = app_state(apps(server) / app)
    assert state["verdict"] == "pass"
    with edgekit.load(apps(server) / app / "current", threads=1, verify=True) as session:
        assert session.bundle.sha256 == state["active"]["record"]["sha256"]
        return session.bundle.sha256


@pytest.fixture
def release(make_bundle: MakeBundle) -> MakeBundle:
    """Function that writes a bundle of the tiny network under a name, which its model contains."""

    def make(name: str, **changes: Any) -> Path:
        bundle = read_bundle(make_bundle("onnx", f"draft of {name}", **changes))
        model = bundle.path.with_suffix(".onnx")
        text = name.encode()
        # A ModelProto's field 6 is its doc_string.
        model.write_bytes(bundle.model_path.read_bytes() + bytes((6 << 3 | 2, len(text))) + text)
        manifest, folder = replace(bundle.manifest, fingerprint=name), bundle.path.with_name(name)
        return write_bundle(folder, {"model.onnx": model}, manifest, bundle.labels, bundle.golden()).path

    return make


@pytest.fixture
def bundles(release: MakeBundle) -> list[Path]:
    """Two releases of the same network, of which the second takes pixels."""
    return [release("one"), release("two", dtype="uint8")]


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
    for _ in range(2):
        code, document = run_json(capfd, "rollback", "board")
        assert (code, document["results"][0]["verdict"], active(lent_board)) == (0, "pass", one)
    code, document = run_json(capfd, "devices", "status")
    (app,) = document["devices"][0]["apps"]
    assert (code, app["name"], app["verdict"], app["active"]["record"]["sha256"]) == (0, "app", "pass", one)
    assert (app["previous"]["record"]["sha256"], app["returns_to"]) == (two, one)
    assert document["devices"][0]["disk_free_bytes"] > 0

    assert main(["rollback", "board", "--name", "door"]) == 1
    assert "the app 'door' has no bundle to return to" in " ".join(capfd.readouterr().out.split())
    assert main(["rollback", "board", "--to", "0123abcd"]) == 1
    assert f"Valid: {one[:12]} (one), {two[:12]} (two)" in " ".join(capfd.readouterr().out.split())
    assert main(["rollback", "board", "--to", "two"]) == 2
    for digest in (two[:6], one):
        assert main(["rollback", "board", "--to", digest]) == 0
    assert active(lent_board) == one
    (apps(lent_board) / "app/slots/a/model.onnx").unlink()
    assert main(["devices", "status", "board"]) == 1
    assert "verdict:  error: file 'model.onnx' can't be read" in capfd.readouterr().out


def test_a_rollback_needs_no_environment_and_waits_for_no_measurement(
    lent_board: Server, bundles: list[Path], capfd: Any
) -> None:
    one, two = (read_bundle(path).sha256 for path in bundles)
    for path in bundles:
        assert main(["push", str(path), "board", "--max-p99", "0", "--threads", "1"]) == 0
    assert active(lent_board) == two
    shutil.rmtree(lent_board.cache / "environments")
    with (lent_board.cache / "measuring").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        capfd.readouterr()
        for already in (False, True):
            assert main(["rollback", "board"]) == 0
            assert active(lent_board) == one
            assert (f"one {one[:12]} was active already" in capfd.readouterr().err) == already
    assert not (lent_board.cache / "environments").exists()


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
    with open_board(board.device(), QUIET) as opened:
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
    assert bound_for(bundle, Device("other", "ssh://other"), 7, 3) == LatencyBound(7, 3, "the value of --max-p99")
    with refuses(UsageError, "7 threads"):
        bound_for(bundle, Device("local"), None, 7)
    with pytest.raises(UsageError):
        bound_for(bundle, Device("other", "ssh://other", "raspberry-pi-4"), None, None)


@pytest.mark.parametrize("same", [False, True])
def test_a_push_that_another_one_has_overtaken_overwrites_nothing(
    lent_board: Server, bundles: list[Path], monkeypatch: pytest.MonkeyPatch, same: bool
) -> None:
    """It is refused, because it saw another bundle before its trial; the same bundle twice is no conflict."""
    one, two = map(read_bundle, bundles)
    last = one if same else two

    def push(bundle: Bundle) -> str | None:
        return push_to(lent_board.device(), bundle, "app", ANY, QUIET).verdict

    def overtaken(*arguments: Any) -> Any:
        monkeypatch.setattr(push_module, "run_agent", run_agent)
        assert push(last) == "pass"
        return run_agent(*arguments)

    monkeypatch.setattr(push_module, "run_agent", overtaken)
    assert push(one) == ("pass" if same else "fail")
    assert active(lent_board) == last.sha256


def place_of(sessions: Mapping[int, str], app: Path) -> str:
    """What a command was doing, by the processes that it has started on the device."""
    if any("edgekit.devices.agent" in line for line in sessions.values()):
        return "trial and switch" if (app / INCOMING).exists() else "agent, before or after the trial"
    marks = {'{"roll_back": "': "rollback", '{"apps": ["': "list of apps", '"files"': "copy", "test -e": "set-up"}
    marks |= {"-I -": "probe"}  # last, because the commands of all scripts contain it
    at_work = (place for mark, place in marks.items() if any(mark in line for line in sessions.values()))
    return next(at_work, "between two commands" if sessions else "before the connection")


def disturbed(command: list[str], server: Server, kill: bool, aim: bool, moment: random.Random, usual_s: float) -> str:
    """Run a command, and kill it or its process on the device, or cut its connection, at a random time.

    It is the time after the connection began or, with `aim`, after the trial of a push or the step of a rollback did.
    Returns what was lost, and what the command was doing.
    """
    app, rollback = apps(server) / "app", "rollback" in command
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:

        def is_near() -> bool:
            if process.poll() is not None or (aim and not rollback and (app / INCOMING).exists()):
                return True
            sessions = server.sessions()
            return place_of(sessions, app) in ("rollback", "trial and switch") if aim else bool(sessions)

        wait_until(is_near, "the command comes to that time")
        sessions = server.sessions() if aim else {}
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment.uniform(0, usual_s * (0.6 if not aim else 0.05 if rollback else 0.1)))
        sessions = sessions or server.sessions()
        at_work = {pid for pid, line in sessions.items() if not line.startswith("sshd")}
        place = place_of(sessions, app) if process.poll() is None else "after the end"
        there = kill and bool(at_work) and moment.random() < 0.5
        for pid in at_work if there else [process.pid] if kill else sessions:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    lost = ("process on the device" if there else "process on the host") if kill else "connection"
    return f"{lost}, {place if process.returncode else 'after the end'}"


def test_what_is_killed_or_cut_off_at_any_time_can_be_repeated(
    lent_board: Server, release: MakeBundle, pytestconfig: pytest.Config, capfd: Any
) -> None:
    """Pushes and rollbacks are killed, or lose their connection. The same command then brings what was asked for.

    `pytest tests/devices/test_push.py -k repeated --kills 200 -s` tries 200 of both, and prints where they hit.
    """
    if not pytestconfig.getoption("kills"):
        pytest.skip("moments are random: test_slots kills before each step; --kills N tries N moments")
    moment, hits = random.Random(pytestconfig.getoption("kills")), Counter[str]()
    options = ["--max-p99", "0", "--threads", "1", "--quiet"]
    program, begin, last = [sys.executable, "-m", "edgekit"], time.monotonic(), release("first")
    subprocess.run([*program, "push", str(last), "board", *options], check=True)
    usual_s = time.monotonic() - begin
    for index in range(2 * pytestconfig.getoption("kills")):
        before = active(lent_board)
        if index % 2 == 0:
            last, old = release(f"release {index}"), before
            command, target = ["push", str(last), "board", *options], read_bundle(last).sha256
        else:
            command, target = ["rollback", "board", "--quiet"], old
        kill, aim = index // 2 % 2 == 0, index // 4 % 2 == 0
        hit = disturbed([*program, *command], lent_board, kill, aim, moment, usual_s)
        state = active(lent_board)
        assert state in (before, target)
        hits[f"{command[0]}, {hit}, {'switched' if state == target else 'not switched'}"] += 1
        capfd.readouterr()
        assert main(command) == 0, (hit, capfd.readouterr())
        assert active(lent_board) == target, hit
        if command[0] == "rollback":
            assert main(command) == 0
            assert active(lent_board) == target, hit
    wait_until(lambda: not agents(lent_board), "an agent notices that its host is gone")
    wait_until(lambda: not lent_board.clients(), "ssh ends with the process that started it")
    assert main(["push", str(last), "board", *options]) == 0
    assert {path.name for path in (apps(lent_board) / "app").iterdir()} == {"current", "slots", "lock"}
    with capfd.disabled():
        print(*(f"\n{count:4} {hit}" for hit, count in sorted(hits.items())))
