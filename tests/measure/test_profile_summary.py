"""A profile is summarized as the share that ran in integer kernels and the times; a missing one gives its reason."""

import pytest

from edgekit.errors import EngineError
from edgekit.measure import bundles
from edgekit.measure.bundles import MOST_RUNS, runs_for, summarize_profile, time_of
from edgekit.report.row import Int8, TimedKind, TimedLayer, TimeProfile
from edgekit.runtime.bundle import read_bundle
from edgekit.runtime.profile import RUNS, OpProfile, Profile
from edgekit.runtime.session import Session
from tests.helpers.tiny import MakeBundle


def test_int8_comes_from_the_runtime_and_not_from_the_manifest(make_bundle: MakeBundle) -> None:
    layers = [{"name": "conv", "op": "conv", "macs": 48600, "int8": True}]
    with Session(read_bundle(make_bundle("onnx", precision="int8", layers=layers)), 1) as session:
        int8, _ = summarize_profile(session)
    assert int8.share_of_macs == 0
    assert int8.float_layers is not None
    assert "conv" in int8.float_layers
    assert int8.method.startswith("ONNX Runtime")


def test_a_profile_has_every_kind_and_layer(make_bundle: MakeBundle) -> None:
    with Session(read_bundle(make_bundle("onnx")), 1) as session:
        _, times = summarize_profile(session)
    assert times.missing is None
    assert {layer.name for layer in times.layers} >= {"conv"}
    assert not any(layer.int8 for layer in times.layers)
    assert times.sum_ms == pytest.approx(sum(kind.ms for kind in times.kinds), abs=0.01)


def test_a_runtime_without_a_profile_gives_the_reason(make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise EngineError("no counters here")

    monkeypatch.setattr(bundles, "profile_session", refuse)
    with Session(read_bundle(make_bundle("onnx")), 1) as session:
        int8, times = summarize_profile(session)
    assert int8 == Int8(share_of_macs=None, method="unknown: no counters here", float_layers=None, simulated=None)
    assert times == TimeProfile(missing="no counters here")


def test_times_are_the_slowest_first() -> None:
    stem = OpProfile("stem", "sgemm", 10, False, 0.12344, around_ms=0.4)
    head = OpProfile("head", "igemm", 20, True, 0.5)
    fused = OpProfile("attention", "subgraph", 5, False, None)
    kinds = {"MatMul int8": 0.5, "Add": 0.25, "MatMul float": 0.12344}
    assert time_of(Profile("counters", (stem, fused, head), kinds, 0.25)) == TimeProfile(
        kinds=(TimedKind("MatMul int8", 0.5), TimedKind("Add", 0.25), TimedKind("MatMul float", 0.1234)),
        layers=(TimedLayer("stem", "sgemm", False, 0.1234, 0.4), TimedLayer("head", "igemm", True, 0.5)),
        sum_ms=0.8734,
        conversion_ns=0.25,
    )


def test_a_profile_without_times_gives_its_method_as_the_reason() -> None:
    inferred = Profile("inferred from the file", (OpProfile("stem", "CONV_2D", 10, False),), None)
    assert time_of(inferred) == TimeProfile(missing="inferred from the file")


def test_a_fast_bundle_is_profiled_for_longer_than_a_slow_one() -> None:
    assert [runs_for(first_ms) for first_ms in (0.01, 50.0, 60_000.0)] == [MOST_RUNS, 10, RUNS]
