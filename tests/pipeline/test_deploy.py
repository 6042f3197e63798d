"""The whole job: the files that it writes, what it reuses, and how it handles failures."""

import base64
import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.cli.main import main
from edgekit.config.runtimes import Runtime
from edgekit.errors import EngineError
from edgekit.measure import bundles, latency
from edgekit.measure.bundles import summarize_profile
from edgekit.measure.fresh_process import Fresh
from edgekit.pipeline import deploy as pipeline
from edgekit.pipeline import reporting
from edgekit.report import load_report
from edgekit.report.document import Recommendation, Report, parse
from edgekit.report.figure import lookup
from edgekit.report.html import read_thumbnails, shown_images
from edgekit.report.row import Latency, Row
from edgekit.report.sentences import RANDOM
from edgekit.runtime.bundle import read_bundle
from edgekit.support import child_process
from edgekit.support.run_folder import LOCK, STATE
from tests.helpers import fake_runtime
from tests.helpers.interrupts import interrupting
from tests.helpers.tiny import VIT_ARGS

BUNDLES = {f"{target}-{precision}" for target in ("openvino", "onnx", "tflite") for precision in ("float", "int8")}
NOW = "2026-01-01T00:00:00Z"
WRITTEN = {"report.json", "report.html", "report.csv", "calibration.json", ".edgekit"}


@pytest.fixture
def fake() -> Iterator[None]:
    """Add the fake runtime, which needs no converter, to the table."""
    with fake_runtime.added():
        yield


@pytest.fixture(scope="module")
def fake_done(vit_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run for the fake runtime alone."""
    folder = tmp_path_factory.mktemp("fake_done") / "run"
    with fake_runtime.added():
        assert main(["deploy", *vit_arguments, "--target", "fake", "-o", str(folder), "--quiet", "--json"]) == 0
    return folder


@pytest.fixture
def again(fake: None, fake_done: Path, vit_arguments: list[str], tmp_path: Path) -> Callable[..., int]:
    """A function that deploys again, with more arguments, in a copy of the finished run at tmp_path/run."""
    shutil.copytree(fake_done, tmp_path / "run")

    def run(*more: str) -> int:
        return main(["deploy", *vit_arguments, "--target", "fake", "-o", str(tmp_path / "run"), *more])

    return run


def leftovers(folder: Path) -> list[str]:
    """Names of files that are neither bundles, nor reports, nor the run's own state."""
    expected = WRITTEN | BUNDLES | {"fake-float", "fake-int8"}
    visible = [path.name for path in folder.iterdir() if path.name not in expected]
    state = [path.name for path in (folder / STATE).iterdir() if path.suffix != ".json"]
    return visible + [name for name in state if name not in (LOCK, child_process.NAME)]


def reused_bundles(err: str) -> set[str]:
    return {line.partition(":")[0] for line in err.splitlines() if line.endswith("reused from an earlier run")}


def alike(one: Report, other: Report) -> bool:
    """Whether two reports agree on everything except times."""
    latency = one.results[0].latency_ms
    return timeless(one, latency) == timeless(other, latency)


def timeless(report: Report, latency: Latency | None) -> Report:
    """The report without its name and times, and without sizes: the fake runtime's depends on names in a zip."""
    timed: dict[str, Any] = dict.fromkeys(("end_to_end_ms", "speedup", "limit", "thermal", "peak_rss_bytes"))
    rows = tuple(replace(row, **timed, latency_ms=latency, size_bytes=0) for row in report.results)
    nothing = Recommendation(None, None, "")
    return replace(report, name=None, results=rows, created=NOW, command=(), recommendation=nothing)


def test_run_folder_and_report(finished_run: Path, photos: Path, tiny_weights: Path) -> None:
    assert {path.name for path in finished_run.iterdir()} == WRITTEN | BUNDLES
    assert leftovers(finished_run) == []
    report = load_report(finished_run)
    assert {row.bundle for row in report.results} == BUNDLES
    assert [row.verdict for row in report.results] == ["pass"] * 6
    assert report.command[:2] == ("deploy", "convnextv2_atto")
    assert report.model.name == "convnextv2_atto"
    assert report.model.weights == tiny_weights.name
    assert report.model.accuracy_meaningful is True
    assert report.model.input_shape == (1, 3, 32, 32)
    assert report.model.macs > 100_000
    assert (report.calibration.count, report.evaluation.count) == (10, 20)
    assert report.evaluation.overlap_with_calibration == 0
    assert report.recommendation.bundle in BUNDLES
    for row in report.results:
        assert row.bundle
        assert row.accuracy
        assert row.size_bytes == read_bundle(finished_run / row.bundle).size_bytes
        assert row.accuracy.versus == "reference"
        assert row.accuracy.count == 20
        if row.precision == "float":
            assert row.accuracy.agreement == 1.0
            assert row.speedup is None
        else:
            assert row.speedup
            assert row.speedup.versus == f"{row.target}-float"
            assert row.int8
            assert (row.int8.share_of_macs or 0) > 0.5
            assert row.int8.pairs_that_can_saturate == 0


def test_the_report_says_what_ran_and_counts_each_class(finished_run: Path) -> None:
    report = load_report(finished_run)
    assert report.name == "run"
    assert report.model.preprocessing is not None
    assert asdict(report.model.preprocessing) == asdict(read_bundle(finished_run / "onnx-int8").manifest.preprocessing)
    assert report.evaluation.classes is not None
    assert sum(each.images for each in report.evaluation.classes) == report.evaluation.count
    assert sum(report.reference.right_by_class or ()) == round(report.reference.value * report.evaluation.count)
    for row in report.results:
        assert row.accuracy
        assert sum(row.accuracy.right_by_class or ()) == round(row.accuracy.value * row.accuracy.count)
        package = Runtime.find(row.target).distributions[0]
        assert row.engine == f"{package} {version(package)}"


def test_the_page_has_thumbnails_of_exactly_the_flipped_images_that_it_names(finished_run: Path) -> None:
    shown = shown_images(load_report(finished_run))
    flipped = {name for name in shown if name.endswith(".png")}  # the others are names of classes
    thumbnails = read_thumbnails(finished_run)
    assert flipped
    assert thumbnails.keys() == flipped
    html = (finished_run / "report.html").read_text("utf-8")
    assert all(base64.b64encode(jpeg).decode() in html for jpeg in thumbnails.values())


def test_calibration_file(finished_run: Path, photos: Path) -> None:
    document = json.loads((finished_run / "calibration.json").read_text())
    report = load_report(finished_run)
    assert (document["seed"], document["sha256"]) == (0, report.calibration.sha256)
    assert document["recipe"]["name"] == "convnextv2"
    assert len(document["images"]) == 10
    assert {image["label"] for image in document["images"]} == set(range(10))
    assert all((photos / image["name"]).is_file() for image in document["images"])


def test_every_output_mentions_random_weights(again: Callable[..., int], tmp_path: Path, capfd: Any) -> None:
    assert again("--weights", "random", "--max-drop", "0") == 0, "a gate on a meaningless drop"
    report = load_report(tmp_path / "run")
    assert report.model.weights == "random"
    assert report.model.accuracy_meaningful is False
    out, err = capfd.readouterr()
    assert "warning: the weights are random" in err
    assert RANDOM in out
    assert RANDOM in (tmp_path / "run" / "report.html").read_text()
    assert empty_columns(tmp_path / "run") >= ACCURACY


def test_weights_from_a_file_have_an_accuracy(fake_done: Path) -> None:
    assert RANDOM not in (fake_done / "report.html").read_text()
    assert not ACCURACY & empty_columns(fake_done)


ACCURACY = {"top1_percent", "drop_top1_points", "agreement_percent"}


def empty_columns(folder: Path) -> set[str]:
    """Columns of a run's report.csv that no row fills."""
    with (folder / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name for name in rows[0] if not any(row[name] for row in rows)}


def test_the_same_command_reuses_the_bundles_and_measures_again(
    again: Callable[..., int], fake_done: Path, tmp_path: Path, capfd: Any
) -> None:
    assert again("--json") == 0
    out, err = capfd.readouterr()
    assert reused_bundles(err) == {"fake-float", "fake-int8"}
    report = parse(out, Report, "stdout")
    assert alike(report, load_report(fake_done))
    assert report.results[0].latency_ms != load_report(fake_done).results[0].latency_ms
    assert "evaluate torch" not in err, "torch's predictions are reused too"


@pytest.mark.parametrize(
    ("more", "reused", "evaluates_torch"),
    [
        (["--num-eval-samples", "15"], {"fake-float", "fake-int8"}, True),
        (["--iterations", "3", "--max-drop", "50"], {"fake-float", "fake-int8"}, False),
        (["--seed", "5"], {"fake-float"}, True),
        (["--num-calibration-samples", "9", "--num-eval-samples", "20"], {"fake-float"}, True),
        (["--mean", "0.4,0.4,0.4"], set(), True),
        (["--device-class", "raspberry-pi-5"], set(), False),
    ],
)
def test_other_options_reuse_the_bundles_that_they_do_not_affect(
    again: Callable[..., int], more: list[str], reused: set[str], evaluates_torch: bool, capfd: Any
) -> None:
    assert again(*more) == 0
    err = capfd.readouterr().err
    assert reused_bundles(err) == reused
    assert ("evaluate torch" in err) == evaluates_torch


@pytest.mark.parametrize("order", [1, -1], ids=["other names", "another order"])
def test_other_class_names_are_put_into_the_bundles(
    again: Callable[..., int], vit_arguments: list[str], photos: Path, tmp_path: Path, capfd: Any, order: int
) -> None:
    """Nothing is calibrated or compiled anew, and the bundles and figures are those of a new run with these names.

    In another order, the classes of the images change, but not the images to calibrate on.
    """
    names = [path.name.replace("_", " ") for path in sorted(photos.iterdir())][::order]
    (tmp_path / "names.txt").write_text("\n".join(names))
    labels = ["--labels", str(tmp_path / "names.txt")]
    status = 0 if order == 1 else 1  # most classes are wrong
    assert again(*labels) == status
    err = capfd.readouterr().err
    assert err.count("reused from an earlier run, with other class names") == 2
    assert not re.search("calibrate|rewrite|compile", err)
    assert bool(re.search("fake-int8: (evaluate|time)", err)) == (order == -1), "only figures that names change"
    assert leftovers(tmp_path / "run") == []
    assert main(["deploy", *vit_arguments, "--target", "fake", "-o", str(tmp_path / "new"), *labels]) == status
    for name in ("fake-float", "fake-int8"):
        renamed, new = (read_bundle(tmp_path / folder / name) for folder in ("run", "new"))
        assert renamed.labels == new.labels == tuple(names)
        model = new.manifest.model_file
        assert fake_runtime.embedded(renamed.model_path) == fake_runtime.embedded(new.model_path)
        files = {**new.manifest.files, model: renamed.manifest.files[model]}  # a zip that depends on its own name
        assert renamed.manifest == replace(new.manifest, files=files)
    assert alike(*(load_report(tmp_path / folder) for folder in ("run", "new")))


def test_other_arguments_of_the_constructor_are_another_model(again: Callable[..., int], capfd: Any) -> None:
    """The name, weights and number of parameters are the same: only the code differs."""
    assert again("--model-args", f"{VIT_ARGS},act_layer='relu'") == 0
    assert reused_bundles(capfd.readouterr().err) == set()


@pytest.mark.slow
def test_int8_weights_alone_are_smaller_and_computed_in_float(vit_arguments: list[str], tmp_path: Path) -> None:
    where = ["--target", "openvino", "--target", "onnx", "-o", str(tmp_path / "run")]
    assert main(["deploy", *vit_arguments, "--scheme", "w8", *where]) == 0
    rows = {(row.target, row.precision): row for row in load_report(tmp_path / "run").results}
    for target in ("openvino", "onnx"):
        row = rows[target, "int8"]
        assert (row.scheme or "").startswith("w8, int8 weights")
        assert lookup(row, "int8.share_of_macs") == 0
        assert lookup(row, "size_bytes") < lookup(rows[target, "float"], "size_bytes")
        assert lookup(row, "accuracy.agreement") > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--scheme", "w4"], "--scheme is 'w4'"),
        (["--scheme", "w8"], "LiteRT can't compile scheme w8"),
    ],
)
def test_a_scheme_that_does_not_fit(
    vit_arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["deploy", *vit_arguments, "-o", str(tmp_path / "run"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "report.json").exists()


def test_a_fine_tune_of_restricted_weights_says_so(job_arguments: list[str], capfd: Any) -> None:
    assert main(["deploy", *job_arguments, "--target", "onnx", "--dry-run"]) == 0
    note = "if 'tiny.safetensors' was fine-tuned from the published weights of convnextv2_atto.fcmae_ft_in1k, "
    assert note in capfd.readouterr().err


def test_one_precision_alone(again: Callable[..., int], tmp_path: Path) -> None:
    assert again("--precision", "int8") == 0
    (row,) = load_report(tmp_path / "run").results
    assert (row.precision, row.speedup) == ("int8", None)


def test_a_damaged_bundle_is_made_again(again: Callable[..., int], tmp_path: Path, capfd: Any) -> None:
    model = read_bundle(tmp_path / "run" / "fake-int8").model_path
    model.write_bytes(model.read_bytes()[:-1])
    assert again() == 0
    assert reused_bundles(capfd.readouterr().err) == {"fake-float"}
    read_bundle(tmp_path / "run" / "fake-int8")


def test_a_compiler_that_refuses_only_fails_its_row(
    again: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("unsupported operation")

    shutil.rmtree(tmp_path / "run" / "fake-int8")
    monkeypatch.setattr("torch.export.save", refuse)
    assert again("--json") == 1
    out, err = capfd.readouterr()
    assert "warning: fake-int8: Fake's compiler refused the graph: unsupported operation" in err
    assert "Traceback" not in err
    report, failed = failed_row(out, err, tmp_path / "run")
    assert failed.reasons == ("compile: Fake's compiler refused the graph: unsupported operation",)
    assert failed.failure is not None
    assert (failed.failure.stage, failed.failure.error) == ("compile", "CompileError")
    assert load_report(tmp_path / "run") == report


def test_a_bug_in_the_compiling_of_a_bundle_only_fails_its_row(
    again: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("val")

    shutil.rmtree(tmp_path / "run" / "fake-int8")
    monkeypatch.setattr(fake_runtime.Backend, "compile", mistaken)
    assert again("--json") == 1
    out, err = capfd.readouterr()
    assert err.count("Traceback") == 1
    assert "fake-int8: this is a bug in edgekit, not in your input. A report needs" in err
    log = (tmp_path / "run" / STATE / child_process.NAME).read_text()
    assert "== fake-int8: bug in edgekit\nTraceback (most recent call last):\n" in log
    _, bug = failed_row(out, err, tmp_path / "run")
    assert bug.failure is not None
    assert (bug.failure.stage, bug.failure.error) == ("bug in edgekit", "KeyError")
    (reason,) = bug.reasons
    assert re.fullmatch(r"bug in edgekit: KeyError: 'val' \(edgekit/\w+/\w+\.py:\d+\)", reason)


def failed_row(out: str, err: str, folder: Path) -> tuple[Report, Row]:
    """The printed report and the row of the INT8 bundle, which failed, while the float bundle was reused and passed."""
    assert reused_bundles(err) == {"fake-float"}
    report = parse(out, Report, "stdout")
    float_, int8 = report.results
    assert (float_.verdict, int8.verdict) == ("pass", "error")
    assert leftovers(folder) == []
    assert "not passed: fake-int8" in report.recommendation.why
    return report, int8


def test_a_bug_in_the_measuring_of_a_bundle_costs_its_row(
    again: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    real = summarize_profile

    def mistaken(session: Any, *arguments: Any) -> Any:
        if session.bundle.manifest.precision == "int8":
            raise IndexError("no such layer")
        return real(session, *arguments)

    monkeypatch.setattr(bundles, "summarize_profile", mistaken)
    assert again("--json") == 1
    out, err = capfd.readouterr()
    float_, int8 = parse(out, Report, "stdout").results
    assert (float_.verdict, int8.verdict) == ("pass", "error")
    assert int8.failure is not None
    assert (int8.failure.stage, int8.failure.error) == ("bug in edgekit", "IndexError")
    assert int8.failure.message.startswith("IndexError: no such layer (edgekit/measure/bundles.py:")
    assert "fake-int8: this is a bug in edgekit" in err
    assert "IndexError: no such layer" in (tmp_path / "run" / STATE / child_process.NAME).read_text()


def test_a_gate_that_fails(again: Callable[..., int], tmp_path: Path, capfd: Any) -> None:
    assert again("--min-speedup", "1000") == 1
    lines = capfd.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("fake-int8  ")] == ["fail"]
    assert any(line.startswith("Float: fake ") for line in lines)
    assert [line.partition(":")[0] for line in lines if " failed:" in line] == ["fake-int8 failed"]
    assert any(line.startswith("Or see which layers of fake-int8 run in float") for line in lines)
    float_, int8 = load_report(tmp_path / "run").results
    assert (float_.verdict, int8.verdict) == ("pass", "fail")
    assert "more than 1000 is required" in int8.reasons[0]
    assert read_bundle(tmp_path / "run" / "fake-int8")


def test_twenty_images_are_too_few_to_confirm_a_gate(again: Callable[..., int], tmp_path: Path, capfd: Any) -> None:
    assert again("--max-drop", "10") == 1
    out = " ".join(capfd.readouterr().out.split())
    assert re.search(
        r"fake-int8 is inconclusive\. Not confirmed: the loss may be up to [\d.]+ points\. "
        r"About [\d,]+ images would settle 10 points; this run had 20\.",
        out,
    )
    assert re.search(r"(Next,|Or) evaluate on (more|all) images.*: edgekit deploy .* --num-eval-samples \d+", out)
    int8 = load_report(tmp_path / "run").results[1]
    assert (int8.verdict, lookup(int8, "accuracy.bound.shown")) == ("inconclusive", False)
    assert 'class="inconclusive"' in (tmp_path / "run" / "report.html").read_text()


def test_outputs_that_are_not_finite_fail_the_row(
    again: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    shutil.rmtree(tmp_path / "run" / "fake-int8")
    opened = fake_runtime.Engine.open

    def broken(self: Any, model: Path, manifest: Any, threads: int | None) -> Any:
        infer = opened(self, model, manifest, threads)
        factor = np.float32("nan" if manifest.precision == "int8" else 1)
        return lambda x: infer(x) * factor

    monkeypatch.setattr(fake_runtime.Engine, "open", broken)
    assert again() == 1
    assert ": fake int8 returns NaN or infinity for a real image" in capfd.readouterr().err
    assert [row.verdict for row in load_report(tmp_path / "run").results] == ["pass", "error"]
    assert leftovers(tmp_path / "run") == []
    assert not (tmp_path / "run" / "fake-int8").exists()


def test_a_float_bundle_that_differs_from_torch_is_not_written(
    again: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    shutil.rmtree(tmp_path / "run" / "fake-float")
    run = fake_runtime.Engine.run
    monkeypatch.setattr(fake_runtime.Engine, "run", lambda self, x: run(self, x) + np.float32(0.1))
    assert again("--quiet") == 1
    assert "edgekit can't convert this model for Fake: fake float differs from torch by " in capfd.readouterr().err
    assert not (tmp_path / "run" / "fake-float").exists()


def test_unreadable_images_are_named_counted_and_replaced(
    again: Callable[..., int], photos: Path, tmp_path: Path, capfd: Any
) -> None:
    data = tmp_path / "data"
    shutil.copytree(photos, data)
    broken = [data / "class_3" / "0.png", data / "class_7" / "2.png"]
    for path in broken:
        path.write_bytes(path.read_bytes()[:60])
    assert again("--data", str(data), "--num-eval-samples", "28") == 0  # all that are left
    err = capfd.readouterr().err
    report = load_report(tmp_path / "run")
    names = {image.name for part in (report.calibration, report.evaluation) for image in part.unreadable}
    assert names == {"class_3/0.png", "class_7/2.png"}
    for name in names:
        assert err.count(f"warning: skipped {name}: ") == 1
    assert (report.calibration.count, report.evaluation.count) == (10, 28)


def test_a_run_folder_reveals_no_local_folders(
    fake: None, photos: Path, vit_weights: Path, vit_arguments: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: Any,
) -> None:  # fmt: skip
    secret = tmp_path / "secret"
    data, folder, weights = (secret / name for name in ("data", "run", "best.safetensors"))
    shutil.copytree(photos, data)
    shutil.copy(vit_weights, weights)
    (data / "class_3" / "0.png").write_bytes(b"broken")

    def lost(path: Path, threads: int) -> Fresh:
        if "int8" in path.name:
            raise EngineError(f"'{path}' can't run in a separate process")
        return Fresh(1.0, 1.0, 1_000_000)

    monkeypatch.setattr(bundles, "measure_fresh", lost)
    options = ["--weights", str(weights), f"--data={data}", "--num-eval-samples", "29", "-o", str(folder)]
    assert main(["deploy", *vit_arguments, *options, "--target", "fake", "--json"]) == 1
    out, err = capfd.readouterr()
    assert f"'{folder}/fake-int8' can't run" in err, "the user sees whole paths"
    assert "'fake-int8' can't run" in out
    assert main(["report", str(folder), "--card", str(folder / "README.md")]) == 0
    for path in folder.rglob("*"):
        if path.is_file() and path.parent.name != STATE:
            assert b"secret" not in path.read_bytes(), path


POINTS: list[tuple[Any, str, int]] = [
    (pipeline, "load_job", 0),
    (pipeline, "write_list", 0),
    (fake_runtime.Backend, "compile", 0),
    (fake_runtime.Backend, "compile", 1),
    (latency, "alternate", 0),
]
"""Where Ctrl-C arrives, in the order of a run: (owner, function, number of calls that still succeed)."""


def test_interrupted_before_between_and_after_the_bundles_and_then_finished(
    fake: None, fake_done: Path, vit_arguments: list[str], tmp_path: Path, capfd: Any
) -> None:
    """In the same folder. The final result equals that of an undisturbed run."""
    command = ["deploy", *vit_arguments, "--target", "fake", "-o", str(tmp_path / "run")]
    made: list[str] = []
    numbers = []
    for owner, name, spared in POINTS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(owner, name, interrupting(getattr(owner, name), spared))
            assert main(command) == 130, name
        err = capfd.readouterr().err
        assert err.splitlines()[-1] == "Interrupted. Completed work was saved; run the same command again to resume."
        assert "Traceback" not in err
        if (tmp_path / "run").exists():
            assert leftovers(tmp_path / "run") == [], name
            bundles = sorted(read_bundle(folder).path.name for folder in (tmp_path / "run").glob("fake-*"))
            assert set(made) <= set(bundles), "finished bundles must remain"
            made = bundles
        numbers.append(len(made))
    assert numbers == [0, 0, 0, 1, 2]
    assert main(command) == 0
    assert reused_bundles(capfd.readouterr().err) == {"fake-float", "fake-int8"}
    assert alike(load_report(tmp_path / "run"), load_report(fake_done))
    assert leftovers(tmp_path / "run") == []


def test_an_interrupt_that_a_compiler_swallows(
    fake: None, vit_arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def swallow(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("Exception from src/bindings.cpp:1: KeyboardInterrupt") from None

    monkeypatch.setattr(fake_runtime.Backend, "compile", swallow)
    assert main(["deploy", *vit_arguments, "--target", "fake", "-o", str(tmp_path / "run")]) == 130
    assert "refused" not in capfd.readouterr().err


def test_measurements_survive_an_interrupt(
    again: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reporting, "write_report", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        assert again() == 130
    monkeypatch.setattr(latency, "alternate", None)  # not called again
    assert again() == 0
    assert "fake: resumed the measurements of an interrupted run" in capfd.readouterr().err
