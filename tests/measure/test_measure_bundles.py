"""Bundles are measured through their sessions, with complete figures. A failure loses as little as possible."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgekit.config.runtimes import DeviceClass
from edgekit.errors import EngineError
from edgekit.images.preprocess import open_image
from edgekit.measure import accuracy, bundles, end_to_end, latency
from edgekit.measure.accuracy import EvaluationImages, predict
from edgekit.measure.settings import Timing
from edgekit.measure.task import Answers, Task
from edgekit.measure.tasks import TopClasses
from edgekit.report.figure import Throughput
from edgekit.report.row import Failure, Measurement, Speedup, Stage
from edgekit.runtime.bundle import Bundle, Golden, Manifest, read_bundle
from edgekit.runtime.openvino import engine as openvino
from edgekit.runtime.session import Session
from tests.helpers.failing_engine import MESSAGE, Phase, failing_engine
from tests.helpers.measurements import device, measured_here
from tests.helpers.measurements import latency as latency_of_row
from tests.helpers.reports import ENERGY, THROUGHPUT
from tests.helpers.tiny import MakeBundle

HALF_DB = 20 * np.log10(2)
"""Signal-to-noise ratio of logits that are half as large as the reference's."""
TIMING = Timing(threads=1, warmup=1, iterations=4)

pytestmark = pytest.mark.usefixtures("no_processes")


@pytest.fixture
def in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that OpenVINO chooses bf16. A processor without bf16 computes in f32 instead."""
    monkeypatch.setattr(openvino.Engine, "low_precision_float", lambda self: "bf16")


def measure_all(
    group: Mapping[str, Bundle], images: EvaluationImages | None, timing: Timing = TIMING
) -> dict[str, Measurement]:
    """Measure a group; the result must have the names and the order of its bundles."""
    measured = measured_here(group, timing, images)
    assert list(measured) == list(group)
    return measured


def assert_complete(measured: Measurement, count: int = 4) -> None:
    """Check that a measurement has every figure of a bundle that works."""
    assert measured.failure is None
    assert measured.latency_ms is not None
    latency = measured.latency_ms
    assert (latency.count, latency.threads, latency.load, latency.first) == (count, 1, 20.0, 3.0)
    assert 0 < latency.p50 <= latency.p99
    assert measured.end_to_end_ms is not None
    assert measured.end_to_end_ms.p50 > 0
    for stages in (measured.end_to_end_ms.images, measured.end_to_end_ms.photo, measured.end_to_end_ms.frame):
        assert stages is not None
        assert min(stages.decode, stages.resize, stages.normalize) > 0
    assert measured.accuracy is not None
    assert measured.accuracy.top1 == pytest.approx(5 / 6)
    assert (measured.accuracy.agreement, measured.accuracy.drop_top1_points) == (1.0, 0.0)
    assert measured.snr_db == pytest.approx(HALF_DB, abs=1e-3)
    assert measured.peak_rss_bytes == 50_000_000
    assert measured.limit is not None
    assert measured.thermal is not None
    assert measured.int8 is not None
    assert measured.profile is not None
    assert measured.profile.missing is None
    assert measured.accuracy.changes == ()


def assert_lost(measured: Measurement, stage: str, part: str) -> None:
    """Check the stage and message of a failure. A Measurement with a failure can't have figures."""
    assert measured.failure is not None
    assert (measured.failure.stage, measured.failure.error) == (stage, "EngineError")
    assert part in measured.failure.message


def test_measurements_of_a_group(group: dict[str, Bundle], tiny_images: EvaluationImages) -> None:
    measured = measure_all(group, tiny_images)
    float_, int8 = measured.values()
    for name, each in measured.items():
        assert_complete(each)
        bundle = group[name]
        assert (each.bundle, each.target, each.precision) == (name, "onnx", bundle.manifest.precision)
        assert (each.size_bytes, each.macs, each.scheme) == (bundle.size_bytes, 48600, "float32")
        assert each.device == device()
        assert (each.low_precision, each.sustain) == (None, None)
    assert float_.speedup is None
    assert int8.speedup is not None
    assert int8.speedup.baseline == "onnx-float"
    assert int8.speedup.ratio > 0
    assert int8.speedup.ci95 is None, "a few rounds have no interval"


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (bundles, "summarize_profile"),
        (bundles.Tracking, "_row"),
        (bundles, "partial"),
        (bundles, "speedup_of"),
        (bundles, "EnergyMeter"),
    ],
)
def test_a_bug_costs_its_row_and_is_blamed_on_nobody(
    group: dict[str, Bundle],
    tiny_images: EvaluationImages,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    owner: Any,
    name: str,
) -> None:
    """In the work for the second bundle; EnergyMeter is for all of them."""
    real, calls = getattr(owner, name), iter(range(9))
    of_second = 0 if name == "EnergyMeter" else 1

    def mistaken(*arguments: Any, **more: Any) -> Any:
        if next(calls) == of_second:
            raise KeyError("val")
        return real(*arguments, **more)

    def broken_call(*arguments: Any) -> Any:
        call = real(*arguments)
        nothing: dict[str, int] = {}
        return (lambda: nothing["val"]) if next(calls) == of_second else call

    monkeypatch.setattr(owner, name, broken_call if name == "partial" else mistaken)
    float_, int8 = measure_all(group, tiny_images).values()
    assert int8.failure is not None
    assert (int8.failure.stage, int8.failure.error) == ("bug in edgekit", "KeyError")
    assert int8.failure.message.startswith("KeyError: 'val'")
    assert (float_.failure is None) == (name != "EnergyMeter")
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "this is a bug in edgekit" in err


def test_changed_predictions_name_their_images(group: dict[str, Bundle], tiny_images: EvaluationImages) -> None:
    assert isinstance(tiny_images.reference, TopClasses)
    classes = tiny_images.reference.classes.copy()
    classes[2] = np.roll(classes[2], 1)
    names = [f"{index}.png" for index in range(len(classes))]
    images = replace(tiny_images, reference=replace(tiny_images.reference, classes=classes), names=names)
    for each in measure_all(group, images).values():
        assert each.accuracy is not None
        assert each.accuracy.changes is not None
        assert [example.image for change in each.accuracy.changes for example in change.examples] == ["2.png"]


def test_a_benchmark_has_no_images(group: dict[str, Bundle]) -> None:
    first, second = measure_all(group, None).values()
    for each in (first, second):
        assert (each.accuracy, each.snr_db, each.end_to_end_ms, each.low_precision) == (None, None, None, None)
        assert each.latency_ms is not None
        assert each.latency_ms.count == 4
    assert (first.speedup, first.int8) == (None, None)
    assert second.speedup is not None
    assert (second.speedup.versus, second.speedup.versus_precision) == ("onnx-float", "f32")
    assert second.int8 is not None
    assert first.profile is not None, "its times stand next to those of INT8"
    assert first.profile.kinds


def test_a_sustained_benchmark_has_a_time_series(group: dict[str, Bundle]) -> None:
    for each in measure_all(group, None, Timing(threads=1, warmup=1, sustain_s=0.05)).values():
        assert each.sustain is not None
        assert each.latency_ms is not None
        assert sum(point.count for point in each.sustain.series) == each.latency_ms.count


def test_energy_and_streams_of_each_bundle(group: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundles, "EnergyMeter", lambda reporter: SimpleNamespace(measure=lambda call: ENERGY))
    for each in measure_all(group, None, replace(TIMING, streams=2)).values():
        assert each.energy == ENERGY
        assert each.throughput is not None
        assert each.throughput.streams == 2


def test_a_frame_that_fails_loses_its_own_row(group: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, frames = Manifest.prepare, []

    def prepared(self: Manifest, image: Any) -> Any:
        if self is group["onnx-float"].manifest:
            raise EngineError("no memory for it")
        frames.append(image.shape)
        return prepare(self, image)

    monkeypatch.setattr(Manifest, "prepare", prepared)
    float_, int8 = measure_all(group, None, replace(TIMING, camera=(64, 48))).values()
    assert_lost(float_, "benchmark", "no memory for it")
    assert int8.camera is not None
    assert (int8.camera.width, int8.camera.height, {*frames}) == (64, 48, {(48, 64, 3)})


def test_a_stream_that_fails_loses_its_own_row(group: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    error = EngineError("no memory for it")

    def measure(bundle: Bundle, *_: object) -> Throughput:
        if bundle is group["onnx-float"]:
            raise error
        return THROUGHPUT

    monkeypatch.setattr(bundles, "measure_throughput", measure)
    float_, int8 = measure_all(group, None, replace(TIMING, streams=2)).values()
    assert_lost(float_, "benchmark", "no memory for it")
    assert (int8.failure, int8.throughput, int8.speedup) == (None, THROUGHPUT, None)


@pytest.mark.parametrize(("low_ms", "precision"), [(2.0, "bf16"), (9.0, "f32")])
def test_int8_is_compared_with_the_fastest_float(
    openvino_group: dict[str, Bundle],
    tiny_images: EvaluationImages,
    in_bf16: None,
    monkeypatch: pytest.MonkeyPatch,
    low_ms: float,
    precision: str,
) -> None:
    timed = []

    def alternate(calls: Any, *_: Any, enough: object = None) -> Any:
        timed.append(list(calls))
        fixed = {("openvino-float", "f32"): 4.0, ("openvino-float", "bf16"): low_ms}
        return {key: np.full(40, fixed.get(key, 1.0)) for key, call in calls.items() if call() is not None}

    for module in (latency, latency):
        monkeypatch.setattr(module, "alternate", alternate)
    float_, int8 = measure_all(openvino_group, tiny_images).values()
    assert timed[0] == [("openvino-float", "f32"), ("openvino-int8", "f32"), ("openvino-float", "bf16")]
    assert float_.latency_ms is not None
    assert float_.latency_ms.p50 == 4.0
    low = float_.low_precision
    assert low is not None
    assert (low.computes_in, low.p50_ms, low.verdict) == ("bf16", low_ms, None)
    assert low.accuracy is not None
    assert low.accuracy.count == 6
    assert int8.low_precision is None
    fastest = min(4.0, low_ms)
    assert int8.speedup == Speedup(
        versus="openvino-float", versus_precision=precision, ratio=fastest, ci95=(fastest, fastest)
    )


def test_each_session_is_opened_once_and_closed(
    openvino_group: dict[str, Bundle], tiny_images: EvaluationImages, in_bf16: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[Session] = []
    initialize = Session.__init__

    def note(self: Session, bundle: Bundle, threads: int | None = None) -> None:
        initialize(self, bundle, threads)
        sessions.append(self)

    monkeypatch.setattr(Session, "__init__", note)
    measure_all(openvino_group, tiny_images)
    computed = [each.bundle.manifest.session.get("inference_precision", "f32") for each in sessions]
    names = [each.bundle.path.name for each in sessions]
    assert sorted(zip(names, computed, strict=True)) == [
        ("openvino-float", "bf16"), ("openvino-float", "f32"), ("openvino-int8", "f32"),
    ]  # fmt: skip
    for session in sessions:
        with pytest.raises(EngineError):
            session(np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize("phase", ["model alone", "end to end"])
def test_int8_that_fails_during_timing_loses_its_own_row(
    group: dict[str, Bundle], tiny_images: EvaluationImages, capfd: pytest.CaptureFixture[str], phase: Phase
) -> None:
    with failing_engine("onnx", "onnx-int8", phase):
        float_, int8 = measure_all(group, tiny_images).values()
    assert_complete(float_)
    assert_lost(int8, "benchmark", MESSAGE)
    assert int8.bundle is None
    assert MESSAGE in capfd.readouterr().err


@pytest.mark.parametrize("phase", ["model alone", "end to end"])
def test_float_that_fails_during_timing_leaves_int8_without_a_speedup(
    group: dict[str, Bundle], tiny_images: EvaluationImages, phase: Phase
) -> None:
    with failing_engine("onnx", "onnx-float", phase):
        float_, int8 = measure_all(group, tiny_images).values()
    assert_lost(float_, "benchmark", MESSAGE)
    assert_complete(int8)
    assert int8.speedup is None, "a row that failed is no baseline"


def test_bf16_that_fails_during_timing_loses_only_that_figure(
    openvino_group: dict[str, Bundle], tiny_images: EvaluationImages, in_bf16: None, capfd: pytest.CaptureFixture[str]
) -> None:
    with failing_engine("openvino", "openvino-float", computed_in="bf16"):
        float_, int8 = measure_all(openvino_group, tiny_images).values()
    assert_complete(float_)
    assert float_.low_precision is None
    assert_complete(int8)
    assert int8.speedup is not None
    assert int8.speedup.baseline == "openvino-float"
    assert "warning: openvino-float in bf16: running " in capfd.readouterr().err


def test_float_that_fails_is_no_baseline_in_bf16_either(
    openvino_group: dict[str, Bundle], tiny_images: EvaluationImages, in_bf16: None
) -> None:
    with failing_engine("openvino", "openvino-float"):
        float_, int8 = measure_all(openvino_group, tiny_images).values()
    assert_lost(float_, "benchmark", MESSAGE)
    assert_complete(int8)
    assert int8.speedup is None


def test_bf16_that_cannot_be_evaluated_loses_only_that_figure(
    openvino_group: dict[str, Bundle],
    tiny_images: EvaluationImages,
    in_bf16: None,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    error = EngineError("the outputs for image 3 hold NaN")

    def fail(task: Task, run: Any, pictures: Any, names: Any) -> Answers:
        if isinstance(run, Session):  # not in f32, where the logits are watched for the signal-to-noise ratio
            assert run.bundle.manifest.session.get("inference_precision") == "bf16"
            raise error
        return predict(task, run, pictures, names)

    monkeypatch.setattr(bundles, "predict", fail)
    float_, int8 = measure_all(openvino_group, tiny_images).values()
    assert_complete(float_)
    assert_complete(int8)
    assert float_.low_precision is None
    assert f"openvino-float in bf16 or f16: {error}" in capfd.readouterr().err


def test_a_benchmark_compares_with_a_float_that_works(group: dict[str, Bundle], make_bundle: MakeBundle) -> None:
    group["third"] = read_bundle(make_bundle("onnx", "third"))
    with failing_engine("onnx", "onnx-float"):
        first, second, third = measure_all(group, None).values()
    assert_lost(first, "benchmark", MESSAGE)
    assert first.bundle == "onnx-float", "a benchmark names the bundle even if it fails"
    assert second.speedup is not None
    assert second.speedup.versus == "third"
    assert third.speedup is not None
    assert third.speedup.versus == "onnx-int8", "the first that works"


def test_all_bundles_may_fail(group: dict[str, Bundle], tiny_images: EvaluationImages) -> None:
    with ExitStack() as stack:
        for name in group:
            stack.enter_context(failing_engine("onnx", name))
        for each in measure_all(group, tiny_images).values():
            assert_lost(each, "benchmark", MESSAGE)


def test_float_that_cannot_be_loaded_leaves_int8_without_a_speedup(
    group: dict[str, Bundle], tiny_images: EvaluationImages, capfd: pytest.CaptureFixture[str]
) -> None:
    (group["onnx-float"].path / "model.onnx").write_bytes(b"no model")
    float_, int8 = measure_all(group, tiny_images).values()
    assert_lost(float_, "evaluate", "loading ")
    assert_complete(int8)
    assert int8.speedup is None
    assert "warning: onnx-float: loading " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "error", "stage"),
    [
        ("measure_fresh", EngineError("died"), "evaluate"),
        ("measure_fresh", EngineError("died"), "benchmark"),
        ("predict", EngineError("the outputs for image 3 hold NaN"), "evaluate"),
    ],
)
def test_every_failure_is_a_measurement(
    group: dict[str, Bundle],
    tiny_images: EvaluationImages,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: Exception,
    stage: Stage,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(accuracy if name == "predict" else bundles, name, fail)
    measured = measure_all(group, tiny_images if stage == "evaluate" else None)
    assert [each.failure for each in measured.values()] == [Failure.of(stage, error)] * 2


def test_golden_samples_that_differ_are_a_failure(
    make_bundle: MakeBundle, tiny_golden: Golden, tiny_images: EvaluationImages
) -> None:
    wrong = replace(tiny_golden, logits=tiny_golden.logits + 1)
    bundle = read_bundle(make_bundle("onnx", golden=wrong))
    (measured,) = measure_all({"onnx-float": bundle}, tiny_images).values()
    assert measured.failure is not None
    assert (measured.failure.stage, measured.failure.error) == ("evaluate", "GoldenError")
    assert "test vectors" in measured.failure.message


def test_macs_are_the_sum_of_all_layers(make_bundle: MakeBundle, tiny_images: EvaluationImages) -> None:
    layers = [
        {"name": name, "op": "linear", "macs": macs, "int8": int8}
        for name, macs, int8 in (("stem", 100, False), ("head", 300, True))
    ]
    bundle = read_bundle(make_bundle("onnx", precision="int8", layers=layers))
    (measured,) = measure_all({"onnx-int8": bundle}, tiny_images).values()
    assert measured.macs == 400


def test_end_to_end_cycles_through_the_files(make_bundle: MakeBundle, tiny_images: EvaluationImages) -> None:
    with Session(read_bundle(make_bundle("onnx")), 1) as session:
        call = end_to_end.from_files(session, tiny_images.files[:2])
        first, second, third = (call() for _ in range(3))
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert isinstance(third, np.ndarray)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, third)


def test_bundles_with_one_form_of_preprocessing_share_its_times(
    group: dict[str, Bundle], tiny_images: EvaluationImages
) -> None:
    one, other = (each.end_to_end_ms for each in measure_all(group, tiny_images).values())
    assert one is not None
    assert other is not None
    assert (one.images, one.photo, one.frame) == (other.images, other.photo, other.frame)


def test_no_photo_is_prepared_on_an_emulated_device(group: dict[str, Bundle], tiny_images: EvaluationImages) -> None:
    for each in measured_here(group, TIMING, tiny_images, emulated=True).values():
        assert each.end_to_end_ms is not None
        assert each.end_to_end_ms.images is not None
        assert (each.end_to_end_ms.photo, each.end_to_end_ms.frame) == (None, None)


@pytest.mark.parametrize("channels", [3, 1])
def test_a_photo_and_a_frame_are_made_of_an_image(channels: int) -> None:
    pixels = np.zeros((32, 48, channels), np.uint8)
    pixels[:, 24:] = 200
    frame = end_to_end.frame_of(pixels, (1920, 1080))
    assert (frame.shape, frame[540, 100, 0], frame[540, 1800, 0]) == ((1080, 1920, 3), 0, 200)
    photo = end_to_end.photo_of(pixels, (4000, 3000))
    assert 1e6 < len(photo) < 6e6, "as much as a camera's"
    decoded = np.asarray(open_image(photo))
    assert decoded.shape == (3000, 4000, 3)
    assert decoded[:, 3000:].mean() == pytest.approx(200, abs=1)


def test_the_bound_is_of_the_measured_device_and_not_of_the_bundle() -> None:
    here = device(device_class="x86-64-v4", cores=2)
    limit = latency_of_row(20.0, threads=8).rated(here, 10**9, "int8")
    bound = DeviceClass.load("x86-64-v4").nominal_ms(10**9, "int8", 2)
    assert limit is not None
    assert (limit.bound_ms, limit.fraction) == (bound, bound / 20)
    assert latency_of_row(20.0).rated(device(device_class=None), 10**9, "int8") is None
