"""Improves the INT8 bundles of a job, by one strategy after the other for each target: placement, then repair.

The first device judges, and the others measure only the bundle that is shipped.

Placement by profile: layers that INT8 doesn't make faster stay in float, with what surrounds them. The runtime's
profiles on the device that judges say which sets of layers would save time. Each set is then built from the same
calibration and timed in turns with the bundle before it, and is kept only if the whole is faster.

Repair of bundles that miss the accuracy bound: the layers that cost the most become dynamic where the runtime has such
layers, and stay in float where that isn't enough. Calibration images rank the layers. Images that give no verdict
compare the bundles, and the evaluation images judge the chosen one; if there are too few of the former, they do both.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import prod
from typing import ClassVar

from edgekit.config import runtimes
from edgekit.config.recipes import Recipe
from edgekit.job import Job
from edgekit.measure.bundles import BuiltBundles
from edgekit.measure.settings import Gates
from edgekit.measure.statistics import least_drop_bound
from edgekit.pipeline.deploy import Bench, Rows
from edgekit.pipeline.graphs import JobGraphs
from edgekit.pipeline.job_images import JobImages
from edgekit.pipeline.request import BuildSpec
from edgekit.report.row import PlacedLayer, ProfilePlacement, Repair, RepairAttempt, Row
from edgekit.runtime.bundle import Bundle
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.mixtures import DIFFERS, NOISE_IMAGES, LayerCosts, Ranking, rank_layers
from edgekit.tuning.study import (
    Candidate,
    Driver,
    MeasuredBundles,
    Proposal,
    Proposals,
    Strategy,
    Study,
    StudyInputs,
    Trial,
    outcome,
    recalled,
    study_inputs,
)

MOST_ROUNDS = 3
"""Largest number of bundles that are timed for one row."""
LEAST_SHARE, LEAST_MS = 0.03, 0.02
"""Share of the layers' time in INT8, and milliseconds, that a round has to save by the profile: profilers count whole
microseconds."""

Steps = tuple[tuple[PlacedLayer, ...], ...]
"""Sets of layers that each round moves to float."""


class PlacementStrategy(Strategy):
    """Moves layers of one target's INT8 bundle to float as long as that makes it faster."""

    purpose: ClassVar[str] = "placement"

    def prepare(self, driver: Driver, study: Study | None) -> Study | None:
        """Find the sets of layers that INT8 makes slower; None if the graph can't be made.

        Without an interval of the speedup, as after a few runs, no round could show that a bundle is faster.
        """
        if study is not None:
            return study
        row, times = driver.row, driver.layer_times
        steps: Steps = ()
        if times and row.speedup and row.speedup.ci95 and driver.recipe.scheme == "w8a8":
            least = max(LEAST_SHARE * sum(times.int8_ms.values()), LEAST_MS)
            if times.most_saved_ms >= least:
                graphs = driver.graphs.with_recipe(driver.recipe)
                made = driver.attempted(lambda: graphs.graph_to_compile(driver.target, "int8"), self.purpose)
                if made is None:
                    return None
                costs = times.costs(made.graph)
                steps = rounds_of(costs, least) if costs else ()
        if steps:
            moved = sum(map(len, steps))
            driver.reporter.say(f"{driver.name}: INT8 may be faster with up to {moved} more layers in float: trying it")
        return Study((Trial.of(0, Candidate(), row),), steps=steps)

    def proposals(self, study: Study) -> Proposals:
        """Propose what was kept so far with the next set of layers in float too, timed in turns with it."""
        kept = study.trials[0]
        for step in study.steps:
            tried = yield Proposal(kept.candidate.keeping_in_float(layer.name for layer in step), kept.candidate)
            kept = tried if is_faster(tried) else kept
        return kept

    def told(self, study: Study) -> str:
        """The layers of the last trial, and how much faster it was."""
        trial = study.trials[-1]
        if trial.measured is None:
            return ""
        speedup = trial.measured.speedup
        faster = f"{speedup.ratio:.2f}x as fast as before" if speedup else "the timing was too unsteady to tell"
        return f"{attempt_of(trial).layers}: {faster}, {'' if is_faster(trial) else 'not '}kept"

    def described(self, row: Row, study: Study) -> Row:
        """The row with its placement, unless the recipe's own bundle is the fastest."""
        kept = [trial for trial in study.trials if is_faster(trial)]
        if not kept:
            return row
        names = {name for trial in kept for name in trial.candidate.layers("float")}
        placement = ProfilePlacement(
            device=self.device,
            layers=tuple(layer for step in study.steps for layer in step if layer.name in names),
            speedup=prod(trial.measured.speedup.ratio for trial in kept if trial.measured and trial.measured.speedup),
            bundles=len(study.trials) - 1,
        )
        words = placement.words(row.int8.share_of_macs if row.int8 else None)
        return replace(row, placement=placement, remarks=(*row.remarks, words))


def is_faster(trial: Trial) -> bool:
    """Whether a bundle was faster than the one beside it, with the whole interval of the ratio."""
    speedup = trial.measured.speedup if trial.measured else None
    return trial.number > 0 and speedup is not None and speedup.ci95 is not None and speedup.ci95[0] > 1


def rounds_of(costs: LayerCosts, least: float) -> Steps:
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


MOST_ATTEMPTS = 6
"""Largest number of bundles with other kinds of layers that are compared for one row."""
ALIKE = 0.02
"""Share by which the speedups of two bundles differ at most if they count as equally fast."""


class RepairStrategy(Strategy):
    """Tries to bring the drop of one target's INT8 bundle within its bound."""

    purpose: ClassVar[str] = "repair"

    def prepare(self, driver: Driver, study: Study | None) -> Study | None:
        """Rank the layers if the recipe's own bundle misses the bound and no earlier command has done so.

        None without an accuracy.
        """
        if driver.row.accuracy is None:
            return study
        study = study or Study((Trial.of(0, Candidate(), driver.row),))
        own = study.trials[0].measured
        if study.ranking is not None or own is None or own.accuracy is None or not misses_bound(study, self.gates):
            return study
        drop, allowed = own.accuracy.drop_points, self.gates.max_drop
        may_be = f", which may be {own.accuracy.drop_ci95_points[1]:.2f}" if drop <= allowed else ""
        missed = f"{own.accuracy.metric} drops by {drop:.2f} points{may_be}, at most {allowed:g} are allowed"
        driver.reporter.say(f"{driver.name}: {missed}: looking for the layers")
        graphs, target = driver.graphs.with_recipe(driver.recipe), driver.target
        ranking = driver.attempted(lambda: rank_layers(graphs, target, driver.layer_times), self.purpose)
        rows = driver.compare(driver.shipped.bundles) if driver.compare and ranking is not None else {}
        if ranking is None or any(row.lost_with_device for row in rows.values()):
            return study
        compared = Trial.of(0, Candidate(), rows[driver.name]) if rows else None
        return replace(study, ranking=ranking, compared=compared)

    def proposals(self, study: Study) -> Proposals:
        """Propose more steps of the ranking until a bundle keeps the bound, then look for fewer by bisection.

        The numbers of steps that cut the simulated noise are tried first. It ends when no bundle in between could be
        noticeably faster, or when one was slower than float and still missed the bound. The recipe's own bundle is
        shipped if it keeps the bounds on the evaluation images, or else the fastest that does where the attempts are
        compared, of equally fast ones that with the fewest steps. The whole interval of the drop counts if the user
        stated that bound, or the measured drop if that confirms none. If there is no such bundle, it is the most
        accurate. Even if no speedup is required, one that its steps made slower than float isn't shipped.
        """
        own = study.trials[0]
        bounds = bounds_of(study, self.gates)
        ranking = study.ranking
        if ranking is None or (own.keeps_drop(self.gates) and own.is_fast(self.gates)):
            return own
        misses, keeps = study.compared or own, None
        tried = [misses]
        while len(tried) <= MOST_ATTEMPTS and (count := next_count(ranking, misses, keeps)):
            trial = yield Proposal(Candidate(ranking.steps[:count]))
            tried.append(trial)
            if trial.keeps_drop(bounds):
                keeps = trial
            elif trial.error is None and not self.is_fast(trial, own):  # and more steps only make it slower
                break
            else:
                misses = trial
        fast = [trial for trial in tried[1:] if self.is_fast(trial, own)]
        within = [trial for trial in fast if trial.keeps_drop(bounds)] or [
            trial for trial in fast if trial.drop is not None and bounds.allow(trial.drop)
        ]
        if within:
            fastest = max(map(speed_of, within))
            alike = [trial for trial in within if speed_of(trial) >= (1 - ALIKE) * fastest]
            return min(alike, key=lambda trial: len(trial.candidate.kinds))
        drops = [(trial.drop, trial.number) for trial in (tried[0], *fast) if trial.drop is not None]
        return study.trials[min(drops, default=(0.0, 0))[1]]

    def is_fast(self, trial: Trial, own: Trial) -> bool:
        """Whether its steps left a bundle as fast as the gates want, and did not make it slower than float."""
        return trial.is_fast(self.gates) and (is_slower(own) or not is_slower(trial))

    def told(self, study: Study) -> str:
        """The layers of the last trial, and what they changed."""
        number = len(study.trials) - 1
        return f"repair, attempt {number} of at most {MOST_ATTEMPTS}: {attempt_of(study.trials[-1]).words}"

    def described(self, row: Row, study: Study) -> Row:
        """The row with its repair, unless the recipe's own bundle keeps the bound."""
        result = outcome(self.proposals(study), study)
        if study.ranking is None or isinstance(result, Proposal):
            return row
        if result.number == 0 and result.keeps_drop(self.gates):
            return row
        compared = study.compared and study.compared.measured
        repair = Repair(
            device=self.device,
            max_drop_points=self.gates.max_drop,
            ranking_images=min(self.calibration_images, NOISE_IMAGES),
            attempts=tuple(map(attempt_of, (study.compared or study.trials[0], *study.trials[1:]))),
            chosen=result.number,
            choosing_images=compared.accuracy.count if compared and compared.accuracy else None,
        )
        return replace(row, repair=repair, remarks=(*row.remarks, repair.words))


def next_count(ranking: Ranking, misses: Trial, keeps: Trial | None) -> int | None:
    """How many steps to take next, between the trials that miss and keep the bound; None for no more."""
    low = len(misses.candidate.kinds)
    if keeps is None:
        doubled = min(2 * low, len(ranking.steps) - 1)
        return next((count for count in (*ranking.counts, doubled) if count > low), None)
    high = len(keeps.candidate.kinds)
    known = speed_of(misses) and speed_of(keeps)
    if high - low < 2 or (known and speed_of(misses) <= (1 + ALIKE) * speed_of(keeps)):
        return None
    return (low + high) // 2


def speed_of(trial: Trial) -> float:
    """Speedup over float of a trial on a real device; 0 if it isn't known."""
    measured = trial.measured
    return measured.speedup.ratio if measured and measured.speedup and not measured.device.emulated else 0.0


def misses_bound(study: Study, gates: Gates) -> bool:
    """Whether the recipe's own bundle misses the bound of the drop, and isn't too slow anyway.

    Other kinds of layers only make it slower.
    """
    own = study.trials[0]
    return not own.keeps_drop(gates) and own.is_fast(gates)


def within_reach(gates: Gates, least: float) -> Gates:
    """The gates as far as other kinds of layers can keep them.

    If the interval on so few images, which ends at `least` points even for a bundle that answers as torch does, exceeds
    the bound, no repair confirms it, and the measured drop decides.
    """
    return replace(gates, must_show_drop=gates.must_show_drop and least <= gates.max_drop)


def bounds_of(study: Study, gates: Gates) -> Gates:
    """The gates on the images that compare the attempts.

    If the recipe's own bundle loses less there than on the evaluation images, as on images that trained the network, an
    attempt has to cut that loss by the same factor as on the evaluation images.
    """
    own = study.trials[0].drop
    compared = study.compared.measured if study.compared else None
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
    dynamic = trial.candidate.layers("dynamic")
    in_float = trial.candidate.layers("float")
    if trial.measured is None:
        return RepairAttempt(dynamic_layers=dynamic, float_layers=in_float, error=trial.error)
    accuracy, latency = trial.measured.accuracy, trial.measured.latency_ms
    speedup = None if trial.measured.device.emulated else trial.measured.speedup
    return RepairAttempt(
        dynamic_layers=dynamic,
        float_layers=in_float,
        drop_top1_points=accuracy.drop_points if accuracy else None,
        drop_ci95_points=accuracy.drop_ci95_points if accuracy else None,
        p50_ms=latency.p50 if latency else None,
        speedup=speedup.ratio if speedup else None,
        speedup_ci95=speedup.ci95 if speedup else None,
    )


class Improvements:
    """The improvements of one job's INT8 bundles."""

    def __init__(
        self,
        spec: BuildSpec,
        images: JobImages,
        job: Job,
        gates: Gates,
        run: RunFolder,
        reporter: Reporter,
        strategies: Sequence[type[Strategy]],
    ) -> None:
        """`gates` are the job's, as far as an improvement can keep them."""
        self._spec, self._images, self._job, self._run, self._reporter = spec, images, job, run, reporter
        first, count = job.machines[0], len(spec.calibration.samples)
        self.strategies = [strategy(gates, first.name, count) for strategy in strategies]
        self._studies: dict[str, list[tuple[Strategy, Study]]] = {}
        self._recipes = dict.fromkeys(job.targets, spec.recipe)
        for target in job.targets:
            for strategy in self.strategies:
                self._change(target, strategy, recalled(run, target, strategy.purpose, self._inputs(target)))

    @property
    def recipe(self) -> Recipe:
        """The recipe of the bundles: the job's, with the kinds of layers that the strategies chose."""
        rows = {target: recipe.targets[target] for target, recipe in self._recipes.items()}
        return replace(self._spec.recipe, targets={**self._spec.recipe.targets, **rows})

    def improve(self, built: BuiltBundles, measured: Sequence[Rows], bench: Bench, graphs: JobGraphs) -> list[Rows]:
        """Improve the bundles by their rows on the first device. `graphs` made the bundles.

        `measured` has the measurements of all bundles for each device. Returns them with those of the new bundles in
        place of the old ones.
        """
        (device, *devices), (rows, *others) = self._job.machines, measured
        improved: dict[str, Bundle | Exception] = {}
        measure = partial(bench.measure_on, device)
        compare = partial(bench.compare_on, device) if bench.choosing else None
        for target in self._recipes:
            group = {name: bundle for name, bundle in built.items() if name.startswith(f"{target}-")}
            if not isinstance(group.get(f"{target}-int8"), Bundle):
                continue
            after = MeasuredBundles(group, {name: rows[name] for name in group})
            self._recipes[target], self._studies[target] = self._spec.recipe, []
            for strategy in self.strategies:  # as far as no earlier command has done so
                study, after = Driver(
                    self._run,
                    target,
                    self._inputs(target),
                    self._recipes[target],
                    graphs,
                    self._reporter,
                    after,
                    measure,
                    compare,
                ).improve(strategy)
                self._change(target, strategy, study)
                self._studies[target] += [(strategy, study)] if study else []
            rows = {**rows, **after.rows}
            if after.bundles != group:
                improved |= after.bundles
        if improved:
            others = [
                {**each, **bench.measure_on(device, improved)} for device, each in zip(devices, others, strict=True)
            ]
        return [rows, *others]

    def described(self, row: Row) -> Row:
        """The row with the improvements of its bundle, if there were any."""
        if row.failure or row.precision == "float":
            return row
        for strategy, study in self._studies.get(row.target, ()):
            row = strategy.described(row, study)
        return row

    def _inputs(self, target: str) -> StudyInputs:
        spec = replace(self._spec, recipe=self._recipes[target])
        return study_inputs(spec, self._images, target, self._job.timing, self._job.machines[0].url)

    def _change(self, target: str, strategy: Strategy, study: Study | None) -> None:
        """Let the target's recipe have what a study has chosen."""
        if study is not None:
            chosen = strategy.chosen(study).candidate
            self._recipes[target] = chosen.applied(self._recipes[target], target)


def improvements_of(spec: BuildSpec, images: JobImages, job: Job, run: RunFolder, reporter: Reporter) -> Improvements:
    """The improvements of a job: placement by profile, then repair; none if nothing can be improved.

    The calibration list of an earlier run states the layers that it chose. A large network's weights stay in mapped
    files, which a simulation would load. Random weights have no accuracy to repair. Calibration images that are darker
    or brighter than the others don't show which layers clip these.
    """
    strategies: tuple[type[Strategy], ...] = ()
    if job.calibration_list and not job.recipe:
        reporter.say(f"layers stay in INT8 or in float as '{job.calibration_list}' states")
    elif spec.network.params >= runtimes.BUILT_APART_FROM:
        least = f"{runtimes.BUILT_APART_FROM / 1e6:.0f} million parameters"
        reporter.say(f"INT8 that loses too much isn't repaired, because the network has at least {least}")
    elif spec.network.weights == "random":
        strategies = (PlacementStrategy,)
    elif spec.calibration.differs_in_brightness(images.evaluation):
        reporter.say("INT8 that loses too much isn't repaired: calibrate on other images instead")
        strategies = (PlacementStrategy,)
    else:
        strategies = (PlacementStrategy, RepairStrategy)
    gates = within_reach(job.gates_on(images.dataset.is_labelled), least_drop_bound(len(images.evaluation.samples)))
    return Improvements(spec, images, job, gates, run, reporter, strategies)
