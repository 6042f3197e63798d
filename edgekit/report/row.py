"""One row of a report: a measurement with the outcomes of its gates and its verdict."""

from dataclasses import dataclass
from typing import Literal, Protocol

from edgekit.report.float_layers import ProfilePlacement, Repair
from edgekit.report.measurement import Failure, Measurement

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


Verdict = Literal["pass", "fail", "inconclusive", "error"]
"""`fail`: a gate failed. `inconclusive`: there were too few images, or the latency was too unsteady, to confirm the
claim. `error`: a stage failed, so the row has no figures."""


@dataclass(frozen=True, kw_only=True)
class Row(Measurement):
    """One bundle on one device: its figures, or its failure, and the verdict of the gates."""

    verdict: Verdict
    """Outcome of the gates; "inconclusive" where too few images or unsteady latency leave the claim unconfirmed."""
    reasons: tuple[str, ...] = ()
    """Reasons why the row did not pass; empty where it did."""
    remarks: tuple[str, ...] = ()
    """Remarks on the row that do not affect its verdict."""
    gates: tuple[Gate, ...] = ()
    """Outcome of each gate; empty for a row with a failure, and where nothing is gated."""
    placement: ProfilePlacement | None = None
    """Layers that stay in float because the profile showed that INT8 makes them slower; null where there are none."""
    repair: Repair | None = None
    """Attempts to bring the accuracy within its bound; null where none was needed or wanted."""

    @property
    def label(self) -> str:
        """Name of the bundle and of the device, such as "onnx-int8 on local"."""
        return f"{self.name} on {self.device.label}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Reasons, then remarks."""
        return (*self.reasons, *self.remarks)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.verdict == "error") != (self.failure is not None):
            raise ValueError("the verdict must be error if the row has a failure, and only then")


class Judged(Protocol):
    """A row with a verdict: of a report, of `edgekit benchmark` or of `edgekit evaluate`."""

    @property
    def label(self) -> str:
        """Name of the row, which no other row of the document has."""
        ...

    @property
    def verdict(self) -> Verdict: ...

    @property
    def reasons(self) -> tuple[str, ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def failure(self) -> Failure | None: ...

    @property
    def gates(self) -> tuple[Gate, ...]: ...
