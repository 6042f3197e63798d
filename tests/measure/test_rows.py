"""From bundles to measurements: bundles that could not be made, resumed runs, and lost devices."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import CompileError, StageError, UnreachableError
from edgekit.measure import rows
from edgekit.measure.baselines import Group
from edgekit.measure.measure_bundles import EvaluationImages
from edgekit.measure.rows import (
    Built,
    Machine,
    MeasureGroup,
    MeasurementStore,
    by_runtime,
    lost_with_device,
    measure_bundles,
    measure_here,
)
from edgekit.measure.settings import Timing
from edgekit.report.row import Failure, Measurement
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, open_run
from tests.helpers.measurements import conditions, device, failed, measurement, sample
from tests.helpers.tiny import MakeBundle

TIMING = Timing(threads=1, warmup=1, iterations=4)
QUIET = Reporter(quiet=True)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with open_run(tmp_path / "run") as opened:
        yield opened


@pytest.fixture
def store(run: RunFolder, tiny_images: EvaluationImages) -> MeasurementStore:
    return MeasurementStore(run, tiny_images, TIMING)


HERE = Machine(device(), {"onnxruntime": "1.0"})


def resumed(
    built: Built, measure: MeasureGroup, store: MeasurementStore, machine: Machine = HERE, reporter: Reporter = QUIET
) -> list[Measurement]:
    """Measure the bundles, or resume the measurements in the store."""
    return measure_bundles(built, machine.device, lambda group: store.resumed(group, machine, measure, reporter))


class Measure:
    """Fake measurement of a group that records its calls and returns one measurement per bundle."""

    def __init__(self, failure: Failure | None = None) -> None:
        self.groups: list[list[str]] = []
        self._failure = failure

    def __call__(self, group: Group) -> Mapping[str, Measurement]:
        self.groups.append(list(group))
        return {name: self._measured(name) for name in group}

    def _measured(self, name: str) -> Measurement:
        if self._failure:
            return replace(failed(), failure=self._failure)
        thermal = conditions(series=(sample(48.25), sample(None)), throttled=("throttled",))
        target, _, precision = name.rpartition("-")
        return measurement("int8" if precision == "int8" else "float", target, thermal=thermal)


def test_one_measurement_for_each_bundle_in_their_order(group: dict[str, Bundle]) -> None:
    measure = Measure()
    built: dict[str, Bundle | StageError] = {"tflite-int8": CompileError("refused the graph"), **group}
    not_made, *others = measure_bundles(built, device(), measure)
    assert not_made.failure == Failure("compile", "CompileError", "refused the graph")
    assert (not_made.target, not_made.precision, not_made.device) == ("tflite", "int8", device())
    assert (not_made.bundle, not_made.size_bytes) == (None, None)
    assert [each.bundle for each in others] == ["onnx-float", "onnx-int8"]
    assert measure.groups == [["onnx-float", "onnx-int8"]], "a bundle that could not be made is not measured"


def test_the_name_of_a_target_may_contain_a_dash() -> None:
    (not_made,) = measure_bundles({"my-runtime-float": CompileError("x")}, device(), Measure())
    assert (not_made.target, not_made.precision) == ("my-runtime", "float")


def test_runtimes_are_measured_one_after_the_other(group: dict[str, Bundle], make_bundle: MakeBundle) -> None:
    float_, int8 = group.items()
    other = read_bundle(make_bundle("openvino", "openvino-float"))
    built = dict([float_, ("openvino-float", other), int8])
    assert by_runtime(built) == {"onnx": group, "openvino": {"openvino-float": other}}
    measure = Measure()
    measured = measure_bundles(built, device(), measure)
    assert measure.groups == [["onnx-float", "onnx-int8"], ["openvino-float"]]
    assert [each.bundle for each in measured] == ["onnx-float", "openvino-float", "onnx-int8"]


def test_measurements_are_stored_until_the_run_is_complete(
    group: dict[str, Bundle], store: MeasurementStore, capfd: pytest.CaptureFixture[str]
) -> None:
    measure = Measure()
    first = resumed(group, measure, store, reporter=Reporter())
    assert resumed(group, measure, store, reporter=Reporter()) == first
    assert len(measure.groups) == 1
    assert "onnx: resumed the measurements of an interrupted run" in capfd.readouterr().err
    store.run.forget()
    resumed(group, measure, store, reporter=Reporter())
    assert len(measure.groups) == 2


def test_the_failure_of_a_bundle_is_stored_too(group: dict[str, Bundle], store: MeasurementStore) -> None:
    measure = Measure(Failure("benchmark", "EngineError", "broke"))
    first = resumed(group, measure, store)
    assert not any(map(lost_with_device, first))
    assert resumed(group, measure, store) == first
    assert len(measure.groups) == 1


def test_bundles_of_a_lost_device_are_measured_next_time(group: dict[str, Bundle], store: MeasurementStore) -> None:
    lost = Measure(Failure.of("device", UnreachableError("board: no connection.")))
    assert all(map(lost_with_device, resumed(group, lost, store)))
    again = Measure()
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
    measure = Measure()
    resumed(group, measure, store)
    assert measure.groups == [list(group)]


def test_a_changed_bundle_is_measured_again(
    group: dict[str, Bundle], store: MeasurementStore, make_bundle: MakeBundle
) -> None:
    measure = Measure()
    resumed(group, measure, store)
    other = read_bundle(make_bundle("onnx", "other", precision="int8", fingerprint="other"))
    resumed({**group, "onnx-int8": other}, measure, store)
    resumed({"onnx-int8": group["onnx-int8"]}, measure, store)
    assert len(measure.groups) == 3


def test_each_device_has_its_own_stored_measurements(
    group: dict[str, Bundle], store: MeasurementStore, capfd: pytest.CaptureFixture[str]
) -> None:
    here, there, elsewhere = Measure(), Measure(), Measure()
    board = Machine(device("ssh://pi"), {"onnxruntime": "1.0"}, "ssh://user@host:22")
    resumed(group, here, store)
    for _ in range(2):
        resumed(group, there, store, board, Reporter())
    resumed(group, here, store)
    assert (len(here.groups), len(there.groups)) == (1, 1)
    assert "ssh://pi: onnx: resumed " in capfd.readouterr().err
    resumed(group, elsewhere, store, replace(board, address="ssh://user@another"))
    assert len(elsewhere.groups) == 1, "the name is that of another board now"


@pytest.mark.usefixtures("no_processes")
def test_measure_here_measures_and_resumes(
    group: dict[str, Bundle], tiny_images: EvaluationImages, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = measure_here(group, device(), tiny_images, TIMING, run, QUIET)
    assert [each.failure for each in first] == [None, None]
    assert all(each.accuracy is not None for each in first)
    monkeypatch.setattr(rows, "measure_group", None)
    assert measure_here(group, device(), tiny_images, TIMING, run, QUIET) == first, (
        "every figure survives storage as JSON"
    )
