"""The document of `edgekit plan`, and the fit that its peaks and times come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct, field

from edgekit.config.precisions import Precision


@dataclass(frozen=True)
class PlannedStage:
    """What one stage takes for one target: peak memory in bytes, and the processor's seconds."""

    stage: str
    target: str
    peak_bytes: int
    seconds: int


@dataclass(frozen=True)
class PlannedBundle:
    """The model files of one bundle."""

    target: str
    precision: Precision
    size_bytes: int
    fits: bool
    """The format can hold it, and the machine that is to run it has memory for it."""
    why: str

    @property
    def name(self) -> str:
        """The bundle's name in a run folder."""
        return f"{self.target}-{self.precision}"


class LatencyBound(Struct, frozen=True, kw_only=True):
    """Milliseconds that no inference can be faster than on machines of a device class."""

    # A Struct and not a dataclass, because the JSON keys are names of Python's own types.
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
    """Memory that is free on this machine."""
    disk_bytes: int
    """The sum of all bundles' sizes."""
    memory_model: str
    """The measured runs that peaks and seconds were fitted on."""
    stages: tuple[PlannedStage, ...]
    """Targets that the fit has not measured are left out."""
    artifacts: tuple[PlannedBundle, ...]
    latency_bound_ms: LatencyBound | None = None
    """None where no device class is known."""

    def stages_of(self, bundle: PlannedBundle) -> list[PlannedStage]:
        """The stages that a bundle goes through: those of its own precision, and those that both share.

        Running means both bundles, so it counts for the float one alone.
        """
        int8, float_ = ("quantize", "compile int8"), ("rewrite", "compile float", "run")
        others = int8 if bundle.precision == "float" else float_
        return [each for each in self.stages if each.target == bundle.target and each.stage not in others]


@dataclass(frozen=True)
class StageFit:
    """Coefficients of `edgekit.pipeline.plan.terms` for one stage of one target."""

    peak_bytes: tuple[float, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """What `benchmarks/scale.py --fit` found on measured runs."""

    fitted_on: tuple[str, ...]
    calibration_images: int
    stages: Mapping[str, Mapping[str, StageFit]]
    """By target and stage."""
    layer_bytes: Mapping[str, Mapping[Precision, float]]
    """Bytes of a model file beside its weights for each dense layer, by target and precision."""

    def bytes_per_layer(self, target: str, precision: Precision) -> float:
        """Bytes beside the weights for each dense layer; of a target that was not measured, the most of any."""
        measured = self.layer_bytes.get(target)
        return measured[precision] if measured else max(each[precision] for each in self.layer_bytes.values())
