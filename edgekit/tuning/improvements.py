"""Improvements of a job's INT8 bundles, by one loop after the other for each target.

The first device judges, and the others measure only the bundle that is shipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgekit.config import sizes
from edgekit.config.recipes import Recipe
from edgekit.images.selection import differ_in_brightness
from edgekit.job import Job
from edgekit.measure.measure_bundles import BuiltBundles
from edgekit.measure.paired import least_drop_bound
from edgekit.measure.settings import Gates
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.improvement import Improvement, Measure
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.report.measurement import Measurement
from edgekit.report.row import Row
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.bundle_loop import BundleLoop, MeasuredBundles, MeasureRows
from edgekit.tuning.placement import PlacementLoop
from edgekit.tuning.repair import RepairLoop, within_reach
from edgekit.tuning.study import Study, StudyStore, study_inputs


@dataclass
class Improvements(Improvement):
    """The improvements of one job's INT8 bundles."""

    spec: BuildSpec
    images: JobImages
    job: Job
    gates: Gates
    """The job's gates, as far as an improvement can keep them."""
    run: RunFolder
    reporter: Reporter
    loops: Sequence[type[BundleLoop]]

    def __post_init__(self) -> None:
        self._studies: dict[str, list[tuple[BundleLoop, Study]]] = {}
        self._recipes = dict.fromkeys(self.job.targets, self.job_recipe)
        for target in self.job.targets:
            for kind in self.loops:
                self._change(target, kind, self._store(target, kind).load())

    @property
    def recipe(self) -> Recipe:
        """The recipe of the bundles: the job's, with the layers that the loops keep in float."""
        rows = {target: recipe.targets[target] for target, recipe in self._recipes.items()}
        return replace(self.job_recipe, targets={**self.job_recipe.targets, **rows})

    def improve(
        self,
        built: BuiltBundles,
        measured: Sequence[Measurement],
        measure: Measure,
        graphs: JobGraphs,
        compare: Measure | None = None,
    ) -> list[Measurement]:
        """Improve the bundles by their rows on the first device; see `Improvement`."""
        first, *others = self.job.machines
        starts = range(0, len(measured), len(built))
        rows = [dict(zip(built, measured[start : start + len(built)], strict=True)) for start in starts]
        improved: dict[str, Bundle | Exception] = {}

        def on_first(measure: Measure) -> MeasureRows:
            return lambda bundles, threads=None: dict(zip(bundles, measure(first, bundles, threads), strict=True))

        for target in self._recipes:
            group = {name: bundle for name, bundle in built.items() if name.startswith(f"{target}-")}
            if not isinstance(group.get(f"{target}-int8"), Bundle):
                continue
            before = MeasuredBundles(group, {name: rows[0][name] for name in group})
            after = self._improve(target, before, on_first(measure), graphs, on_first(compare) if compare else None)
            rows[0] |= after.rows
            if after.bundles != group:
                improved |= after.bundles
        for device, rows_of_device in zip(others, rows[1:], strict=True):
            if improved:
                rows_of_device |= dict(zip(improved, measure(device, improved), strict=True))
        return [measurement for rows_of_device in rows for measurement in rows_of_device.values()]

    def described(self, row: Row) -> Row:
        """The row with the improvements of its bundle, if there were any."""
        if row.failure or row.precision == "float":
            return row
        for loop, study in self._studies.get(row.target, ()):
            row = loop.described(row, study)
        return row

    def _improve(
        self,
        target: str,
        shipped: MeasuredBundles,
        measure: MeasureRows,
        graphs: JobGraphs,
        compare: MeasureRows | None,
    ) -> MeasuredBundles:
        """Improve one target's bundle, as far as no earlier command has done so."""
        self._recipes[target], self._studies[target] = self.job_recipe, []
        for kind in self.loops:
            store, recipe = self._store(target, kind), self._recipes[target]
            loop = kind(store, self.reporter, self.gates, shipped, measure, recipe, graphs, compare)
            study, shipped = loop.improve()
            if study is not None:
                self._studies[target].append((loop, study))
                self._change(target, kind, study)
        return shipped

    def _store(self, target: str, kind: type[BundleLoop]) -> StudyStore:
        spec = replace(self.spec, recipe=self._recipes[target])
        inputs = study_inputs(spec, self.images, target, self.job.timing, self.job.machines[0])
        return StudyStore(self.run, target, inputs, kind.purpose)

    def _change(self, target: str, kind: type[BundleLoop], study: Study | None) -> None:
        """Let the target's recipe have what a study has chosen."""
        if study is not None:
            candidate = kind.choose(study, self.gates).candidate
            self._recipes[target] = candidate.applied(self._recipes[target], target)


def improvements_of(spec: BuildSpec, images: JobImages, job: Job, run: RunFolder, reporter: Reporter) -> Improvement:
    """The improvements of a job: placement by profile, then repair; none if nothing can be improved.

    The calibration list of an earlier run states the layers that it chose. A large network's weights stay in mapped
    files, which a simulation would load. Random weights have no accuracy to repair. Calibration images that are darker
    or brighter than the others don't show which layers clip these.
    """
    if job.calibration_list and not job.recipe:
        reporter.say(f"layers stay in INT8 or in float as '{job.calibration_list}' states")
        return Improvement(spec.recipe)
    loops: tuple[type[BundleLoop], ...] = (PlacementLoop,)
    if spec.network.params >= sizes.BUILT_APART_FROM:
        least = f"{sizes.BUILT_APART_FROM / 1e6:.0f} million parameters"
        reporter.say(f"INT8 that misses --max-drop isn't repaired, because the network has at least {least}")
        return Improvement(spec.recipe)
    if spec.network.weights != "random":
        if differ_in_brightness(spec.calibration, images.evaluation):
            reporter.say("INT8 that misses --max-drop isn't repaired: calibrate on other images instead")
        else:
            loops += (RepairLoop,)
    gates = within_reach(job.gates, least_drop_bound(len(images.evaluation.samples)))
    return Improvements(spec.recipe, spec, images, job, gates, run, reporter, loops)
