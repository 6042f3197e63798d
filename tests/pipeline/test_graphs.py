"""The graphs of a job, which share what doesn't depend on the recipe."""

from dataclasses import replace
from pathlib import Path

from edgekit.models.options import ModelOptions
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job import load_job
from edgekit.pipeline.options import Options
from edgekit.support.progress import Reporter


class CountingReporter(Reporter):
    """Stores the titles of the stages."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.titles: list[str] = []

    def say(self, message: str) -> None:
        self.titles.append(message.partition(":")[0])


def test_graphs_with_other_recipes_share_the_export_and_the_images(photos: Path) -> None:
    model = ModelOptions("tests.helpers.odd:paddle", None, imgsz=16)
    job = load_job(Options(model, photos, targets=("onnx",), num_calibration_samples=4), Reporter(quiet=True))
    reporter = CountingReporter()
    graphs = JobGraphs(job, reporter)
    nearest = replace(job.recipe, weight_rounding="nearest")
    recipes = [replace(nearest, estimator="minmax"), replace(nearest, estimator="histogram")]
    first, second = (graphs.with_recipe(recipe) for recipe in recipes)
    assert [first.job.recipe, second.job.recipe] == recipes
    assert first.exported() is second.exported() is graphs.exported()
    for one in (first, second):
        one.graph_to_compile("onnx", "int8")
    assert [reporter.titles.count(title) for title in ("simplify", "check calibration images")] == [1, 1]
