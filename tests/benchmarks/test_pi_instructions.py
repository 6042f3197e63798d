"""benchmarks/pi_instructions.py: the emulated machine's output, a real count, and the tables."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.peerlib import converters
from benchmarks.peerlib.candidates import Candidate
from benchmarks.peerlib.wheels import wheel_versions
from benchmarks.pi_instructions import for_arm, snr_here
from benchmarks.pilib import counting, debian
from benchmarks.pilib.guest import MARK
from benchmarks.pilib.results import HEADING, kept, section, with_section
from tests.helpers.tiny import MakeBundle


def row(candidate: str, precision: str, millions: float, **more: Any) -> dict[str, Any]:
    maker = candidate.partition(" ")[0]
    start = {"runtime": "tflite", "candidate": candidate, "maker": maker if maker == "edgekit" else "stock"}
    return start | {"precision": precision, "instructions": millions * 1e6, "snr_db": 20.04, "snr_x86_db": 21.06} | more


RESULTS: dict[str, Any] = {
    "qemu": "10.0",
    "kernel": "6.12",
    "images": 4,
    "models": {
        "net": {
            "cortex-a76": [
                row("edgekit float", "float", 240),
                row("edgekit int8", "int8", 100),
                row("plain float", "float", 460),
                row("dynamic", "int8", 169),
                {"runtime": "tflite", "candidate": "static", "maker": "stock", "precision": "int8", "error": "a|b"},
                row("plain float", "float", 212) | {"runtime": "mnn"},
                row("plain float, f16", "f16", 127) | {"runtime": "mnn", "snr_x86_db": None},
            ],
            "cortex-a72": [row("edgekit int8", "int8", 200, snr_x86_db=None)],
        }
    },
}


def test_tables() -> None:
    lines = section(RESULTS).splitlines()
    assert "| cortex-a76 (Pi 5) | LiteRT | 240.0 | 100.0 | 2.40x | 169.0 (dynamic) | 1.69x |" in lines
    assert "| cortex-a72 (Pi 4) | LiteRT | - | 200.0 | - | - | - |" in lines
    assert "| cortex-a76 (Pi 5) | OpenVINO | - | - | - | - | - |" in lines
    assert "| cortex-a76 (Pi 5) | MNN | 127.0 | - | - | - | - |" in lines
    assert not any(line.startswith("| cortex-a72 (Pi 4) | MNN |") for line in lines)
    assert "| MNN | plain float, f16 | 127.0 | - | 20.0 | - | - |" in lines
    assert "| LiteRT | edgekit int8 | 100.0 | 200.0 | 20.0 | 20.0 | 21.1 |" in lines
    assert "| LiteRT | static | failed: a/b | - | - | - | - |" in lines
    assert "**They are not times.**" in " ".join(lines)


def test_a_note_on_older_rows_is_shown() -> None:
    assert "the rows of b are older" in section(RESULTS | {"note": "the rows of b are older"}).splitlines()


def test_the_section_is_replaced_and_kept(tmp_path: Path) -> None:
    page = tmp_path / "RESULTS.md"
    assert kept(page) == ""
    once = with_section("# Page\n\ntext\n", section(RESULTS))
    assert once.startswith("# Page\n\ntext\n\n## ")
    assert with_section(once, section(RESULTS)) == once
    page.write_text(once)
    assert kept(page).startswith(HEADING)


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


def test_a_runtime_of_another_project_has_no_snr_on_x86() -> None:
    """Its packages are not installed here."""
    image = np.zeros((1, 3, 8, 8), np.float32)
    assert snr_here(Candidate("plain float", "mnn", "stock", "float", Path("p")), image, image) is None


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


@pytest.mark.slow
def test_a_real_count(make_bundle: MakeBundle, tmp_path: Path, tiny_models: Path) -> None:
    """Equal models have about equal counts, and a file that can't be loaded has an error."""
    try:
        debian.need("mmdebstrap", "arch-test", "cpio", "qemu-system-aarch64")
    except debian.NotHereError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    (tmp_path / "broken.tflite").write_bytes(b"nothing")
    candidates = [
        Candidate("one", "tflite", "edgekit", "float", make_bundle("tflite")),
        Candidate("other", "tflite", "stock", "float", tiny_models / "model.tflite"),
        Candidate("broken", "tflite", "stock", "float", tmp_path / "broken.tflite"),
    ]
    image = np.random.default_rng(0).normal(size=(1, 3, 32, 32)).astype(np.float32)
    one, other, broken = counting.count_candidates(candidates, image, "cortex-a72")
    # 97,200 multiply-accumulates, and the instructions of Python.
    assert 20_000 < other["instructions"] < 1_000_000
    assert one["instructions"] == pytest.approx(other["instructions"], rel=0.2)
    assert np.allclose(one["logits"], other["logits"], atol=1e-5)
    assert "ValueError" in broken["error"]
