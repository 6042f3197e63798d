"""The gates of a row: the figure that each one judges, its limit and its outcome."""

from dataclasses import dataclass
from typing import Literal

GateName = Literal["above-chance", "max-drop", "min-speedup", "steady-timing"]


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One gate of a row. The gates together give the row's verdict."""

    name: GateName
    """Name of the gate: an option that sets its limit; "above-chance", which every accuracy needs of the reference; or
    "steady-timing", which a stated speed-up needs."""
    verdict: Literal["pass", "fail", "inconclusive", "skipped"]
    """Outcome of the gate; "skipped" where it does not apply to the row."""
    figure: str | None = None
    """Path of the figure that the gate judges, such as "accuracy.drop_top1_points"; null for gates without a limit."""
    limit: float | None = None
    """Limit of that figure, in the units of report.json."""
    whole_interval: bool | None = None
    """Whether the whole 95 % interval must meet the limit, instead of the measured value alone; null for gates without
    a limit, and in reports of an edgekit without it."""
    reasons: tuple[str, ...] = ()
    """Reasons for an outcome other than "pass", and remarks on one that is "pass"."""
