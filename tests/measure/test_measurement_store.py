"""Measurements of a group are stored, and resumed as long as their inputs are the same. Lost devices store none."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from edgekit.errors import UnreachableError
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import (
    BuiltBundles,
    Machine,
    MeasureGroup,
    MeasurementStore,
    lost_with_device,
    measure_built,
)
from edgekit.measure.settings import Timing
from edgekit.report.row import Failure, Measurement
from edgekit.runtime.bundle import Bundle, FileEntry, read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from tests.helpers.measurements import FakeMeasure, device
from tests.helpers.tiny import MakeBundle

TIMING = Timing(threads=1, warmup=1, iterations=4)
QUIET = Reporter(quiet=True)


@pytest.fixture
def store(run: RunFolder, tiny_images: EvaluationImages) -> MeasurementStore:
    return MeasurementStore(run, tiny_images, TIMING)


HERE = Machine(device(), {"onnxruntime": "1.0"})


def resumed(
    built: BuiltBundles,
    measure: MeasureGroup,
    store: MeasurementStore,
    machine: Machine = HERE,
    reporter: Reporter = QUIET,
) -> list[Measurement]:
    """Measure the bundles, or resume the measurements in the store."""
    return measure_built(built, machine.device, lambda group: store.resumed(group, machine, measure, reporter))


def test_measurements_are_stored_until_the_run_is_complete(
    group: dict[str, Bundle], store: MeasurementStore, capfd: pytest.CaptureFixture[str]
) -> None:
    measure = FakeMeasure()
    first = resumed(group, measure, store, reporter=Reporter())
    assert resumed(group, measure, store, reporter=Reporter()) == first
    assert len(measure.groups) == 1
    assert "onnx: resumed the measurements of an interrupted run" in capfd.readouterr().err
    store.run.complete()
    resumed(group, measure, store, reporter=Reporter())
    assert len(measure.groups) == 2


def renamed(bundle: Bundle, labels: Sequence[str]) -> Bundle:
    """The bundle with other class names, which change the size of its model file."""
    entry = FileEntry(sha256="0" * 64, size_bytes=bundle.size_bytes + 5)
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, bundle.manifest.model_file: entry})
    return replace(bundle, labels=tuple(labels), manifest=manifest)


def test_other_class_names_keep_the_measurements_of_a_complete_run(
    group: dict[str, Bundle], store: MeasurementStore, capfd: pytest.CaptureFixture[str]
) -> None:
    others = {name: renamed(bundle, [f"a {label}" for label in bundle.labels]) for name, bundle in group.items()}
    contents = {bundle.sha256: name for each in (group, others) for name, bundle in each.items()}
    store, measure = replace(store, contents=contents), FakeMeasure()
    first = resumed(group, measure, store)
    for bundles in (others, group):
        store.run.complete()
        rows = resumed(bundles, measure, store, reporter=Reporter())
        sizes = [bundle.size_bytes for bundle in bundles.values()]
        assert rows == [replace(row, size_bytes=size) for row, size in zip(first, sizes, strict=True)]
    assert len(measure.groups) == 1
    assert "onnx: kept the measurements of an earlier run, which had other class names" in capfd.readouterr().err
    store.run.complete()
    resumed(group, measure, store)
    assert len(measure.groups) == 2, "the same names once more measure again"
    resumed(others, measure, replace(store, contents={}))
    assert len(measure.groups) == 3, "other content"


def test_other_class_names_measure_again_what_failed(group: dict[str, Bundle], store: MeasurementStore) -> None:
    others = {name: renamed(bundle, [f"a {label}" for label in bundle.labels]) for name, bundle in group.items()}
    contents = {bundle.sha256: name for each in (group, others) for name, bundle in each.items()}
    store = replace(store, contents=contents)
    resumed(group, FakeMeasure(Failure("benchmark", "EngineError", "broke")), store)
    store.run.complete()
    measure = FakeMeasure()
    assert [row.failure for row in resumed(others, measure, store)] == [None, None]
    assert len(measure.groups) == 1


def test_the_failure_of_a_bundle_is_stored_too(group: dict[str, Bundle], store: MeasurementStore) -> None:
    measure = FakeMeasure(Failure("benchmark", "EngineError", "broke"))
    first = resumed(group, measure, store)
    assert not any(map(lost_with_device, first))
    assert resumed(group, measure, store) == first
    assert len(measure.groups) == 1


def test_bundles_of_a_lost_device_are_measured_next_time(group: dict[str, Bundle], store: MeasurementStore) -> None:
    lost = FakeMeasure(Failure.of("device", UnreachableError("board: no connection.")))
    assert all(map(lost_with_device, resumed(group, lost, store)))
    again = FakeMeasure()
    assert not any(map(lost_with_device, resumed(group, again, store)))
    assert again.groups == [list(group)]


@pytest.mark.parametrize(
    "stored",
    [[], {}, {"onnx-float": {}}, {"onnx-float": {"target": "onnx", "precision": "int8", "device": {"name": "local"}}}],
)
def test_a_stored_value_that_does_not_fit_is_measured_again(
    group: dict[str, Bundle], store: MeasurementStore, stored: Any
) -> None:
    """An earlier version stored it, for example, or somebody edited the file."""
    store.run.remember("row-onnx", store.inputs(group, HERE), stored)
    measure = FakeMeasure()
    resumed(group, measure, store)
    assert measure.groups == [list(group)]


def test_a_changed_bundle_is_measured_again(
    group: dict[str, Bundle], store: MeasurementStore, make_bundle: MakeBundle
) -> None:
    measure = FakeMeasure()
    resumed(group, measure, store)
    other = read_bundle(make_bundle("onnx", "other", precision="int8", fingerprint="other"))
    resumed({**group, "onnx-int8": other}, measure, store)
    resumed({"onnx-int8": group["onnx-int8"]}, measure, store)
    assert len(measure.groups) == 3


def test_each_device_has_its_own_stored_measurements(
    group: dict[str, Bundle], store: MeasurementStore, capfd: pytest.CaptureFixture[str]
) -> None:
    here, there, elsewhere = FakeMeasure(), FakeMeasure(), FakeMeasure()
    board = Machine(device("ssh://pi"), {"onnxruntime": "1.0"}, "ssh://user@host:22")
    resumed(group, here, store)
    for _ in range(2):
        resumed(group, there, store, board, Reporter())
    resumed(group, here, store)
    assert (len(here.groups), len(there.groups)) == (1, 1)
    assert "ssh://pi: onnx: resumed " in capfd.readouterr().err
    resumed(group, elsewhere, store, replace(board, address="ssh://user@another"))
    assert len(elsewhere.groups) == 1, "the name is that of another board now"
