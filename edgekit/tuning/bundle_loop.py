"""Loops that try other INT8 bundles of a runtime in place of the run's, and ship the one that they choose."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from edgekit.config.recipes import Recipe
from edgekit.measure.measure_bundles import BuiltBundles
from edgekit.measure.settings import Gates
from edgekit.pipeline.build import build_one
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.improvement import attempt_path, copy_bundle
from edgekit.report.measurement import Measurement
from edgekit.report.row import Row
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import each_bundle
from edgekit.tuning.layer_costs import LayerTimes
from edgekit.tuning.study import Candidate, Loop, Study, Trial

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
