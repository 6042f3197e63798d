"""A study without a network: a strategy that keeps one more layer in float with each trial, of up to three."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from edgekit.measure.settings import Gates
from edgekit.report.row import Measurement, Row
from edgekit.support.files import Inputs
from edgekit.support.progress import Reporter
from edgekit.support.run_folder import RunFolder
from edgekit.tuning.study import Candidate, Driver, Proposal, Proposals, Strategy, Study, Trial, recalled
from tests.helpers.measurements import accuracy, latency, measurement, speedup

CANDIDATES = tuple(Candidate().keeping_in_float(("d", "b", "a")[:count]) for count in range(4))
"""The recipe's own, and the candidates in the order in which they are tried."""


def measured(candidate: Candidate) -> Measurement:
    """Measurement of a trial: each layer in float halves the drop."""
    drop = 2.0 / 2 ** len(candidate.layers("float"))
    return measurement(accuracy=accuracy(drop), latency_ms=latency(1.0), speedup=speedup(1.5, 1.4, 1.6))


@dataclass(frozen=True)
class EachInTurn(Strategy):
    """Tries each candidate in turn, and ships the last one."""

    purpose: ClassVar[str] = "study"
    count: int = len(CANDIDATES) - 1

    def prepare(self, driver: Driver, study: Study | None) -> Study | None:
        return study

    def proposals(self, study: Study) -> Proposals:
        last = study.trials[0]
        for candidate in CANDIDATES[1 : self.count + 1]:
            last = yield Proposal(candidate)
        return last

    def told(self, study: Study) -> str:
        return f"{len(study.trials)} trials"

    def described(self, row: Row, study: Study) -> Row:
        return row


def studied(
    run: RunFolder,
    inputs: Inputs,
    measure: Callable[[Candidate], Measurement] = measured,
    made: list[Candidate] | None = None,
    **strategy: Any,
) -> Study:
    """The study with these inputs in a run, after its trials. `measure` may raise, as for a trial that fails."""

    def tried(_: Driver, proposal: Proposal) -> Measurement:
        result = measure(proposal.candidate)
        if made is not None:
            made.append(proposal.candidate)
        return result

    nothing: Any = None
    driver = Driver(run, "onnx", inputs, nothing, nothing, Reporter(quiet=True), nothing, nothing)
    study = recalled(run, "onnx", EachInTurn.purpose, inputs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Driver, "tried", tried)
        return driver.complete(
            EachInTurn(Gates(), "local", 10, **strategy),
            study or Study((Trial.of(0, Candidate(), measured(Candidate())),)),
        )
