"""Repairs INT8 bundles that miss the accuracy bound: keeps the layers that cost the most in float, and measures again.

Calibration images rank the layers; the evaluation images only judge the bundles. The first device judges, and the
others measure only the bundle that is shipped.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from edgekit.config import sizes
from edgekit.config.recipes import Recipe
from edgekit.devices.registry import Device
from edgekit.errors import costs_a_row
from edgekit.images.calibration_doubts import differ_in_brightness
from edgekit.measure.built_bundles import BuiltBundles
from edgekit.measure.gates import judge
from edgekit.measure.paired import paired_interval
from edgekit.measure.settings import Gates
from edgekit.pipeline.build import build_one
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.options import Options
from edgekit.pipeline.repair_store import (
    Ranking,
    RankLayers,
    RepairState,
    RepairStore,
    attempt_of,
    repair_inputs,
)  # fmt: skip
from edgekit.pipeline.repair_target import MeasuredBundles, TargetRepair
from edgekit.pipeline.request import BuildSpec
from edgekit.report.measurement import Measurement
from edgekit.report.recipe_search import Repair, is_within, repair_words
from edgekit.report.row import Row
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder

MOST_ATTEMPTS = 3
"""Largest number of bundles with more layers in float that the evaluation images judge for one row."""
Measure = Callable[[Device, BuiltBundles], Sequence[Measurement]]
"""Measures bundles on a device, one measurement each."""


class Repairs:
    """The repairs of one job's INT8 bundles, one for each target."""

    def __init__(
        self,
        spec: BuildSpec,
        images: JobImages,
        options: Options,
        run: RunFolder,
        rank: RankLayers,
        reporter: Reporter,
    ) -> None:
        self._spec, self._options, self._run, self._rank, self._reporter = spec, options, run, rank, reporter
        self._gates = within_reach(options.gates, len(images.evaluation.samples))
        self._stores = {
            target: RepairStore(run, target, repair_inputs(spec, images, target, options)) for target in options.targets
        }
        states = {target: state for target, store in self._stores.items() if (state := store.load())}
        self._float_layers = {target: state.shipped(self._gates).float_layers for target, state in states.items()}
        self._repairs: dict[str, Repair] = {}

    @property
    def recipe(self) -> Recipe:
        """The recipe of the bundles: the job's, with the layers that repairs keep in float."""
        recipe = self._spec.recipe
        for target, layers in self._float_layers.items():
            recipe = _with_layers(recipe, target, layers)
        return recipe

    def repair(
        self, built: BuiltBundles, measured: Sequence[Measurement], measure: Measure, graphs: JobGraphs
    ) -> list[Measurement]:
        """Repair the bundles whose rows on the first device miss the bound of the drop.

        `measured` has the measurements of all bundles for each device in turn. Returns them with those of the repaired
        bundles in place of the old ones. `graphs` made the bundles, and its calibration serves their repair too.
        """
        first, *others = self._options.devices
        starts = range(0, len(measured), len(built))
        rows = [dict(zip(built, measured[start : start + len(built)], strict=True)) for start in starts]
        repaired: dict[str, Bundle | Exception] = {}
        for target in self._options.targets:
            group = {name: bundle for name, bundle in built.items() if name.startswith(f"{target}-")}
            if not isinstance(group.get(f"{target}-int8"), Bundle):
                continue
            before = MeasuredBundles(group, {name: rows[0][name] for name in group})
            after = self._repair(target, before, lambda bundles: measure(first, bundles), graphs)
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
        return (
            row
            if repair is None or row.failure
            else replace(row, repair=repair, remarks=(*row.remarks, repair_words(repair)))
        )

    def _repair(
        self,
        target: str,
        shipped: MeasuredBundles,
        measure: Callable[[BuiltBundles], Sequence[Measurement]],
        graphs: JobGraphs,
    ) -> MeasuredBundles:
        """Repair one target's bundle if its row misses the bound, as far as no earlier command has done so."""
        store, gates = self._stores[target], self._gates

        def build(layers: Sequence[str], path: Path) -> Bundle:
            recipe = _with_layers(self._spec.recipe, target, layers)
            return build_one(graphs.with_recipe(recipe), target, "int8", path, self._reporter)

        repair, state = TargetRepair(store, gates, self._reporter, build, measure), store.load()
        if state is not None and not (shipped.rows[store.name].failure or state.is_of(shipped.rows[store.name])):
            shipped, state = repair.begin_again(shipped), None
        state = state or self._begin(store, shipped.rows[store.name], graphs)
        if state is None:
            return shipped
        state, shipped = repair.run(state, shipped)
        chosen = state.decision(gates)
        if chosen is None or (chosen == 0 and state.keeps_drop(gates)):
            return shipped
        self._float_layers[target] = state.attempts[chosen].float_layers
        self._repairs[store.name] = Repair(
            device=self._options.devices[0].name,
            max_drop_points=gates.max_drop,
            ranking_images=state.ranking.images,
            attempts=state.attempts,
            chosen=chosen,
        )
        return shipped

    def _begin(self, store: RepairStore, measured: Measurement, graphs: JobGraphs) -> RepairState | None:
        """Rank the layers if the row misses the bound; None if it doesn't, or if they can't be ranked."""
        gates = self._gates
        if not misses_bound(measured, gates):
            return None
        own = attempt_of(measured)
        missed = f"{store.name}: top-1 drops by {own.drop_top1_points:.2f} points"
        if own.drop_ci95_points and is_within(own, gates.max_drop):
            missed += f", which may be {own.drop_ci95_points[1]:.2f}"
        self._reporter.say(f"{missed}, at most {gates.max_drop:g} are allowed: looking for the layers")
        try:
            ranking = self._rank(graphs.with_recipe(self._spec.recipe), store.target)
        except Exception as error:
            if not costs_a_row(error):
                raise
            self._reporter.failed(f"{store.name}: repair", error)
            return None
        ranking = Ranking(ranking.images, ranking.attempts[:MOST_ATTEMPTS])
        state = RepairState(ranking, (own,), measured.device, measured.engine)
        store.save(state)
        return state


def repairs_of(
    spec: BuildSpec, images: JobImages, options: Options, run: RunFolder, rank: RankLayers, reporter: Reporter
) -> Repairs | None:
    """The repairs of a job; None if nothing can be repaired.

    Random weights have no accuracy. A large network's weights stay in mapped files, which a simulation would load.
    Calibration images that are darker or brighter than the others don't show which layers clip these.
    """
    if spec.network.weights == "random" or "int8" not in options.precisions:
        return None
    if spec.network.params >= sizes.BUILT_APART_FROM:
        least = f"{sizes.BUILT_APART_FROM / 1e6:.0f} million parameters"
        reporter.say(f"INT8 that misses --max-drop isn't repaired, because the network has at least {least}")
        return None
    if differ_in_brightness(spec.calibration, images.evaluation):
        reporter.say("INT8 that misses --max-drop isn't repaired: calibrate on other images instead")
        return None
    return Repairs(spec, images, options, run, rank, reporter)


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


def _with_layers(recipe: Recipe, target: str, layers: Sequence[str]) -> Recipe:
    """The recipe with these layers of one target in float, or the very same recipe without any."""
    return recipe.keeping_in_float(target, layers) if layers else recipe
