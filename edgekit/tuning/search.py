"""`edgekit tune`: search, write the best recipe, and let images that the search never saw decide on it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from edgekit.compiler.rewrites import PASSES
from edgekit.config.recipes import Recipe, load_recipe
from edgekit.devices.registry import THIS
from edgekit.devices.web.pages import Pages, serving
from edgekit.errors import BundleError, StageError, UsageError
from edgekit.images.calibration_list import write_list
from edgekit.measure.settings import Gates
from edgekit.pipeline.deploy import assemble, bundles_and_rows, check_tools
from edgekit.pipeline.evaluation_images import crop_images
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.options import Options
from edgekit.pipeline.side_by_side import SingleProcessBuilder
from edgekit.pipeline.thumbnails import make_thumbnails
from edgekit.report import write_report
from edgekit.report.document import Report
from edgekit.report.recipe_search import SearchSummary, TargetSearch, draw_tuning
from edgekit.report.sensitivity_document import ImageSet
from edgekit.report.write import write_thumbnails
from edgekit.runtime.bundle import read_bundle
from edgekit.support.files import replace_text, writing
from edgekit.support.hashes import digest
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, open_run
from edgekit.tuning.analysis import check_max_drop
from edgekit.tuning.bench import TargetBench
from edgekit.tuning.options import Search
from edgekit.tuning.ranking import best, describe, summary
from edgekit.tuning.space import to_toml, with_choices
from edgekit.tuning.split_job import SplitJob, load_split_job
from edgekit.tuning.study import Searcher, Study, StudyStore, study_inputs

RECIPE, PICTURE = "recipe.toml", "tuning.svg"
Studies = Mapping[str, Study]
"""The study of each target."""


def tune(options: Options, search: Search, reporter: Reporter) -> Report:
    """Search, write OUTPUT/recipe.toml, build its bundles and judge them on held-out images. Returns the report.

    An interrupted search resumes after its last trial. Raises StageError if no trial completes.
    """
    check_search(options)
    check_tools(options)
    with serving(options.devices, reporter) as pages, open_run(options.folder) as run:
        ready = load_split_job(options, search, reporter)
        if options.devices[0] != THIS:
            reporter.warn(
                f"trials are timed on this machine, so the search doesn't judge their speed; {options.devices[0].name} "
                "times the result"
            )
        studies = run_studies(ready, options, search, run, reporter)
        check_completed(studies)
        recipe = write_recipe(run.path / RECIPE, ready, studies, trial_gates(options))
        return verdict(run, ready, recipe, options, studies, reporter, pages)


def check_search(options: Options) -> None:
    """Raise UsageError for options that make a search impossible."""
    check_max_drop(options)
    if options.model.weights == "random":
        raise UsageError("the weights are random, so there is no accuracy to preserve", fix="Use --weights FILE")


def trial_gates(options: Options) -> Gates:
    """The gates of trials. They run on this machine, whose speed says nothing about another device's: see `verdict`."""
    return options.gates if options.devices[0] == THIS else replace(options.gates, min_speedup=0)


def run_studies(ready: SplitJob, options: Options, search: Search, run: RunFolder, reporter: Reporter) -> Studies:
    """Run the study of each target, one after the other."""
    until = time.monotonic() + 60 * search.minutes if search.minutes else float("inf")
    spec, studies = ready.spec, {}
    with run.workspace("tune") as workspace:
        graphs = JobGraphs(spec, Reporter(quiet=True))
        evaluated = cache(
            lambda: crop_images(spec.network, ready.images, workspace, run, reporter)
        )  # only for trials that still have to run
        for target, end in shares(options.targets, until):
            bench = TargetBench(graphs, target, options.timing, run, workspace, ready.images, evaluated)
            inputs = study_inputs(spec, ready.images, target, options.timing)
            store = StudyStore(run, target, inputs, digest(spec.network.labels))
            searcher = Searcher(store, bench, trial_gates(options), reporter)
            studies[target] = searcher.search(spec.recipe, search.trials, end)
    return studies


def shares(
    targets: Sequence[str], until: float, now: Callable[[], float] = time.monotonic
) -> Iterator[tuple[str, float]]:
    """Yields each target with the end of its time. The targets still to come share what remains until `until`."""
    for index, target in enumerate(targets):
        start = now()
        yield target, start + max(0.0, until - start) / (len(targets) - index)


def check_completed(studies: Studies) -> None:
    """Raise StageError, with what failed, if a target has no completed trial."""
    for target, study in studies.items():
        if any(trial.state == "complete" for trial in study.trials):
            continue
        reasons = dict.fromkeys(trial.reason for trial in study.trials if trial.reason is not None)
        is_stopped = any(trial.state == "untried" for trial in study.trials)
        raise StageError(
            f"{target}: no trial was completed: {'; '.join(reasons)}",
            fix="Allow more time with --budget-minutes to try other recipes" if is_stopped else "",
        )


def write_recipe(path: Path, ready: SplitJob, studies: Studies, gates: Gates) -> Recipe:
    """Write the best choices of each target, which has a completed trial, as one recipe."""
    spec = ready.spec
    recipe, notes = spec.recipe, []
    for target, study in studies.items():
        winner = best(study.trials, gates)
        assert winner is not None
        recipe = with_choices(recipe, target, winner.choices, study.layers)
        notes.append(f"{target}: {describe(winner, gates)}")
    recipe = replace(
        recipe,
        name=f"{spec.recipe.name.removesuffix('-tuned')}-tuned",
        description=f"{spec.recipe.name} tuned for {spec.network.name}",
        architectures=(),
        num_calibration_samples=len(spec.calibration.samples),
    )
    origin = f"Written by `edgekit tune` after trials on {len(ready.images.evaluation.samples)} tuning images:"
    with writing(path):
        replace_text(path, to_toml(recipe, "\n".join([origin, *notes])))
    return load_recipe(path, PASSES)


def verdict(
    run: RunFolder,
    ready: SplitJob,
    recipe: Recipe,
    options: Options,
    studies: Studies,
    reporter: Reporter,
    pages: Pages | None = None,
) -> Report:
    """Build and evaluate the recipe as `deploy` does, on the held-out images. Returns the report."""
    spec, images = replace(ready.spec, recipe=recipe), replace(ready.images, evaluation=ready.held_out)
    write_list(run.path / "calibration.json", spec.calibration, spec.recipe, options.seed)
    rows, reference, finals = bundles_and_rows(SingleProcessBuilder(spec), images, options, run, reporter, pages=pages)
    gates = trial_gates(options)
    parts = [summary(target, study.trials, gates) for target, study in studies.items()]
    tuning = SearchSummary(
        recipe=RECIPE,
        max_drop_points=gates.max_drop,
        min_speedup=gates.min_speedup,
        images=ImageSet(len(ready.images.evaluation.samples), ready.images.evaluation.sha256),
        targets=tuple(replace(part, reproduced=reproduced(run.path, part)) for part in parts),
    )
    report = replace(assemble(spec, images, options, rows, reference, finals=finals), tuning=tuning)
    thumbnails = (
        make_thumbnails(report, images.dataset, spec.network.preprocessing, reporter) if options.thumbnails else {}
    )
    write_thumbnails(run.path, thumbnails)
    write_report(report, run.path)
    with writing(run.path / PICTURE):
        replace_text(run.path / PICTURE, draw_tuning(tuning, standalone=True)[0])
    run.complete()
    return report


def reproduced(folder: Path, part: TargetSearch) -> bool | None:
    """Whether the recipe gave the same model files as its trial; None without a bundle or a trial."""
    trial = part.taken
    try:
        files = read_bundle(folder / f"{part.target}-int8").manifest.files
    except BundleError:
        return None
    if trial is None or trial.files is None:
        return None
    return all(files[name]["sha256"] == sha256 for name, sha256 in trial.files.items())
