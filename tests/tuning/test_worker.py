"""How the targets share a worker's time."""

import pytest

from edgekit.tuning import worker


def test_targets_share_the_remaining_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("edgekit.tuning.worker.time.time", lambda: now[0])
    ends = worker.shares(("openvino", "onnx", "tflite"), 1300.0)
    assert next(ends) == ("openvino", 1100.0)
    now[0] = 1060.0  # the first target was done early, so the others have more time
    assert next(ends) == ("onnx", 1180.0)
    now[0] = 1310.0
    assert list(ends) == []


def test_without_a_budget_nothing_ends() -> None:
    assert list(worker.shares(("onnx",), float("inf"))) == [("onnx", float("inf"))]
