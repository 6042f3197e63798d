"""The images of a job: how many calibrate it, and which are left for the evaluation."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.config.recipes import load_recipe
from edgekit.images.dataset import Datasets, open_dataset
from edgekit.images.selection import select
from edgekit.pipeline.job_images import ImageChoice, choose_calibration, choose_evaluation, datasets_of
from edgekit.support.progress import Reporter
from tests.helpers.layouts import image_bytes, write_folder

RECIPE = replace(load_recipe("default"), num_calibration_samples=128)


@pytest.fixture
def datasets(photos: Path) -> Datasets:
    dataset = open_dataset(photos, [f"class_{index}" for index in range(10)])
    return Datasets(dataset, dataset)


@pytest.mark.parametrize(("leave_half", "count"), [(True, 20), (False, 40)])
def test_fewer_images_than_the_recipe_wants_is_a_warning(
    datasets: Datasets, photos: Path, leave_half: bool, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    choice, reporter = ImageChoice(photos), Reporter(quiet=True)
    calibration = choose_calibration(datasets, RECIPE, choice, reporter, leave_half=leave_half)
    assert len(calibration.samples) == count
    assert f"has only 40 images: calibrating on {count} of them" in capfd.readouterr().err


def test_all_other_images_are_for_the_evaluation(datasets: Datasets, photos: Path) -> None:
    choice, reporter = ImageChoice(photos, num_calibration_samples=10), Reporter(quiet=True)
    calibration = choose_calibration(datasets, RECIPE, choice, reporter)
    evaluation = choose_evaluation(datasets.evaluation, calibration, choice, reporter)
    assert (len(calibration.samples), len(evaluation.samples)) == (10, 30)
    assert not {sample.name for sample in calibration.samples} & {sample.name for sample in evaluation.samples}


def test_no_rare_class_is_used_up_by_the_calibration(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = {f"class_{index}": 60 if index else 12 for index in range(10)}
    names = [f"{name}/{index}.png" for name, size in sizes.items() for index in range(size)]
    folder = write_folder(tmp_path / "set", {name: image_bytes(seed) for seed, name in enumerate(names)})
    dataset = open_dataset(folder, list(sizes))
    datasets = Datasets(dataset, dataset)
    choice, reporter = ImageChoice(folder), Reporter(quiet=True)
    calibration = choose_calibration(datasets, RECIPE, choice, reporter)
    counts = Counter(sample.class_name for sample in calibration.samples)
    assert (len(calibration.samples), counts["class_0"]) == (128, 6)
    evaluation = choose_evaluation(dataset, calibration, choice, reporter)
    assert Counter(sample.class_name for sample in evaluation.samples)["class_0"] == 6
    assert capfd.readouterr().err == ""

    turns = select(dataset, 128, 0)
    choose_evaluation(dataset, turns, choice, reporter)
    assert "1 of the 10 classes" in capfd.readouterr().err


def test_the_images_of_splits(tmp_path: Path) -> None:
    names = [f"{split}/cat/{index}.png" for split in ("train", "val") for index in range(4)] + ["other/dog/1.png"]
    write_folder(tmp_path, {f"set/{name}": image_bytes(seed) for seed, name in enumerate(names[:-1])})
    write_folder(tmp_path, {names[-1]: image_bytes(9)})
    choice = ImageChoice(tmp_path / "set", num_calibration_samples=4)
    datasets = datasets_of(choice, ["cat", "dog"])
    calibration = choose_calibration(datasets, RECIPE, choice, Reporter(quiet=True))
    evaluation = choose_evaluation(datasets.evaluation, calibration, choice, Reporter(quiet=True))
    assert (calibration.source, evaluation.source) == (tmp_path / "set/train", tmp_path / "set/val")
    assert (len(calibration.samples), len(evaluation.samples)) == (4, 4), "all of each, though names are the same"

    other = datasets_of(replace(choice, calibration_data=tmp_path / "other"), ["cat", "dog"])
    assert other.calibration.path == tmp_path / "other"
    assert other.evaluation.path == tmp_path / "set/val"
    assert "evaluating on val" in str(other.origin)
    assert "calibrating" not in str(other.origin)

    both = datasets_of(replace(choice, calibration_data=tmp_path / "set"), ["cat", "dog"])
    assert both.calibration.path == tmp_path / "set/train"
