"""Which bundle each bundle of `edgekit benchmark` has to beat."""

from pathlib import Path

import numpy as np
import pytest

from edgekit.measure.gates import Call, Group, baselines_of, is_baseline, over_accurate, speedup_of
from edgekit.measure.latency import Times
from edgekit.report.row import LowPrecision
from edgekit.runtime.bundle import Bundle
from tests.helpers.measurements import accuracy, measurement
from tests.helpers.tiny import tiny_labels, tiny_manifest


def group(*names: str) -> Group:
    """Bundles with names such as "onnx-int8" or "onnx-int8-new"."""
    bundles = {}
    for name in names:
        target, precision, *_ = name.split("-")
        bundles[name] = Bundle(Path(name), tiny_manifest(target, precision=precision), tuple(tiny_labels()))
    return bundles


@pytest.mark.parametrize(
    ("names", "baselines"),
    [
        (["onnx-float", "onnx-int8"], {"onnx-float": (), "onnx-int8": ("onnx-float",)}),
        (["onnx-int8", "onnx-float"], {"onnx-float": (), "onnx-int8": ("onnx-float",)}),
        (["onnx-int8-old", "onnx-int8-new"], {"onnx-int8-old": (), "onnx-int8-new": ("onnx-int8-old",)}),
        (["onnx-float", "tflite-int8"], {"onnx-float": (), "tflite-int8": ()}),
        (
            ["onnx-float", "onnx-int8", "tflite-float", "tflite-float-new", "tflite-int8"],
            {"onnx-int8": ("onnx-float",), "tflite-float-new": (), "tflite-int8": ("tflite-float", "tflite-float-new")},
        ),
    ],
)
def test_int8_has_to_beat_the_floats_of_its_runtime(names: list[str], baselines: dict[str, tuple[str, ...]]) -> None:
    bundles = group(*names)
    assert {name: baselines_of(name, bundles) for name in baselines} == baselines
    beaten = {name for others in baselines.values() for name in others}
    assert {name for name in names if is_baseline(name, bundles)} == beaten


def timed(**milliseconds: float) -> dict[Call, Times]:
    """Times of calls in f32, or in the format after two underscores; an underscore stands for a hyphen."""
    times = {}
    for key, value in milliseconds.items():
        name, _, computed_in = key.partition("__")
        times[name.replace("_", "-"), computed_in or "f32"] = np.full(40, value)
    return times


def test_the_fastest_float_in_any_format_counts() -> None:
    bundles = group("onnx-float", "onnx-int8")
    over = speedup_of("onnx-int8", bundles, timed(onnx_float=8.0, onnx_int8=2.0, onnx_float__bf16=5.0))
    assert over is not None
    assert (over.ratio, over.baseline) == (2.5, "onnx-float in bf16")
    assert speedup_of("onnx-float", bundles, timed(onnx_float=8.0, onnx_int8=2.0)) is None


@pytest.mark.parametrize(("drop", "ratio", "baseline"), [(0.4, 2.5, "onnx-float in bf16"), (3.0, 4.0, "onnx-float")])
def test_a_float_that_loses_too_much_in_bf16_is_no_baseline(drop: float, ratio: float, baseline: str) -> None:
    bundles, times = group("onnx-float", "onnx-int8"), timed(onnx_float=8.0, onnx_int8=2.0, onnx_float__bf16=5.0)
    low = LowPrecision(computes_in="bf16", accuracy=accuracy(drop_top1_points=drop), p50_ms=5.0)
    in_f32 = speedup_of("onnx-int8", bundles, times, in_any_format=False)
    rows = [
        measurement(target="onnx", precision="float", bundle="onnx-float", low_precision=low),
        measurement(
            target="onnx",
            precision="int8",
            bundle="onnx-int8",
            speedup=speedup_of("onnx-int8", bundles, times),
            speedup_f32=in_f32,
        ),
    ]
    over = over_accurate(rows, max_drop=1)[1].speedup
    assert over is not None
    assert (over.ratio, over.baseline) == (ratio, baseline)


def test_without_its_float_there_is_no_speedup() -> None:
    assert speedup_of("onnx-int8", group("onnx-float", "onnx-int8"), timed(onnx_int8=2.0)) is None


def test_bundles_of_other_runtimes_are_compared_with_the_first() -> None:
    bundles = group("onnx-int8", "tflite-int8")
    over = speedup_of("tflite-int8", bundles, timed(onnx_int8=3.0, tflite_int8=2.0))
    assert over is not None
    assert (over.ratio, over.baseline) == (1.5, "onnx-int8")
