"""`edgekit tune`: workers search, the best recipe is written, and images that no worker saw decide on it."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from edgekit.compiler.rewrites import PASSES
from edgekit.config.recipes import Recipe, load_recipe
from edgekit.devices.registry import THIS
from edgekit.errors import BundleError, EdgekitError, StageError, UsageError
from edgekit.images.calibration_list import write_list
from edgekit.measure.memory import resident_bytes
from edgekit.pipeline.deploy import assemble, bundles_and_rows, check_tools
from edgekit.pipeline.options import Options
from edgekit.report import write_report
from edgekit.report.document import Report
from edgekit.report.search_document import SearchSummary, TargetSearch
from edgekit.report.sensitivity_document import ImageSet
from edgekit.report.tuning import draw_tuning
from edgekit.runtime.bundle import read_bundle
from edgekit.support import library_log, tracebacks
from edgekit.support.child_process import spawn
from edgekit.support.files import replace_text, writing
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, open_run
from edgekit.tuning.analysis import check_max_drop
from edgekit.tuning.database import TrialTable, database_file
from edgekit.tuning.options import Search
from edgekit.tuning.space import to_toml, with_choices
from edgekit.tuning.study import best, summary
from edgekit.tuning.trial import Trial
from edgekit.tuning.worker import SplitJob, load_split_job, trial_gates, worker_name
from edgekit.tuning.worker_process import begin

RECIPE, PICTURE, DATABASE = "recipe.toml", "tuning.svg", "tune.db"
POLL_S = 0.5
"""Seconds between two checks of the workers."""
ENDING_S = 5
"""Seconds that an interrupted worker has to exit."""
DEATHS = 3
"""Number of times that dead workers are replaced in one search."""


def tune(options: Options, search: Search, reporter: Reporter) -> Report:
    """Search, write OUTPUT/recipe.toml, build its bundles and judge them on held-out images. Returns the report.

    An interrupted search resumes after its completed trials. Raises StageError if no trial completes.
    """
    check_search(options, search)
    check_tools(options)
    with open_run(options.folder) as run:
        file = database_file(search.storage or str(run.path / DATABASE))
        ready = load_split_job(options, search, reporter)
        tables = {
            target: TrialTable(file, ready.study_name(target, options, search), search.silence_s)
            for target in options.targets
        }
        for table in tables.values():
            table.retry_lost()
        if options.devices[0] != THIS:
            reporter.warn(
                f"trials are timed on this machine, so the search doesn't judge their speed; {options.devices[0].name} "
                "times the result"
            )
        until = time.time() + 60 * search.minutes if search.minutes else float("inf")
        workers = Workers(options, search, file, until, tables, reporter)
        workers.run()
        trials = {target: table.trials() for target, table in tables.items()}
        check_completed(trials, workers.failures, workers.was_stopped)
        orders = {target: table.layers() or [] for target, table in tables.items()}
        recipe = write_recipe(run.path / RECIPE, ready, trials, orders)
        return verdict(run, ready, recipe, options, trials, reporter)


def check_search(options: Options, search: Search) -> None:
    """Raise UsageError for options that make a search impossible."""
    check_max_drop(options)
    if options.model.weights == "random":
        raise UsageError("the weights are random, so there is no accuracy to preserve", fix="Use --weights FILE")


class Workers:
    """Supervises worker processes: limits their memory and time, and replaces those that die."""

    def __init__(
        self,
        options: Options,
        search: Search,
        file: Path,
        until: float,
        tables: Mapping[str, TrialTable],
        reporter: Reporter,
    ) -> None:
        self._arguments = (options, search, file, until)
        self._search, self._until, self._tables, self._reporter = search, until, tables, reporter
        self._reported: set[tuple[str, int]] = set()
        self._alive: list[BaseProcess] = []
        self._deaths = 0
        self._errors: SimpleQueue[str] = get_context("spawn").SimpleQueue()
        self.failures: list[str] = []
        """Reasons for which workers ended before they had run all trials."""
        self.was_stopped = False
        """Whether the time was up before all trials had run."""

    def run(self) -> None:
        """Run until no trial is left, or the time is up. Ctrl-C ends the workers."""
        try:
            self._alive = [self._start() for _ in range(self._search.workers)]
            while self._alive and time.time() < self._until:
                time.sleep(POLL_S)
                self._supervise()
                self._report()
            self.was_stopped = bool(self._alive)
            if self._alive:
                self._reporter.say(f"stopped after {self._search.minutes:g} minutes: using the completed trials")
        finally:
            for process in self._alive:
                _end(process)
        while not self._errors.empty():
            self.failures.append(self._errors.get())
        self._report()

    def _start(self) -> BaseProcess:
        return spawn(begin, (*self._arguments, tracebacks.wanted(), self._errors))

    def _supervise(self) -> None:
        for process in list(self._alive):
            limit, used = self._search.memory_mb, resident_bytes(process.pid or 0) / 1e6
            if limit is not None and used > limit:
                self._give_up(process, f"used {used:,.0f} MB of memory, and the limit is {limit:,} MB")
            if process.is_alive():
                continue
            self._alive.remove(process)
            if process.exitcode in (0, EdgekitError.exit_code, StageError.exit_code):
                continue  # it is done, or has reported an error that another worker would meet too
            self._deaths += 1
            self.failures.append(f"a worker died (exit status {process.exitcode})")
            self._reporter.warn(f"{self.failures[-1]}; see {library_log.current()}")
            if self._deaths <= DEATHS:
                self._alive.append(self._start())

    def _give_up(self, process: BaseProcess, reason: str) -> None:
        """Kill a worker, and fail its trial for good."""
        process.kill()
        process.join()
        self.failures.append(f"a worker {reason}")
        for table in self._tables.values():
            table.finish(worker_name(process.pid), "fail", reason)

    def _report(self) -> None:
        """Print a line for each trial that ended since the last call."""
        for target, table in self._tables.items():
            trials = table.trials()
            for trial in trials:
                if (target, trial.number) in self._reported or not trial.is_finished:
                    continue
                self._reported.add((target, trial.number))
                if trial.state != "pruned":
                    left = sum(not other.is_finished for other in trials)
                    self._reporter.say(f"{target}: {describe(trial)}; {left} to go")


def _end(process: BaseProcess) -> None:
    """Interrupt a worker, so that it returns its trial to the queue; kill it if it doesn't exit."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGINT)
        process.join(ENDING_S)
    process.kill()
    process.join()


def describe(trial: Trial) -> str:
    """A finished trial in one line."""
    choices, figures = trial.choices, trial.figures
    settings = [choices.estimator, *(["smooth"] if choices.smooth_quant else [])]
    settings += [f"bias {choices.bias_correction}"] if choices.bias_correction != "none" else []
    title = f"trial {trial.number} ({', '.join(settings)}, {choices.layers_in_float} layers in float)"
    if figures is None:
        return f"{title}: failed: {trial.reason or 'all workers that ran it died or were interrupted'}"
    missed = "" if figures.drop_kept else ", over --max-drop"
    missed += "" if figures.fast_enough else ", under --min-speedup"
    rest = f"{figures.p50_ms:.2f} ms, {figures.speedup:.2f}x float, agreement {figures.agreement:.2%}"
    return f"{title}: drop {figures.drop_top1_points:+.2f} points, {rest}{missed}"


def check_completed(trials: Mapping[str, Sequence[Trial]], failures: Sequence[str], was_stopped: bool) -> None:
    """Raise StageError, with what failed, if a target has no completed trial."""
    for target, target_trials in trials.items():
        if best(target_trials) is not None:
            continue
        reasons = dict.fromkeys((*(trial.reason for trial in target_trials if trial.reason is not None), *failures))
        stopped = ("the time was up",) if was_stopped else ()
        raise StageError(
            f"{target}: no trial was completed: {'; '.join((*reasons, *stopped))}",
            fix="Allow more time with --budget-minutes" if was_stopped and not reasons else "",
        )


def write_recipe(
    path: Path, ready: SplitJob, trials: Mapping[str, Sequence[Trial]], orders: Mapping[str, Sequence[str]]
) -> Recipe:
    """Write the best choices of each target, which has a completed trial, as one recipe.

    `orders` has each target's layers in the order in which trials leave them in float.
    """
    job = ready.job
    recipe, notes = job.recipe, []
    for target, target_trials in trials.items():
        winner = best(target_trials)
        assert winner is not None
        recipe = with_choices(recipe, target, winner.choices, orders[target])
        notes.append(f"{target}: {describe(winner)}")
    recipe = replace(
        recipe,
        name=f"{job.recipe.name.removesuffix('-tuned')}-tuned",
        description=f"{job.recipe.name} tuned for {job.network.name}",
        architectures=(),
        num_calibration_samples=len(job.calibration.samples),
    )
    origin = f"Written by `edgekit tune` after trials on {len(job.evaluation.samples)} tuning images:"
    with writing(path):
        replace_text(path, to_toml(recipe, "\n".join([origin, *notes])))
    return load_recipe(path, PASSES)


def verdict(
    run: RunFolder,
    ready: SplitJob,
    recipe: Recipe,
    options: Options,
    trials: Mapping[str, Sequence[Trial]],
    reporter: Reporter,
) -> Report:
    """Build and evaluate the recipe as `deploy` does, on the held-out images. Returns the report."""
    job = replace(ready.job, recipe=recipe, evaluation=ready.held_out)
    write_list(run.path / "calibration.json", job.calibration, job.recipe, options.seed)
    rows, reference = bundles_and_rows(job, options, run, reporter)
    parts = [summary(target_trials, target) for target, target_trials in trials.items()]
    tuning = SearchSummary(
        recipe=RECIPE,
        max_drop_points=options.gates.max_drop,
        min_speedup=trial_gates(options).min_speedup,
        images=ImageSet(len(ready.job.evaluation.samples), ready.job.evaluation.sha256),
        targets=tuple(replace(part, reproduced=reproduced(run.path, part)) for part in parts),
    )
    report = replace(assemble(job, options, rows, reference), tuning=tuning)
    write_report(report, run.path)
    with writing(run.path / PICTURE):
        replace_text(run.path / PICTURE, draw_tuning(tuning, standalone=True)[0])
    run.forget()
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
    return all(files[name]["sha256"] == digest for name, digest in trial.files.items())
