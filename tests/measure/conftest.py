"""Bundles of the tiny network that the tests measure as a group, and turns that no stall shortens."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgekit.measure import latency
from edgekit.measure.fresh_process import Fresh
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.run_folder import RunFolder, open_run
from tests.helpers.measurements import without_fresh_processes
from tests.helpers.tiny import MakeBundle


@pytest.fixture
def group(make_bundle: MakeBundle) -> dict[str, Bundle]:
    """A float bundle, and one whose manifest claims to be int8."""
    names = {f"onnx-{precision}": precision for precision in ("float", "int8")}
    return {
        name: read_bundle(make_bundle("onnx", name, precision=precision, fingerprint=precision))
        for name, precision in names.items()
    }


@pytest.fixture
def openvino_group(make_bundle: MakeBundle) -> dict[str, Bundle]:
    """The same for OpenVINO, which computes float in bf16 where the processor has it."""
    return {
        name: read_bundle(make_bundle("openvino", name, precision=name[9:], fingerprint=name))
        for name in ("openvino-float", "openvino-int8")
    }


@pytest.fixture
def no_processes() -> Iterator[None]:
    with without_fresh_processes(Fresh(20.0, 3.0, 50_000_000)):
        yield


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with open_run(tmp_path / "run") as opened:
        yield opened


@pytest.fixture
def all_lead_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn has all of its untimed runs, even if the machine holds one of them up for longer than `Turns.lead_ms`."""
    monkeypatch.setattr(latency, "TURNS", latency.Turns(lead_ms=math.inf))
