"""sensitivity.json: what each layer costs in INT8, and what it saves."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from edgekit.report.row import Count, Fraction, Interval


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """A mixture of INT8 and float layers, simulated in torch, against all layers in float."""

    snr_db: float | None
    """Signal to noise of the logits; None where they are equal."""
    drop_top1_points: float
    drop_ci95_points: Interval
    agreement: Fraction


@dataclass(frozen=True, kw_only=True)
class Spared(Simulated):
    """The same with one layer or block in float, and what that gains over all layers in INT8."""

    snr_gain_db: float | None
    gain_top1_points: float


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of a layer's kernels, from the runtime's profiler."""

    float_ms: float
    int8_ms: float
    saved_ms: float


@dataclass(frozen=True, kw_only=True)
class SensitiveLayer:
    """One layer: the only one in INT8, the only one in float, its share of the noise, and its time."""

    name: str
    block: str
    macs: Count
    only_int8: Simulated
    only_float: Spared
    noise_share: Annotated[float, Meta(ge=0)]
    time: LayerTime | None = None


@dataclass(frozen=True, kw_only=True)
class SensitiveBlock:
    """The layers of one block, taken together."""

    name: str
    layers: tuple[str, ...]
    macs: Count
    only_int8: Simulated
    only_float: Spared
    noise_share: Annotated[float, Meta(ge=0)]
    time: LayerTime | None = None


@dataclass(frozen=True)
class Culprits:
    """The noisiest layers that must stay in float to keep the drop within the bound, and what is left then."""

    layers: tuple[str, ...]
    then: Simulated


@dataclass(frozen=True)
class FloatAccuracy:
    """Share of right answers with all layers in float."""

    top1: Fraction


@dataclass(frozen=True, kw_only=True)
class TargetSensitivity:
    """The layers of one target's graph."""

    target: str
    float: FloatAccuracy
    int8: Simulated
    """All layers in INT8."""
    layers: tuple[SensitiveLayer, ...]
    blocks: tuple[SensitiveBlock, ...]
    culprits: Culprits
    verdict: Literal["pass", "fail"]


@dataclass(frozen=True)
class NamedModel:
    """Name and weights of the network."""

    name: str
    weights_sha256: str | None


@dataclass(frozen=True)
class ImageSet:
    """How many images, and the hash of their content."""

    count: Count
    sha256: str | None


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The whole of sensitivity.json."""

    schema_version: Literal[1] = 1
    edgekit: str
    created: str
    command: tuple[str, ...]
    model: NamedModel
    accuracy_meaningful: bool
    recipe: str
    calibration: ImageSet
    evaluation: ImageSet
    max_drop_points: float
    targets: tuple[TargetSensitivity, ...]
