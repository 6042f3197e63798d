"""The tables of benchmarks/peers.py contain the measured figures."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks import peers, recording
from benchmarks.peerlib import executorch, timing
from benchmarks.peerlib.candidates import Candidate, open_candidate
from benchmarks.peerlib.models import SUBJECTS
from benchmarks.peerlib.results import Group, add_times, answer_rows, candidate_of, versus, write_results
from benchmarks.peers import arguments
from benchmarks.recording import keep_recording
from edgekit.measure.accuracy import snr_db
from tests.benchmarks.test_recording import RECORDING


def logits(noise: float) -> NDArray[np.float32]:
    return (REFERENCE + noise * np.sign(REFERENCE)).astype(np.float32)


def times(ms: float) -> timing.Times:
    return {count: [np.full(8, ms / count)] * 5 for count in (1, 2)}


REFERENCE = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)


def results(folder: Path, int8_ms: float) -> dict[str, Any]:
    """One model on LiteRT: plain float with 20 ms, edgekit's float with 10 ms, and a stock file that failed."""
    for name in ("float", "int8"):
        (folder / name).mkdir()
        (folder / name / "model.tflite").write_bytes(bytes(1000))
    (folder / "plain.tflite").write_bytes(bytes(3000))
    candidates = [
        Candidate("edgekit float", "tflite", "edgekit", "float", folder / "float"),
        Candidate("edgekit int8", "tflite", "edgekit", "int8", folder / "int8"),
        Candidate("plain float", "tflite", "stock", "float", folder / "plain.tflite"),
        Candidate("litert-quantizer static", "tflite", "stock", "int8", folder / "static.tflite"),
    ]
    answers = {"edgekit float": logits(0), "edgekit int8": logits(0.01), "plain float": logits(0)}
    rows = answer_rows(candidates, {**answers, "litert-quantizer static": "ValueError: a|b"}, REFERENCE)
    add_times(rows[:3], {"edgekit float": times(10), "edgekit int8": times(int8_ms), "plain float": times(20)})
    for row in rows:
        row["share_of_macs"] = 0.9
    about = {"weights": "random", "params": 3e6, "macs": 5e8, "input": [224, 224], "recipe": "default", "rows": rows}
    return {"executorch": "1.5.1", "threads": [1, 2], "images": 20, "models": {"net": about}}


def tables(folder: Path, measured: dict[str, Any]) -> str:
    keep_recording(folder, RECORDING, "other.json")
    return write_results(measured, folder / "other.json")


def test_rows_have_speed_size_and_agreement(tmp_path: Path) -> None:
    ours = results(tmp_path, 5.0)["models"]["net"]["rows"][1]
    assert ours["size_bytes"] == 1000
    assert ours["agreement"] == 1.0
    assert ours["ms"] == {"1": 5.0, "2": 2.5}
    assert set(ours["faster_than"]) == {"edgekit float", "plain float"}
    assert ours["rounds"] == {"1": 40, "2": 40}
    assert ours["faster_than"]["plain float"]["1"] == {
        "ratio": pytest.approx(4.0),
        "ci95": [pytest.approx(4.0), pytest.approx(4.0)],
    }


def test_an_interval_contains_what_the_openings_differ_by() -> None:
    """The rounds of an opening are alike, so a bootstrap over rounds would see nothing."""
    luck = np.array([0.97, 1.02, 1.0, 1.04, 0.98])[:, None]
    found = versus([*np.full((5, 8), 6.0) * luck], [*np.full((5, 8), 3.0)])
    low, high = found["ci95"]
    assert found["ratio"] == pytest.approx(2.0, rel=0.01)
    assert 1.90 < low < 1.95
    assert 2.05 < high < 2.10


def test_every_file_is_opened_anew_in_another_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    opened: list[tuple[str, int]] = []

    def open_candidate(candidate: Candidate, threads: int) -> Callable[[Any], Any]:
        opened.append((candidate.name, threads))
        return lambda image: REFERENCE[:1]

    monkeypatch.setattr(timing, "open_candidate", open_candidate)
    candidates = [Candidate(name, "onnx", "stock", "int8", tmp_path) for name in "abcd"]
    found = timing.time_all(candidates, np.zeros((1, 3, 4, 4), np.float32), (1, 2), 0.0)
    assert [np.shape(times[2]) for times in found.values()] == 4 * [(timing.OPENINGS, timing.LEAST)]
    of_two = [name for name, threads in opened if threads == 2]
    orders = {"".join(of_two[first : first + 4]) for first in range(0, len(of_two), 4)}
    assert len(of_two) == 4 * timing.OPENINGS
    assert len(orders) > 1


@pytest.mark.parametrize(("int8_ms", "faster", "ship"), [(5.0, "2.00x [2.00, 2.00]", "INT8"), (12.5, "0.80x", "float")])
def test_the_tables_compare_with_the_best_float(tmp_path: Path, int8_ms: float, faster: str, ship: str) -> None:
    text = tables(tmp_path, results(tmp_path, int8_ms))
    assert "every figure is in `other.json`" in text
    (line, *_) = [line for line in text.splitlines() if line.startswith("| net | LiteRT | 10.00 (edgekit float) |")]
    assert faster in line
    assert line.endswith(f"| 90.0 % | {ship} |")
    assert "| LiteRT | litert-quantizer static | failed: ValueError: a/b |" in text


def test_executorch_has_rows_without_a_bundle_of_edgekit(tmp_path: Path) -> None:
    measured = results(tmp_path, 5.0)
    (tmp_path / "int8.pte").write_bytes(bytes(2000000))
    candidate = Candidate("XNNPACKQuantizer", "executorch", "stock", "int8", tmp_path / "int8.pte")
    (row,) = answer_rows([candidate], {candidate.name: logits(0.1)}, REFERENCE)
    add_times([row], {candidate.name: times(4)})
    measured["models"]["net"]["rows"].append(row)
    text = tables(tmp_path, measured)
    assert f"| ExecuTorch | XNNPACKQuantizer | 2.00 | 4.00 | 2.00 | - | {row['snr_db']:.1f} | 100 % |" in text
    assert "| net | ExecuTorch" not in text


def test_executorch_gets_its_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another number replaces the pool, with which files that are open couldn't run any more."""
    pools, images = [2], list[Any]()

    def run(inputs: tuple[torch.Tensor]) -> list[torch.Tensor]:
        images.append(inputs[0].numpy())
        return [torch.ones(1, 5)]

    library = ModuleType("executorch.extension.pybindings")
    library.portable_lib = SimpleNamespace(  # type: ignore[attr-defined]
        _threadpool_get_thread_count=lambda: pools[-1],
        _unsafe_reset_threadpool=pools.append,
        _load_for_executorch=lambda path: run,
    )
    monkeypatch.setitem(sys.modules, library.__name__, library)
    monkeypatch.setattr(executorch, "add_packages", lambda: None)
    candidate, image = Candidate("plain float", "executorch", "stock", "float", Path("x.pte")), np.ones((1, 3, 4, 4))
    for threads in (2, 1, 1):
        logits = open_candidate(candidate, threads)(image.astype(np.float32))
        np.testing.assert_array_equal(logits, np.ones((1, 5), np.float32))
    assert pools == [2, 1]
    np.testing.assert_array_equal(images, [image] * 3)


def test_a_wide_interval_is_marked(tmp_path: Path) -> None:
    measured = results(tmp_path, 5.0)
    ours = measured["models"]["net"]["rows"][1]["faster_than"]["plain float"]["1"]
    assert "4.00x [4.00, 4.00] |" in tables(tmp_path, measured)
    ours["ci95"] = [3.5, 4.1]
    assert "4.00x [3.50, 4.10]* |" in tables(tmp_path, measured)


def test_stock_int8_of_any_kind_counts() -> None:
    rows = [
        {"runtime": "tflite", "candidate": name, "maker": maker, "precision": precision, "ms": {"1": ms}, "snr_db": snr}
        for name, maker, precision, ms, snr in (
            ("edgekit float, bf16", "edgekit", "bf16", 4.0, 40),
            ("plain float", "stock", "float", 5.0, 120),
            ("static", "stock", "int8", 3.0, 20),
            ("dynamic", "stock", "int8", 2.0, 30),
            ("static, bf16", "stock", "int8+bf16", 1.0, 19),
        )
    ]
    group = Group({"rows": rows}, "tflite")
    assert (group.fastest_float(1) or {})["candidate"] == "edgekit float, bf16"
    assert (group.fastest_stock(1) or {})["candidate"] == "static, bf16"
    assert group.stock_snr() == 30


@pytest.mark.parametrize(
    ("runtime", "file", "size"),
    [
        ("onnx", "float.onnx", 11),
        ("tflite", "float.tflite", 100),
        ("openvino", "float.xml", 11000),
        ("ncnn", "float.ncnn.param", 1100000),
        ("executorch", "float.pte", 10000000),
    ],
)
def test_a_size_counts_the_files_of_its_own_runtime(tmp_path: Path, runtime: str, file: str, size: int) -> None:
    suffixes = ("onnx", "onnx.data", "tflite", "xml", "bin", "ncnn.param", "ncnn.bin", "pte")
    for place, suffix in enumerate(suffixes):
        (tmp_path / f"float.{suffix}").write_bytes(bytes(10**place))
    assert Candidate("plain float", runtime, "stock", "float", tmp_path / file).size_bytes == size


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--models", "resnet50,demo"], "resnet50: name ImageNet images with --data; without them run --models demo"),
        (["--models", "resnet50", "--data", "no-such-folder"], "'no-such-folder' doesn't exist"),
        (["--models", "no-such-model"], "unknown model no-such-model; valid models are convnextv2_atto"),
    ],
)
def test_unknown_models_and_missing_images_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        arguments(words)
    assert message in capsys.readouterr().err


def test_the_demo_needs_no_images_and_the_help_says_what_the_others_need(capsys: pytest.CaptureFixture[str]) -> None:
    assert arguments(["--models", "demo"]).data is None
    with pytest.raises(SystemExit, match="0"):
        arguments(["--help"])
    assert "ImageNet images, which every model but demo needs" in " ".join(capsys.readouterr().out.split())


def test_signal_to_noise() -> None:
    assert snr_db(REFERENCE, REFERENCE * np.float32(1.1)) == pytest.approx(20, abs=1e-3)


def test_a_candidate_is_the_same_when_it_is_timed_later(tmp_path: Path) -> None:
    candidate = Candidate("edgekit int8, bf16", "openvino", "edgekit", "int8+bf16", tmp_path, options={"hint": "bf16"})
    rows = answer_rows([candidate], {candidate.name: logits(0.1)}, REFERENCE)
    assert candidate_of(json.loads(json.dumps(rows))[0]) == candidate


def test_results_of_other_code_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, kept = tmp_path / "peers.json", {"models": {"net": {"rows": [1]}}}
    monkeypatch.setattr(peers, "new_recording", lambda: RECORDING)
    path.write_text(json.dumps(kept))
    assert peers.kept_results(path)["models"] == {}
    monkeypatch.setattr(recording, "code_sha256", dict.__getitem__.__get__(RECORDING.code))
    assert peers.kept_results(path) == kept
    monkeypatch.setattr(recording, "code_sha256", lambda room: "another")
    assert peers.kept_results(path)["models"] == {}


@pytest.mark.parametrize(("stock_ms", "profiled"), [(3.0, True), (5.0, False), (8.0, False)])
def test_a_stock_file_that_is_faster_is_profiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stock_ms: float, profiled: bool
) -> None:
    model = results(tmp_path, 5.0)["models"]["net"]
    ours, stock = model["rows"][1], model["rows"][3]
    stock |= {"path": str(tmp_path / "plain.tflite"), "options": {}}
    add_times([ours, stock], {"edgekit int8": times(5.0), stock["candidate"]: times(stock_ms)})
    monkeypatch.setattr(peers, "when_idle", lambda work, name: (work(), None))
    monkeypatch.setattr(peers, "alone", lambda function, pair: [{"gemm": 3.0}, {"gemm": 1.0}])
    peers.profile_slower("net", model)
    expected = {"edgekit int8": {"gemm": 3.0}, "litert-quantizer static": {"gemm": 1.0}}
    assert ours.get("profiles") == (expected if profiled else None)


def test_the_factories_of_the_subjects_can_be_imported() -> None:
    names = [subject.model.name for subject in SUBJECTS.values() if ":" in subject.model.name]
    assert names
    for name in names:
        module, _, factory = name.partition(":")
        assert callable(getattr(import_module(module), factory))
