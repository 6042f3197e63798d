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
    """Top-1 lost against all layers in float."""
    drop_ci95_points: Interval
    """95 % interval of the drop."""
    agreement: Fraction
    """Share of images that get the same first class as with all layers in float."""


@dataclass(frozen=True, kw_only=True)
class Spared(Simulated):
    """The same with one layer or block in float, and what that gains over all layers in INT8."""

    snr_gain_db: float | None
    """Signal-to-noise ratio gained over all layers in INT8; None where one of them is infinite."""
    gain_top1_points: float
    """Top-1 gained over all layers in INT8."""


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds of a layer's kernels, from the runtime's profiler."""

    float_ms: float
    """Time of the layer in the float bundle."""
    int8_ms: float
    """Time of the layer in the INT8 bundle."""
    saved_ms: float
    """Time that INT8 saves in this layer."""


@dataclass(frozen=True, kw_only=True)
class SensitiveLayer:
    """One layer: the only one in INT8, the only one in float, its share of the noise, and its time."""

    name: str
    """Name of the layer."""
    block: str
    """Name of the block that the layer belongs to."""
    macs: Count
    """Multiply-accumulates of the layer in one inference."""
    only_int8: Simulated
    """Result with only this layer in INT8."""
    only_float: Spared
    """Result with only this layer in float."""
    noise_share: Annotated[float, Meta(ge=0)]
    """Noise with only this layer in INT8, as a share of the sum over all layers."""
    time: LayerTime | None = None
    """Time of the layer in float and in INT8; None where the profiler reports none."""


@dataclass(frozen=True, kw_only=True)
class SensitiveBlock:
    """The layers of one block, taken together."""

    name: str
    """Name of the block."""
    layers: tuple[str, ...]
    """Names of its layers."""
    macs: Count
    """Multiply-accumulates of the block in one inference."""
    only_int8: Simulated
    """Result with only this block in INT8."""
    only_float: Spared
    """Result with only this block in float."""
    noise_share: Annotated[float, Meta(ge=0)]
    """Noise with only this block in INT8, as a share of the sum over all layers."""
    time: LayerTime | None = None
    """Time of the block in float and in INT8; None where the profiler reports none."""


@dataclass(frozen=True)
class Culprits:
    """The noisiest layers that must stay in float to keep the drop within the bound, and what is left then."""

    layers: tuple[str, ...]
    """Names of the layers that must stay in float."""
    then: Simulated
    """Result with these layers in float."""


@dataclass(frozen=True)
class FloatAccuracy:
    """Share of right answers with all layers in float."""

    top1: Fraction
    """Share of images whose first class is right."""


@dataclass(frozen=True, kw_only=True)
class TargetSensitivity:
    """The layers of one target's graph."""

    target: str
    """Runtime whose graph was analysed."""
    float: FloatAccuracy
    """Accuracy with all layers in float."""
    int8: Simulated
    """All layers in INT8."""
    layers: tuple[SensitiveLayer, ...]
    """Results for each layer."""
    blocks: tuple[SensitiveBlock, ...]
    """Results for each block."""
    culprits: Culprits
    """Layers that must stay in float to keep the bound."""
    verdict: Literal["pass", "fail"]
    """Whether all layers in INT8 keep the bound."""


@dataclass(frozen=True)
class NamedModel:
    """Name and weights of the network."""

    name: str
    """Model name."""
    weights_sha256: str | None
    """SHA-256 of the weights."""


@dataclass(frozen=True)
class ImageSet:
    """How many images, and the hash of their content."""

    count: Count
    """Number of images."""
    sha256: str | None
    """SHA-256 over the contents of the images."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """The whole of sensitivity.json."""

    schema_version: Literal[1] = 1
    """Version of the document's format."""
    edgekit: str
    """Version of edgekit that wrote the document."""
    created: str
    """Time at which the document was written."""
    command: tuple[str, ...]
    """Arguments of the command line."""
    model: NamedModel
    """Network that was analysed."""
    accuracy_meaningful: bool
    """False where the weights are random."""
    recipe: str
    """Name of the recipe."""
    calibration: ImageSet
    """Calibration images."""
    evaluation: ImageSet
    """Images that the layers were measured on."""
    max_drop_points: float
    """Largest drop that the verdict allows."""
    targets: tuple[TargetSensitivity, ...]
    """Results for each runtime."""
