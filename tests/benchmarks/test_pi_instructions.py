"""benchmarks/pi_instructions.py: the emulated machine's output, and the tables. Recording really counts."""

import json
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from benchmarks import pi_instructions
from benchmarks.peerlib import converters
from benchmarks.peerlib.candidates import Candidate
from benchmarks.peerlib.wheels import wheel_versions
from benchmarks.pi_instructions import for_arm
from benchmarks.pilib import counting
from benchmarks.pilib.guest import MARK


def test_the_console_is_parsed() -> None:
    lines = [{"kernel": "6.12"}, {"name": "a", "nanoseconds": 5.0, "logits": [[1.0, 2.0]]}, {"name": "b", "error": "x"}]
    console = "".join(f"{MARK}{json.dumps(line)}\r\n" for line in [*lines, {"end": True}])
    first, second = counting._read("[ 0.0] Booting\r\n" + console)
    assert (first["name"], first["instructions"], first["kernel"]) == ("a", 5.0, "6.12")
    assert first["logits"].tolist() == [[1.0, 2.0]]
    assert second == {"name": "b", "error": "x"}
    with pytest.raises(RuntimeError, match="ended early"):
        counting._read(console.rpartition(MARK)[0])


def test_bf16_is_f16_on_arm() -> None:
    mixed = for_arm(Candidate("n, bf16", "openvino", "edgekit", "int8+bf16", Path("p"), {"hint": "bf16"}))
    assert (mixed.name, mixed.precision, mixed.options) == ("n, f16", "int8+f16", {"hint": "f16"})


def test_pinned_versions() -> None:
    assert set(wheel_versions()) == {"MNN", "ncnn", "pnnx"}


def test_pnnx_gets_the_same_network_without_addcmul() -> None:
    start, one, other = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(converters._addcmul(start, one, other), torch.addcmul(start, one, other))


def test_a_converter_that_fails_is_reported() -> None:
    with pytest.raises(RuntimeError, match=r"status 3: no such layer$"):
        converters._run([sys.executable, "-c", "import sys; print('no such layer'); sys.exit(3)"])


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="valid suffixes are"):
        counting.count({"a": tmp_path / "model.pb"})
    with pytest.raises(ValueError, match="valid cores are cortex-a76, cortex-a72"):
        counting.count({"a": tmp_path / "model.onnx"}, "cortex-a53")


def test_what_is_counted_is_not_counted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, make = tmp_path / "counts.json", Mock(return_value=([], None, None, None))
    old, new = {"runtime": "onnx", "instructions": 1}, {"runtime": "tflite", "instructions": 2, "kernel": "6.12"}
    kept = {"kernel": None, "models": {"demo": {"cortex-a76": [old]}}}
    monkeypatch.setattr(pi_instructions, "kept_results", lambda path: kept)
    monkeypatch.setattr(pi_instructions, "make", make)
    monkeypatch.setattr(pi_instructions, "compare", lambda *_: [new])
    words = ["--models", "demo", "--cores", "cortex-a76", "--runtimes", "onnx,tflite", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["pi_instructions", *words])
    for _ in range(2):
        pi_instructions.main()
    assert [call.args[3] for call in make.call_args_list] == [["tflite"]]
    assert json.loads(path.read_text())["models"]["demo"]["cortex-a76"] == [
        old,
        {"runtime": "tflite", "instructions": 2},
    ]
