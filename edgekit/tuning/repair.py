"""Repairs INT8 bundles that miss the accuracy bound: keeps the layers that cost the most in float, and measures again.

Calibration images rank the layers. Images that give no verdict compare the bundles, and the evaluation images judge the
chosen one; if there are too few of the former, they do both.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from edgekit.measure.gates import judge
from edgekit.measure.measurement_store import lost_with_device
from edgekit.measure.paired import least_drop_bound
from edgekit.measure.settings import Gates
from edgekit.report.float_layers import Repair, RepairAttempt, layers_words, outcome_words, repair_words
from edgekit.report.measurement import Measurement
from edgekit.report.row import Row
from edgekit.tuning.bundle_loop import BundleLoop, MeasuredBundles
from edgekit.tuning.mixtures import NOISE_IMAGES, rank_layers
from edgekit.tuning.study import Candidate, Study, Trial

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
