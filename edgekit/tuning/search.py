"""`edgekit tune`: search, write the best recipe, and let images that the search never saw decide on it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

from edgekit.compiler.rewrites import REWRITES
from edgekit.config.recipes import Recipe, load_recipe
from edgekit.devices.registry import THIS
from edgekit.devices.web.pages import Pages, serving
from edgekit.errors import BundleError, DataError, EngineError, StageError, UsageError
from edgekit.images.calibration_list import write_list
from edgekit.images.selection import Selection, split
from edgekit.job import Job
from edgekit.measure import machine
from edgekit.measure.accuracy import EvaluationImages
from edgekit.measure.measure_bundles import measure_group
from edgekit.measure.measurement_store import MeasurementStore
from edgekit.measure.settings import Gates, Timing
from edgekit.pipeline.build import build_one
from edgekit.pipeline.builder import Builder
from edgekit.pipeline.compile import compile_stage
from edgekit.pipeline.deploy import check_tools
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.loading import load_job
from edgekit.pipeline.measuring import Bench, fingerprints, judge_all, reference_for
from edgekit.pipeline.reporting import assemble, write_run
from edgekit.pipeline.request import BuildSpec
from edgekit.pipeline.torch_reference import crop_images
from edgekit.report.document import Report
from edgekit.report.measurement import Measurement
from edgekit.report.recipe_search import SearchSummary, TargetSearch, draw_tuning
from edgekit.report.sensitivity_document import ImageSet
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.files import digest, replace_text, writing
from edgekit.support.libraries import import_needed, quiet
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, open_run
from edgekit.tuning.mixtures import order_layers
from edgekit.tuning.plan import SearchLoop, best, describe, summary
from edgekit.tuning.sensitivity import check_max_drop, profiled_costs
from edgekit.tuning.study import Candidate, StudyStore, Trial, study_inputs

RECIPE, PICTURE = "recipe.toml", "tuning.svg"
Searches = Mapping[str, Sequence[Trial]]
"""The trials of each target, also those that did not run."""


@dataclass(frozen=True)
class Search:
    """Extent of a search."""

    trials: int | None = None
    """Maximum number of recipes to try for each target; None for the whole plan."""
    minutes: float | None = None
    """Minutes after which no further trial starts; None for no limit."""
    num_tuning_samples: int | None = None
    """Number of images to search on; None for half of the images that calibration leaves."""


@dataclass(frozen=True)
class SplitJob:
    """The job of a search, and the images that it never sees."""

    spec: BuildSpec
    """What the bundles are built from."""
    images: JobImages
    """The images of the search, which evaluates on the tuning images."""
    held_out: Selection
    """Images for the verdict."""


def load_split_job(job: Job, search: Search, reporter: Reporter) -> SplitJob:
    """Load the network, then choose and split the images. DataError if one part would be empty."""
    tuning, held_out = search.num_tuning_samples, job.num_eval_samples
    for name, count in (("--num-tuning-samples", tuning), ("--num-eval-samples", held_out)):
        if count is not None and count < 1:
            raise UsageError(f"{name} is {count}", valid="a whole number from 1")
    both = tuning + held_out if tuning and held_out else None
    spec, images = load_job(replace(job, num_eval_samples=both), reporter)
    total = len(images.evaluation.samples)
    count = tuning or (total - held_out if held_out else total // 2)
    first, rest = split(images.evaluation, max(0, count))
    if held_out:
        rest, _ = split(rest, held_out)
    if not first.samples or not rest.samples or len(rest.samples) < (held_out or 0):
        raise DataError(
            f"'{job.data}' has {total} images besides those for calibration; {max(0, count)} of them for tuning "
            f"leave {len(rest.samples)} for the verdict",
            fix="Add images, or reduce --num-tuning-samples",
        )
    return SplitJob(spec, replace(images, evaluation=first), rest)


def tune(job: Job, search: Search, reporter: Reporter) -> Report:
    """Search, write OUTPUT/recipe.toml, build its bundles and judge them on held-out images. Returns the report.

    An interrupted search resumes after its last trial. Raises StageError if no trial completes.
    """
    check_search(job)
    check_tools(job.folder, job.targets, job.machines, job.timing)
    with serving(job.machines, reporter) as pages, open_run(job.folder) as run:
        ready = load_split_job(job, search, reporter)
        if job.machines[0] != THIS:
            reporter.warn(
                "trials are timed on this machine, so the search doesn't judge their speed; "
                f"{job.machines[0].name} times the result"
            )
        searches = run_searches(ready, job, search, run, reporter)
        check_completed(searches)
        recipe = write_recipe(run.path / RECIPE, ready, searches, trial_gates(job))
        return verdict(run, ready, recipe, job, searches, reporter, pages)


def check_search(job: Job) -> None:
    """Raise UsageError for a job that makes a search impossible."""
    check_max_drop(job)
    if job.model_options.weights == "random":
        raise UsageError("the weights are random, so there is no accuracy to preserve", fix="Use --weights FILE")


def trial_gates(job: Job) -> Gates:
    """The gates of trials, which judge the measured drop: `verdict` judges its interval on the held-out images.

    They run on this machine, whose speed says nothing about another device's.
    """
    min_speedup = job.gates.min_speedup if job.machines[0] == THIS else 0
    return replace(job.gates, must_show_drop=False, min_speedup=min_speedup)


def run_searches(ready: SplitJob, job: Job, search: Search, run: RunFolder, reporter: Reporter) -> Searches:
    """Search for each target, one after the other."""
    until = time.monotonic() + 60 * search.minutes if search.minutes else float("inf")
    spec, images, searches = ready.spec, ready.images, {}
    with run.workspace("tune") as workspace:
        graphs = JobGraphs(spec, Reporter(quiet=True))
        # Only for trials that still have to run.
        evaluated = cache(partial(crop_images, spec.network, spec.task, images, workspace, run, reporter))
        for target, end in shares(job.targets, until):
            inputs = study_inputs(spec, images, target, job.timing)
            store = StudyStore(run, target, inputs, "study", digest(spec.network.labels))
            bench = partial(make_trial, graphs, target, job.timing, run.path, workspace, evaluated)
            loop = SearchLoop(store, reporter, trial_gates(job), bench, search.trials, end)
            profiled = partial(profiled_costs, graphs, job.timing.threads, run)
            costs_of = profiled if job.machines[0] == THIS else lambda _: None
            searches[target] = loop.search(spec.recipe, partial(order_layers, graphs, target, images, costs_of))
    return searches


def make_trial(
    graphs: JobGraphs,
    target: str,
    timing: Timing,
    folder: Path,
    workspace: Path,
    evaluated: Callable[[], EvaluationImages],
    candidate: Candidate,
) -> tuple[Bundle, Measurement]:
    """Build a candidate's bundle in the workspace, and measure it beside the float bundle in the run's folder."""
    name, base = f"{target}-int8", f"{target}-float"
    group = {base: build_one(graphs, target, "float", folder / base)}
    recipe = candidate.applied(graphs.spec.recipe, target)
    to_compile = graphs.with_recipe(recipe).graph_to_compile(target, "int8")
    with quiet():
        group[name], _ = compile_stage(to_compile, workspace / name)
    measured = measure_group(group, timing, machine.describe(), graphs.reporter, evaluated())[name]
    if measured.failure is None and measured.speedup is None:
        raise EngineError("its float bundle can't be timed, so its speedup is unknown")
    return group[name], measured


def shares(
    targets: Sequence[str], until: float, now: Callable[[], float] = time.monotonic
) -> Iterator[tuple[str, float]]:
    """Yields each target with the end of its time. The targets still to come share what remains until `until`."""
    for index, target in enumerate(targets):
        start = now()
        yield target, start + max(0.0, until - start) / (len(targets) - index)


def check_completed(searches: Searches) -> None:
    """Raise StageError, with what failed, if a target has no completed trial."""
    for target, trials in searches.items():
        if any(trial.state == "complete" for trial in trials):
            continue
        reasons = dict.fromkeys(trial.error for trial in trials if trial.error is not None)
        is_stopped = any(trial.state == "untried" for trial in trials)
        raise StageError(
            f"{target}: no trial was completed: {'; '.join(reasons)}",
            fix="Allow more time with --budget-minutes to try other recipes" if is_stopped else "",
        )


def write_recipe(path: Path, ready: SplitJob, searches: Searches, gates: Gates) -> Recipe:
    """Write the best choices of each target, which has a completed trial, as one recipe."""
    spec = ready.spec
    recipe, notes = spec.recipe, []
    for target, trials in searches.items():
        winner = best(trials, gates)
        assert winner is not None
        recipe = winner.candidate.applied(recipe, target)
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
    return load_recipe(path, REWRITES)


def to_toml(recipe: Recipe, comment: str) -> str:
    """The recipe as TOML, from which `load_recipe` reads the same recipe. MissingExtraError without tomlkit."""
    toml = import_needed("tomlkit", "tune")
    plain = {key: value for key, value in asdict(recipe).items() if key != "targets"}
    tables = {name: asdict(row) for name, row in recipe.targets.items()}
    text: str = toml.dumps(_without_defaults(plain | tables))
    return "".join(f"# {line}\n" for line in comment.splitlines()) + text


def _without_defaults(table: Mapping[str, object]) -> dict[str, object]:
    """The table without keys that are None, which TOML can't express, or empty tables."""
    values = {key: _without_defaults(value) if isinstance(value, Mapping) else value for key, value in table.items()}
    return {key: value for key, value in values.items() if value is not None and value != {}}


def verdict(
    run: RunFolder,
    ready: SplitJob,
    recipe: Recipe,
    job: Job,
    searches: Searches,
    reporter: Reporter,
    pages: Pages | None = None,
) -> Report:
    """Build and evaluate the recipe as `deploy` does, on the held-out images. Returns the report."""
    spec, images = replace(ready.spec, recipe=recipe), replace(ready.images, evaluation=ready.held_out)
    write_list(run.path / "calibration.json", spec.calibration, spec.recipe, job.seed)
    graphs = JobGraphs(spec, reporter)
    built = Builder(graphs).build(job.targets, run.path, job.precisions)
    with run.workspace("images") as workspace:
        evaluation = crop_images(spec.network, spec.task, images, workspace, run, reporter)
        reference = reference_for(spec.network, evaluation, reporter)
        store = MeasurementStore(run, evaluation, job.timing, fingerprints(built))
        bench = Bench(job.machines, store, reporter, pages)
        rows = judge_all(bench.measure(built), job.gates, spec, images, reference, run.path)
        finals = bench.time_finals(rows)
    gates = trial_gates(job)
    parts = [summary(target, trials, gates) for target, trials in searches.items()]
    tuning = SearchSummary(
        recipe=RECIPE,
        max_drop_points=gates.max_drop,
        min_speedup=gates.min_speedup,
        images=ImageSet(len(ready.images.evaluation.samples), ready.images.evaluation.sha256),
        targets=tuple(replace(part, reproduced=reproduced(run.path, part)) for part in parts),
    )
    report = assemble(spec, images, rows, reference, finals, (), job.seed, job.command, job.folder)
    report = replace(report, tuning=tuning)
    with writing(run.path / PICTURE):
        replace_text(run.path / PICTURE, draw_tuning(tuning, standalone=True)[0])
    write_run(report, images.dataset, spec.network.preprocessing, run, job.thumbnails, reporter)
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
