"""`edgekit tune`: budgets, a recipe that gives the same files, and a verdict on other images."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main
from edgekit.compiler.rewrites import REWRITES
from edgekit.config.recipes import load_recipe
from edgekit.errors import StageError
from edgekit.images.dataset import open_dataset
from edgekit.images.selection import select, split
from edgekit.report import load_report
from edgekit.report.recipe_search import TargetSearch
from edgekit.runtime.bundle import read_bundle
from edgekit.tuning import search as searching
from edgekit.tuning.search import check_completed, shares
from edgekit.tuning.study import Candidate, Trial
from tests.helpers.measurements import without_fresh_processes

INCONCLUSIVE = 1
"""Exit code for a network that guesses, of which nothing is concluded."""


@pytest.fixture(scope="module")
def arguments(photos: Path) -> list[str]:
    """A job of a network that guesses, with other images of each class for calibration, tuning and the verdict."""
    model = ["tests.helpers.odd:paddle", "--imgsz", "16", "--data", str(photos), "--target", "onnx", "--threads", "1"]
    counts = ["--num-calibration-samples", "10", "--num-tuning-samples", "10", "--num-eval-samples", "20"]
    measuring = ["--warmup", "1", "--iterations", "3", "--min-speedup", "0", "--max-drop", "100"]
    return [*model, *counts, *measuring]


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    """Measure no memory in another process."""
    with without_fresh_processes():
        yield


@pytest.fixture(scope="module")
def interrupted(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search that was interrupted in its second trial. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    make_trial = searching.make_trial

    def interrupt(*arguments: Any) -> Any:
        if (folder / ".edgekit" / "study-onnx.json").read_text().count('"number"'):
            raise KeyboardInterrupt
        return make_trial(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "make_trial", interrupt)
        assert main(["tune", *arguments, "--trials", "2", "-o", str(folder), "--quiet"]) == 130
    return folder


@pytest.fixture(scope="module")
def tuned(interrupted: Path, arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search, which was interrupted once. Tests must not write into it."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(interrupted, folder)
    assert main(["tune", *arguments, "--trials", "2", "-o", str(folder), "--quiet"]) == INCONCLUSIVE
    return folder


def search_of(folder: Path) -> TargetSearch:
    """The search's only target."""
    tuning = load_report(folder).tuning
    assert tuning is not None
    (target,) = tuning.targets
    return target


def test_report(tuned: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = load_report(tuned)
    assert report.tuning is not None
    (target,) = report.tuning.targets
    assert len(target.complete) == 2
    assert {trial.state for trial in target.trials} == {"complete", "pruned"}, "the recipe itself meets the bounds"
    assert target.best in [trial.number for trial in target.trials if trial.met]
    assert set(target.front) <= {trial.number for trial in target.complete}
    assert target.reproduced is True
    assert report.tuning.images.count == 10
    assert report.evaluation.count == 20
    assert report.evaluation.overlap_with_calibration == 0
    page = (tuned / "report.html").read_text()
    assert "The search for this recipe" in page
    assert "2 recipes tried on 10 tuning images" in page
    assert (tuned / "tuning.svg").read_text().startswith("<?xml")
    assert not list((tuned / ".edgekit").glob("build-*"))
    assert main(["report", str(tuned), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["tuning"]["recipe"] == "recipe.toml"


def test_an_interrupted_search_is_resumed(
    interrupted: Path, tuned: Path, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first trial is the stored one, and a finished search repeats none."""
    stored = json.loads((interrupted / ".edgekit" / "study-onnx.json").read_text())
    (before,) = stored["value"]["trials"]
    first, *_ = search_of(tuned).trials
    assert (first.p50_ms, first.speedup) == (
        before["measured"]["latency_ms"]["p50"],
        before["measured"]["speedup"]["ratio"],
    )
    folder = tmp_path / "run"
    shutil.copytree(tuned, folder)
    capfd.readouterr()
    assert main(["tune", *arguments, "--trials", "2", "-o", str(folder)]) == INCONCLUSIVE
    out, err = capfd.readouterr()
    assert "onnx: 2 trials reused from an earlier run" in err
    assert "onnx-int8: reused from an earlier run" in err
    assert "2 recipes tried" in out
    assert search_of(folder) == search_of(tuned)


def test_corrected_names_of_classes_repeat_no_trial(
    tuned: Path, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The trials' files contain the old names, so nobody can tell whether the recipe gives them again."""
    folder, names = tmp_path / "run", tmp_path / "labels.txt"
    shutil.copytree(tuned, folder)
    names.write_text("".join(f"corrected {index}\n" for index in range(10)))
    assert main(["tune", *arguments, "--trials", "2", "--labels", str(names), "-o", str(folder)]) == INCONCLUSIVE
    assert "onnx: 2 trials reused from an earlier run" in capfd.readouterr().err
    assert read_bundle(folder / "onnx-int8").labels[0] == "corrected 0"
    before, after = search_of(tuned), search_of(folder)
    assert after.reproduced is None
    without_files = tuple(replace(trial, files=None) for trial in before.trials)
    assert replace(after, trials=()) == replace(before, reproduced=None, trials=())
    assert after.trials == without_files


def test_deploy_with_the_recipe_makes_the_same_bundles(
    tuned: Path, arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It reuses the search's bundles, because they depend on nothing else. That of the best trial has equal files."""
    recipe = load_recipe(tuned / "recipe.toml", REWRITES)
    assert recipe.name == "default-tuned"
    assert recipe.num_calibration_samples == 10
    folder = tmp_path / "run"
    shutil.copytree(tuned, folder)
    job = [*arguments]
    for option in ("--num-calibration-samples", "--num-tuning-samples"):
        place = job.index(option)
        del job[place : place + 2]
    assert main(["deploy", *job, "--recipe", str(tuned / "recipe.toml"), "-o", str(folder)]) == INCONCLUSIVE
    err = capfd.readouterr().err
    assert {"onnx-float: reused from an earlier run", "onnx-int8: reused from an earlier run"} <= set(err.splitlines())
    taken = search_of(tuned).taken
    assert taken is not None
    assert taken.files is not None
    files = read_bundle(folder / "onnx-int8").manifest.files
    assert {name: files[name]["sha256"] for name in taken.files} == taken.files


def test_the_verdict_is_of_images_that_the_search_never_saw(photos: Path) -> None:
    dataset = open_dataset(photos, [f"class_{index}" for index in range(10)])
    calibration = select(dataset, 10, 0)
    rest = select(dataset, None, 0, exclude=calibration)
    first, held_out = split(rest, 10)
    assert not set(first.hashes) & set(held_out.hashes)
    assert not set(first.hashes + held_out.hashes) & set(calibration.hashes)
    assert {sample.label for sample in first.samples} == set(range(10)), "every class has an image"
    twice = replace(rest, images=(*rest.images[:-1], rest.images[0]))
    assert len(split(twice, 10)[1].samples) == len(held_out.samples) - 1, (
        "an image that occurs twice is not in both parts"
    )
    assert split(rest, 10)[0].sha256 == select(dataset, 10, 0, exclude=calibration).sha256


@pytest.mark.parametrize(
    ("reasons", "is_stopped", "problem", "fix"),
    [
        (["NNCF failed"], False, "NNCF failed", ""),
        (["NNCF failed", "NNCF failed", "no memory"], False, "NNCF failed; no memory", ""),
        (["NNCF failed"], True, "NNCF failed", "--budget-minutes"),
    ],
)
def test_a_search_without_a_result_says_what_failed(
    reasons: list[str], is_stopped: bool, problem: str, fix: str
) -> None:
    trials = [Trial(number, Candidate(), "fail", error=reason) for number, reason in enumerate(reasons)]
    untried = [Trial(len(trials), Candidate(), "untried")] if is_stopped else []
    with pytest.raises(StageError) as caught:
        check_completed({"onnx": [*trials, *untried]})
    assert caught.value.problem == f"onnx: no trial was completed: {problem}"
    assert fix in caught.value.fix
    assert bool(caught.value.fix) is is_stopped


def test_a_network_that_edgekit_converts_wrongly_is_not_searched(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = ["tests.helpers.odd:two_faced", "--imgsz", "16", *arguments[arguments.index("--data") :]]
    assert main(["tune", *job, "--trials", "1", "-o", str(tmp_path / "run")]) == 1
    assert "edgekit can't convert 'tests.helpers.odd:two_faced' correctly" in capfd.readouterr().err


def test_targets_share_the_remaining_time() -> None:
    times = iter((1000.0, 1060.0, 1310.0))  # the first target is done early, so the others have more time
    ends = list(shares(("openvino", "onnx", "tflite"), 1300.0, lambda: next(times)))
    assert ends == [("openvino", 1100.0), ("onnx", 1180.0), ("tflite", 1310.0)]
    assert list(shares(("onnx",), float("inf"))) == [("onnx", float("inf"))]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--weights", "random"], "the weights are random"),
        (["--num-tuning-samples", "30"], "leave 0 for the verdict"),
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
