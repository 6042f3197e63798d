"""Rows of a report: measured through sessions, kept when interrupted, and told when they fail."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.config.device_classes import load_device_class
from edgekit.errors import CompileError, EngineError, StageError, WeightsError
from edgekit.measure import bundle_rows as measure
from edgekit.measure import rows, steadiness
from edgekit.measure.accuracy import Predictions
from edgekit.measure.bundle_rows import Images, group_key, measure_rows
from edgekit.measure.fresh_process import Fresh
from edgekit.measure.rows import base_row, failed_row, limit, ran_in_int8
from edgekit.measure.settings import Settings
from edgekit.report.schema import _schema
from edgekit.runtime.bundle import Bundle, Golden, read_bundle
from edgekit.runtime.openvino import engine as openvino
from edgekit.runtime.session import Session
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, open_run
from tests.helpers.tiny import MakeBundle

DEVICE: dict[str, Any] = {"name": "local", "class": "x86-64-v4", "cores": 2, "cpu": "x", "memory_bytes": 1}
SETTINGS = Settings(threads=1, warmup=1, iterations=4)
Built = dict[str, Bundle | StageError]


@pytest.fixture
def images(tiny_network: Any, tiny_golden: Golden, photos: Path) -> Images:
    """Six images with the tiny network's own answers as labels of all but one."""
    import torch

    pixels = np.concatenate([tiny_golden.pixels, tiny_golden.pixels[:, ::-1]])
    normalized = (pixels.transpose(0, 3, 1, 2) / np.float32(127.5) - 1).astype(np.float32)
    with torch.inference_mode():
        best = tiny_network(torch.from_numpy(normalized)).numpy().argmax(1)
    hit = np.arange(6) > 0
    labels = np.where(hit, best, (best + 1) % 10)
    files = [path.read_bytes() for path in sorted(photos.glob("*/0.png"))]
    return Images(pixels, labels, Predictions(best, hit, hit), files, "key of the images")


@pytest.fixture
def built(make_bundle: MakeBundle) -> Built:
    """A float bundle, and one that says it's int8."""
    return {
        f"onnx-{precision}": read_bundle(
            make_bundle("onnx", f"onnx-{precision}", precision=precision, fingerprint=precision)
        )
        for precision in ("float", "int8")
    }


@pytest.fixture
def run(tmp_path: Path) -> Any:
    with open_run(tmp_path / "run") as opened:
        yield opened


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure_fresh", lambda path, threads: Fresh(20.0, 3.0, 50_000_000))


def test_rows_of_a_group(built: Built, images: Images, run: RunFolder) -> None:
    float_, int8 = measure_rows(built, images, SETTINGS, run, Reporter(quiet=True))
    assert [float_["bundle"], int8["bundle"]] == ["onnx-float", "onnx-int8"]
    assert set(float_) - {"macs"} == set(_schema()["$defs"]["row"]["required"])
    for row in (float_, int8):
        assert row["accuracy"]["top1"] == pytest.approx(5 / 6)
        assert (row["accuracy"]["agreement"], row["accuracy"]["drop_top1_points"]) == (1.0, 0.0)
        latency = row["latency_ms"]
        assert (latency["count"], latency["threads"], latency["load"], latency["first"]) == (4, 1, 20.0, 3.0)
        assert 0 < latency["p50"] <= latency["p99"]
        assert row["end_to_end_ms"]["p50"] > 0
        assert row["peak_rss_bytes"] == 50_000_000
        assert row["verdict"] == "pass"
    assert float_["speedup"] is None
    assert int8["speedup"]["versus"] == "onnx-float"
    low, high = int8["speedup"]["ci95"]
    assert low <= int8["speedup"]["ratio"] <= high


@pytest.mark.parametrize(("low_ms", "precision"), [(2.0, "bf16"), (9.0, "f32")])
def test_int8_is_compared_with_the_fastest_float(
    make_bundle: MakeBundle,
    images: Images,
    run: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
    low_ms: float,
    precision: str,
) -> None:
    names = ("openvino-float", "openvino-int8")
    built = {name: read_bundle(make_bundle("openvino", name, precision=name[9:], fingerprint=name)) for name in names}
    monkeypatch.setattr(openvino.Engine, "low_precision_float", staticmethod(lambda: "bf16"))
    asked = []

    def alternate(calls: Any, *_: Any) -> Any:
        asked.append(list(calls))
        fixed = {("openvino-float", "f32"): 4.0, ("openvino-float", "bf16"): low_ms}
        return {key: np.full(40, fixed.get(key, 1.0)) for key, call in calls.items() if call() is not None}

    for module in (steadiness, measure):
        monkeypatch.setattr(module, "alternate", alternate)
    float_, int8 = measure_rows(built, images, SETTINGS, run, Reporter(quiet=True))
    assert asked[0] == [("openvino-float", "f32"), ("openvino-int8", "f32"), ("openvino-float", "bf16")]
    assert float_["latency_ms"]["p50"] == 4.0
    assert (float_["low_precision"]["computes_in"], float_["low_precision"]["p50_ms"]) == ("bf16", low_ms)
    assert float_["low_precision"]["accuracy"]["count"] == float_["accuracy"]["count"]
    assert "low_precision" not in int8
    assert int8["speedup"] == {
        "versus": "openvino-float",
        "versus_precision": precision,
        "ratio": min(4.0, low_ms),
        "ci95": [min(4.0, low_ms)] * 2,
    }


def test_what_a_stage_could_not_make_is_a_row(built: Built, images: Images, run: RunFolder) -> None:
    built = {"tflite-int8": CompileError("refused the graph"), **built}
    failed, *others = measure_rows(built, images, SETTINGS, run, Reporter(quiet=True))
    assert failed["verdict"] == "error"
    assert failed["reasons"] == ["compile: refused the graph"]
    assert (failed["target"], failed["precision"]) == ("tflite", "int8")
    assert set(failed) == set(_schema()["$defs"]["row"]["required"])
    assert [row["verdict"] for row in others] == ["pass", "pass"]


def test_float_that_fails_leaves_int8_without_speedup(
    built: Built, images: Images, run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    path = built["onnx-float"].path  # type: ignore[union-attr]
    (path / "model.onnx").write_bytes(b"no model")
    float_, int8 = measure_rows(built, images, SETTINGS, run, Reporter(quiet=True))
    assert float_["verdict"] == "error"
    assert float_["reasons"][0].startswith("evaluate: loading ")
    assert int8["accuracy"]["top1"] == pytest.approx(5 / 6)
    assert int8["speedup"] is None
    assert "warning: onnx-float: loading " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "error"),
    [("measure_fresh", EngineError("died")), ("predict", WeightsError("the outputs for image 3 hold NaN"))],
)
def test_every_failure_is_a_row(
    built: Built, images: Images, run: RunFolder, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(measure, name, fail)
    found = measure_rows(built, images, SETTINGS, run, Reporter(quiet=True))
    assert [row["reasons"] for row in found] == [[f"evaluate: {error}"]] * 2


def test_other_numbers_on_this_processor_are_a_row(
    make_bundle: MakeBundle, tiny_golden: Golden, images: Images, run: RunFolder
) -> None:
    wrong = replace(tiny_golden, logits=tiny_golden.logits + 1)
    bundle = read_bundle(make_bundle("onnx", golden=wrong))
    (row,) = measure_rows({"onnx-float": bundle}, images, SETTINGS, run, Reporter(quiet=True))
    assert row["verdict"] == "error"
    assert "gives other numbers on this processor" in row["reasons"][0]


def test_measurements_are_kept_until_the_run_is_complete(
    built: Built, images: Images, run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    first = measure_rows(built, images, SETTINGS, run, Reporter())
    again = measure_rows(built, images, SETTINGS, run, Reporter())
    assert again == first
    assert "onnx: measurements kept from the interrupted run" in capfd.readouterr().err
    run.forget()
    assert measure_rows(built, images, SETTINGS, run, Reporter()) != first


@pytest.mark.parametrize(
    "change",
    [
        lambda g, i, s: (g, i, replace(s, threads=2)),
        lambda g, i, s: (g, i, replace(s, iterations=5)),
        lambda g, i, s: (g, i, replace(s, warmup=0)),
        lambda g, i, s: (g, replace(i, key="other images"), s),
        lambda g, i, s: ({"onnx-int8": g["onnx-int8"]}, i, s),
    ],
)
def test_measurements_depend_on(built: Built, images: Images, change: Callable[..., Any]) -> None:
    assert group_key(*change(built, images, SETTINGS)) != group_key(built, images, SETTINGS)  # type: ignore[arg-type]


def test_measurements_do_not_depend_on_the_gates(built: Built, images: Images) -> None:
    gates = replace(SETTINGS, max_drop=9, min_speedup=9)
    assert group_key(built, images, gates) == group_key(built, images, SETTINGS)  # type: ignore[arg-type]


def test_row_of_a_bundle(make_bundle: MakeBundle) -> None:
    layers = [
        {"name": name, "op": "linear", "macs": macs, "int8": int8}
        for name, macs, int8 in (("stem", 100, False), ("head", 300, True))
    ]
    row = base_row("b", read_bundle(make_bundle("onnx", precision="int8", layers=layers)), DEVICE)
    assert row["macs"] == 400
    assert row["accuracy"] is None
    assert row["int8"] is None


def test_int8_is_what_the_runtime_ran_not_what_the_bundle_says(make_bundle: MakeBundle) -> None:
    layers = [{"name": "conv", "op": "conv", "macs": 48600, "int8": True}]
    found = ran_in_int8(read_bundle(make_bundle("onnx", precision="int8", layers=layers)), 1)
    assert found["share_of_macs"] == 0
    assert "conv" in found["float_layers"]
    assert found["method"].startswith("ONNX Runtime")


def test_a_runtime_without_a_profile_leaves_nulls(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise EngineError("no counters here")

    monkeypatch.setattr(rows, "profile", refuse)
    found = ran_in_int8(read_bundle(make_bundle("onnx")), 1)
    assert found == {
        "share_of_macs": None,
        "method": "not known: no counters here",
        "float_layers": None,
        "simulated": None,
    }


def test_bound_is_the_measured_devices_not_the_bundles() -> None:
    row = {"device": DEVICE, "precision": "int8", "macs": 10**9, "latency_ms": {"p50": 20.0}}
    found = limit(row, threads=8)
    bound = load_device_class("x86-64-v4").bound_ms(10**9, "int8", 2)
    assert found == {"bound_ms": bound, "fraction": bound / 20}
    assert limit(row | {"device": DEVICE | {"class": None}}, threads=1) is None


def test_failed_row_of_a_target_with_a_dash() -> None:
    assert failed_row("my-runtime-int8", DEVICE, "compile", CompileError("x"))["target"] == "my-runtime"


def test_end_to_end_goes_round_the_files(make_bundle: MakeBundle, images: Images) -> None:
    with Session(read_bundle(make_bundle("onnx")), 1) as session:
        call = measure._end_to_end(session, images.files[:2])
        first, second, third = (call() for _ in range(3))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, third)
