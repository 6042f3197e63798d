"""The images of a job: how many calibrate it, and which are left for the evaluation."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgekit.config.recipes import load_recipe
from edgekit.images.dataset import Datasets, open_dataset
from edgekit.models.options import ModelOptions
from edgekit.pipeline.job_images import choose_calibration, choose_evaluation
from edgekit.pipeline.options import Options
from edgekit.support.progress import Reporter

RECIPE = replace(load_recipe("default"), num_calibration_samples=128)


@pytest.fixture
def datasets(photos: Path) -> Datasets:
    dataset = open_dataset(photos, [f"class_{index}" for index in range(10)])
    return Datasets(dataset, dataset)


@pytest.mark.parametrize(("leave_half", "count"), [(True, 20), (False, 40)])
def test_fewer_images_than_the_recipe_wants_is_a_warning(
    datasets: Datasets, photos: Path, leave_half: bool, count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    options, reporter = Options(ModelOptions("x"), photos), Reporter(quiet=True)
    calibration = choose_calibration(datasets, RECIPE, options, reporter, leave_half=leave_half)
    assert len(calibration.samples) == count
    assert f"has only 40 images: calibrating on {count} of them" in capfd.readouterr().err


def test_all_other_images_are_for_the_evaluation(datasets: Datasets, photos: Path) -> None:
    options, reporter = Options(ModelOptions("x"), photos, num_calibration_samples=10), Reporter(quiet=True)
    calibration = choose_calibration(datasets, RECIPE, options, reporter)
    evaluation = choose_evaluation(datasets.evaluation, calibration, options, reporter)
    assert (len(calibration.samples), len(evaluation.samples)) == (10, 30)
    assert not {sample.name for sample in calibration.samples} & {sample.name for sample in evaluation.samples}
