"""What `edgekit tune` does: workers search, the best recipe is written, and images that none of them saw judge it."""

import os
import signal
import time
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.compiler.rewrites import PASSES
from edgekit.config.recipes import Recipe, load_recipe
from edgekit.errors import BundleError, EdgekitError, EngineError, StageError, UsageError
from edgekit.images.calibration_list import write_list
from edgekit.pipeline.deploy import assemble, bundles_and_rows, check_tools
from edgekit.pipeline.options import Options
from edgekit.report import write_report
from edgekit.report.tuning import draw_tuning
from edgekit.runtime.bundle import read_bundle
from edgekit.support import tracebacks
from edgekit.support.child_process import spawn
from edgekit.support.files import replace_text, writing
from edgekit.support.libraries import import_needed
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder, open_run
from edgekit.tuning.options import Search
from edgekit.tuning.space import Choices, to_toml, with_choices
from edgekit.tuning.study import FAST, KEPT, ORDER, REASON, WORKER, Storage, best, open_study, summary
from edgekit.tuning.worker import Prepared, prepare_search
from edgekit.tuning.worker_process import begin

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

Row = dict[str, Any]
RECIPE, PICTURE, DATABASE = "recipe.toml", "tuning.svg", "tune.db"
POLL_S = 0.5
ENDING_S = 5
DEATHS = 3
"""A worker that dies more often is not started again."""


def tune(options: Options, search: Search, reporter: Reporter) -> Row:
    """Search, write OUTPUT/recipe.toml, build its bundles and judge them on held-out images. Returns the report.

    A search that was cut short goes on from the trials that are done. Raises EngineError when no trial is.
    """
    check_search(options, search)
    check_tools(options)
    with open_run(options.folder) as run:
        url = search.storage or f"sqlite:///{run.path.absolute() / DATABASE}"
        storage = Storage(url, search.silence_s).open()
        ready = prepare_search(options, search, reporter)
        studies = {target: open_study(storage, ready.study_name(target, options, search)) for target in options.targets}
        until = time.time() + 60 * search.minutes if search.minutes else float("inf")
        Workers(options, search, url, until, studies, reporter).run()
        recipe = write_recipe(run.path / RECIPE, ready, studies)
        return verdict(run, ready, recipe, options, studies, reporter)


def check_search(options: Options, search: Search) -> None:
    """Raise UsageError for what can't be."""
    if not options.settings.max_drop >= 0:
        raise UsageError(f"--max-drop is {options.settings.max_drop:g}: give points of top-1, 0 or more.")
    if options.model.weights == "random":
        raise UsageError("the weights are random: there is no accuracy to keep. Give --weights FILE.")


class Workers:
    """Worker processes, looked after: kept within memory and time, started again when they die."""

    def __init__(
        self,
        options: Options,
        search: Search,
        url: str,
        until: float,
        studies: dict[str, "Study"],
        reporter: Reporter,
    ) -> None:
        self._given = (options, search, url, until)
        self._search, self._until, self._studies, self._reporter = search, until, studies, reporter
        self._said: set[tuple[str, int]] = set()
        self._alive: list[BaseProcess] = []
        self._deaths = 0

    def run(self) -> None:
        """Until the workers have nothing left to do, or time is up. Ctrl-C ends them."""
        try:
            self._alive = [self._start() for _ in range(self._search.workers)]
            while self._alive and time.time() < self._until:
                time.sleep(POLL_S)
                self._look_after()
                self._tell()
            if self._alive:
                self._reporter.say(f"{self._search.minutes:g} minutes are over: going on with the trials that are done")
        finally:
            for process in self._alive:
                _end(process)
        self._tell()

    def _start(self) -> BaseProcess:
        return spawn(begin, (*self._given, tracebacks.wanted()))

    def _look_after(self) -> None:
        for process in list(self._alive):
            limit, used = self._search.memory_mb, memory_mb(process.pid)
            if limit is not None and used > limit:
                self._give_up(process, f"took {used:,.0f} MB, at most {limit:,} are allowed")
            if process.is_alive():
                continue
            self._alive.remove(process)
            if process.exitcode in (0, EdgekitError.exit_code, StageError.exit_code):
                continue  # done, or it said what is wrong: another would find the same
            self._deaths += 1
            self._reporter.warn(f"a worker died (exit status {process.exitcode})")
            if self._deaths <= DEATHS:
                self._alive.append(self._start())

    def _give_up(self, process: BaseProcess, reason: str) -> None:
        """End a worker, and its trial for good."""
        process.kill()
        process.join()
        optuna = import_needed("optuna", "tune")
        for study in self._studies.values():
            for trial in study.get_trials(deepcopy=False):
                mine = str(trial.user_attrs.get(WORKER, "")).endswith(f":{process.pid}")
                if mine and trial.state.name == "RUNNING":
                    study._storage.set_trial_user_attr(trial._trial_id, REASON, reason)
                    study.tell(trial.number, state=optuna.trial.TrialState.FAIL)

    def _tell(self) -> None:
        """A line for each trial that ended since the last time."""
        for target, study in self._studies.items():
            trials = study.get_trials(deepcopy=False)
            for trial in trials:
                if (target, trial.number) in self._said or not trial.state.is_finished():
                    continue
                self._said.add((target, trial.number))
                if trial.state.name != "PRUNED":
                    left = sum(not each.state.is_finished() for each in trials)
                    self._reporter.say(f"{target}: {describe(trial)}; {left} to go")


def _end(process: BaseProcess) -> None:
    """Interrupt a worker, so that its trial is marked as cut short; kill it if it doesn't end."""
    if process.pid is not None and process.is_alive():
        os.kill(process.pid, signal.SIGINT)
        process.join(ENDING_S)
    process.kill()
    process.join()


def describe(trial: "FrozenTrial") -> str:
    """A finished trial in a line."""
    known = trial.user_attrs
    choices = Choices(**trial.system_attrs["fixed_params"])
    settings = [choices.estimator, *(["smooth"] if choices.smooth_quant else [])]
    settings += [f"bias {choices.bias_correction}"] if choices.bias_correction != "none" else []
    what = f"trial {trial.number} ({', '.join(settings)}, {choices.layers_in_float} layers in float)"
    if trial.state.name != "COMPLETE":
        return f"{what}: failed: {known.get(REASON, 'its worker died, or was interrupted')}"
    missed = [*([] if known[KEPT] else [", over --max-drop"]), *([] if known[FAST] else [", under --min-speedup"])]
    ends = f"{known['p50_ms']:.2f} ms, {known['speedup']:.2f}x float, agreement {known['agreement']:.2%}"
    return f"{what}: drop {known['drop_top1_points']:+.2f} points, {ends}{''.join(missed)}"


def memory_mb(pid: int | None) -> float:
    """What a process has in memory; 0 where that isn't known."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1000
    except (OSError, StopIteration):
        return 0.0


def write_recipe(path: Path, ready: Prepared, studies: dict[str, "Study"]) -> Recipe:
    """The best choices of each target as one recipe in a file; EngineError where a target has no trial done."""
    job = ready.job
    recipe, notes = job.recipe, []
    for target, study in studies.items():
        trial = best(study)
        if trial is None:
            reasons = dict.fromkeys(str(each.user_attrs[REASON]) for each in study.trials if REASON in each.user_attrs)
            raise EngineError(f"{target}: no trial was finished: {'; '.join(reasons) or 'give it more time'}.")
        choices = Choices(**trial.system_attrs["fixed_params"])
        recipe = with_choices(recipe, target, choices, study.user_attrs[ORDER])
        notes.append(f"{target}: {describe(trial)}")
    recipe = replace(
        recipe,
        name=f"{job.recipe.name.removesuffix('-tuned')}-tuned",
        description=f"{job.recipe.name} tuned for {job.network.name}",
        architectures=(),
        num_calibration_samples=len(job.calibration.samples),
    )
    said = f"Written by `edgekit tune`, on {len(job.evaluation.samples)} tuning images:"
    with writing(path):
        replace_text(path, to_toml(recipe, "\n".join([said, *notes])))
    return load_recipe(path, PASSES)


def verdict(
    run: RunFolder,
    ready: Prepared,
    recipe: Recipe,
    options: Options,
    studies: dict[str, "Study"],
    reporter: Reporter,
) -> Row:
    """The run folder of the recipe, as `deploy` makes it, evaluated on the held-out images. Returns the report."""
    job = replace(ready.job, recipe=recipe, evaluation=ready.held_out)
    write_list(run.path / "calibration.json", job.calibration, job.recipe, options.seed)
    rows, reference = bundles_and_rows(job, options, run, reporter)
    parts = [summary(study, target) for target, study in studies.items()]
    tuning = {
        "recipe": RECIPE,
        "max_drop_points": options.settings.max_drop,
        "min_speedup": options.settings.min_speedup,
        "images": {"count": len(ready.job.evaluation.samples), "sha256": ready.job.evaluation.sha256},
        "targets": [part | {"reproduced": reproduced(run.path, part)} for part in parts],
    }
    report = assemble(job, options, rows, reference) | {"tuning": tuning}
    write_report(report, run.path)
    with writing(run.path / PICTURE):
        replace_text(run.path / PICTURE, draw_tuning(tuning, standalone=True)[0])
    run.forget()
    return report


def reproduced(folder: Path, part: Row) -> bool | None:
    """Whether the recipe gave the very model files of the trial that it was made from; None without a bundle."""
    (trial,) = (each for each in part["trials"] if each["number"] == part["best"])
    try:
        files = read_bundle(folder / f"{part['target']}-int8").manifest.files
    except BundleError:
        return None
    return all(files[name]["sha256"] == digest for name, digest in trial["files"].items())
