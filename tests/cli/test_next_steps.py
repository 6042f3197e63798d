"""The next commands: each parses, and has the options that the user typed."""

import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.job import Job
from edgekit.job.saved import kept, steps_after
from edgekit.measure.evaluation import BundleEvaluation, EvaluatedBundle, EvaluatedImages
from edgekit.report.document import Recommendation, Report
from edgekit.report.page import NextStep, command_lines, step_lines
from edgekit.report.row import Bound, Failure, Gate, GateName, Row
from edgekit.report.sentences import RUN, steps_in_report
from edgekit.support.progress import explain
from edgekit.support.run_folder import JOB
from tests.helpers.command_line import context_of
from tests.helpers.reports import accuracy, benchmark, device, failed_row, report, row
from tests.helpers.sensitivities import sensitivity

MODEL = "hf_hub:somebody/a name with $pecial characters"
FOLDER = Path("runs/my run")


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


def judged(name: GateName, verdict: Any, target: str = "onnx", **changes: Any) -> Row:
    """An int8 row with this outcome of one gate."""
    outcome = "fail" if verdict == "fail" else "inconclusive"
    gates = (Gate(name=name, verdict=verdict),)
    return row(target, "int8", verdict=outcome, reasons=("a reason",), gates=gates, **changes)


def with_rows(*rows: Row, bundle: str | None = None) -> Report:
    return report(results=rows, recommendation=Recommendation("local", bundle, "fastest"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that keeps its job."""
    job = Job.of(MODEL, {"max_drop": 0.5})
    (tmp_path / JOB).parent.mkdir()
    (tmp_path / JOB).write_bytes(msgspec.json.encode(kept(job)))
    return tmp_path


def evaluated(*bundles: EvaluatedBundle) -> BundleEvaluation:
    """The document of bundles that were evaluated on 20 images."""
    images = EvaluatedImages(20, "ab" * 32, (), 0)
    return BundleEvaluation(accuracy_meaningful=True, evaluation=images, reference=None, results=bundles)


def after(whole: Report, folder: Path) -> list[list[str]]:
    return commands(list(steps_after(whole, folder)))


def test_a_lost_accuracy_leads_to_sensitivity(run: Path) -> None:
    whole = with_rows(judged("max-drop", "fail"))
    ends = [str(run), "--target", "onnx"]
    assert after(whole, run) == [["sensitivity", *ends]]
    assert after(whole, FOLDER) == [], "a folder without its job is no model"


def test_calibration_images_unlike_the_others_come_first(run: Path) -> None:
    whole = with_rows(judged("max-drop", "fail"))
    whole = replace(whole, calibration=replace(whole.calibration, unlike_evaluation=True))
    for steps in (steps_after(whole, run), steps_in_report(whole)):
        assert "--calibration-data" in next(iter(steps)).purpose
    passed = with_rows(judged("max-drop", "pass"))
    passed = replace(passed, calibration=whole.calibration)
    assert after(passed, run) == [], "a small loss needs no other images"


def test_a_lost_speed_leads_to_inspect(run: Path) -> None:
    assert after(with_rows(judged("min-speedup", "fail")), run) == [["inspect", f"{run}/onnx-int8"]]


UNSURE = accuracy(0.4, (-0.5, 1.5), count=20, bound=Bound(max_drop_points=1.0, shown=False, images_needed=30))


@pytest.mark.parametrize(("needed", "asked"), [(30, 30), (500, 40)])
def test_too_few_images_lead_to_more(finished_run: Path, photos: Path, tmp_path: Path, needed: int, asked: int) -> None:
    """The data set has 40 images, and calibration has its own."""
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    job = Job.of("net", {"data": photos, "calibration_data": photos, "num_eval_samples": 20})
    (run / JOB).write_bytes(msgspec.json.encode(kept(job)))
    bound = Bound(max_drop_points=1.0, shown=False, images_needed=needed)
    unsure = judged("max-drop", "inconclusive", accuracy=replace(UNSURE, bound=bound))
    whole = with_rows(unsure)
    whole = replace(whole, evaluation=replace(whole.evaluation, count=20, unreadable=()))
    steps = list(steps_after(whole, run))
    assert commands(steps) == [["deploy", str(run), "--num-eval-samples", str(asked)]]
    assert ("all images" in steps[0].purpose) == (needed > 40)
    bundle = EvaluatedBundle(
        bundle=str(finished_run / "onnx-int8"), verdict="inconclusive", accuracy=unsure.accuracy, gates=unsure.gates
    )
    (step,) = evaluated(bundle).steps(photos)
    assert (step.command, f"`--num-eval-samples {asked}`" in step.purpose) == ((), True)


def test_without_more_images_there_is_no_command() -> None:
    unsure = judged("max-drop", "inconclusive", accuracy=UNSURE)
    (step,) = steps_after(with_rows(unsure), FOLDER)
    assert (step.command, step.purpose.startswith("Add labelled images")) == ((), True)
    hopeless = replace(UNSURE, bound=Bound(max_drop_points=0.0, shown=False, images_needed=None))
    (step,) = steps_after(with_rows(judged("max-drop", "inconclusive", accuracy=hopeless)), FOLDER)
    assert step.purpose.startswith("More images would not confirm")


def test_unsteady_timing_leads_to_another_benchmark() -> None:
    (words,) = after(with_rows(judged("steady-timing", "inconclusive")), FOLDER)
    assert words == ["benchmark", "runs/my run/onnx-float", "runs/my run/onnx-int8"]


def test_errors_lead_to_their_cure_and_to_the_device() -> None:
    lost = failed_row("tflite", "int8", failure=Failure("device", "DeviceError", "no route"))
    bug = failed_row("openvino", "int8", failure=Failure("bug in edgekit", "KeyError", "val"))
    device, cure = steps_after(with_rows(failed_row(), lost, bug), FOLDER)
    assert device.command == ("edgekit", "doctor", "local")
    assert (cure.command, cure.purpose) == ((), f"CompileError: {explain('CompileError').cure}")
    left = failed_row("tflite", "int8", failure=Failure("device", "BrowserError", "the browser left"))
    (cure,) = steps_after(with_rows(left), FOLDER)
    assert cure.purpose.startswith("BrowserError: ")


def test_the_bundle_to_ship_can_be_tried() -> None:
    assert after(with_rows(row(), bundle="openvino-int8"), FOLDER) == [
        ["classify", "runs/my run/openvino-int8", "IMAGE"]
    ]


def test_benchmark_sensitivity_and_evaluate_lead_on(run: Path, tmp_path: Path) -> None:
    slow = replace(judged("min-speedup", "fail"), bundle="a/onnx-int8")
    assert commands(list(benchmark(slow).steps())) == [["inspect", "a/onnx-int8"]]
    (again,) = benchmark(judged("steady-timing", "inconclusive")).steps()
    assert (again.command, "again" in again.purpose) == ((), True)
    deploy = ["deploy", str(run)]
    assert commands(list(sensitivity().steps(run))) == [[*deploy, "--target", "onnx"]]
    stated = sensitivity(command=("sensitivity", "net", "--max-drop", "1"))
    assert commands(list(stated.steps(run))) == [[*deploy, "--max-drop", "1", "--target", "onnx"]]
    lossy = [
        EvaluatedBundle(
            bundle=str(folder / f"{target}-int8"),
            verdict="fail",
            accuracy=accuracy(),
            gates=(Gate(name="max-drop", verdict="fail"),),
        )
        for folder in (run, tmp_path / "other")
        for target in ("onnx", "tflite")
    ]
    (step,) = evaluated(*lossy[2:]).steps(Path("photos"))
    assert (step.command, step.purpose.startswith("Deploy the model again")) == ((), True)
    end = [str(run), "--max-drop", "0.5", "--target", "onnx,tflite"]
    steps = list(evaluated(*lossy[:2]).steps(Path("photos"), 0.5))
    assert commands(steps) == [["sensitivity", *end]]


def test_a_report_leads_to_commands_on_its_run_folder() -> None:
    whole = with_rows(judged("max-drop", "fail"), judged("min-speedup", "fail", "tflite"))
    assert commands(steps_in_report(whole)) == [
        ["sensitivity", RUN, "--target", "onnx"],
        ["inspect", f"{RUN}/tflite-int8"],
    ]


def test_an_emulated_device_leads_to_a_real_one() -> None:
    whole = with_rows(row(device=device("board", emulated=True)))
    assert commands(steps_in_report(whole)) == [["deploy", RUN, "--device", "NAME"]]
    assert commands(steps_in_report(with_rows(*whole.results, bundle="openvino-int8")))[0][0] == "classify"


def test_a_reference_near_chance_comes_before_every_other_step() -> None:
    whole = with_rows(judged("max-drop", "fail"))
    (step,) = steps_in_report(replace(whole, reference=replace(whole.reference, near_chance=True)))
    assert step.command == ()


@pytest.mark.parametrize("width", [40, 80])
def test_lines_fit_and_can_be_pasted(width: int, run: Path) -> None:
    steps = list(steps_after(with_rows(judged("max-drop", "fail"), bundle="onnx-float"), run))
    _, *lines = step_lines(steps, width)
    longest = len(shlex.quote(str(run)))
    assert max(map(len, lines)) <= max(width, longest + 40)
    assert lines[0].startswith("Next, try it on an image")
    assert len([line for line in lines if line.startswith("Or ")]) == 1
    assert commands(steps, width) == commands(steps, 1000)
    assert "\\" not in "".join(command_lines(steps[0].command, 1000))
