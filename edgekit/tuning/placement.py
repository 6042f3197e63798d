"""Placement by profile: layers that INT8 doesn't make faster stay in float, with what surrounds them.

The runtime's profiles on the device that judges say which sets of layers would save time. Each set is then built from
the same calibration and timed in turns with the bundle before it, and is kept only if the whole is faster.
"""

from dataclasses import dataclass, field, replace
from math import prod
from typing import ClassVar

from edgekit.measure.settings import Gates
from edgekit.measure.steadiness import MOST_SPREAD
from edgekit.report.float_layers import PlacedLayer, ProfilePlacement, placement_words
from edgekit.report.measurement import Measurement
from edgekit.report.row import Row
from edgekit.report.sentences import layer_names
from edgekit.runtime.bundle import Bundle
from edgekit.tuning.bundle_loop import BundleLoop
from edgekit.tuning.layer_costs import DIFFERS, LayerCosts
from edgekit.tuning.study import Candidate, Study, Trial

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
