"""A study: the trials for one target, which run one after the other and are stored in the run folder as they end.

Only one trial runs at a time, because a calibration next to it would distort its latency.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edgekit.config.precisions import PRECISIONS
from edgekit.config.recipes import Recipe
from edgekit.errors import EdgekitError, costs_a_row
from edgekit.measure import machine
from edgekit.measure.settings import Gates, Timing
from edgekit.pipeline.evaluation_images import ReferenceInputs, reference_inputs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec, BundleInputs
from edgekit.report.device import DeviceFacts
from edgekit.support import tracebacks
from edgekit.support.hashes import Inputs, code_sha256
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.analysis import ROOMS
from edgekit.tuning.ranking import describe, title, within
from edgekit.tuning.space import Choices, plan
from edgekit.tuning.trial import Figures, Trial


@dataclass(frozen=True)
class StudyInputs(Inputs):
    """Inputs of the figures of a study's trials, except for the choices of each trial.

    Bounds and budgets are not among them, so a search with other bounds reuses the trials.
    """

    bundles: tuple[BundleInputs, ...]
    """Inputs of the float bundle, and of the int8 bundle of the recipe to improve, without the names of classes."""
    reference: ReferenceInputs
    """Inputs of torch's predictions for the tuning images."""
    timing: Timing
    """Settings with which the trials are timed."""
    device: DeviceFacts
    """The machine on which they are timed."""
    code_sha256: str
    """Hash of edgekit's code in `ROOMS`."""


def study_inputs(spec: BuildSpec, images: JobImages, target: str, timing: Timing) -> StudyInputs:
    """Inputs of the trials of a job for one target."""
    return StudyInputs(
        bundles=tuple(replace(spec.request(target, precision).inputs, labels=()) for precision in PRECISIONS),
        reference=reference_inputs(spec.network, images),
        timing=timing,
        device=machine.describe(),
        code_sha256=code_sha256(ROOMS),
    )


@dataclass(frozen=True)
class Study:
    """The trials for one target."""

    layers: tuple[str, ...]
    """The layers in the order in which trials leave them in float."""
    trials: tuple[Trial, ...] = ()
    """The trials in the order of the plan. The stored study has only those that ran."""
    labels: str = ""
    """Hash of the names of the classes, which the trials' model files contain."""


@dataclass(frozen=True)
class StudyStore:
    """One target's study in the run folder, from which the same command resumes after an interruption."""

    run: RunFolder
    target: str
    inputs: Inputs
    labels: str = ""
    """Hash of the names of the classes."""

    def load(self) -> Study | None:
        """The study of an earlier run with the same inputs.

        If the classes had other names, the hashes of the trials' model files are left out: no recipe gives them again.
        """
        study = self.run.recall(f"study-{self.target}", self.inputs, Study)
        if study is None or study.labels == self.labels:
            return study
        return replace(study, trials=tuple(map(_without_files, study.trials)))

    def save(self, study: Study) -> None:
        """Replace the stored study."""
        self.run.remember(f"study-{self.target}", self.inputs, replace(study, labels=self.labels))


def _without_files(trial: Trial) -> Trial:
    return replace(trial, figures=trial.figures and replace(trial.figures, files=None))


class Bench(Protocol):
    """Measures trials for one target."""

    def layers(self) -> tuple[str, ...]:
        """The layers in the order in which trials leave them in float."""
        ...

    def measure(self, choices: Choices, layers: Sequence[str]) -> Figures:
        """Measure a trial, with the order of `layers`. Raises StageError if it can't be built or measured."""
        ...


@dataclass(frozen=True)
class Searcher:
    """Runs the trials of a study that no earlier run has finished."""

    store: StudyStore
    bench: Bench
    gates: Gates
    reporter: Reporter
    now: Callable[[], float] = time.monotonic
    """Clock in seconds."""

    def search(self, recipe: Recipe, limit: int | None = None, until: float = float("inf")) -> Study:
        """Run the plan for this recipe, at most `limit` trials of it. Pruned ones don't count.

        After the time `until` only the first trial runs, so that every study has one. Once a trial meets the bounds,
        those with more layers in float are pruned, because they can't be better. If a trial raises a StageError or hits
        a bug in edgekit, only that trial fails. Other errors, such as a full disk, and KeyboardInterrupt end the
        search; trials that have ended stay stored.
        """
        target = self.store.target
        layers, done = self._resumed()
        points = plan(recipe.for_target(target), len(layers))
        trials: list[Trial] = []
        for number, choices in enumerate(points):
            if limit is not None and _count(trials) >= limit:
                break
            if choices in done:
                trial = replace(done[choices], number=number)
            elif choices.layers_in_float > self._most_in_float(trials):
                trial = Trial(number, choices, "pruned")
            elif done and self.now() >= until:
                trial = Trial(number, choices, "untried")
            else:
                trial = done[choices] = self._run(number, choices, layers)
                self.store.save(Study(layers, tuple(done.values())))
                self._report([*trials, trial], points, done, limit)
            trials.append(trial)
        if untried := sum(trial.state == "untried" for trial in trials):
            self.reporter.say(f"{target}: the time is up: {untried} recipes were not tried")
        return Study(layers, tuple(trials))

    def _resumed(self) -> tuple[tuple[str, ...], dict[Choices, Trial]]:
        """The order of the layers, and the trials that ended in an earlier run."""
        target = self.store.target
        study = self.store.load()
        if study is None:
            with self.reporter.stage(f"{target}: order the layers by their noise"):
                study = Study(self.bench.layers())
            self.store.save(study)
        if study.trials:
            self.reporter.say(f"{target}: {len(study.trials)} trials reused from an earlier run")
        return study.layers, {trial.choices: trial for trial in study.trials}

    def _most_in_float(self, trials: Sequence[Trial]) -> float:
        """Number of layers in float above which a trial can't be the best any more."""
        return min((trial.choices.layers_in_float for trial in within(trials, self.gates)), default=float("inf"))

    def _report(
        self, trials: Sequence[Trial], points: Sequence[Choices], done: Collection[Choices], limit: int | None
    ) -> None:
        """Print a line for the last trial if it is complete. That of a failed one has been printed."""
        trial = trials[-1]
        if trial.state == "complete":
            most = self._most_in_float(trials)
            left = sum(point.layers_in_float <= most and point not in done for point in points)
            left = left if limit is None else min(left, limit - _count(trials))
            self.reporter.say(f"{self.store.target}: {describe(trial, self.gates)}; {left} to go")

    def _run(self, number: int, choices: Choices, layers: Sequence[str]) -> Trial:
        trial = Trial(number, choices, "fail")
        name = f"{self.store.target}: {title(trial)}"
        try:
            with self.reporter.stage(name):
                return replace(trial, state="complete", figures=self.bench.measure(choices, layers))
        except Exception as error:
            if not costs_a_row(error):
                raise
            self.reporter.failed(name, error)
            is_bug = not isinstance(error, EdgekitError)
            return replace(trial, reason=f"bug in edgekit: {tracebacks.summary_of(error)}" if is_bug else str(error))


def _count(trials: Sequence[Trial]) -> int:
    """Number of trials without the pruned ones."""
    return sum(trial.state != "pruned" for trial in trials)
