"""The fastest bundles of several runtimes are timed in turns before one is recommended, and a tie is called a tie."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.config.runtimes import Precision
from edgekit.images.dataset import LabelledCrops
from edgekit.measure import recommendation as module
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.bundles import MeasureSpec
from edgekit.measure.gates import judge
from edgekit.measure.latency import Timed
from edgekit.measure.recommendation import Final, Finals, finalists, finals_of, recommend, time_finals
from edgekit.measure.settings import Gates, Timing
from edgekit.measure.tasks import SingleLabel
from edgekit.report.row import LowPrecision, Row
from edgekit.runtime.bundle import read_bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import open_run
from tests.helpers.measurements import accuracy, conditions, device, latency, measurement
from tests.helpers.tiny import MakeBundle


def row(target: str, p50: float, precision: Precision = "int8", **changes: Any) -> Row:
    figures = {"latency_ms": latency(p50), "accuracy": accuracy(), "bundle": f"{target}-{precision}", **changes}
    return judge(measurement(target=target, precision=precision, **figures), Gates(), random_weights=False)


def finals(**ends: tuple[float, float, float]) -> Finals:
    return Finals({f"{name}-int8": Final(5 * ratio, ratio, (low, high)) for name, (ratio, low, high) in ends.items()})


def names(rows: list[Row]) -> list[str]:
    return [each.name for each in finalists(rows)]


def test_finalists_are_the_fastest_of_each_runtime() -> None:
    onnx = [row("onnx", 7.0, "float"), row("onnx", 5.0)]
    assert names([*onnx, row("tflite", 5.9), row("openvino", 6.3)]) == ["onnx-int8", "tflite-int8"]
    assert names(onnx) == [], "one runtime's bundles were timed in turns"
    assert names([*onnx, row("tflite", 9.0)]) == [], "the other one is clearly slower"
    assert names([*onnx, row("tflite", 4.9, accuracy=accuracy(9))]) == [], "the other one failed"
    assert names([*onnx, row("tflite", 4.9, device=device(emulated=True))]) == []
    disturbed = row("tflite", 20.0, thermal=conditions(other_cpus=4.0))
    assert names([*onnx, disturbed]) == ["onnx-int8", "tflite-int8"], "unreliable timing excludes none"


def test_a_float_bundle_takes_part_in_its_best_format() -> None:
    low = LowPrecision(computes_in="bf16", accuracy=accuracy(0.1), p50_ms=4.0)
    float_ = row("openvino", 9.0, "float", low_precision=low)
    assert (float_.best_format, float_.best_ms) == ("bf16", 4.0)
    assert names([float_, row("onnx", 4.5)]) == ["openvino-float", "onnx-int8"]


def test_times_in_turns_decide_against_earlier_medians() -> None:
    advice = recommend([row("onnx", 5.0), row("tflite", 5.5)], finals(tflite=(1, 1, 1), onnx=(1.1, 1.05, 1.15)))
    assert advice.bundle == "tflite-int8"
    assert advice.why.startswith("fastest of the 2 that passed: p50 5.00 ms")


@pytest.mark.parametrize(
    ("onnx", "tflite", "shipped", "quality"),
    [
        ({"size_bytes": 9_000_000}, {"size_bytes": 4_000_000}, "tflite-int8", "smallest"),
        ({"size_bytes": 4_000_000}, {"size_bytes": 9_000_000}, "onnx-int8", "smallest"),
        ({"accuracy": accuracy(top1=0.8)}, {"accuracy": accuracy(top1=0.81)}, "tflite-int8", "smallest"),
        (
            {"size_bytes": 4_100_000, "accuracy": accuracy(top1=0.81)},
            {},
            "onnx-int8",
            "most accurate of the small ones",
        ),
    ],
)
def test_a_tie_is_called_a_tie(onnx: dict[str, Any], tflite: dict[str, Any], shipped: str, quality: str) -> None:
    rows = [row("onnx", 5.0, **onnx), row("tflite", 5.2, **tflite)]
    for times, how in (
        (finals(onnx=(1, 1, 1), tflite=(1.02, 0.99, 1.05)), "timed in turns"),
        (None, "not timed in turns"),
    ):
        advice = recommend(rows, times)
        (other,) = {"onnx-int8", "tflite-int8"} - {shipped}
        assert advice.bundle == shipped
        assert f"; {how}, it can't be told from {other} (p50 " in advice.why
        assert advice.why.endswith(f" in speed, and is the {quality}.")


def test_medians_that_were_not_timed_in_turns_tie_only_if_they_are_close() -> None:
    assert "can't be told" not in recommend([row("onnx", 5.0), row("tflite", 5.3)]).why
    same_runtime = recommend([row("onnx", 5.0), row("onnx", 5.1, "float", size_bytes=1)])
    assert same_runtime.bundle == "onnx-int8", "those were timed in turns"


def test_unreliable_timing_is_named() -> None:
    busy = row("onnx", 5.0, thermal=conditions(other_cpus=4.0))
    assert "; unreliable timing: other processes used 4.0 CPUs" in recommend([busy]).why
    advice = recommend([busy, row("tflite", 5.5)], finals(onnx=(1, 1, 1), tflite=(1.1, 1.05, 1.2)))
    assert (advice.bundle, "unreliable" in advice.why) == ("onnx-int8", False), "the final was reliable"


def test_the_final_of_times() -> None:
    random = np.random.default_rng(0)
    times = {name: p50 * random.lognormal(0, 0.02, 200) for name, p50 in (("a", 5.0), ("b", 5.01), ("c", 6.0))}
    result = finals_of(Timed(times, {}, conditions()), 1)
    assert [name for name, each in result.results.items() if each.ties] == ["a", "b"]
    assert result.results["c"].ratio == pytest.approx(1.2, abs=0.02)
    assert result.unreliable == ()
    busy = finals_of(Timed(times, {}, conditions(other_cpus=4.0)), 1)
    assert busy.unreliable[0].startswith("unreliable timing: other processes")
    few = finals_of(Timed({name: each[:5] for name, each in times.items()}, {}, conditions()), 1)
    assert all(each.ties for each in few.results.values()), "five rounds tell nothing apart"
    assert finals_of(Timed(), 1) == Finals({})


def test_the_final_runs_the_bundles_once_and_is_stored(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = read_bundle(make_bundle("onnx"))
    bundles = {"onnx-int8": bundle, "tflite-int8": bundle}
    task = SingleLabel()
    nothing = task.kept(np.zeros((0, 3), np.float32))
    images = EvaluationImages(
        task, LabelledCrops(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int64)), nothing, [], "key", []
    )
    rows = [row("onnx", 5.0), row("tflite", 5.2)]
    with open_run(tmp_path / "run") as run:
        spec = MeasureSpec(Timing(threads=1, warmup=1, iterations=4), images, run)
        first = time_finals(rows, bundles, spec, Reporter(quiet=True))
        assert first is not None
        assert first.results.keys() == bundles.keys()
        assert min(each.ratio for each in first.results.values()) == 1
        monkeypatch.setattr(module, "time_in_turns", None)  # not called again
        assert time_finals(rows, bundles, spec, Reporter(quiet=True)) == first
        assert time_finals(rows[:1], bundles, spec, Reporter(quiet=True)) is None
