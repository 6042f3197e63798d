"""Repairs INT8 bundles that miss the accuracy bound: keeps the layers that cost the most in float, and measures again.

Calibration images rank the layers; the evaluation images only judge the bundles. The first device judges, and the
others measure only the bundle that is shipped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgekit.config import sizes
from edgekit.config.recipes import Recipe
from edgekit.devices.registry import Device
from edgekit.errors import costs_a_row
from edgekit.images.selection import differ_in_brightness
from edgekit.measure.gates import judge
from edgekit.measure.measure_bundles import BuiltBundles
from edgekit.measure.paired import paired_interval
from edgekit.measure.settings import Gates, Timing
from edgekit.pipeline.build import build_one
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.improvement import Measure, attempt_path, copy_bundle
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.report.measurement import Measurement
from edgekit.report.recipe_search import Repair, RepairAttempt, layers_words, outcome_words, repair_words
from edgekit.report.row import Row
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.mixtures import NOISE_IMAGES, rank_layers
from edgekit.tuning.study import Candidate, Loop, Study, StudyStore, Trial, study_inputs

MOST_ATTEMPTS = 3
"""Largest number of bundles with more layers in float that the evaluation images judge for one row."""


Rows = Mapping[str, Measurement]
"""Measurements of bundles on one device, by the name of the bundle."""
MeasureRows = Callable[[BuiltBundles], Rows]


@dataclass(frozen=True)
class MeasuredBundles:
    """The bundles of one target and their measurements on one device."""

    bundles: BuiltBundles
    rows: Rows


class Repairs:
    """The repairs of one job's INT8 bundles, one for each target."""

    def __init__(
        self, spec: BuildSpec, devices: Sequence[Device], gates: Gates, stores: Sequence[StudyStore], reporter: Reporter
    ) -> None:
        self._spec, self._devices, self._gates, self._stores, self._reporter = spec, devices, gates, stores, reporter
        studies = [(store.target, store.load()) for store in stores]
        self._shipped = {target: shipped_of(study, gates).candidate for target, study in studies if study}
        self._repairs: dict[str, Repair] = {}

    @property
    def recipe(self) -> Recipe:
        """The recipe of the bundles: the job's, with the layers that repairs keep in float."""
        recipe = self._spec.recipe
        for target, candidate in self._shipped.items():
            recipe = candidate.applied(recipe, target)
        return recipe

    def improve(
        self, built: BuiltBundles, measured: Sequence[Measurement], measure: Measure, graphs: JobGraphs
    ) -> list[Measurement]:
        """Repair the bundles whose rows on the first device miss the bound of the drop; see `Improvement`."""
        first, *others = self._devices
        starts = range(0, len(measured), len(built))
        rows = [dict(zip(built, measured[start : start + len(built)], strict=True)) for start in starts]
        repaired: dict[str, Bundle | Exception] = {}

        def measure_first(bundles: BuiltBundles) -> Rows:
            return dict(zip(bundles, measure(first, bundles), strict=True))

        for store in self._stores:
            group = {name: bundle for name, bundle in built.items() if name.startswith(f"{store.target}-")}
            if not isinstance(group.get(f"{store.target}-int8"), Bundle):
                continue
            before = MeasuredBundles(group, {name: rows[0][name] for name in group})
            after = self._repair(store, before, measure_first, graphs)
            rows[0] |= after.rows
            if after.bundles != group:
                repaired |= after.bundles
        for device, rows_of_device in zip(others, rows[1:], strict=True):
            if repaired:
                rows_of_device |= dict(zip(repaired, measure(device, repaired), strict=True))
        return [measurement for rows_of_device in rows for measurement in rows_of_device.values()]

    def described(self, row: Row) -> Row:
        """The row with the repair of its bundle, if there was one."""
        repair = self._repairs.get(row.name)
        if repair is None or row.failure:
            return row
        return replace(row, repair=repair, remarks=(*row.remarks, repair_words(repair)))

    def _repair(
        self, store: StudyStore, shipped: MeasuredBundles, measure: MeasureRows, graphs: JobGraphs
    ) -> MeasuredBundles:
        """Repair one target's bundle if its row misses the bound, as far as no earlier command has done so."""

        def build(candidate: Candidate, path: Path) -> Bundle:
            recipe = candidate.applied(self._spec.recipe, store.target)
            return build_one(graphs.with_recipe(recipe), store.target, "int8", path, self._reporter)

        loop = RepairLoop(store, self._reporter, self._gates, shipped, build, measure)
        study, row = store.load(), shipped.rows[loop.name]
        if study is not None and not row.failure and not is_of(study, row):
            study, loop = None, replace(loop, shipped=loop.begin_again())
        study = study or self._begin(loop, graphs)
        if study is None:
            return loop.shipped
        study, shipped = loop.repair(study)
        chosen = decision(study, self._gates)
        if chosen is None or (chosen.number == 0 and chosen.keeps_drop(self._gates)):
            return shipped
        self._shipped[store.target] = chosen.candidate
        self._repairs[loop.name] = Repair(
            device=self._devices[0].name,
            max_drop_points=self._gates.max_drop,
            ranking_images=len(self._spec.calibration.samples[:NOISE_IMAGES]),
            attempts=tuple(map(attempt_of, study.trials)),
            chosen=chosen.number,
        )
        return shipped

    def _begin(self, loop: "RepairLoop", graphs: JobGraphs) -> Study | None:
        """Rank the layers if the row misses the bound; None if it doesn't, or if they can't be ranked."""
        row = loop.shipped.rows[loop.name]
        if not misses_bound(row, self._gates):
            return None
        assert row.accuracy is not None
        missed, allowed = f"top-1 drops by {row.accuracy.drop_top1_points:.2f} points", self._gates.max_drop
        if row.accuracy.drop_top1_points <= allowed:
            missed += f", which may be {row.accuracy.drop_ci95_points[1]:.2f}"
        self._reporter.say(f"{loop.name}: {missed}, at most {allowed:g} are allowed: looking for the layers")
        try:
            ranked = rank_layers(graphs.with_recipe(self._spec.recipe), loop.store.target)
        except Exception as error:
            if not costs_a_row(error):
                raise
            self._reporter.failed(f"{loop.name}: repair", error)
            return None
        candidates = (Candidate(), *map(Candidate, ranked[:MOST_ATTEMPTS]))
        study = Study(candidates, (Trial.of(0, Candidate(), row),))
        loop.store.save(study)
        return study


@dataclass(frozen=True)
class RepairLoop(Loop):
    """Tries to repair one target's INT8 bundle, on the device that judges."""

    shipped: MeasuredBundles
    """The bundles as an earlier command left them."""
    build: Callable[[Candidate, Path], Bundle]
    """Builds the bundle of a candidate at a path, or reuses the one that is there."""
    measure: MeasureRows
    """Measures bundles on the device that judges."""
    tried: dict[Candidate, MeasuredBundles] = field(default_factory=dict)
    """The bundles that this command has tried, beside the float bundle."""

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return f"{self.store.target}-int8"

    def propose(self, study: Study) -> Candidate | None:
        """The next candidate, until one can be shipped."""
        return study.candidates[len(study.trials)] if decision(study, self.gates) is None else None

    def make(self, candidate: Candidate) -> tuple[Bundle, Measurement]:
        """Build the bundle, and measure it beside the float bundle."""
        bundle = self.build(candidate, self._path_of(candidate))
        bundles = {**self.shipped.bundles, self.name: bundle}
        rows = self.measure(bundles)
        self.tried[candidate] = MeasuredBundles(bundles, rows)
        return bundle, rows[self.name]

    def title(self, trial: Trial) -> str:
        """The same for all trials."""
        return f"{self.name}: repair"

    def tell(self, study: Study) -> None:
        """Print the layers of the last trial, and what they changed."""
        attempt, most = attempt_of(study.trials[-1]), len(study.candidates) - 1
        words = f"{layers_words(attempt)} in float: {outcome_words(attempt)}"
        self.reporter.say(f"{self.name}: repair, attempt {len(study.trials) - 1} of at most {most}: {words}")

    def repair(self, study: Study) -> tuple[Study, MeasuredBundles]:
        """Make the trials that are missing, and ship the bundle that is chosen."""
        in_place = shipped_of(study, self.gates)
        study = self.run(study)
        chosen = decision(study, self.gates)
        if chosen is None or chosen.number == in_place.number:
            return study, self.shipped
        if in_place.number == 0:  # where a command with a looser bound finds it
            copy_bundle(self.store.run.path / self.name, self._path_of(Candidate()))
        return study, self.ship(chosen.candidate)

    def begin_again(self) -> MeasuredBundles:
        """Ship and measure the recipe's own bundle, as if there had been no repair.

        The trials so far don't count, because another device, or another version of the runtime, measured them.
        """
        own = self.attempt(0, Candidate())
        return self.ship(Candidate()) if own is not None and own.measured else self.shipped

    def ship(self, candidate: Candidate) -> MeasuredBundles:
        """Replace the run's bundle by that of a candidate. Returns the bundles, measured now unless they have been."""
        bundle = copy_bundle(self._path_of(candidate), self.store.run.path / self.name)
        bundles, tried = {**self.shipped.bundles, self.name: bundle}, self.tried.get(candidate)
        return MeasuredBundles(bundles, tried.rows if tried else self.measure(bundles))

    def _path_of(self, candidate: Candidate) -> Path:
        return attempt_path(self.store.run, self.name, candidate.float_layers)


def repairs_of(
    spec: BuildSpec,
    images: JobImages,
    targets: Sequence[str],
    devices: Sequence[Device],
    timing: Timing,
    gates: Gates,
    run: RunFolder,
    reporter: Reporter,
) -> Repairs | None:
    """The repairs of a job; None if nothing can be repaired.

    Random weights have no accuracy. A large network's weights stay in mapped files, which a simulation would load.
    Calibration images that are darker or brighter than the others don't show which layers clip these.
    """
    if spec.network.weights == "random":
        return None
    if spec.network.params >= sizes.BUILT_APART_FROM:
        least = f"{sizes.BUILT_APART_FROM / 1e6:.0f} million parameters"
        reporter.say(f"INT8 that misses --max-drop isn't repaired, because the network has at least {least}")
        return None
    if differ_in_brightness(spec.calibration, images.evaluation):
        reporter.say("INT8 that misses --max-drop isn't repaired: calibrate on other images instead")
        return None
    stores = [
        StudyStore(run, target, study_inputs(spec, images, target, timing, devices[0]), "repair") for target in targets
    ]
    return Repairs(spec, devices, within_reach(gates, len(images.evaluation.samples)), stores, reporter)


def misses_bound(measured: Measurement, gates: Gates) -> bool:
    """Whether a row misses the bound of the drop, and isn't too slow anyway. Layers in float only make it slower."""
    verdicts = {gate.name: gate.verdict for gate in judge(measured, gates, random_weights=False).gates}
    return verdicts.get("max-drop") in ("fail", "inconclusive") and verdicts.get("min-speedup") != "fail"


def within_reach(gates: Gates, images: int) -> Gates:
    """The gates as far as layers in float can keep them.

    If the interval on so few images exceeds the bound even for a bundle that answers as torch does, no repair confirms
    it, and the measured drop decides.
    """
    _, high = paired_interval(0, 0, max(1, images))
    return replace(gates, must_show_drop=gates.must_show_drop and 100 * high <= gates.max_drop)


def decision(study: Study, gates: Gates) -> Trial | None:
    """The trial to ship; None if another one has to be made.

    It is the first one that keeps the bounds, with the whole interval of the drop if the user stated that bound. If the
    candidates are used up, or the last one was no longer faster than float, it is the first of those that were whose
    measured drop is within the bound, or else the most accurate.
    """
    for trial in study.trials:
        if trial.keeps_drop(gates) and trial.is_fast(gates):
            return trial
    last = study.trials[-1]
    if len(study.trials) < len(study.candidates) and (last.error is not None or last.is_fast(gates)):
        return None
    ranked = [
        (max(trial.drop, gates.max_drop), trial.number)
        for trial in study.trials
        if trial.drop is not None and (trial.number == 0 or trial.is_fast(gates))
    ]
    return study.trials[min(ranked)[1]]


def shipped_of(study: Study, gates: Gates) -> Trial:
    """The trial to ship; that of the recipe's own bundle while it isn't decided."""
    return decision(study, gates) or study.trials[0]


def is_of(study: Study, row: Measurement) -> bool:
    """Whether the device and the runtime that measured the trials also measured this row."""
    own = study.trials[0].measured
    return own is not None and (own.device, own.engine) == (row.device, row.engine)


def attempt_of(trial: Trial) -> RepairAttempt:
    """A trial as the report shows it. The speedup of an emulated device doesn't count."""
    if trial.measured is None:
        return RepairAttempt(float_layers=trial.candidate.float_layers, error=trial.error)
    accuracy, latency = trial.measured.accuracy, trial.measured.latency_ms
    speedup = None if trial.measured.device.emulated else trial.measured.speedup
    return RepairAttempt(
        float_layers=trial.candidate.float_layers,
        drop_top1_points=accuracy.drop_top1_points if accuracy else None,
        drop_ci95_points=accuracy.drop_ci95_points if accuracy else None,
        p50_ms=latency.p50 if latency else None,
        speedup=speedup.ratio if speedup else None,
        speedup_ci95=speedup.ci95 if speedup else None,
    )
