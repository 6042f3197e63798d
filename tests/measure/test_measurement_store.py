"""Measurements of a group are stored, and resumed as long as their inputs are the same. Lost devices store none."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgekit.errors import UnreachableError
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import MeasureSpec
from edgekit.measure.settings import Timing
from edgekit.report.row import Failure
from edgekit.runtime.bundle import Bundle, FileEntry, read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from tests.helpers.measurements import FakeHost
from tests.helpers.tiny import MakeBundle

TIMING = Timing(threads=1, warmup=1, iterations=4)


@pytest.fixture
def spec(run: RunFolder, tiny_images: EvaluationImages) -> MeasureSpec:
    return MeasureSpec(TIMING, tiny_images, run)


def test_measurements_are_stored_until_the_run_is_complete(
    group: dict[str, Bundle], spec: MeasureSpec, run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    host = FakeHost()
    first = host.measure(group, spec, Reporter())
    assert host.measure(group, spec, Reporter()) == first
    assert len(host.groups) == 1
    assert "onnx: resumed the measurements of an interrupted run" in capfd.readouterr().err
    run.complete()
    host.measure(group, spec, Reporter())
    assert len(host.groups) == 2


def renamed(bundle: Bundle, labels: Sequence[str]) -> Bundle:
    """The bundle with other class names, which change the size of its model file."""
    entry = FileEntry(sha256="0" * 64, size_bytes=bundle.size_bytes + 5)
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, bundle.manifest.model_file: entry})
    return replace(bundle, labels=tuple(labels), manifest=manifest)


def test_other_class_names_keep_the_measurements_of_a_complete_run(
    group: dict[str, Bundle], spec: MeasureSpec, run: RunFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    others = {name: renamed(bundle, [f"a {label}" for label in bundle.labels]) for name, bundle in group.items()}
    host = FakeHost()
    first = host.measure(group, spec)
    for bundles in (others, group):
        run.complete()
        rows = host.measure(bundles, spec, Reporter())
        sizes = [bundle.size_bytes for bundle in bundles.values()]
        assert rows == [replace(row, size_bytes=size) for row, size in zip(first, sizes, strict=True)]
    assert len(host.groups) == 1
    assert "onnx: kept the measurements of an earlier run, which had other class names" in capfd.readouterr().err
    run.complete()
    host.measure(group, spec)
    assert len(host.groups) == 2, "the same names once more measure again"
    made_anew = {
        name: replace(bundle, manifest=replace(bundle.manifest, fingerprint="x")) for name, bundle in others.items()
    }
    host.measure(made_anew, spec)
    assert len(host.groups) == 3, "other content"


def test_other_class_names_measure_again_what_failed(
    group: dict[str, Bundle], spec: MeasureSpec, run: RunFolder
) -> None:
    others = {name: renamed(bundle, [f"a {label}" for label in bundle.labels]) for name, bundle in group.items()}
    FakeHost(Failure("benchmark", "EngineError", "broke")).measure(group, spec)
    run.complete()
    host = FakeHost()
    assert [row.failure for row in host.measure(others, spec)] == [None, None]
    assert len(host.groups) == 1


def test_the_failure_of_a_bundle_is_stored_too(group: dict[str, Bundle], spec: MeasureSpec) -> None:
    host = FakeHost(Failure("benchmark", "EngineError", "broke"))
    first = host.measure(group, spec)
    assert not any(row.lost_with_device for row in first)
    assert host.measure(group, spec) == first
    assert len(host.groups) == 1


def test_bundles_of_a_lost_device_are_measured_next_time(group: dict[str, Bundle], spec: MeasureSpec) -> None:
    lost = FakeHost(Failure.of("device", UnreachableError("board: no connection.")))
    assert all(row.lost_with_device for row in lost.measure(group, spec))
    again = FakeHost()
    assert not any(row.lost_with_device for row in again.measure(group, spec))
    assert again.groups == [list(group)]


@pytest.mark.parametrize(
    "stored",
    [[], {}, {"onnx-float": {}}, {"onnx-float": {"target": "onnx", "precision": "int8", "device": {"name": "local"}}}],
)
def test_a_stored_value_that_does_not_fit_is_measured_again(
    group: dict[str, Bundle], spec: MeasureSpec, run: RunFolder, stored: Any
) -> None:
    """An earlier version stored it, for example, or somebody edited the file."""
    host = FakeHost()
    run.remember("row-onnx", spec.inputs(group, host.row_facts, host.versions(group)), stored)
    host.measure(group, spec)
    assert host.groups == [list(group)]


def test_a_changed_bundle_is_measured_again(
    group: dict[str, Bundle], spec: MeasureSpec, make_bundle: MakeBundle
) -> None:
    host = FakeHost()
    host.measure(group, spec)
    other = read_bundle(make_bundle("onnx", "other", precision="int8", fingerprint="other"))
    host.measure({**group, "onnx-int8": other}, spec)
    host.measure({"onnx-int8": group["onnx-int8"]}, spec)
    assert len(host.groups) == 3


def test_each_device_has_its_own_stored_measurements(
    group: dict[str, Bundle], spec: MeasureSpec, capfd: pytest.CaptureFixture[str]
) -> None:
    here, there = FakeHost(), FakeHost(name="ssh://pi", address="ssh://user@host:22")
    elsewhere = FakeHost(name="ssh://pi", address="ssh://user@another")
    here.measure(group, spec)
    for _ in range(2):
        there.measure(group, spec, Reporter())
    here.measure(group, spec)
    assert (len(here.groups), len(there.groups)) == (1, 1)
    assert "ssh://pi: onnx: resumed " in capfd.readouterr().err
    elsewhere.measure(group, spec)
    assert len(elsewhere.groups) == 1, "the name is that of another board now"
