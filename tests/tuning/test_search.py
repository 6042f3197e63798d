"""`edgekit tune`: workers, budgets, a recipe that gives the same files, and a verdict on other images."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.compiler.rewrites import PASSES
from edgekit.config.recipes import load_recipe
from edgekit.errors import StageError
from edgekit.images.dataset import open_dataset
from edgekit.images.selection import select, split
from edgekit.report import load_report
from edgekit.report.search_document import TrialSummary
from edgekit.runtime.bundle import read_bundle
from edgekit.tuning.search import check_completed
from edgekit.tuning.space import Choices
from edgekit.tuning.trial import Trial


@pytest.fixture(scope="module")
def arguments(job_arguments: list[str]) -> list[str]:
    """The small job, with separate images of each class for calibration, tuning and the verdict."""
    counts = ["--num-calibration-samples", "10", "--num-tuning-samples", "10", "--num-eval-samples", "20"]
    measuring = ["--warmup", "1", "--iterations", "3", "--min-speedup", "0", "--max-drop", "100"]
    return [*job_arguments[: job_arguments.index("--num-calibration-samples")], *counts, *measuring, "--target", "onnx"]


@pytest.fixture(scope="module")
def tuned(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search by two workers. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    assert main(["tune", *arguments, "--trials", "3", "--workers", "2", "-o", str(folder), "--quiet", "--json"]) == 0
    return folder


def trials_of(folder: Path) -> tuple[TrialSummary, ...]:
    """The trials of the search's only target."""
    search = load_report(folder).tuning
    assert search is not None
    (target,) = search.targets
    return target.trials


def test_report(tuned: Path, photos: Path) -> None:
    report = load_report(tuned)
    assert report.tuning is not None
    (search,) = report.tuning.targets
    assert [trial.state for trial in search.trials] == ["complete"] * 3
    assert search.best in [trial.number for trial in search.trials if trial.met]
    assert set(search.front) <= {0, 1, 2}
    assert search.reproduced is True
    assert report.tuning.images.count == 10
    assert report.evaluation.count == 20
    assert report.evaluation.overlap_with_calibration == 0
    page = (tuned / "report.html").read_text()
    assert "The search for this recipe" in page
    assert "3 recipes tried on 10 tuning images" in page
    assert (tuned / "tuning.svg").read_text().startswith("<?xml")
    assert not list((tuned / ".edgekit").glob("build-*"))


def test_the_verdict_is_of_images_that_the_search_never_saw(photos: Path) -> None:
    dataset = open_dataset(photos, [f"class_{index}" for index in range(10)])
    calibration = select(dataset, 10, 0)
    rest = select(dataset, None, 0, exclude=calibration)
    first, held_out = split(rest, 10)
    assert not set(first.hashes) & set(held_out.hashes)
    assert not set(first.hashes + held_out.hashes) & set(calibration.hashes)
    assert {sample.label for sample in first.samples} == set(range(10)), "every class has an image"
    twice = replace(rest, hashes=(*rest.hashes[:-1], rest.hashes[0]))
    assert len(split(twice, 10)[1].samples) == len(held_out.samples) - 1, (
        "an image that occurs twice is not in both parts"
    )
    assert split(rest, 10)[0].sha256 == select(dataset, 10, 0, exclude=calibration).sha256


def test_deploy_with_the_recipe_gives_the_same_files(
    tuned: Path, job_arguments: list[str], tmp_path: Path, capfd: Any
) -> None:
    recipe = load_recipe(tuned / "recipe.toml", PASSES)
    assert recipe.name == "convnextv2-tuned"
    assert recipe.num_calibration_samples == 10
    job = job_arguments[: job_arguments.index("--num-calibration-samples")]
    more = ["--recipe", str(tuned / "recipe.toml"), "--target", "onnx", "--num-eval-samples", "5", "--iterations", "1"]
    assert main(["deploy", *job, *more, "--min-speedup", "0", "--max-drop", "100", "-o", str(tmp_path / "run")]) == 0
    for name in ("onnx-float", "onnx-int8"):
        ours, theirs = read_bundle(tuned / name).manifest, read_bundle(tmp_path / "run" / name).manifest
        assert ours.fingerprint == theirs.fingerprint
        assert ours.files[ours.model_file] == theirs.files[theirs.model_file]


def test_a_completed_search_reuses_its_trials(tuned: Path, arguments: list[str], tmp_path: Path, capfd: Any) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tuned, folder)
    assert main(["tune", *arguments, "--trials", "3", "-o", str(folder)]) == 0
    out, err = capfd.readouterr()
    assert err.count("trial ") == 3, "they are reported again"
    assert "onnx-int8: reused from an earlier run" in err
    assert "3 recipes tried" in out
    assert [trial.number for trial in trials_of(folder)] == [0, 1, 2]


def trial(reason: str | None = None) -> Trial:
    choices = Choices("histogram", False, "none", 0)
    return Trial(0, choices, "waiting" if reason is None else "fail", None, reason, None)


@pytest.mark.parametrize(
    ("reason", "failures", "was_stopped", "problem", "fix"),
    [
        (None, [], True, "the time was up", "Allow more time with --budget-minutes"),
        (None, ["a bug in edgekit"], False, "a bug in edgekit", ""),
        ("NNCF failed", ["a worker died"], False, "NNCF failed; a worker died", ""),
        ("NNCF failed", [], True, "NNCF failed; the time was up", ""),
    ],
)
def test_a_search_without_a_result_says_what_failed(
    reason: str | None, failures: list[str], was_stopped: bool, problem: str, fix: str
) -> None:
    with pytest.raises(StageError) as caught:
        check_completed({"onnx": [trial(reason)]}, failures, was_stopped)
    assert caught.value.problem == f"onnx: no trial was completed: {problem}"
    assert caught.value.fix == fix


def test_the_error_of_a_worker_is_not_blamed_on_the_time(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = ["tests.helpers.odd:two_faced", "--imgsz", "16", *arguments[arguments.index("--data") :]]
    assert main(["tune", *job, "--trials", "1", "-o", str(tmp_path / "run")]) == 1
    err = capfd.readouterr().err
    assert "onnx: no trial was completed: edgekit can't convert 'tests.helpers.odd:two_faced' correctly" in err
    assert "--budget-minutes" not in err


def test_budgets(arguments: list[str], tmp_path: Path, capfd: Any) -> None:
    folder = str(tmp_path / "run")
    assert main(["tune", *arguments, "--trials", "1", "--budget-minutes", "0.01", "-o", folder]) == 1
    err = capfd.readouterr().err
    assert "0.01 minutes" in err
    assert "onnx: no trial was completed" in err
    assert "--budget-minutes" in err
    assert main(["tune", *arguments, "--trials", "1", "--budget-memory", "50", "-o", folder]) == 1
    err = capfd.readouterr().err
    assert "a worker died (exit status -9)" in err
    assert "no trial was completed: a worker used " in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_an_interrupted_search_is_resumed(arguments: list[str], tuned: Path, tmp_path: Path, capfd: Any) -> None:
    command = ["tune", *arguments, "--trials", "3", "-o", str(tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-m", "edgekit", *command], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    err = ""
    while "trial " not in err:
        line = process.stderr.readline()
        assert line, err
        err += line
    process.send_signal(signal.SIGINT)
    err += process.communicate(timeout=120)[1]
    assert process.returncode == 130, err
    assert "Completed work was saved" in err
    assert "Traceback" not in err
    assert main(command) == 0
    resumed, uninterrupted = (
        {
            (trial.estimator, trial.smooth_quant, trial.bias_correction, trial.agreement)
            for trial in trials_of(folder)
            if trial.state == "complete"
        }
        for folder in (tmp_path / "run", tuned)
    )
    assert len(uninterrupted) == 3
    assert resumed == uninterrupted


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--max-drop", "-1"], "--max-drop is '-1'"),
        (["--weights", "random"], "the weights are random"),
        (["--num-tuning-samples", "30"], "leave 0 for the verdict"),
        (["--num-tuning-samples", "0"], "--num-tuning-samples is '0'"),
        (["--storage", "postgresql://user@host/base"], "--storage is 'postgresql://user@host/base'"),
        (["--storage", "/no/such/folder/tune.db"], "/no/such/folder/tune.db"),
        (["--silence", "1"], "--silence"),
    ],
)
def test_bad_input(arguments: list[str], tmp_path: Path, capfd: Any, more: list[str], message: str) -> None:
    without = list(arguments)
    if "--num-tuning-samples" in more:
        place = without.index("--num-eval-samples")
        del without[place : place + 2]
    assert main(["tune", *without, "-o", str(tmp_path / "run"), *more]) == 2
    err = capfd.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_report_of_a_search_survives(tuned: Path, capfd: Any) -> None:
    assert main(["report", str(tuned), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["tuning"]["recipe"] == "recipe.toml"
