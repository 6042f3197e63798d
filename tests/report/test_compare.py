"""Two runs: what changed, what got worse beyond the noise, and the exit code that CI takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.report import write_report
from edgekit.report.compare import compare_runs
from tests.report.test_report import example

BEST = 1
"""Place of openvino-int8 in the example: a drop of 0.09 [-0.11, 0.29] points, 1.88x [1.86, 1.90]."""


def changed(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """The example with one row changed."""
    report = example()
    change(report["results"][BEST])
    return report


def accuracy(drop: float, low: float, high: float) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row["accuracy"].update(drop_top1_points=drop, drop_ci95_points=[low, high])


def speed(ratio: float, low: float, high: float, p50: float) -> Callable[[dict[str, Any]], Any]:
    def change(row: dict[str, Any]) -> None:
        row["speedup"].update(ratio=ratio, ci95=[low, high])
        row["latency_ms"]["p50"] = p50

    return change


def test_a_run_is_no_worse_than_itself() -> None:
    found = compare_runs(example(), example())
    assert (found["verdict"], found["regressions"], found["notes"]) == ("pass", [], [])
    assert [row["bundle"] for row in found["results"]] == [
        "openvino-float", "openvino-int8", "onnx-float", "onnx-int8", "tflite-float", "tflite-int8",
    ]  # fmt: skip
    drop = found["results"][BEST]["changes"]["drop_top1_points"]
    assert drop["difference"] == 0
    assert drop["ci95"] == pytest.approx([-(2**0.5) * 0.2, 2**0.5 * 0.2])


@pytest.mark.parametrize(
    ("change", "worse"),
    [
        (accuracy(0.2, 0.0, 0.4), None),
        (accuracy(0.5, 0.3, 0.7), "top-1 drops 0.41 points more (95 % interval 0.13 to 0.69)"),
        (accuracy(-2.0, -2.2, -1.8), None),
        (speed(1.87, 1.85, 1.89, 7.8), None),
        (speed(1.5, 1.48, 1.52, 9.6), "the speedup is 1.50x, it was 1.88x"),
        (speed(1.5, 1.48, 1.52, 7.6), None),
        (speed(2.5, 2.4, 2.6, 5.0), None),
        (lambda row: row.update(size_bytes=4_330_000), None),
        (lambda row: row.update(size_bytes=9_000_000), "its size grew from 4.31 to 9.00 MB"),
        (lambda row: row["int8"].update(share_of_macs=0.5), "50.0% of the MACs run in int8, where 95.7% did"),
        (lambda row: row.update(verdict="fail", reasons=["too slow"]), "its verdict was pass and is fail: too slow"),
    ],
)
def test_what_is_worse_and_what_is_noise(change: Callable[[dict[str, Any]], Any], worse: str | None) -> None:
    found = compare_runs(example(), changed(change))
    assert found["verdict"] == ("fail" if worse else "pass")
    if worse:
        (said,) = found["regressions"]
        assert said.startswith(f"openvino-int8 on local: {worse}")


def test_a_row_that_is_gone_is_worse_and_a_new_one_is_not() -> None:
    less = example()
    del less["results"][BEST]
    assert compare_runs(example(), less)["regressions"] == ["openvino-int8 on local: it is missing in the second run"]
    assert compare_runs(less, example())["verdict"] == "pass"


def test_a_row_that_failed_before_has_nothing_to_lose() -> None:
    assert compare_runs(example(), example())["results"][3]["changes"] == {}


def test_what_else_differs_is_noted() -> None:
    other = example()
    other["evaluation"]["sha256"], other["edgekit"] = "00" * 32, "9.9"
    for row in other["results"]:
        row["device"]["cpu"] = "Cortex-A76"
    notes = compare_runs(example(), other)["notes"]
    assert [note.split(":")[0] for note in notes] == [
        "another evaluation images", "another version of edgekit", "another processor",
    ]  # fmt: skip


def test_random_weights_have_no_accuracy_to_compare() -> None:
    other = changed(accuracy(50, 49, 51))
    other["model"] |= {"weights": "random", "accuracy_meaningful": False}
    found = compare_runs(example(), other)
    assert found["verdict"] == "pass"
    assert found["notes"] == ["accuracy is not compared: the weights of a run are random"]


def test_the_command_is_a_gate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_report(example(), tmp_path / "a")
    write_report(changed(accuracy(0.5, 0.3, 0.7)), tmp_path / "b")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "a")]) == 0
    assert capfd.readouterr().out.endswith("nothing got worse beyond the noise\n")
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 1
    out = capfd.readouterr().out
    assert "  drop: 0.09 points -> 0.50 points (difference 0.41, 95 % interval 0.13 to 0.69)\n" in out
    assert "worse: openvino-int8 on local: top-1 drops 0.41 points more" in out
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["verdict"] == "fail"


def test_a_folder_without_a_report(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "give a run folder that `edgekit deploy` wrote" in capfd.readouterr().err
