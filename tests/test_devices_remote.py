"""Bundles measured over a real sshd: rows as they are measured here, and every fault a row that says what to do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, MakeBundle
from ssh_server import Server, serve

from edgekit.bundle import read_bundle
from edgekit.cli.main import main
from edgekit.devices import remote, setup
from edgekit.devices.check import probe
from edgekit.devices.remote import open_board, run_agent
from edgekit.devices.transport import connect
from edgekit.devices.wheel import REQUIREMENTS, own_wheel
from edgekit.errors import (
    ConnectionCutError,
    DeviceCrashError,
    DeviceError,
    DeviceFullError,
    DeviceMemoryError,
    DevicePythonError,
    DeviceSetupError,
    FrozenError,
)
from edgekit.options import Settings
from edgekit.progress import Reporter
from edgekit.report import load_report
from edgekit.targets import TARGETS

SETTINGS = Settings(threads=1, warmup=1, iterations=5)
LONG = Settings(threads=1, warmup=1, iterations=500_000)


@pytest.fixture
def board(board: Server) -> Server:
    """The server with an environment for ONNX Runtime as the set-up would have left it."""
    lend_environment(board, "onnx", "1.0")
    return board


def lend_environment(server: Server, target: str, minimum: str | None) -> Path:
    """What takes a minute with pip: the environment of the tests, under the name that the set-up looks for."""
    with connect(server.device()) as connection:
        python = probe(connection)["pythons"][0]
    wheel = own_wheel()
    key = setup.environment_key(wheel, setup.requirements_of(target, minimum), python["version"])
    place = server.cache / "environments" / key
    subprocess.run([python["path"], "-m", "venv", "--without-pip", str(place)], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (server.folder / "own.whl").write_bytes(wheel)
    with zipfile.ZipFile(server.folder / "own.whl") as archive:
        archive.extractall(packages)
    (packages / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (place / "edgekit-complete").touch()
    (server.cache / "files").mkdir(exist_ok=True)
    return place


@pytest.fixture
def pair(make_bundle: MakeBundle) -> list[Path]:
    """A float bundle and one that says it's int8."""
    return [
        make_bundle("onnx", f"a $(touch pwned) '{precision}'", precision=precision, fingerprint=precision)
        for precision in ("float", "int8")
    ]


def test_benchmark(board: Server, pair: list[Path], capfd: Any) -> None:
    capfd.readouterr()
    arguments = [*map(str, pair), "--threads", "1", "--iterations", "5", "--warmup", "1"]
    assert main(["benchmark", *arguments, "--device", "board", "--device", "local", "--json"]) == 0
    out, _ = capfd.readouterr()
    found = json.loads(out)
    there, here = found["results"][:2], found["results"][2:]
    assert [row["bundle"] for row in there] == [row["bundle"] for row in here] == [str(path) for path in pair]
    assert {row["device"]["name"] for row in there} == {"board"}
    assert [set(row) for row in there] == [set(row) for row in here]
    assert there[0]["latency_ms"]["count"] == 5
    assert there[1]["speedup"]["versus"] == str(pair[0])
    assert there[0]["peak_rss_bytes"] > 20e6
    for row in (there[0], here[0]):
        assert {"clock_mhz", "governor", "celsius", "throttled", "load"} <= set(row["thermal"]["before"])
        assert row["thermal"]["series"]
    assert not list(board.home.rglob("pwned"))
    assert not list(board.cache.glob("work-*")), "what a job needs is gone after it"
    assert {each.name for each in board.home.iterdir()} == {".cache"}
    assert {each.name for each in (board.home / ".cache").iterdir()} == {"edgekit"}


def test_inspect(board: Server, make_bundle: MakeBundle, tiny_models: Path, tmp_path: Path, capfd: Any) -> None:
    bundle = str(make_bundle("onnx", "it's one", provenance={"model": {"name": "tiny"}}))
    capfd.readouterr()
    assert main(["inspect", bundle, "--device", "board", "--threads", "1", "--json"]) == 0
    there = json.loads(capfd.readouterr().out)
    assert main(["inspect", bundle, "--threads", "1", "--json"]) == 0
    here = json.loads(capfd.readouterr().out)
    assert there.pop("device")["name"] == "board"
    assert [op["kernel"] for op in there["int8"].pop("ops")] == [op["kernel"] for op in here["int8"].pop("ops")]
    for found in (there, here):
        del found["int8"]["time_by_kind_ms"]
    assert there == here
    model = tmp_path / "it's $(touch pwned).onnx"
    shutil.copy(tiny_models / "model.onnx", model)
    lend_environment(board, "onnx", None)
    assert main(["inspect", str(model), "--device", "board"]) == 0
    out, _ = capfd.readouterr()
    assert f"model: {model}" in out.splitlines()
    assert "device: board (" in out
    assert "int8: 0.0% of " in out
    assert not list(board.home.rglob("pwned"))
    assert main(["inspect", "gone.onnx", "--device", "board"]) == 2
    assert "'gone.onnx' is not there" in capfd.readouterr().err
    assert main(["inspect", str(model.with_suffix(".txt")), "--device", "board"]) == 2


def test_several_at_once(
    board: Server, pair: list[Path], tmp_path: Path, key_folder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two boards, one of them under two names, and one that isn't there: each has its rows in its place."""
    with serve(tmp_path / "other", key_folder) as other:
        lend_environment(other, "onnx", "1.0")
        config = ["--ssh-config", str(other.config)]
        assert main(["devices", "add", "other", "ssh://device", *config]) == 0
        assert main(["devices", "add", "again", "ssh://device", *config]) == 0
        assert main(["devices", "add", "gone", "ssh://127.0.0.1:1", *config]) == 0
        capfd.readouterr()
        names = ["board", "gone", "local", "other", "again"]
        wanted = [word for name in names for word in ("--device", name)]
        options = ["--threads", "1", "--warmup", "1", "--iterations", "5", "--json"]
        assert main(["benchmark", *map(str, pair), *options, *wanted]) == 1
    out, err = capfd.readouterr()
    rows = json.loads(out)["results"]
    assert [row["device"]["name"] for row in rows] == [name for name in names for _ in pair]
    assert [row["verdict"] for row in rows] == ["pass", "pass", "error", "error"] + ["pass"] * 6
    assert "board: time: 6 in" in err
    assert "other: time: 6 in" in err


def test_a_device_that_is_gone_costs_its_rows_only(board: Server, pair: list[Path], capfd: Any) -> None:
    board.process.terminate()
    board.process.wait(5)
    arguments = [str(pair[0]), "--threads", "1", "--iterations", "5"]
    assert main(["benchmark", *arguments, "--device", "board", "--device", "local"]) == 1
    out, err = capfd.readouterr()
    lost, measured = out.splitlines()[-2:]
    assert lost.startswith(f"board: {pair[0]}: device: board: no connection")
    assert measured.startswith(f"local: {pair[0]}: p50 ")
    assert "Traceback" not in err


def test_deploy_on_a_device_and_here(
    board: Server, job_arguments: list[str], tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    minimum: list[str] = []

    def lend(*arguments: Any, **more: Any) -> str:
        minimum.append(arguments[3])
        return str(lend_environment(board, "onnx", arguments[3]) / "bin" / "python") if len(minimum) == 1 else real(
            *arguments, **more
        )  # fmt: skip

    real = remote.ensure_environment
    monkeypatch.setattr(remote, "ensure_environment", lend)
    command = ["deploy", *job_arguments, "--target", "onnx", "--device", "board", "--device", "local", "-o", str(run)]
    board.config.rename(board.folder / "hidden")
    monkeypatch.setattr("edgekit.job.class_of_remote", lambda device: "x86-64-v4")
    assert main([*command, "--quiet"]) == 1
    report = load_report(run)
    assert [row["verdict"] for row in report["results"]] == ["error", "error", "pass", "pass"]
    assert "device: board: no connection" in report["results"][0]["reasons"][0]
    kept = report["results"][2:]
    (board.folder / "hidden").rename(board.config)
    monkeypatch.undo()
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    monkeypatch.setattr(remote, "ensure_environment", lend)
    assert main([*command, "--json"]) == 0
    report = load_report(run)
    assert report["results"][2:] == kept, "only what was missing is measured"
    there = report["results"][:2]
    assert {row["device"]["name"] for row in there} == {"board"}
    assert [row["accuracy"] for row in there] == [row["accuracy"] for row in kept], "the same processor"
    assert there[1]["int8"]["share_of_macs"] > 0.5
    assert report["recommendation"]["device"] == "board"
    assert [each["device"] for each in report["recommendation"]["others"]] == ["local"]
    capfd.readouterr()


def when(condition: Callable[[], Any], action: Callable[[], Any]) -> threading.Thread:
    """Do something in a while, once a condition holds."""

    def wait() -> None:
        for _ in range(4000):
            if condition():
                time.sleep(0.5)
                action()
                return
            time.sleep(0.05)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def agents(server: Server) -> list[int]:
    """Process ids of the agents that run on this device."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    here = [line.split(None, 1) for line in listed.splitlines() if "edgekit.devices.agent" in line]
    return [int(pid) for pid, said in here if said.startswith(f"{server.cache}/environments")]


def test_a_killed_agent(board: Server, pair: list[Path]) -> None:
    bundles = {"int8": read_bundle(pair[1])}
    with open_board(board.device(), False, Reporter(quiet=True)) as opened:
        thread = when(lambda: agents(board), lambda: [os.kill(pid, signal.SIGKILL) for pid in agents(board)])
        with pytest.raises(DeviceCrashError, match=r"board: the measurement was killed \(SIGKILL\)"):
            opened.measure(bundles, LONG)
        thread.join()
        assert len(opened.measure(bundles, SETTINGS)) == 1, "the connection is still there"


def test_a_connection_that_is_cut_under_the_agent(board: Server, pair: list[Path]) -> None:
    with open_board(board.device(), False, Reporter(quiet=True)) as opened:
        thread = when(lambda: agents(board), board.cut)
        with pytest.raises(ConnectionCutError, match="run the same command again"):
            opened.measure({"int8": read_bundle(pair[1])}, LONG)
        thread.join()


def test_an_agent_that_falls_silent(board: Server, pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "SILENCE_S", 12)
    stopped: list[int] = []

    def stop() -> None:
        stopped.extend(agents(board))
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)

    with open_board(board.device(), False, Reporter(quiet=True)) as opened:
        thread = when(lambda: agents(board), stop)
        with pytest.raises(FrozenError, match="the measurement was silent for 12 s"):
            opened.measure({"int8": read_bundle(pair[1])}, LONG)
        thread.join()
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("script", "kind", "part"),
    [
        ("echo '{\"rows\": []}'", ConnectionCutError, "no end record"),
        ("echo '{\"rows\"'", ConnectionCutError, "no end record"),
        ("kill -ILL $$", DeviceCrashError, "SIGILL"),
        ("kill -SEGV $$", DeviceCrashError, "SIGSEGV"),
        ("echo 'OSError: No space left on device' >&2; exit 1", DeviceFullError, "edgekit devices clean board"),
        ('echo \'{"error": "refused"}\'', DeviceError, "board: refused"),
        ("echo boom >&2; exit 3", DeviceError, "exit status 3: boom"),
    ],
)
def test_ends_of_an_agent(board: Server, script: str, kind: type[DeviceError], part: str) -> None:
    fake = board.folder / "fake"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    with connect(board.device()) as connection:
        with pytest.raises(kind) as caught:
            run_agent(connection, str(fake), {"cache": str(board.cache)}, Reporter(quiet=True))
        assert type(caught.value) is kind
        assert part in str(caught.value)


def test_files_are_copied_once_and_damage_is_noticed(
    board: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "$(name) 'x'"
    first.write_bytes(b"content")
    with connect(board.device()) as connection:
        facts = probe(connection)
        (digest,) = setup.send_files(connection, facts, [first])
        assert (board.cache / "files" / digest).read_bytes() == b"content"
        monkeypatch.setattr(setup, "_stream", None)
        assert setup.send_files(connection, facts, [first]) == [digest], "nothing is sent again"
        monkeypatch.undo()
        other = tmp_path / "other"
        other.write_bytes(b"other")
        monkeypatch.setattr(setup, "_sha256", lambda path: "0" * 64)
        with pytest.raises(ConnectionCutError, match="arrived damaged"):
            setup.send_files(connection, facts, [other])
        monkeypatch.undo()
        assert [each.name for each in (board.cache / "files").iterdir()] == [digest]
        with pytest.raises(DeviceError, match=r"'.*gone' can't be read to be copied: No such file"):
            setup.send_files(connection, facts, [tmp_path / "gone"])
        with pytest.raises(DeviceFullError, match=r"MB are to be copied, 0 MB are free.*devices clean board"):
            setup.send_files(connection, facts | {"disk_free_bytes": 1}, [other])
        os.utime(board.cache / "files" / digest, (0, 0))
        assert setup.send_files(connection, facts | {"disk_free_bytes": 1}, [other]), "what may go makes room"
        assert digest not in {each.name for each in (board.cache / "files").iterdir()}, "unused for a month"


def test_refused_before_anything_starts(board: Server, pair: list[Path]) -> None:
    bundles = {"int8": read_bundle(pair[1])}
    with open_board(board.device(), False, Reporter(quiet=True)) as opened:
        facts = opened.facts
        opened.facts = facts | {"memory_available_bytes": 1000}
        with pytest.raises(
            DeviceMemoryError, match="0 MB of memory are free, and about 105 MB are needed to run 'int8'"
        ):
            opened.measure(bundles, SETTINGS)
        opened.facts = facts | {"machine": "armv7l"}
        with pytest.raises(DeviceSetupError, match="onnx can't run there: no runtime is published for armv7l"):
            opened.measure(bundles, SETTINGS)
        shutil.rmtree(board.cache / "environments")
        opened.facts = facts | {"pythons": [facts["pythons"][0] | {"ensurepip": False}]}
        with pytest.raises(DevicePythonError, match="sudo apt install python3-venv"):
            opened.measure(bundles, SETTINGS)


def test_clean(board: Server, capfd: Any) -> None:
    (board.home / "mine").write_text("kept")
    capfd.readouterr()
    assert main(["devices", "clean", "board"]) == 0
    assert capfd.readouterr().out == f"board: removed {board.cache}\n"
    assert not board.cache.exists()
    assert (board.home / "mine").exists()
    assert main(["devices", "clean", "board"]) == 0
    assert "nothing to remove" in capfd.readouterr().out


@pytest.mark.slow
def test_set_up_without_network_on_the_device(board: Server, pair: list[Path]) -> None:
    shutil.rmtree(board.cache)
    with open_board(board.device(), True, Reporter(quiet=True)) as opened:
        opened.facts |= {"pythons": [opened.facts["pythons"][0] | {"ensurepip": False}]}
        (row,) = opened.measure({"int8": read_bundle(pair[1])}, SETTINGS)
    assert row["latency_ms"]["count"] == 5
    (python,) = board.cache.glob("environments/*/bin/python")
    code = "import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ('torch', 'typer', 'rich', 'pip'))))"
    assert subprocess.run([python, "-I", "-c", code], check=False).returncode == 0


def test_requirements_are_those_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(REQUIREMENTS) == project["dependencies"]
    for target in TARGETS.values():
        if target.extra in project["optional-dependencies"]:
            assert [target.requirement] == project["optional-dependencies"][target.extra]


def test_the_wheel_is_the_same_each_time_and_leaves_the_demo_out(tmp_path: Path) -> None:
    assert own_wheel() == own_wheel()
    (tmp_path / "w.whl").write_bytes(own_wheel())
    with zipfile.ZipFile(tmp_path / "w.whl") as archive:
        names = archive.namelist()
    assert "edgekit/devices/agent.py" in names
    assert "edgekit/_data/targets/raspberry-pi-5.toml" in names
    assert not [name for name in names if "/demo/" in name or "__pycache__" in name]
    assert len(own_wheel()) < 400_000


def test_the_agent_needs_no_torch_and_no_command_line() -> None:
    heavy = {"torch", "typer", "rich", "timm", "nncf"}
    code = f"import sys, edgekit.devices.agent; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
