"""benchmarks/giants.py: a deploy with its processes' memory beside it."""

from pathlib import Path

from benchmarks import giants
from tests.helpers.tiny import TINY_MODEL


def test_a_row_has_memory_seconds_and_bundles(photos: Path, tmp_path: Path) -> None:
    name, *more = TINY_MODEL
    row = giants.deploy(name, "onnx", photos, [*more, "--precision", "int8"], tmp_path)
    assert 100e6 < row["peak_bytes"] < 8e9
    assert row["largest_process_bytes"] > 100e6
    assert row["stages"]["onnx-int8: calibrate"] > 0
    (bundle,) = row["bundles"]
    assert bundle["verdict"] == "pass"
    assert bundle["size_bytes"] > 90_000
    assert bundle["p50_ms"] > 0


def test_what_is_refused_says_why(photos: Path, tmp_path: Path) -> None:
    row = giants.deploy("convnextv2_atoo", "onnx", photos, [], tmp_path)
    assert "convnextv2_atto" in row["refused"][0]
