"""The attempts to repair one target's INT8 bundle: build, measure and decide, until one is within the bounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekit.errors import costs_a_row
from edgekit.measure.built_bundles import BuiltBundles
from edgekit.measure.measurement_store import lost_with_device
from edgekit.measure.settings import Gates
from edgekit.pipeline.repair_store import RepairState, RepairStore, attempt_of, ship
from edgekit.report.measurement import Failure, Measurement
from edgekit.report.recipe_search import RepairAttempt, layers_words, outcome_words
from edgekit.runtime.bundle import Bundle
from edgekit.support.files import without_folders
from edgekit.support.progress import Reporter


@dataclass(frozen=True)
class MeasuredBundles:
    """The bundles of one target and their measurements on one device, by name."""

    bundles: BuiltBundles
    rows: Mapping[str, Measurement]


@dataclass(frozen=True)
class TargetRepair:
    """Repairs one target's INT8 bundle on the device that judges."""

    store: RepairStore
    gates: Gates
    reporter: Reporter
    build: Callable[[Sequence[str], Path], Bundle]
    """Builds the bundle with these layers in float at a path, or reuses the one that is there."""
    measure: Callable[[BuiltBundles], Sequence[Measurement]]
    """Measures bundles on the device, one measurement each."""

    def run(self, state: RepairState, shipped: MeasuredBundles) -> tuple[RepairState, MeasuredBundles]:
        """Make the attempts that are missing, and ship the one that `state` decides on.

        `shipped` are the bundles as an earlier command left them. Each attempt is stored as soon as it is measured. If
        the device is lost, the repair ends, and the same command resumes.
        """
        name, in_place = self.store.name, state.decision(self.gates) or 0
        tried = {in_place: shipped}
        while (chosen := state.decision(self.gates)) is None:
            layers = state.ranking.attempts[len(state.attempts) - 1]
            attempt = self._attempt(layers, shipped)
            if lost_with_device(attempt.rows[name]):
                return state, shipped
            tried[len(state.attempts)] = attempt
            state = replace(state, attempts=(*state.attempts, self._figures(attempt.rows[name], layers)))
            self.store.save(state)
            self._report(state)
        if chosen == in_place:
            return state, shipped
        if in_place == 0:
            self.store.keep_own()
        bundle = ship(self.store.run, name, self.store.path_of(state.attempts[chosen].float_layers))
        bundles = {**shipped.bundles, name: bundle}
        if chosen not in tried:
            return state, MeasuredBundles(bundles, dict(zip(bundles, self.measure(bundles), strict=True)))
        return state, MeasuredBundles(bundles, tried[chosen].rows)

    def begin_again(self, shipped: MeasuredBundles) -> MeasuredBundles:
        """Ship and measure the recipe's own bundle, as if there had been no repair.

        The attempts so far don't count, because another device, or another version of the runtime, measured them.
        """
        own = self._attempt((), shipped)
        if isinstance(own.bundles.get(self.store.name), Bundle) and not own.rows[self.store.name].failure:
            bundle = ship(self.store.run, self.store.name, self.store.path_of(()))
            return MeasuredBundles({**own.bundles, self.store.name: bundle}, own.rows)
        return shipped

    def _attempt(self, layers: Sequence[str], shipped: MeasuredBundles) -> MeasuredBundles:
        """Build the bundle with these layers in float, and measure it beside the float bundle."""
        name = self.store.name
        try:
            bundle = self.build(layers, self.store.path_of(layers))
        except Exception as error:
            if not costs_a_row(error):
                raise
            self.reporter.failed(f"{name}: repair", error)
            row = shipped.rows[name]
            failed = Measurement(
                target=row.target, precision="int8", device=row.device, failure=Failure.of("compile", error)
            )
            return MeasuredBundles(shipped.bundles, {**shipped.rows, name: failed})
        bundles = {**shipped.bundles, name: bundle}
        return MeasuredBundles(bundles, dict(zip(bundles, self.measure(bundles), strict=True)))

    def _figures(self, measured: Measurement, layers: Sequence[str]) -> RepairAttempt:
        """The figures of an attempt, without the run's folder in its error, because reports are shared."""
        attempt = attempt_of(measured, layers)
        if attempt.error is None:
            return attempt
        return replace(attempt, error=without_folders(attempt.error, [self.store.run.path]))

    def _report(self, state: RepairState) -> None:
        attempt, count = state.attempts[-1], len(state.attempts) - 1
        self.reporter.say(
            f"{self.store.name}: repair, attempt {count} of at most {len(state.ranking.attempts)}: "
            f"{layers_words(attempt)} in float: {outcome_words(attempt)}"
        )
