"""A study without a network: a loop that keeps one more layer in float with each trial, of up to three."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgekit.measure.settings import Gates
from edgekit.report.row import Measurement
from edgekit.support.progress import Reporter
from edgekit.tuning.study import Candidate, Loop, Study, StudyStore, Trial
from tests.helpers.measurements import accuracy, latency, measurement, speedup

CANDIDATES = tuple(Candidate(("d", "b", "a")[:count]) for count in range(4))
"""The candidates in the order in which they are tried."""


def measured(candidate: Candidate) -> Measurement:
    """Measurement of a trial: each layer in float halves the drop."""
    drop = 2.0 / 2 ** len(candidate.float_layers)
    return measurement(accuracy=accuracy(drop), latency_ms=latency(1.0), speedup=speedup(1.5, 1.4, 1.6))


@dataclass(frozen=True)
class LayersLoop(Loop):
    """Tries each candidate in turn. `measure` may raise, as for a trial that fails."""

    measure: Callable[[Candidate], Measurement] = measured
    candidates: Sequence[Candidate] = CANDIDATES
    made: list[Candidate] = field(default_factory=list)
    """Candidates that were measured."""

    @classmethod
    def of(cls, store: StudyStore, measure: Callable[[Candidate], Measurement] = measured, **fields: Any) -> Study:
        """The study of a loop with this store, after its trials."""
        loop = cls(store, Reporter(quiet=True), Gates(), measure, **fields)
        return loop.run(store.load() or Study(()))

    def propose(self, study: Study) -> Candidate | None:
        return next((each for each in self.candidates if each not in study.candidates), None)

    def make(self, study: Study, candidate: Candidate) -> Measurement:
        result = self.measure(candidate)
        self.made.append(candidate)
        return result

    def title(self, trial: Trial) -> str:
        return f"trial {trial.number}"

    def tell(self, study: Study) -> None:
        self.reporter.say(f"{len(study.trials)} trials")
