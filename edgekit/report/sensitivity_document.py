"""sensitivity.json: the accuracy that each layer costs in INT8, and the time that it saves."""

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from edgekit.report.measurement import Count, Fraction, Interval


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Accuracy of a mixture of INT8 and float layers, simulated in torch and compared with all layers in float."""

    snr_db: float | None
    """Signal-to-noise ratio of the logits, in decibels; null where they are equal."""
    drop_top1_points: float
    """Top-1 lost against all layers in float, in percentage points."""
    drop_ci95_points: Interval
    """95 % interval of the drop, in percentage points."""
    agreement: Fraction
    """Share of images with the same predicted class as with all layers in float."""


@dataclass(frozen=True, kw_only=True)
class Spared(Simulated):
    """Accuracy with one layer or block in float, and its gain over all layers in INT8."""

    snr_gain_db: float | None
    """Signal-to-noise ratio gained over all layers in INT8, in decibels; null where one of them is infinite."""
    gain_top1_points: float
    """Top-1 gained over all layers in INT8, in percentage points."""


@dataclass(frozen=True)
class LayerTime:
    """Time of a layer's or block's kernels, from the runtime's profiler."""

    float_ms: float
    """Time in the float bundle, in milliseconds."""
    int8_ms: float
    """Time in the INT8 bundle, in milliseconds."""
    saved_ms: float
    """Time that INT8 saves, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class SensitiveLayer:
    """Sensitivity of one layer: alone in INT8, alone in float, its share of the noise, and its time."""

    name: str
    """Name of the layer."""
    block: str
    """Name of the block that contains the layer."""
    macs: Count
    """Number of multiply-accumulates of the layer in one inference."""
    only_int8: Simulated
    """Accuracy with only this layer in INT8."""
    only_float: Spared
    """Accuracy with only this layer in float."""
    noise_share: Annotated[float, Meta(ge=0)]
    """Noise with only this layer in INT8, as a share of the sum over all layers."""
    time: LayerTime | None = None
    """Time of the layer in float and in INT8; null where the profiler reports none."""


@dataclass(frozen=True, kw_only=True)
class SensitiveBlock:
    """Sensitivity of one block: all of its layers together."""

    name: str
    """Name of the block."""
    layers: tuple[str, ...]
    """Names of the block's layers."""
    macs: Count
    """Number of multiply-accumulates of the block in one inference."""
    only_int8: Simulated
    """Accuracy with only this block in INT8."""
    only_float: Spared
    """Accuracy with only this block in float."""
    noise_share: Annotated[float, Meta(ge=0)]
    """Noise with only this block in INT8, as a share of the sum over all layers."""
    time: LayerTime | None = None
    """Time of the block in float and in INT8; null where the profiler reports none."""


@dataclass(frozen=True)
class Culprits:
    """The noisiest layers that must stay in float to keep the drop within the bound."""

    layers: tuple[str, ...]
    """Names of the layers that must stay in float."""
    then: Simulated
    """Accuracy with these layers in float."""


@dataclass(frozen=True)
class FloatAccuracy:
    """Accuracy with all layers in float."""

    top1: Fraction
    """Share of images whose highest-scoring class is the right one."""


@dataclass(frozen=True, kw_only=True)
class TargetSensitivity:
    """Sensitivity of the layers in one runtime's graph."""

    target: str
    """Runtime whose graph was analysed."""
    float: FloatAccuracy
    """Accuracy with all layers in float."""
    int8: Simulated
    """Accuracy with all layers in INT8."""
    layers: tuple[SensitiveLayer, ...]
    """Sensitivity of each layer."""
    blocks: tuple[SensitiveBlock, ...]
    """Sensitivity of each block."""
    culprits: Culprits
    """Layers that must stay in float to keep the drop within the bound."""
    verdict: Literal["pass", "fail"]
    """`pass` if the drop with all layers in INT8 is within the bound, else `fail`."""


@dataclass(frozen=True)
class NamedModel:
    """The network's name and the hash of its weights."""

    name: str
    """Name of the model."""
    weights_sha256: str | None
    """SHA-256 of the weights."""


@dataclass(frozen=True)
class ImageSet:
    """The number of images and the hash of their contents."""

    count: Count
    """Number of images."""
    sha256: str | None
    """SHA-256 over the contents of the images."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """Sensitivity of a model's layers to INT8, for each runtime."""

    schema_version: Literal[1] = 1
    """Version of the document's format."""
    edgekit: str
    """Version of edgekit that wrote the document."""
    created: str
    """Time at which the document was written."""
    command: tuple[str, ...]
    """Command line, split into its arguments; paths without their folders, because reports are shared."""
    model: NamedModel
    """Network that was analysed."""
    accuracy_meaningful: bool
    """Whether accuracies mean anything; false for random weights."""
    recipe: str
    """Name of the quantization recipe."""
    calibration: ImageSet
    """Calibration images."""
    evaluation: ImageSet
    """Images on which the layers were measured."""
    max_drop_points: float
    """Largest drop in top-1 that the verdict allows, in percentage points."""
    targets: tuple[TargetSensitivity, ...]
    """Sensitivity of the layers, for each runtime."""
