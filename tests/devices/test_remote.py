"""Bundles measured over a real sshd: the same rows as here, and an error in each row that is lost."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.config.runtimes import DeviceClass
from edgekit.devices import remote
from edgekit.devices.registry import Device
from edgekit.devices.remote import measure_on_device, open_board
from edgekit.devices.setup import ensure_environment
from edgekit.errors import CompileError, DeviceMemoryError, DeviceSetupError, UnreachableError
from edgekit.measure.bundles import BuiltBundles, MeasureSpec
from edgekit.measure.settings import Timing
from edgekit.report import load_report
from edgekit.runtime.bundle import read_bundle
from edgekit.support.progress import Reporter
from tests.helpers.measurements import device, measurement
from tests.helpers.refusals import refuses
from tests.helpers.ssh_server import Server, lend_environment, serve
from tests.helpers.tiny import MakeBundle

TIMING = Timing(threads=1, warmup=1, iterations=5)


def test_benchmark(lent_board: Server, pair: list[Path], capfd: Any) -> None:
    capfd.readouterr()
    arguments = [*map(str, pair), "--threads", "1", "--iterations", "5", "--warmup", "1"]
    arguments += ["--streams", "2", "--camera", "640x480"]
    assert main(["benchmark", *arguments, "--device", "board", "--device", "local", "--json"]) == 0
    out, _ = capfd.readouterr()
    rows = json.loads(out)["results"]
    there, here = rows[:2], rows[2:]
    assert [row["bundle"] for row in there] == [row["bundle"] for row in here] == [str(path) for path in pair]
    assert {row["device"]["name"] for row in there} == {"board"}
    assert [set(row) for row in there] == [set(row) for row in here]
    assert there[0]["latency_ms"]["count"] == 5
    assert there[1]["speedup"]["versus"] == str(pair[0])
    assert there[0]["peak_rss_bytes"] > 20e6
    assert [(row["throughput"]["streams"], row["throughput"]["threads"]) for row in rows] == [(2, 1)] * 4
    for camera in (row["camera"] for row in rows):
        assert (camera["width"], camera["height"]) == (640, 480)
        assert min(camera["p50_ms"], camera["frames_per_second"], camera["frames_per_second_ahead"]) > 0
    assert all(row["energy"]["source"] for row in rows)
    for row in (there[0], here[0]):
        assert {"clock_mhz", "governor", "celsius", "throttled", "load"} <= set(row["thermal"]["before"])
        assert row["thermal"]["series"]
    assert not list(lent_board.home.rglob("pwned"))
    assert not list(lent_board.cache.glob("work-*")), "a job deletes its work folder"
    assert {path.name for path in lent_board.home.iterdir()} == {".cache"}
    assert {path.name for path in (lent_board.home / ".cache").iterdir()} == {"edgekit"}


def test_inspect(lent_board: Server, make_bundle: MakeBundle, tiny_models: Path, tmp_path: Path, capfd: Any) -> None:
    bundle = str(make_bundle("onnx", "it's one", provenance={"model": {"name": "tiny"}}))
    capfd.readouterr()
    assert main(["inspect", bundle, "--device", "board", "--threads", "1", "--json"]) == 0
    there = json.loads(capfd.readouterr().out)
    assert main(["inspect", bundle, "--threads", "1", "--json"]) == 0
    here = json.loads(capfd.readouterr().out)
    assert there.pop("device")["name"] == "board"
    assert here.pop("device") is None
    assert [op["kernel"] for op in there["int8"].pop("ops")] == [op["kernel"] for op in here["int8"].pop("ops")]
    for document in (there, here):
        del document["int8"]["time_by_kind_ms"]
    assert there == here
    model = tmp_path / "it's $(touch pwned).onnx"
    shutil.copy(tiny_models / "model.onnx", model)
    lend_environment(lent_board, "onnx", None)
    assert main(["inspect", str(model), "--device", "board"]) == 0
    out, _ = capfd.readouterr()
    assert f"model: {model}" in out.splitlines()
    assert "device: board (" in out
    assert "int8: 0 % MAC" in out.splitlines()
    assert not list(lent_board.home.rglob("pwned"))
    assert main(["inspect", "gone.onnx", "--device", "board"]) == 2
    assert "'gone.onnx' doesn't exist" in capfd.readouterr().err
    assert main(["inspect", str(model.with_suffix(".txt")), "--device", "board"]) == 2


def test_rows_that_failed_before_the_connection_have_the_facts_of_a_later_one(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do those of bundles that were never made, whichever order they have."""
    facts, answers = device("pi", cpu="Cortex-A76"), iter([UnreachableError("pi: no connection"), None])

    @contextmanager
    def opened(*_: object) -> Iterator[Any]:
        if error := next(answers):
            raise error
        yield SimpleNamespace(row_facts=facts, rows=lambda *_: {"onnx": measurement(device=facts)})

    monkeypatch.setattr(remote, "open_host", opened)
    bundles = {target: read_bundle(make_bundle(target, target)) for target in ("openvino", "onnx")}
    built: BuiltBundles = {"tflite-int8": CompileError("refused"), **bundles}
    rows = measure_on_device(Device("pi", "ssh://pi"), built, MeasureSpec(TIMING), Reporter(quiet=True))
    assert [row.failure and row.failure.stage for row in rows] == ["compile", "device", None]
    assert [row.device for row in rows] == [facts] * 3


@pytest.mark.slow
def test_several_at_once(
    lent_board: Server, pair: list[Path], tmp_path: Path, key_folder: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two boards, one of them under two names, and one that can't be reached. The rows are in the devices' order."""
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
    for name in ("board", "other"):
        (line,) = [text for text in err.splitlines() if text.startswith(f"{name}: {pair[0]}")]
        assert ": time: 6 in" in line


def test_a_device_that_is_gone_loses_only_its_own_rows(lent_board: Server, pair: list[Path], capfd: Any) -> None:
    lent_board.process.terminate()
    lent_board.process.wait(5)
    arguments = [str(pair[0]), "--threads", "1", "--iterations", "5"]
    assert main(["benchmark", *arguments, "--device", "board,local"]) == 1
    out, err = capfd.readouterr()
    lines = out.splitlines()
    assert out.replace("\n  ", " ").count(f"board: {pair[0]}: device: board: no connection") == 1
    assert f"Fastest on local: {pair[0]}, " in out.replace("\n  ", " ")
    assert lines[-1] == "Next, see what board lacks: edgekit doctor board"
    assert "Traceback" not in err


def test_a_bug_in_the_hosts_side_costs_the_rows_and_is_not_blamed_on_the_device(
    lent_board: Server, pair: list[Path], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("val")

    monkeypatch.setattr(remote.Board, "rows", mistaken)
    capfd.readouterr()
    assert main(["benchmark", *map(str, pair), "--device", "board", "--json"]) == 1
    out, err = capfd.readouterr()
    rows = json.loads(out)["results"]
    assert [(row["bundle"], row["verdict"]) for row in rows] == [(str(path), "error") for path in pair]
    assert {(row["failure"]["stage"], row["failure"]["error"]) for row in rows} == {("bug in edgekit", "KeyError")}
    assert "this is a bug in edgekit" in err


def test_deploy_on_a_device_and_here(
    lent_board: Server, vit_arguments: list[str], tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    minimum: list[str] = []

    def lend(*arguments: Any, **more: Any) -> str:
        minimum.append(arguments[3])
        if len(minimum) > 1:
            return ensure_environment(*arguments, **more)
        return str(lend_environment(lent_board, "onnx", arguments[3]) / "bin" / "python")

    monkeypatch.setattr(remote, "ensure_environment", lend)
    command = ["deploy", *vit_arguments, "--target", "onnx", "--device", "board", "--device", "local", "-o", str(run)]
    lent_board.config.rename(lent_board.folder / "hidden")
    monkeypatch.setattr("edgekit.pipeline.loading.class_of_remote", lambda device: DeviceClass.of_host())
    assert main([*command, "--quiet"]) == 1
    report = load_report(run)
    assert [row.verdict for row in report.results] == ["error", "error", "pass", "pass"]
    failure = report.results[0].failure
    assert failure is not None
    assert (failure.stage, failure.error) == ("device", "UnreachableError")
    assert failure.message.startswith("board: no connection")
    local_rows = report.results[2:]
    (lent_board.folder / "hidden").rename(lent_board.config)
    monkeypatch.undo()
    monkeypatch.setenv("EDGEKIT_DEVICES_FILE", str(tmp_path / "devices.toml"))
    monkeypatch.setattr(remote, "ensure_environment", lend)
    monkeypatch.setattr("edgekit.pipeline.loading.class_of_remote", lambda device: DeviceClass.of_host())
    assert main([*command, "--json"]) == 0
    report = load_report(run)
    assert report.results[2:] == local_rows, "only the missing rows are measured"
    there = report.results[:2]
    assert {row.device.name for row in there} == {"board"}
    for on_board, here in zip(there, local_rows, strict=True):  # the same processor
        assert on_board.accuracy is not None
        assert here.accuracy is not None
        assert replace(on_board.accuracy, confidence=None) == replace(here.accuracy, confidence=None)
        one, other = on_board.accuracy.confidence, here.accuracy.confidence
        assert one is not None
        assert other is not None
        assert one.calibration_error == pytest.approx(other.calibration_error)  # numpy's threads add in another order
    int8 = there[1].int8
    assert int8 is not None
    assert int8.share_of_macs is not None
    assert int8.share_of_macs > 0.5
    assert report.recommendation.device == "board"
    assert [advice.device for advice in report.recommendation.others] == ["local"]
    capfd.readouterr()


def test_refused_before_anything_starts(lent_board: Server, pair: list[Path]) -> None:
    bundles = {"int8": read_bundle(pair[1])}
    with open_board(lent_board.device(), Reporter(quiet=True)) as opened:
        facts = opened.facts
        opened.facts = replace(facts, memory_available_bytes=1000)
        with refuses(DeviceMemoryError, "0 MB", "105 MB", "'int8'"):
            opened.rows(bundles, MeasureSpec(TIMING))
        opened.facts = replace(facts, machine="armv7l")
        with refuses(DeviceSetupError, "onnx", "armv7l"):
            opened.rows(bundles, MeasureSpec(TIMING))
