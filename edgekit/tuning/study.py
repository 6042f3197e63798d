"""Studies: candidates for one target, which are built and measured one after the other until one is good enough.

The generator of each kind of trial proposes candidates by the measurements of those before it, and ends with the trial
to ship. One driver makes the trials and stores them in the run folder as they end, so that the same command resumes: a
new generator gets them again. Trials depend on no bound: a command with other bounds judges the same ones anew, and
makes only those that are missing. Only one trial runs at a time, because a calibration next to it would distort its
latency.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol, Self, TypeVar

from edgekit.config.recipes import Recipe
from edgekit.config.runtimes import PRECISIONS, LayerKind
from edgekit.errors import costs_a_row
from edgekit.measure import machine
from edgekit.measure.bundles import BuiltBundles
from edgekit.measure.gates import judge
from edgekit.measure.latency import MOST_SPREAD
from edgekit.measure.settings import Gates, Timing
from edgekit.pipeline.build import build_one
from edgekit.pipeline.deploy import Rows
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.report.figure import DeviceFacts
from edgekit.report.row import Failure, Measurement, PlacedLayer, Row
from edgekit.runtime.bundle import Bundle, read_bundle
from edgekit.support.files import Inputs, code_sha256, without_folders
from edgekit.support.progress import Reporter, each_bundle
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.mixtures import LayerStep, LayerTimes, Ranking

ROOMS = ("measure", "report", "runtime", "support", "tuning")
"""Folders of the package whose code simulates, orders, chooses, times and profiles layers."""


@dataclass(frozen=True)
class Candidate:
    """A change of a recipe for one target, by default none."""

    kinds: tuple[LayerStep, ...] = ()
    """Layers with other kinds than in the recipe. Of two kinds of a layer, the later one counts."""

    def keeping_in_float(self, layers: Iterable[str]) -> "Candidate":
        """The candidate with these layers in float as well."""
        return Candidate((*self.kinds, *((name, "float") for name in layers)))

    def layers(self, kind: LayerKind) -> tuple[str, ...]:
        """Names of the layers that have this kind and another one in the recipe."""
        return tuple(name for name, last in dict(self.kinds).items() if last == kind)

    def applied(self, recipe: Recipe, target: str) -> Recipe:
        """The recipe with these kinds of a target's layers; the very same recipe if there are none."""
        return recipe.with_kinds(target, dict(self.kinds)) if self.kinds else recipe


@dataclass(frozen=True)
class Trial:
    """One candidate, and the measurement of its bundle."""

    number: int
    """Position in its study, from 0."""
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
        """Whether the bundle keeps the bound of the drop: with its whole interval if it must, or else as measured."""
        accuracy = self.measured.accuracy if self.measured else None
        if accuracy is None:
            return False
        return gates.allow(accuracy.drop_ci95_points[1] if gates.must_show_drop else accuracy.drop_points)

    def is_fast(self, gates: Gates) -> bool:
        """Whether the bundle isn't too slow."""
        if self.measured is None:
            return False
        outcomes = judge(self.measured, gates, random_weights=False).gates
        return all(gate.verdict != "fail" for gate in outcomes if gate.name == "min-speedup")


@dataclass(frozen=True)
class Study:
    """The trials for one target so far, and what decides which ones follow."""

    trials: tuple[Trial, ...]
    """Trials that have ended, in the order in which they ran; the first is of the recipe's own bundle."""
    compared: Trial | None = None
    """The first candidate on the images that measured the later trials; None if these are the evaluation images."""
    steps: tuple[tuple[PlacedLayer, ...], ...] = ()
    """Sets of layers that a placement by profile moves to float, one for each trial after the first."""
    ranking: Ranking | None = None
    """The steps of a repair in their order; None until the layers are ranked."""

    def is_of(self, row: Measurement) -> bool:
        """Whether the device and the runtime that measured the trials also measured this row."""
        own = self.trials[0].measured
        return own is not None and (own.device, own.engine) == (row.device, row.engine)


@dataclass(frozen=True)
class Proposal:
    """A candidate to try."""

    candidate: Candidate
    """Changes of the recipe."""
    before: Candidate | None = None
    """The candidate whose bundle is timed in turns with this one's; None to measure it beside the float bundle, with
    its accuracy."""


Proposals = Generator[Proposal, Trial, Trial]
"""Proposes candidates, gets the trial of each, and returns the one to ship."""


def outcome(proposals: Proposals, study: Study) -> Proposal | Trial:
    """What a generator proposes after the trials of a study, or the one to ship if it proposes nothing more."""
    made = {trial.candidate: trial for trial in study.trials}
    try:
        proposal = next(proposals)
        while proposal.candidate in made:
            proposal = proposals.send(made[proposal.candidate])
    except StopIteration as ended:
        shipped: Trial = ended.value
        return shipped
    return proposal


@dataclass(frozen=True)
class StudyInputs(Inputs):
    """Inputs of a study's trials, except for the candidate of each. Bounds and budgets are not among them."""

    bundles: tuple[Inputs, ...]
    """Inputs of the float bundle, and of the int8 bundle of the recipe to improve."""
    reference: Inputs
    """Inputs of torch's predictions for the evaluation images."""
    choosing: Inputs | None
    """Inputs of those for other images, on which a repair compares its trials; None without these."""
    timing: Timing
    """Settings with which the trials are timed."""
    device: DeviceFacts | None
    """This machine if it measures the trials, otherwise None."""
    address: str | None
    """Address of the device that measures them, otherwise None."""
    code_sha256: str
    """Hash of edgekit's code in `ROOMS`."""


def study_inputs(
    spec: BuildSpec, images: JobImages, target: str, timing: Timing, address: str | None = None
) -> StudyInputs:
    """Inputs of the trials of a job for one target, measured on this machine or the device at an address."""
    return StudyInputs(
        bundles=tuple(spec.inputs(target, precision) for precision in PRECISIONS),
        reference=images.reference_inputs(spec.network, spec.task),
        choosing=images.repair.reference_inputs(spec.network, spec.task) if images.repair else None,
        timing=timing,
        device=machine.describe() if address is None else None,
        address=address,
        code_sha256=code_sha256(ROOMS),
    )


T = TypeVar("T")


class MeasureRows(Protocol):
    """Measures bundles on the device that judges; with a number of threads, only their times with it."""

    def __call__(self, bundles: BuiltBundles, threads: int | None = None) -> Rows: ...


@dataclass(frozen=True)
class MeasuredBundles:
    """The bundles of one target and their measurements on one device."""

    bundles: BuiltBundles
    rows: Rows


@dataclass(frozen=True)
class Strategy(ABC):
    """One kind of trial: which candidates it tries, and what it says about them."""

    gates: Gates
    """Gates that the trials are judged by."""
    device: str
    """Name of the device that judges."""
    calibration_images: int
    """Number of calibration images."""

    purpose: ClassVar[str]
    """Purpose of the trials, such as "repair"."""

    @abstractmethod
    def prepare(self, driver: "Driver", study: Study | None) -> Study | None:
        """The study with what decides which candidates are tried; None if the next command has to begin.

        What the first command has measured decides for all with the same inputs, so that they make the same bundles.
        """

    @abstractmethod
    def proposals(self, study: Study) -> Proposals:
        """Propose the candidates of a study."""

    @abstractmethod
    def told(self, study: Study) -> str:
        """What the last trial showed."""

    @abstractmethod
    def described(self, row: Row, study: Study) -> Row:
        """The row with what the study changed in its bundle."""

    def chosen(self, study: Study) -> Trial:
        """The trial to ship; that of the recipe's own bundle while others are missing."""
        result = outcome(self.proposals(study), study)
        return result if isinstance(result, Trial) else study.trials[0]


@dataclass(frozen=True)
class Driver:
    """Makes the trials of one target's studies, on the device that judges, and ships the bundles that they choose."""

    run: RunFolder
    target: str
    inputs: Inputs
    """Inputs of the study; see `study_inputs`."""
    recipe: Recipe
    """The recipe that the candidates change."""
    graphs: JobGraphs
    """The graphs that the bundles are made from."""
    reporter: Reporter
    shipped: MeasuredBundles
    """The bundles as an earlier command, or an earlier strategy, left them."""
    measure: MeasureRows
    """Measures bundles on the device that judges."""
    compare: MeasureRows | None = None
    """Measures bundles on images that give no verdict; None if there are none."""
    measured: dict[Candidate, MeasuredBundles] = field(default_factory=dict)
    """The bundles that this command has measured on the evaluation images, beside the float bundle."""

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return f"{self.target}-int8"

    @property
    def row(self) -> Measurement:
        """Measurement of the run's bundle."""
        return self.shipped.rows[self.name]

    @property
    def layer_times(self) -> LayerTimes | None:
        """Times of the layers; None unless the device is of the class that the bundles are for."""
        in_float = self.shipped.rows.get(f"{self.target}-float")
        return LayerTimes.measured(self.row, in_float, self.graphs.spec.device_class.name)

    def improve(self, strategy: Strategy) -> tuple[Study | None, MeasuredBundles]:
        """Make the trials that no earlier command has made, and ship the bundle that is chosen.

        Trials of another device, or of another version of the runtime, don't count. Nothing is compared with a row
        that failed. Returns the study, if there is one, and the bundles.
        """
        study = recalled(self.run, self.target, strategy.purpose, self.inputs)
        driver = self
        if self.row.failure:
            return study, self.shipped
        if study is not None and not study.is_of(self.row):
            is_own = strategy.chosen(study).number == 0
            study = None
            driver = self if is_own else replace(self, shipped=self.begin_again(strategy.purpose))
        in_place = strategy.chosen(study) if study else None
        study = strategy.prepare(driver, study)
        if study is None:
            return None, driver.shipped
        study = driver.complete(strategy, study)
        chosen = strategy.chosen(study)
        number = in_place.number if in_place else 0
        if chosen.number == number:
            return study, driver.shipped
        if number == 0:  # where a command with other bounds finds it
            read_bundle(self.run.path / self.name).copied_to(self.path_of(Candidate()))
        return study, driver.ship(chosen.candidate)

    def complete(self, strategy: Strategy, study: Study) -> Study:
        """Make the trials that a study lacks. Each is stored as soon as it ends.

        If a trial raises a StageError or hits a bug in edgekit, only that trial fails. A full disk, Ctrl-C and the loss
        of the device end the study, and the same command resumes it.
        """
        self.remember(strategy, study)
        while isinstance(proposal := outcome(strategy.proposals(study), study), Proposal):
            trial = self.attempt(strategy, proposal, len(study.trials))
            if trial is None:
                break
            study = replace(study, trials=(*study.trials, trial))
            self.remember(strategy, study)
            if words := strategy.told(study):
                self.reporter.say(f"{self.name}: {words}")
        return study

    def remember(self, strategy: Strategy, study: Study) -> None:
        """Replace the stored study."""
        self.run.remember(f"{strategy.purpose}-{self.target}", self.inputs, study)

    def attempt(self, strategy: Strategy, proposal: Proposal, number: int) -> Trial | None:
        """Make one trial; None if the device was lost. Its error doesn't name the run's folder: reports are shared."""
        candidate = proposal.candidate
        try:
            measured = self.tried(proposal)
        except Exception as error:
            if not costs_a_row(error):
                raise
            failure = Failure.of("compile", error)
            message = failure.message if failure.stage == "compile" else str(failure)
            self.reporter.failed(f"{self.name}: {strategy.purpose}", error)
            return Trial(number, candidate, error=without_folders(message, [self.run.path]))
        if measured.lost_with_device:
            return None
        trial = Trial.of(number, candidate, measured)
        return replace(trial, error=trial.error and without_folders(trial.error, [self.run.path]))

    def tried(self, proposal: Proposal) -> Measurement:
        """Build the bundle of a candidate and measure it. Raises StageError."""
        bundle, before = self.build(proposal.candidate), proposal.before
        if before is not None:
            assert self.row.latency_ms is not None
            own = self.shipped.bundles[self.name] if before == Candidate() else self.build(before)
            return self.in_turns(own, bundle, self.row.latency_ms.threads)
        bundles = {**self.shipped.bundles, self.name: bundle}
        rows = (self.compare or self.measure)(bundles)
        if self.compare is None:
            self.measured[proposal.candidate] = MeasuredBundles(bundles, rows)
        return rows[self.name]

    def in_turns(self, before: Bundle | Exception, bundle: Bundle, threads: int) -> Measurement:
        """Time a bundle in turns with the one before it.

        There is no speedup if the latency of one of them drifted: its interval would mean nothing.
        """
        placed = f"{self.name}-placed"
        rows = self.measure({self.name: before, placed: bundle}, threads)
        drift = max((row.latency_ms.spread or 0.0 for row in rows.values() if row.latency_ms), default=0.0)
        return replace(rows[placed], speedup=None) if drift > MOST_SPREAD else rows[placed]

    def begin_again(self, purpose: str) -> MeasuredBundles:
        """Ship and measure the recipe's own bundle, as if there had been no other."""
        built = self.attempted(lambda: self.build(Candidate()), purpose)
        return self.ship(Candidate()) if built else self.shipped

    def attempted(self, work: Callable[[], T], purpose: str) -> T | None:
        """The result of work for this bundle; None if it failed, which is reported."""
        results, _ = each_bundle([self.name], lambda _: work(), self.reporter, purpose)
        return results.get(self.name)

    def build(self, candidate: Candidate) -> Bundle:
        """Build the bundle of a candidate, or reuse the one that is there. Raises StageError."""
        recipe = candidate.applied(self.recipe, self.target)
        return build_one(self.graphs.with_recipe(recipe), self.target, "int8", self.path_of(candidate))

    def ship(self, candidate: Candidate) -> MeasuredBundles:
        """Replace the run's bundle by that of a candidate. Returns the bundles, measured now unless they have been."""
        bundle = read_bundle(self.path_of(candidate)).copied_to(self.run.path / self.name)
        bundles = {**self.shipped.bundles, self.name: bundle}
        measured = self.measured.get(candidate)
        return MeasuredBundles(bundles, measured.rows if measured else self.measure(bundles))

    def path_of(self, candidate: Candidate) -> Path:
        """Folder of a candidate's bundle."""
        recipe = candidate.applied(self.recipe, self.target).for_target(self.target)
        kinds = recipe.targets[self.target].kinds
        others = [f"{kind} {name}" for name, kind in kinds.items()]
        return self.run.attempt(self.name, [*recipe.float_layers, *others])


def recalled(run: RunFolder, target: str, purpose: str, inputs: Inputs) -> Study | None:
    """The study of an earlier command with the same inputs."""
    return run.recall(f"{purpose}-{target}", inputs, Study)
