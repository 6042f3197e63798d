"""Built bundles become measurements in their order, and so do the errors of those that could not be built."""

import pytest

from edgekit.errors import CompileError, StageError
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import Here, MeasureSpec, measure
from edgekit.measure.settings import Timing
from edgekit.report.row import Failure
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from tests.helpers.measurements import FakeHost, device
from tests.helpers.tiny import MakeBundle

TIMING = Timing(threads=1, warmup=1, iterations=4)
QUIET = Reporter(quiet=True)
BENCHMARK = MeasureSpec(TIMING)


def test_one_measurement_for_each_bundle_in_their_order(group: dict[str, Bundle]) -> None:
    host = FakeHost()
    built: dict[str, Bundle | StageError] = {"tflite-int8": CompileError("refused the graph"), **group}
    not_made, *others = host.measure(built, BENCHMARK)
    assert not_made.failure == Failure("compile", "CompileError", "refused the graph")
    assert (not_made.target, not_made.precision, not_made.device) == ("tflite", "int8", device())
    assert (not_made.bundle, not_made.size_bytes) == (None, None)
    assert [each.bundle for each in others] == ["onnx-float", "onnx-int8"]
    assert host.groups == [["onnx-float", "onnx-int8"]], "a bundle that could not be made is not measured"


def test_the_name_of_a_target_may_contain_a_dash() -> None:
    (not_made,) = FakeHost().measure({"my-runtime-float": CompileError("x")}, BENCHMARK)
    assert (not_made.target, not_made.precision) == ("my-runtime", "float")


def test_runtimes_are_measured_one_after_the_other(group: dict[str, Bundle], make_bundle: MakeBundle) -> None:
    float_, int8 = group.items()
    other = read_bundle(make_bundle("openvino", "openvino-float"))
    built = dict([float_, ("openvino-float", other), int8])
    host = FakeHost()
    measured = host.measure(built, BENCHMARK)
    assert host.groups == [["onnx-float", "onnx-int8"], ["openvino-float"]]
    assert [each.bundle for each in measured] == ["onnx-float", "openvino-float", "onnx-int8"]


@pytest.mark.usefixtures("no_processes")
def test_this_machine_measures_and_resumes(
    group: dict[str, Bundle], tiny_images: EvaluationImages, run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, here = MeasureSpec(TIMING, tiny_images, run), Here(device(), QUIET)
    first = measure(here.connected, here.row_facts, group, spec, QUIET)
    assert [each.failure for each in first] == [None, None]
    assert all(each.accuracy is not None for each in first)
    monkeypatch.setattr(Here, "rows", None)
    again = measure(here.connected, here.row_facts, group, spec, QUIET)
    assert again == first, "every figure survives storage as JSON"
