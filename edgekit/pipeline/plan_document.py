"""The document of `edgekit plan`, and the fit from which its peaks and times come."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct, field

from edgekit.config.precisions import Precision


@dataclass(frozen=True)
class PlannedStage:
    """Predicted peak memory in bytes and CPU seconds of one stage for one target."""

    stage: str
    target: str
    peak_bytes: int
    seconds: int


@dataclass(frozen=True)
class PlannedBundle:
    """Predicted size of one bundle's model files, and whether they fit."""

    target: str
    precision: Precision
    size_bytes: int
    fits: bool
    """Whether the file format allows the size, and the machine that runs the bundle has enough memory."""
    why: str
    """Size in MB, and the limits that it exceeds."""
    peak_bytes: int | None
    """Largest peak memory of the stages that make it; None for a target whose stages were not measured."""

    @property
    def name(self) -> str:
        """The bundle's name in a run folder."""
        return f"{self.target}-{self.precision}"


class NominalLatency(Struct, frozen=True, kw_only=True):
    """Latency of an inference at the nominal peak rate of a device class, in milliseconds."""

    # A Struct and not a dataclass, because two JSON keys are names of Python types.
    device_class: str
    threads: int
    float_ms: float = field(name="float")
    int8_ms: float = field(name="int8")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The document of `edgekit plan`."""

    schema_version: Literal[1] = 1
    model: str
    params: int
    macs: int
    input_shape: tuple[int, int, int, int]
    memory_available_bytes: int
    """Free memory on this machine, or the memory that was asked about."""
    disk_bytes: int
    """Sum of the sizes of all bundles."""
    memory_model: str
    """Description of the measured runs to which peaks and seconds were fitted."""
    stages: tuple[PlannedStage, ...]
    """Stages of all targets that the fit includes."""
    artifacts: tuple[PlannedBundle, ...]
    latency_bound_ms: NominalLatency | None = None
    """Latency at the nominal peak rate, or None without a device class."""

    def possible(self, bundle: PlannedBundle) -> bool:
        """Whether the memory suffices to make a bundle; True if that isn't known."""
        return bundle.peak_bytes is None or bundle.peak_bytes < self.memory_available_bytes


@dataclass(frozen=True)
class StageFit:
    """Coefficients of `edgekit.pipeline.plan.terms` for one stage of one target."""

    peak_bytes: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """Coefficients that `benchmarks/scale.py --fit` fitted to measured runs."""

    fitted_on: tuple[str, ...]
    calibration_images: int
    stages: Mapping[str, Mapping[str, StageFit]]
    """Coefficients by target and stage."""
    layer_bytes: Mapping[str, Mapping[Precision, float]]
    """Overhead of a model file in bytes per dense layer, by target and precision."""

    def bytes_per_layer(self, target: str, precision: Precision) -> float:
        """Overhead in bytes per dense layer; for a target that was not measured, the largest of any target."""
        measured = self.layer_bytes.get(target)
        return measured[precision] if measured else max(overhead[precision] for overhead in self.layer_bytes.values())
