"""The images of a job: how many calibrate it, and which are left for the evaluation."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.config.recipes import Recipe
from edgekit.images.dataset import Dataset, Datasets
from edgekit.images.selection import select
from edgekit.pipeline.job_images import (
    Chosen,
    ImageChoice,
    choose_calibration,
    choose_evaluation,
    choose_images,
    datasets_of,
)
from edgekit.support.progress import Reporter
from tests.helpers.layouts import image_bytes, write_folder

RECIPE = replace(Recipe.load("default"), num_calibration_samples=128)


@pytest.fixture
def datasets(photos: Path) -> Datasets:
    dataset = Dataset.open(photos, [f"class_{index}" for index in range(10)])
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
    evaluation, _ = choose_evaluation(datasets, calibration, choice, reporter)
    assert (len(calibration.samples), len(evaluation.samples)) == (10, 30)
    assert not {sample.name for sample in calibration.samples} & {sample.name for sample in evaluation.samples}


def test_no_rare_class_is_used_up_by_the_calibration(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = {f"class_{index}": 60 if index else 12 for index in range(10)}
    names = [f"{name}/{index}.png" for name, size in sizes.items() for index in range(size)]
    folder = write_folder(tmp_path / "set", {name: image_bytes(seed) for seed, name in enumerate(names)})
    dataset = Dataset.open(folder, list(sizes))
    datasets = Datasets(dataset, dataset)
    choice, reporter = ImageChoice(folder), Reporter(quiet=True)
    calibration = choose_calibration(datasets, RECIPE, choice, reporter)
    counts = Counter(sample.class_name for sample in calibration.samples)
    assert (len(calibration.samples), counts["class_0"]) == (128, 6)
    evaluation, _ = choose_evaluation(datasets, calibration, choice, reporter)
    assert Counter(sample.class_name for sample in evaluation.samples)["class_0"] == 6
    assert capfd.readouterr().err == ""

    turns = select(dataset, 128, 0)
    choose_evaluation(datasets, turns, choice, reporter)
    assert "1 of the 10 classes" in capfd.readouterr().err


def test_the_images_of_splits(tmp_path: Path) -> None:
    names = [f"{split}/cat/{index}.png" for split in ("train", "val") for index in range(4)] + ["other/dog/1.png"]
    write_folder(tmp_path, {f"set/{name}": image_bytes(seed) for seed, name in enumerate(names[:-1])})
    write_folder(tmp_path, {names[-1]: image_bytes(9)})
    choice = ImageChoice(tmp_path / "set", num_calibration_samples=4)
    datasets = datasets_of(choice, ["cat", "dog"])
    calibration = choose_calibration(datasets, RECIPE, choice, Reporter(quiet=True))
    evaluation, _ = choose_evaluation(datasets, calibration, choice, Reporter(quiet=True))
    assert (calibration.source, evaluation.source) == (tmp_path / "set/train", tmp_path / "set/val")
    assert (len(calibration.samples), len(evaluation.samples)) == (4, 4), "all of each, though names are the same"

    other = datasets_of(replace(choice, calibration_data=tmp_path / "other"), ["cat", "dog"])
    assert other.calibration.path == tmp_path / "other"
    assert other.evaluation.path == tmp_path / "set/val"
    assert "evaluating on val" in str(other.origin)
    assert "calibrating" not in str(other.origin)

    both = datasets_of(replace(choice, calibration_data=tmp_path / "set"), ["cat", "dog"])
    assert both.calibration.path == tmp_path / "set/train"


@pytest.mark.parametrize(
    ("total", "chosen", "limit", "counts"),
    [
        (710, "layers", None, (467, 233)),
        (560, "layers", None, (550, 0)),
        (560, "thresholds", None, (367, 183)),
        (450, "thresholds", None, (440, 0)),
        (710, None, None, (700, 0)),
        (710, "layers", 100, (100, 500)),
        (710, "thresholds", 100, (100, 600)),
        (710, None, 100, (100, 0)),
    ],
)
def test_what_chooses_never_judges(
    total: int, chosen: Chosen | None, limit: int | None, counts: tuple[int, int], tmp_path: Path
) -> None:
    names = [f"{name}/{index}.png" for name in ("cat", "dog") for index in range(total // 2)]
    folder = write_folder(tmp_path / "set", {name: image_bytes(seed) for seed, name in enumerate(names)})
    choice = ImageChoice(folder, num_calibration_samples=10, num_eval_samples=limit, chosen=chosen)
    images = choose_images(datasets_of(choice, ["cat", "dog"]), RECIPE, choice, Reporter(quiet=True), evaluates=True)
    assert (len(images.evaluation.images), len(images.choosing.images)) == counts
    assert (images.repair.evaluation if images.repair else None) == (images.choosing if counts[1] else None)
    parts = [{*part.hashes} for part in (images.calibration, images.evaluation, images.choosing)]
    assert len(set.union(*parts)) == sum(map(len, parts)), "no image is in two of the parts"
    labels = Counter(sample.label for sample in images.choosing.samples)
    assert max(labels.values(), default=0) - min(labels.values(), default=0) <= 1


@pytest.mark.parametrize(("chosen", "counts"), [("layers", (460, 0)), ("thresholds", (307, 153))])
def test_the_split_for_evaluation_is_only_shared_for_thresholds(
    chosen: Chosen, counts: tuple[int, int], tmp_path: Path
) -> None:
    """Where the split train has enough other images to choose layers, which need no unseen labels."""
    names = [f"{split}/cat/{index}.png" for split, count in (("train", 310), ("val", 460)) for index in range(count)]
    folder = write_folder(tmp_path / "set", {name: image_bytes(seed) for seed, name in enumerate(names)})
    choice = ImageChoice(folder, num_calibration_samples=10, chosen=chosen)
    images = choose_images(datasets_of(choice, ["cat", "dog"]), RECIPE, choice, Reporter(quiet=True), evaluates=True)
    assert (len(images.evaluation.images), len(images.choosing.images)) == counts
    assert images.evaluation.source == images.choosing.source == folder / "val"
    assert images.repair
    assert images.repair.evaluation.source == folder / ("train" if chosen == "layers" else "val")
    assert len(images.repair.evaluation.images) == (300 if chosen == "layers" else 153)
    used = {*images.calibration.hashes, *images.evaluation.hashes}
    assert not used & {*images.repair.evaluation.hashes}
