"""What a job was asked for. Imports nothing heavy: the command line checks its arguments before torch is loaded."""

from dataclasses import dataclass, field
from pathlib import Path

from edgekit.config.precisions import PRECISIONS, Precision, Scheme
from edgekit.config.runtimes import RUNTIMES
from edgekit.devices.registry import THIS, Device
from edgekit.measure.settings import Settings
from edgekit.models.options import ModelOptions


@dataclass(frozen=True)
class Options:
    """A job: what `edgekit deploy` was asked for."""

    model: ModelOptions
    data: Path
    calibration_data: Path | None = None
    targets: tuple[str, ...] = field(default_factory=lambda: tuple(RUNTIMES))
    precisions: tuple[Precision, ...] = PRECISIONS
    device_class: str | None = None
    recipe: str | None = None
    scheme: Scheme | None = None
    """In place of the recipe's."""
    num_calibration_samples: int | None = None
    calibration_list: Path | None = None
    """A calibration.json: its images and recipe instead of a choice by seed."""
    check_stability: bool = False
    """Whether to calibrate on two halves of the images too, and compare them."""
    num_eval_samples: int | None = None
    """Images to evaluate on; None for all that calibration leaves."""
    seed: int = 0
    output: Path | None = None
    settings: Settings = field(default_factory=Settings)
    devices: tuple[Device, ...] = (THIS,)
    """Where to measure; the bundles are made for the class of the first."""
    offline: bool = False
    """Fetch a device's packages here instead of there."""
    force: bool = False
    """Begin also what the plan says can't be finished."""
    command: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run folder: `output`, or one named after the model."""
        return self.output or Path("runs") / self.model.name.replace("/", "_").replace(":", "_")
