"""Studies: candidates for one target, which are built and measured one after the other until one is good enough.

A study is stored in the run folder whenever a trial ends, so that the same command resumes. It depends on no bound: a
command with other bounds judges the same trials anew, and makes only those that are missing. Only one trial runs at a
time, because a calibration next to it would distort its latency. A loop ships the bundle that it chooses in place of
the run's.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeVar

from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import PRECISIONS
from edgekit.devices.registry import THIS, Device
from edgekit.errors import costs_a_row
from edgekit.measure import machine
from edgekit.measure.bundles import BuiltBundles, lost_with_device
from edgekit.measure.gates import drop_gate, speed_gate
from edgekit.measure.settings import Gates, Timing
from edgekit.pipeline.build import build_one
from edgekit.pipeline.deploy import attempt_path, copy_bundle
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.reference import ReferenceInputs, reference_inputs
from edgekit.pipeline.request import BuildSpec, BundleInputs
from edgekit.report.figure import DeviceFacts
from edgekit.report.row import Failure, Measurement, PlacedLayer, Row
from edgekit.runtime.bundle import Bundle
from edgekit.support.files import Inputs, code_sha256, without_folders
from edgekit.support.progress import Reporter, each_bundle
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.mixtures import LayerTimes

ROOMS = ("measure", "report", "runtime", "support", "tuning")
"""Folders of the package whose code simulates, orders, chooses, times and profiles layers."""


@dataclass(frozen=True)
class Candidate:
    """A change of a recipe for one target, by default none."""

    float_layers: tuple[str, ...] = ()
    """Layers that stay in float in addition to those of the recipe."""

    def applied(self, recipe: Recipe, target: str) -> Recipe:
        """The recipe with these layers of a target in float; the very same recipe if there are none."""
        return recipe.keeping_in_float(target, self.float_layers) if self.float_layers else recipe


@dataclass(frozen=True)
class Trial:
    """One candidate, and the measurement of its bundle."""

    number: int
    """Position of the candidate in its study, from 0."""
    candidate: Candidate
    """Changes of the recipe."""
    measured: Measurement | None = None
    """Measurement of the bundle, without the series of samples and the list of images that only reports need."""
    error: str | None = None
    """Message of the error because of which the bundle could not be made or measured."""

    @classmethod
    def of(cls, number: int, candidate: Candidate, measured: Measurement) -> Self:
        """The trial of a candidate with this measurement of its bundle."""
        if measured.failure:
            return cls(number, candidate, error=str(measured.failure))
        accuracy = measured.accuracy and replace(
            measured.accuracy, changes=None, right_by_class=None, given_by_class=None
        )
        return cls(number, candidate, replace(measured, accuracy=accuracy, thermal=None))

    @property
    def drop(self) -> float | None:
        """Drop of the task's metric, in percentage points."""
        accuracy = self.measured.accuracy if self.measured else None
        return accuracy.drop_points if accuracy else None

    def keeps_drop(self, gates: Gates) -> bool:
        """Whether the bundle keeps the bound of the drop."""
        return self.measured is not None and drop_gate(self.measured.accuracy, gates).verdict == "pass"

    def is_fast(self, gates: Gates) -> bool:
        """Whether the bundle isn't too slow."""
        return self.measured is not None and speed_gate(self.measured, gates).verdict != "fail"


@dataclass(frozen=True)
class Study:
    """The candidates for one target, and the trials so far."""

    candidates: tuple[Candidate, ...]
    """Candidates in the order in which they are tried. A loop may add others by the results so far."""
    trials: tuple[Trial, ...] = ()
    """Trials that have ended, in the order in which they ran."""
    compared: Trial | None = None
    """The first candidate on the images that measured the later trials; None if these are the evaluation images."""
    steps: tuple[tuple[PlacedLayer, ...], ...] = ()
    """Sets of layers that a placement by profile moves to float, one for each trial after the first."""


@dataclass(frozen=True)
class StudyInputs(Inputs):
    """Inputs of a study's trials, except for the candidate of each. Bounds and budgets are not among them."""

    bundles: tuple[BundleInputs, ...]
    """Inputs of the float bundle, and of the int8 bundle of the recipe to improve."""
    reference: ReferenceInputs
    """Inputs of torch's predictions for the evaluation images."""
    choosing: ReferenceInputs | None
    """Inputs of those for other images, on which a repair compares its trials; None without these."""
    timing: Timing
    """Settings with which the trials are timed."""
    device: DeviceFacts | None
    """This machine if it measures the trials, otherwise None."""
    address: str | None
    """Address of the device that measures them, otherwise None."""
    code_sha256: str
    """Hash of edgekit's code in `ROOMS`."""


def study_inputs(spec: BuildSpec, images: JobImages, target: str, timing: Timing, device: Device = THIS) -> StudyInputs:
    """Inputs of the trials of a job for one target, measured on this device."""
    return StudyInputs(
        bundles=tuple(spec.request(target, precision).inputs for precision in PRECISIONS),
        reference=reference_inputs(spec.network, spec.task, images),
        choosing=reference_inputs(spec.network, spec.task, images.repair) if images.repair else None,
        timing=timing,
        device=machine.describe() if device == THIS else None,
        address=device.url,
        code_sha256=code_sha256(ROOMS),
    )


@dataclass(frozen=True)
class StudyStore:
    """One target's study in the run folder."""

    run: RunFolder
    target: str
    inputs: Inputs
    purpose: str
    """What the study is for, such as "repair"."""

    def load(self) -> Study | None:
        """The study of an earlier command with the same inputs."""
        return self.run.recall(f"{self.purpose}-{self.target}", self.inputs, Study)

    def save(self, study: Study) -> None:
        """Replace the stored study."""
        self.run.remember(f"{self.purpose}-{self.target}", self.inputs, study)


@dataclass(frozen=True)
class Loop(ABC):
    """Makes the trials of one study. A subclass chooses the next candidate by the results so far."""

    store: StudyStore
    reporter: Reporter
    gates: Gates
    """Gates that the trials are judged by."""

    @abstractmethod
    def make(self, study: Study, candidate: Candidate) -> Measurement:
        """Build the bundle of a candidate and measure it. Raises StageError."""

    @abstractmethod
    def propose(self, study: Study) -> Candidate | None:
        """The candidate to try next, by the results so far; None to end the loop."""

    @abstractmethod
    def title(self, trial: Trial) -> str:
        """Name of a trial in the output."""

    @abstractmethod
    def tell(self, study: Study) -> None:
        """Print a line about the last trial."""

    def run(self, study: Study) -> Study:
        """Make trials until none is proposed. Each is stored as soon as it ends.

        If a trial raises a StageError or hits a bug in edgekit, only that trial fails. A full disk, Ctrl-C and the loss
        of the device end the loop, and the same command resumes it.
        """
        while (candidate := self.propose(study)) is not None:
            if candidate not in study.candidates:
                study = replace(study, candidates=(*study.candidates, candidate))
            trial = self.attempt(study, candidate)
            if trial is None:
                break
            study = replace(study, trials=(*study.trials, trial))
            self.store.save(study)
            self.tell(study)
        return study

    def attempt(self, study: Study, candidate: Candidate) -> Trial | None:
        """Make one trial; None if the device was lost. Its error doesn't name the run's folder: reports are shared."""
        number = study.candidates.index(candidate)
        try:
            measured = self.make(study, candidate)
        except Exception as error:
            if not costs_a_row(error):
                raise
            failure = Failure.of("compile", error)
            message = failure.message if failure.stage == "compile" else str(failure)
            trial = Trial(number, candidate, error=without_folders(message, [self.store.run.path]))
            self.reporter.failed(self.title(trial), error)
            return trial
        if lost_with_device(measured):
            return None
        trial = Trial.of(number, candidate, measured)
        return replace(trial, error=trial.error and without_folders(trial.error, [self.store.run.path]))


T = TypeVar("T")
Rows = Mapping[str, Measurement]
"""Measurements of bundles on one device, by the name of the bundle."""


class MeasureRows(Protocol):
    """Measures bundles on the device that judges; with a number of threads, only their times with it."""

    def __call__(self, bundles: BuiltBundles, threads: int | None = None) -> Rows: ...


@dataclass(frozen=True)
class MeasuredBundles:
    """The bundles of one target and their measurements on one device."""

    bundles: BuiltBundles
    rows: Rows


@dataclass(frozen=True)
class BundleLoop(Loop):
    """Tries to improve one target's INT8 bundle, on the device that judges."""

    shipped: MeasuredBundles
    """The bundles as an earlier command, or an earlier loop, left them."""
    measure: MeasureRows
    """Measures bundles on the device that judges."""
    recipe: Recipe
    """The recipe that the candidates change."""
    graphs: JobGraphs
    """The graphs that the bundles are made from."""
    compare: MeasureRows | None = None
    """Measures bundles on images that give no verdict; None if there are none."""
    tried: dict[Candidate, MeasuredBundles] = field(default_factory=dict)
    """The bundles that this command has tried, beside the float bundle."""

    purpose: ClassVar[str]
    """What the loop's studies are for; see `StudyStore`."""

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return f"{self.store.target}-int8"

    @property
    def row(self) -> Measurement:
        """Measurement of the run's bundle."""
        return self.shipped.rows[self.name]

    @property
    def layer_times(self) -> LayerTimes | None:
        """Times of the layers; None unless the device is of the class that the bundles are for."""
        in_float = self.shipped.rows.get(f"{self.store.target}-float")
        return LayerTimes.measured(self.row, in_float, self.graphs.spec.device_class.name)

    @staticmethod
    @abstractmethod
    def choose(study: Study, gates: Gates) -> Trial:
        """The trial to ship by the results so far."""

    @abstractmethod
    def begin(self) -> Study | None:
        """A study whose first trial is the recipe's own bundle; None if the next command has to begin.

        What it has measured decides for all commands with the same inputs, so that they make the same bundles.
        """

    @abstractmethod
    def described(self, row: Row, study: Study) -> Row:
        """The row with what the study changed in its bundle."""

    def improve(self) -> tuple[Study | None, MeasuredBundles]:
        """Make the trials that no earlier command has made, and ship the bundle that is chosen.

        Trials of another device, or of another version of the runtime, don't count. Nothing is compared with a row
        that failed. Returns the study, if there is one, and the bundles.
        """
        study, loop = self.store.load(), self
        if self.row.failure:
            return study, self.shipped
        if study is not None and not is_of(study, self.row):
            is_own = self.choose(study, self.gates).number == 0
            study, loop = None, self if is_own else replace(self, shipped=self.begin_again())
        study = study or loop.begin()
        return (None, loop.shipped) if study is None else loop.resume(study)

    def resume(self, study: Study) -> tuple[Study, MeasuredBundles]:
        """Make the trials that are missing, and ship the bundle that is chosen."""
        in_place = self.choose(study, self.gates)
        study = self.run(study)
        chosen = self.choose(study, self.gates)
        if chosen.number == in_place.number:
            return study, self.shipped
        if in_place.number == 0:  # where a command with other bounds finds it
            copy_bundle(self.store.run.path / self.name, self.path_of(Candidate()))
        return study, self.ship(chosen.candidate)

    def begin_again(self) -> MeasuredBundles:
        """Ship and measure the recipe's own bundle, as if there had been no other."""
        built = self.attempted(lambda: self.build(Candidate()))
        return self.ship(Candidate()) if built else self.shipped

    def attempted(self, work: Callable[[], T]) -> T | None:
        """The result of work for this bundle; None if it failed, which is reported."""
        results, _ = each_bundle([self.name], lambda _: work(), self.reporter, self.purpose)
        return results.get(self.name)

    def title(self, trial: Trial) -> str:
        """The same for all trials."""
        return f"{self.name}: {self.purpose}"

    def build(self, candidate: Candidate) -> Bundle:
        """Build the bundle of a candidate, or reuse the one that is there. Raises StageError."""
        recipe = candidate.applied(self.recipe, self.store.target)
        path = self.path_of(candidate)
        return build_one(self.graphs.with_recipe(recipe), self.store.target, "int8", path)

    def ship(self, candidate: Candidate) -> MeasuredBundles:
        """Replace the run's bundle by that of a candidate. Returns the bundles, measured now unless they have been."""
        bundle = copy_bundle(self.path_of(candidate), self.store.run.path / self.name)
        bundles, tried = {**self.shipped.bundles, self.name: bundle}, self.tried.get(candidate)
        return MeasuredBundles(bundles, tried.rows if tried else self.measure(bundles))

    def path_of(self, candidate: Candidate) -> Path:
        """Folder of a candidate's bundle."""
        target = self.store.target
        layers = candidate.applied(self.recipe, target).for_target(target).float_layers
        return attempt_path(self.store.run, self.name, layers)


def is_of(study: Study, row: Measurement) -> bool:
    """Whether the device and the runtime that measured the trials also measured this row."""
    own = study.trials[0].measured
    return own is not None and (own.device, own.engine) == (row.device, row.engine)
