"""Improves the INT8 bundles of a job, by one loop after the other for each target: placement, then repair.

The first device judges, and the others measure only the bundle that is shipped.

Placement by profile: layers that INT8 doesn't make faster stay in float, with what surrounds them. The runtime's
profiles on the device that judges say which sets of layers would save time. Each set is then built from the same
calibration and timed in turns with the bundle before it, and is kept only if the whole is faster.

Repair of bundles that miss the accuracy bound: the layers that cost the most stay in float. Calibration images rank the
layers. Images that give no verdict compare the bundles, and the evaluation images judge the chosen one; if there are
too few of the former, they do both.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import ClassVar

from edgekit.config import runtimes
from edgekit.config.recipes import Recipe
from edgekit.job import Job
from edgekit.measure.bundles import BuiltBundles, lost_with_device
from edgekit.measure.gates import judge
from edgekit.measure.latency import MOST_SPREAD
from edgekit.measure.settings import Gates
from edgekit.measure.statistics import least_drop_bound
from edgekit.pipeline.deploy import Improvement, Measure
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.report.row import (
    Measurement,
    PlacedLayer,
    ProfilePlacement,
    Repair,
    RepairAttempt,
    Row,
    layers_words,
    outcome_words,
    placement_words,
    repair_words,
)
from edgekit.report.sentences import layer_names
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.mixtures import DIFFERS, NOISE_IMAGES, LayerCosts, rank_layers
from edgekit.tuning.study import (
    BundleLoop,
    Candidate,
    MeasuredBundles,
    MeasureRows,
    Study,
    StudyStore,
    Trial,
    study_inputs,
)

MOST_ROUNDS = 3
"""Largest number of bundles that are timed for one row."""
LEAST_SHARE, LEAST_MS = 0.03, 0.02
"""Share of the layers' time in INT8, and milliseconds, that a round has to save by the profile: profilers count whole
microseconds."""

Steps = tuple[tuple[PlacedLayer, ...], ...]
"""Sets of layers that each round moves to float."""


@dataclass(frozen=True)
class PlacementLoop(BundleLoop):
    """Moves layers of one target's INT8 bundle to float as long as that makes it faster."""

    purpose: ClassVar[str] = "placement"
    built: dict[Candidate, Bundle] = field(default_factory=dict)
    """The bundles that this command has built."""

    @staticmethod
    def choose(study: Study, gates: Gates) -> Trial:
        """The last trial that was faster than the one before it that was."""
        return next((trial for trial in reversed(study.trials) if is_faster(trial)), study.trials[0])

    def begin(self) -> Study | None:
        """Find the sets of layers that INT8 makes slower; None if the graph can't be made.

        Without an interval of the speedup, as after a few runs, no round could show that a bundle is faster.
        """
        times = self.layer_times
        steps: Steps = ()
        if times and self.row.speedup and self.row.speedup.ci95 and self.recipe.scheme == "w8a8":
            least = max(LEAST_SHARE * times.int8_ms, LEAST_MS)
            if times.most_saved_ms >= least:
                target, recipe = self.store.target, self.recipe
                made = self.attempted(lambda: self.graphs.with_recipe(recipe).graph_to_compile(target, "int8"))
                if made is None:
                    return None
                costs = times.costs(made.graph)
                steps = steps_of(costs, least) if costs else ()
        if steps:
            moved = sum(map(len, steps))
            self.reporter.say(f"{self.name}: INT8 may be faster with up to {moved} more layers in float: trying it")
        study = Study((Candidate(),), (Trial.of(0, Candidate(), self.row),), steps=steps)
        self.store.save(study)
        return study

    def propose(self, study: Study) -> Candidate | None:
        """What was chosen so far with the next set of layers in float too."""
        if len(study.trials) > len(study.steps):
            return None
        names = tuple(layer.name for layer in study.steps[len(study.trials) - 1])
        return Candidate((*self.choose(study, self.gates).candidate.float_layers, *names))

    def make(self, study: Study, candidate: Candidate) -> Measurement:
        """Build the bundle, and time it in turns with the one that was chosen so far.

        There is no speedup if the latency of one of them drifted: its interval would mean nothing.
        """
        before = self.built.get(self.choose(study, self.gates).candidate, self.shipped.bundles[self.name])
        self.built[candidate] = bundle = self.build(candidate)
        assert self.row.latency_ms is not None
        placed = f"{self.name}-placed"
        rows = self.measure({self.name: before, placed: bundle}, self.row.latency_ms.threads)
        drift = max((row.latency_ms.spread or 0.0 for row in rows.values() if row.latency_ms), default=0.0)
        return replace(rows[placed], speedup=None) if drift > MOST_SPREAD else rows[placed]

    def tell(self, study: Study) -> None:
        """Print the layers of the last trial, and how much faster it was."""
        number, trial = len(study.trials) - 1, study.trials[-1]
        if trial.measured is not None:
            speedup, names = trial.measured.speedup, [layer.name for layer in study.steps[number - 1]]
            faster = f"{speedup.ratio:.2f}x as fast as before" if speedup else "the timing was too unsteady to tell"
            kept = "kept" if is_faster(trial) else "not kept"
            self.reporter.say(f"{self.name}: {layer_names(names)} in float: {faster}, {kept}")

    def described(self, row: Row, study: Study) -> Row:
        """The row with its placement, unless the recipe's own bundle is the fastest."""
        kept = [trial for trial in study.trials if is_faster(trial)]
        if not kept:
            return row
        names = {name for trial in kept for name in trial.candidate.float_layers}
        placement = ProfilePlacement(
            device=self.row.device.name,
            layers=tuple(layer for step in study.steps for layer in step if layer.name in names),
            speedup=prod(trial.measured.speedup.ratio for trial in kept if trial.measured and trial.measured.speedup),
            bundles=len(study.trials) - 1,
        )
        words = placement_words(placement, row.int8.share_of_macs if row.int8 else None)
        return replace(row, placement=placement, remarks=(*row.remarks, words))


def is_faster(trial: Trial) -> bool:
    """Whether a bundle was faster than the one beside it, with the whole interval of the ratio."""
    speedup = trial.measured.speedup if trial.measured else None
    return trial.number > 0 and speedup is not None and speedup.ci95 is not None and speedup.ci95[0] > 1


def steps_of(costs: LayerCosts, least: float) -> Steps:
    """The sets of layers that each round moves to float, the most certain first.

    Each saves at least this many milliseconds by the profile. The last round takes all that is left.
    """
    sets = costs.slower_in_int8()
    groups: list[list[PlacedLayer]] = []
    saved = 0.0
    for layers in sets:
        if not groups or (saved >= least and len(groups) < MOST_ROUNDS):
            groups, saved = [*groups, []], 0.0
        saved -= costs.lost_ms(layers, DIFFERS)
        groups[-1] += [PlacedLayer(name, costs.int8_ms[name], costs.float_ms[name]) for name in sorted(layers)]
    return tuple(map(tuple, groups if saved >= least else groups[:-1]))


MOST_ATTEMPTS = 3
"""Largest number of bundles with more layers in float that are compared for one row."""


@dataclass(frozen=True)
class RepairLoop(BundleLoop):
    """Tries to bring the drop of one target's INT8 bundle within its bound."""

    purpose: ClassVar[str] = "repair"

    @staticmethod
    def choose(study: Study, gates: Gates) -> Trial:
        """The trial to ship; that of the recipe's own bundle while it isn't decided."""
        return decision(study, gates) or study.trials[0]

    def begin(self) -> Study | None:
        """The recipe's own bundle, without candidates until one is needed; None without an accuracy."""
        if self.row.accuracy is None:
            return None
        study = Study((), (Trial.of(0, Candidate(), self.row),))
        self.store.save(study)
        return study

    def resume(self, study: Study) -> tuple[Study, MeasuredBundles]:
        """Rank the layers if the recipe's own bundle misses the bound and no earlier command has done so."""
        own = study.trials[0].measured
        if not study.candidates and own and own.accuracy and misses_bound(own, self.gates):
            drop, allowed = own.accuracy.drop_points, self.gates.max_drop
            may_be = f", which may be {own.accuracy.drop_ci95_points[1]:.2f}" if drop <= allowed else ""
            missed = f"{own.accuracy.metric} drops by {drop:.2f} points{may_be}, at most {allowed:g} are allowed"
            self.reporter.say(f"{self.name}: {missed}: looking for the layers")
            graphs, target = self.graphs.with_recipe(self.recipe), self.store.target
            ranked = self.attempted(lambda: rank_layers(graphs, target, self.layer_times))
            rows = self.compare(self.shipped.bundles) if self.compare and ranked is not None else {}
            if ranked is not None and not any(map(lost_with_device, rows.values())):
                candidates = (Candidate(), *map(Candidate, ranked[:MOST_ATTEMPTS]))
                compared = Trial.of(0, Candidate(), rows[self.name]) if rows else None
                study = replace(study, candidates=candidates, compared=compared)
                self.store.save(study)
        return super().resume(study)

    def propose(self, study: Study) -> Candidate | None:
        """The next candidate, until one can be shipped."""
        return study.candidates[len(study.trials)] if decision(study, self.gates) is None else None

    def make(self, study: Study, candidate: Candidate) -> Measurement:
        """Build the bundle, and measure it beside the float bundle."""
        bundles = {**self.shipped.bundles, self.name: self.build(candidate)}
        rows = (self.compare or self.measure)(bundles)
        if self.compare is None:
            self.tried[candidate] = MeasuredBundles(bundles, rows)
        return rows[self.name]

    def tell(self, study: Study) -> None:
        """Print the layers of the last trial, and what they changed."""
        attempt, most = attempt_of(study.trials[-1]), len(study.candidates) - 1
        words = f"{layers_words(attempt)} in float: {outcome_words(attempt)}"
        self.reporter.say(f"{self.name}: repair, attempt {len(study.trials) - 1} of at most {most}: {words}")

    def described(self, row: Row, study: Study) -> Row:
        """The row with its repair, unless the recipe's own bundle keeps the bound."""
        chosen = decision(study, self.gates)
        if not study.candidates or chosen is None or (chosen.number == 0 and chosen.keeps_drop(self.gates)):
            return row
        compared = study.compared and study.compared.measured
        repair = Repair(
            device=self.row.device.name,
            max_drop_points=self.gates.max_drop,
            ranking_images=len(self.graphs.spec.calibration.samples[:NOISE_IMAGES]),
            attempts=tuple(map(attempt_of, compared_trials(study))),
            chosen=chosen.number,
            choosing_images=compared.accuracy.count if compared and compared.accuracy else None,
        )
        return replace(row, repair=repair, remarks=(*row.remarks, repair_words(repair)))


def misses_bound(measured: Measurement, gates: Gates) -> bool:
    """Whether a row misses the bound of the drop, and isn't too slow anyway. Layers in float only make it slower."""
    verdicts = {gate.name: gate.verdict for gate in judge(measured, gates, random_weights=False).gates}
    return verdicts.get("max-drop") in ("fail", "inconclusive") and verdicts.get("min-speedup") != "fail"


def within_reach(gates: Gates, least: float) -> Gates:
    """The gates as far as layers in float can keep them.

    If the interval on so few images, which ends at `least` points even for a bundle that answers as torch does, exceeds
    the bound, no repair confirms it, and the measured drop decides.
    """
    return replace(gates, must_show_drop=gates.must_show_drop and least <= gates.max_drop)


def decision(study: Study, gates: Gates) -> Trial | None:
    """The trial to ship; None if another one has to be made.

    It is the recipe's own if that keeps the bounds on the evaluation images, or else the first one that does where the
    attempts are compared; with the whole interval of the drop if the user stated that bound. If the candidates are used
    up, or the last one was no longer faster than float, it is the first of those that were whose measured drop is
    within the bound, or else the most accurate. Even if no speedup is required, a bundle that layers in float made
    slower than float isn't shipped.
    """
    own, bounds = study.trials[0], bounds_of(study, gates)

    def is_fast(trial: Trial) -> bool:
        return trial.is_fast(gates) and (trial.number == 0 or is_slower(own) or not is_slower(trial))

    for trial in study.trials:
        if trial.keeps_drop(gates if trial is own else bounds) and is_fast(trial):
            return trial
    last = study.trials[-1]
    if len(study.trials) < len(study.candidates) and (last.error is not None or is_fast(last)):
        return None
    ranked = [
        (max(trial.drop, bounds.max_drop), trial.number)
        for trial in compared_trials(study)
        if trial.drop is not None and (trial.number == 0 or is_fast(trial))
    ]
    return study.trials[min(ranked, default=(0.0, 0))[1]]


def compared_trials(study: Study) -> tuple[Trial, ...]:
    """The trials on the images that compare them."""
    return (study.compared or study.trials[0], *study.trials[1:])


def bounds_of(study: Study, gates: Gates) -> Gates:
    """The gates on the images that compare the attempts.

    If the recipe's own bundle loses less there than on the evaluation images, as on images that trained the network, an
    attempt has to cut that loss by the same factor as on the evaluation images.
    """
    own, compared = study.trials[0].drop, study.compared.measured if study.compared else None
    if compared is None or compared.accuracy is None or not own or own < 0:
        return gates
    share = min(1.0, max(0.0, compared.accuracy.drop_points) / own)
    scaled = replace(gates, max_drop=share * gates.max_drop)
    return within_reach(scaled, least_drop_bound(compared.accuracy.count))


def is_slower(trial: Trial) -> bool:
    """Whether a bundle takes longer than float on a real device, by the whole interval of its speedup."""
    measured = trial.measured
    ends = measured.speedup.ci95 if measured and measured.speedup and not measured.device.emulated else None
    return ends is not None and ends[1] < 1


def attempt_of(trial: Trial) -> RepairAttempt:
    """A trial as the report shows it. The speedup of an emulated device doesn't count."""
    if trial.measured is None:
        return RepairAttempt(float_layers=trial.candidate.float_layers, error=trial.error)
    accuracy, latency = trial.measured.accuracy, trial.measured.latency_ms
    speedup = None if trial.measured.device.emulated else trial.measured.speedup
    return RepairAttempt(
        float_layers=trial.candidate.float_layers,
        drop_top1_points=accuracy.drop_points if accuracy else None,
        drop_ci95_points=accuracy.drop_ci95_points if accuracy else None,
        p50_ms=latency.p50 if latency else None,
        speedup=speedup.ratio if speedup else None,
        speedup_ci95=speedup.ci95 if speedup else None,
    )


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
    if spec.network.params >= runtimes.BUILT_APART_FROM:
        least = f"{runtimes.BUILT_APART_FROM / 1e6:.0f} million parameters"
        reporter.say(f"INT8 that misses --max-drop isn't repaired, because the network has at least {least}")
        return Improvement(spec.recipe)
    if spec.network.weights != "random":
        if spec.calibration.differs_in_brightness(images.evaluation):
            reporter.say("INT8 that misses --max-drop isn't repaired: calibrate on other images instead")
        else:
            loops += (RepairLoop,)
    gates = within_reach(job.gates, least_drop_bound(len(images.evaluation.samples)))
    return Improvements(spec.recipe, spec, images, job, gates, run, reporter, loops)
