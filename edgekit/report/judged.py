"""A row of any document, as the outputs for pipelines read it."""

from collections.abc import Iterable
from typing import Protocol

from edgekit.report.figure import DETAIL_RANK, Figure
from edgekit.report.gate import Gate
from edgekit.report.measurement import Failure
from edgekit.report.row import Verdict, all_figures


class Judged(Protocol):
    """A row with a verdict: of a report, of `edgekit benchmark` or of `edgekit evaluate`."""

    @property
    def label(self) -> str:
        """Name of the row, which no other row of the document has."""
        ...

    @property
    def verdict(self) -> Verdict: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def failure(self) -> Failure | None: ...

    @property
    def gates(self) -> tuple[Gate, ...]: ...


def main_figures(rows: Iterable[Judged], meaningful: bool = True) -> list[Figure]:
    """The figures that any of the rows has, the most important first, without details."""
    rows = list(rows)
    ranked = [figure for figure in all_figures() if figure.rank is not None and figure.rank < DETAIL_RANK]
    measured = [figure for figure in ranked if any(_has(row, figure, meaningful) for row in rows)]
    return sorted(measured, key=lambda figure: figure.rank or 0)


def _has(row: Judged, figure: Figure, meaningful: bool) -> bool:
    return figure.is_part_of(row) and figure.value(row, meaningful) is not None
