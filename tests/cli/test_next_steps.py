"""The next commands: each parses, and has the options that the user typed."""

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.next_steps import (
    after_benchmark,
    after_evaluate,
    after_job,
    after_sensitivity,
    command_lines,
    lines_of,
)
from edgekit.cli.typed import Typed
from edgekit.measure.evaluation import EvaluatedBundle
from edgekit.models.options import ModelOptions
from edgekit.pipeline.options import Options
from edgekit.report.document import Recommendation, Report
from edgekit.report.measurement import Bound, Failure
from edgekit.report.next_steps import RUN, NextStep, steps_in_report
from edgekit.report.row import Gate, GateName, Row
from edgekit.support.run_folder import JOB as JOB_FILE
from tests.helpers.command_line import context_of
from tests.helpers.reports import accuracy, device, failed_row, report, row
from tests.helpers.searches import sensitivity

MODEL = ["hf_hub:somebody/a name with $pecial characters", "--weights", "my weights/best (1).pth"]
DATA = ["--data=photos/val", "--calibration-data", "photos/train", "--labels", "it's.txt", "--imgsz", "96"]
JOB = ["deploy", *MODEL, *DATA, "--runtime", "ort,litert", "--threads", "1", "-qo", "runs/my run", "--wide"]
FOLDER = Path("runs/my run")


def typed_of(words: Sequence[str]) -> Typed:
    return Typed.of(context_of(words))


def pasted(lines: Sequence[str]) -> list[str]:
    """The words that a shell makes of printed lines, without the name of the program."""
    script = "edgekit() { printf '%s\\0' \"$@\"; }\n" + "\n".join(lines)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.split("\0")[:-1]


def commands(steps: Sequence[NextStep], width: int = 80) -> list[list[str]]:
    """The commands as a shell reads them from the printed lines; each must parse."""
    words = [pasted(command_lines(step.command, width)) for step in steps if step.command]
    for command in words:
        context_of([word if word != "IMAGE" else "photo.jpg" for word in command])
    return words


def options(data: str = "photos/val") -> Options:
    return Options(model=ModelOptions(MODEL[0]), data=Path(data), calibration_data=Path("photos/train"))


def judged(name: GateName, verdict: Any, target: str = "onnx", **changes: Any) -> Row:
    """An int8 row with this outcome of one gate."""
    outcome = "fail" if verdict == "fail" else "inconclusive"
    gates = (Gate(name=name, verdict=verdict),)
    return row(target, "int8", verdict=outcome, reasons=("a reason",), gates=gates, **changes)


def with_rows(*rows: Row, bundle: str | None = None) -> Report:
    return report(results=rows, recommendation=Recommendation("local", bundle, "fastest"))


def after(typed: Sequence[str], whole: Report) -> list[list[str]]:
    return commands(list(after_job(whole, FOLDER, typed_of(typed), options())))


TYPED = ["--weights", "my weights/best (1).pth", *DATA]


def test_a_lost_accuracy_leads_to_sensitivity_and_tune() -> None:
    first, second = after(JOB, with_rows(judged("max-drop", "fail")))
    threads = ["--threads", "1"]
    ends = ["-q", "-o", "runs/my run", "--target", "onnx"]
    assert first == ["sensitivity", MODEL[0], *TYPED, *threads, *ends]
    tuned = ["-q", "--wide", "--target", "onnx", "--output", "runs/my run-tuned"]
    assert second == ["tune", MODEL[0], *TYPED, *threads, *tuned]


def test_calibration_images_unlike_the_others_come_first() -> None:
    whole = with_rows(judged("max-drop", "fail"))
    whole = replace(whole, calibration=replace(whole.calibration, unlike_evaluation=True))
    model = ["deploy", MODEL[0], "--data", "photos"]
    dusk = ["--calibration-data", "dusk", "--calibration-list", "dusk.json"]
    first, *others = after([*model, *dusk, "--threads", "1"], whole)
    assert first == [*model, "--threads", "1"], "on part of the images of --data"
    assert [words[0] for words in others] == ["sensitivity", "tune"]
    for steps in (after_job(whole, FOLDER, typed_of(model), options()), steps_in_report(whole)):
        assert "--calibration-data" in next(iter(steps)).purpose
    passed = with_rows(judged("max-drop", "pass"))
    passed = replace(passed, calibration=whole.calibration)
    assert after(model, passed) == [], "a small loss needs no other images"


def test_the_bounds_that_were_typed_go_along() -> None:
    bounds = ["--max-drop", "0.5", "--min-speedup=1.2", "--num-eval-samples", "500"]
    first, second = after([*JOB, *bounds], with_rows(judged("max-drop", "fail"), judged("max-drop", "fail", "tflite")))
    assert [word for word in first if word in bounds] == ["--max-drop", "0.5"]
    assert [word for word in second if word in bounds] == bounds
    assert all(words[words.index("--target") + 1] == "onnx,tflite" for words in (first, second))


def test_a_lost_speed_leads_to_inspect_and_tune() -> None:
    first, second = after(JOB, with_rows(judged("min-speedup", "fail")))
    assert first == ["inspect", "runs/my run/onnx-int8"]
    assert second[:2] == ["tune", MODEL[0]]


def test_the_demo_is_the_model_of_other_commands() -> None:
    typed = typed_of(["demo", "--max-drop", "0.1"])
    steps = list(after_job(with_rows(judged("max-drop", "fail")), Path("runs/demo"), typed, options()))
    first, second = commands(steps)
    assert first == ["sensitivity", "demo", "--max-drop", "0.1", "--target", "onnx"]
    assert second == [
        "tune", "demo", "--max-drop", "0.1", "--target", "onnx", "--output", "runs/demo-tuned",
    ]  # fmt: skip


def test_tune_does_not_lead_to_itself() -> None:
    (words,) = after(["tune", *JOB[1:], "--trials", "3"], with_rows(judged("max-drop", "fail")))
    assert words[0] == "sensitivity"


UNSURE = accuracy(0.4, (-0.5, 1.5), count=20, bound=Bound(max_drop_points=1.0, shown=False, images_needed=30))


@pytest.mark.parametrize(("needed", "asked"), [(30, 30), (500, 40)])
def test_too_few_images_lead_to_more(finished_run: Path, photos: Path, needed: int, asked: int) -> None:
    """The data set has 40 images, and calibration has its own."""
    typed = ["deploy", "net", f"--data={photos}", "--num-eval-samples", "20", "-o", str(finished_run)]
    bound = Bound(max_drop_points=1.0, shown=False, images_needed=needed)
    unsure = judged("max-drop", "inconclusive", accuracy=replace(UNSURE, bound=bound))
    whole = with_rows(unsure)
    whole = replace(whole, evaluation=replace(whole.evaluation, count=20, unreadable=()))
    steps = list(after_job(whole, finished_run, typed_of(typed), options(str(photos))))
    assert commands(steps) == [
        ["deploy", "net", f"--data={photos}", "-o", str(finished_run), "--num-eval-samples", str(asked)]
    ]
    assert ("all images" in steps[0].purpose) == (needed > 40)
    evaluate = typed_of(["evaluate", str(finished_run / "onnx-int8"), "--data", str(photos), "--num-eval-samples=20"])
    bundle = EvaluatedBundle(
        bundle=str(finished_run / "onnx-int8"), verdict="inconclusive", accuracy=unsure.accuracy, gates=unsure.gates
    )
    (words,) = commands(list(after_evaluate([bundle], 20, photos, evaluate)))
    assert words[-2:] == ["--num-eval-samples", str(asked)]


def test_without_more_images_there_is_no_command() -> None:
    unsure = judged("max-drop", "inconclusive", accuracy=UNSURE)
    (step,) = after_job(with_rows(unsure), FOLDER, typed_of(JOB), options())
    assert (step.command, step.purpose.startswith("Add labelled images")) == ((), True)
    hopeless = replace(UNSURE, bound=Bound(max_drop_points=0.0, shown=False, images_needed=None))
    (step,) = after_job(with_rows(judged("max-drop", "inconclusive", accuracy=hopeless)), FOLDER, typed_of(JOB))
    assert step.purpose.startswith("More images would not confirm")


def test_unsteady_timing_leads_to_another_benchmark() -> None:
    (words,) = after([*JOB, "--min-speedup", "1.1"], with_rows(judged("steady-timing", "inconclusive")))
    bundles = ["runs/my run/onnx-float", "runs/my run/onnx-int8"]
    assert words == ["benchmark", *bundles, "--threads", "1", "-q", "--wide", "--min-speedup", "1.1"]


def test_errors_lead_to_their_explanation_and_to_the_device() -> None:
    lost = failed_row("tflite", "int8", failure=Failure("device", "DeviceError", "no route"))
    bug = failed_row("openvino", "int8", failure=Failure("bug in edgekit", "KeyError", "val"))
    assert after(JOB, with_rows(failed_row(), lost, bug)) == [
        ["doctor", "local"],
        ["explain", "CompileError"],
    ]
    left = failed_row("tflite", "int8", failure=Failure("device", "BrowserError", "the browser left"))
    assert after(JOB, with_rows(left)) == [["explain", "BrowserError"]]


def test_the_bundle_to_ship_can_be_tried() -> None:
    assert after(JOB, with_rows(row(), bundle="openvino-int8")) == [["classify", "runs/my run/openvino-int8", "IMAGE"]]


def test_benchmark_sensitivity_and_evaluate_lead_on() -> None:
    slow = replace(judged("min-speedup", "fail"), bundle="a/onnx-int8")
    assert commands(list(after_benchmark([slow], typed_of(["benchmark", "a/onnx-int8"])))) == [
        ["inspect", "a/onnx-int8"]
    ]
    disturbed = judged("steady-timing", "inconclusive")
    typed = ["benchmark", "a/onnx-float", "a/onnx-int8", "--min-speedup", "1.1"]
    assert commands(list(after_benchmark([disturbed], typed_of(typed)))) == [typed]
    typed = ["sensitivity", "demo", "--num-eval-samples", "64", "--threads", "1"]
    assert commands(list(after_sensitivity(sensitivity(), Path("runs/demo"), typed_of(typed)))) == [
        ["tune", "demo", "--threads", "1", "--target", "onnx", "--output", "runs/demo-tuned"]
    ]


def test_a_run_that_keeps_its_job_stands_for_the_options(tmp_path: Path) -> None:
    run = tmp_path / "run"
    gates = (Gate(name="max-drop", verdict="fail"),)
    lossy = [
        EvaluatedBundle(bundle=str(run / f"{target}-int8"), verdict="fail", accuracy=accuracy(), gates=gates)
        for target in ("onnx", "tflite")
    ]
    typed = typed_of(["evaluate", str(run), "--data", "photos", "--max-drop", "0.5", "-q"])
    (step,) = after_evaluate(lossy, 20, Path("photos"), typed)
    assert (step.command, step.purpose.startswith("Deploy the model again")) == ((), True)
    (run / JOB_FILE).parent.mkdir(parents=True)
    (run / JOB_FILE).touch()
    end = [str(run), "--max-drop", "0.5", "--target", "onnx,tflite"]
    assert commands(list(after_evaluate(lossy, 20, Path("photos"), typed))) == [["sensitivity", *end], ["tune", *end]]
    shown = list(after_job(with_rows(judged("max-drop", "fail")), run, typed_of(["report", str(run)])))
    assert commands(shown) == [
        ["sensitivity", str(run), "--target", "onnx"],
        ["tune", str(run), "--target", "onnx", "--output", f"{run}-tuned"],
    ]


def test_a_report_leads_to_commands_on_its_run_folder() -> None:
    whole = with_rows(judged("max-drop", "fail"), judged("min-speedup", "fail", "tflite"))
    assert commands(steps_in_report(whole)) == [
        ["sensitivity", RUN, "--target", "onnx"],
        ["inspect", f"{RUN}/tflite-int8"],
        ["tune", RUN, "--target", "onnx,tflite", "--output", f"{RUN}-tuned"],
    ]
    tuned = steps_in_report(replace(whole, command=("tune", "demo")))
    assert "tune" not in [words[0] for words in commands(tuned)]


def test_an_emulated_device_leads_to_a_real_one() -> None:
    whole = with_rows(row(device=device("board", emulated=True)))
    (step,) = after(["deploy", "net", "--data", "photos", "--device", "board"], whole)
    assert step == ["deploy", "net", "--data", "photos", "--device", "NAME"]
    assert commands(steps_in_report(whole)) == [["deploy", RUN, "--device", "NAME"]]
    assert commands(steps_in_report(with_rows(*whole.results, bundle="openvino-int8")))[0][0] == "classify"


def test_a_reference_near_chance_comes_before_every_other_step() -> None:
    whole = with_rows(judged("max-drop", "fail"))
    (step,) = steps_in_report(replace(whole, reference=replace(whole.reference, near_chance=True)))
    assert step.command == ()


@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_and_can_be_pasted(width: int) -> None:
    steps = list(after_job(with_rows(judged("max-drop", "fail"), bundle="onnx-float"), FOLDER, typed_of(JOB)))
    lines = lines_of(steps, width)
    longest = max(len(shlex.quote(word)) for word in MODEL)
    assert max(map(len, lines)) <= max(width, longest + 8)
    assert lines[0].startswith("Next, try it on an image")
    assert len([line for line in lines if line.startswith("Or ")]) == 2
    assert commands(steps, width) == commands(steps, 1000)
    assert "\\" not in "".join(command_lines(steps[0].command, 1000))


def test_a_model_whose_name_looks_like_an_option() -> None:
    typed = typed_of(["deploy", "--data", "photos", "--", "-net"])
    assert typed.again("tune") == ("edgekit", "tune", "--data", "photos", "--", "-net")
    assert (typed.value("data"), typed.value("seed")) == ("photos", None)
    assert typed_of(["deploy", "net", "--data=a=b"]).value("data") == "a=b"
