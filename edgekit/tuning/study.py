"""Studies: candidate recipes for one target, which are built and measured one after the other until one is good enough.

A study is stored in the run folder whenever a trial ends, so that the same command resumes. It depends on no bound: a
command with other bounds judges the same trials anew, and makes only those that are missing. Only one trial runs at a
time, because a calibration next to it would distort its latency.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self

from edgekit.config.choices import PRECISIONS
from edgekit.config.recipes import Recipe
from edgekit.devices.registry import THIS, Device
from edgekit.errors import costs_a_row
from edgekit.measure import machine
from edgekit.measure.gates import drop_gate, speed_gate
from edgekit.measure.measurement_store import lost_with_device
from edgekit.measure.settings import Gates, Timing
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec, BundleInputs
from edgekit.pipeline.torch_reference import ReferenceInputs, reference_inputs
from edgekit.report.device import DeviceFacts
from edgekit.report.float_layers import PlacedLayer
from edgekit.report.measurement import Failure, Measurement
from edgekit.support.files import Inputs, code_sha256, without_folders
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

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
